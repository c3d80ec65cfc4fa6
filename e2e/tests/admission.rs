//! Admission: which pipelines the API server refuses and accepts.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use http::Request;
use kube::{
    ResourceExt,
    api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams, ValidationDirective},
};
use pinpipe_e2e::{Sandbox, scenario::in_sandbox};
use serde::Deserialize as _;
use serde_json::{Value, json};

#[test]
fn an_invalid_pipeline_is_refused_with_the_message_of_its_rule() -> Result<()> {
    in_sandbox("refused", async |sandbox| {
        let files = files("crds/tests/invalid")?;
        ensure!(files.len() >= 30, "only {} files", files.len());
        let mut wrong = BTreeMap::new();
        for (name, text) in files {
            let expect = text
                .lines()
                .next()
                .and_then(|line| line.strip_prefix("# expect: "));
            let expect = expect.with_context(|| format!("{name} has no line `# expect: …`"))?;
            let outcome = match documents(&text)?.as_slice() {
                [only] => create(sandbox, only, true).await,
                [stored, change] => {
                    create(sandbox, stored, false)
                        .await
                        .with_context(|| format!("{name}: the stored document"))?;
                    let pipelines = sandbox.cluster.pipelines(&sandbox.namespace);
                    let stored: DynamicObject = serde_json::from_value(stored.clone())?;
                    let outcome = update(sandbox, &stored.name_any(), change).await;
                    pipelines
                        .delete(&stored.name_any(), &DeleteParams::default())
                        .await?;
                    outcome
                }
                more => Err(anyhow::anyhow!("{} documents", more.len())),
            };
            let outcome =
                outcome.map_or_else(|error| format!("{error:#}"), |()| "accepted".to_owned());
            if !outcome.contains(expect) {
                wrong.insert(name, format!("expected {expect:?}, but {outcome}"));
            }
        }
        ensure!(wrong.is_empty(), "{wrong:#?}");
        Ok(())
    })
}

#[test]
fn the_shipped_examples_are_accepted() -> Result<()> {
    in_sandbox("accepted", async |sandbox| {
        let mut accepted = 0;
        for (name, text) in files("examples")? {
            for document in documents(&text)?
                .iter()
                .filter(|document| document["kind"] == "PinterestPipeline")
            {
                create(sandbox, document, true)
                    .await
                    .with_context(|| name.clone())?;
                accepted += 1;
            }
        }
        ensure!(accepted > 0, "no example");
        Ok(())
    })
}

#[test]
fn pipelines_of_every_release_are_still_accepted() -> Result<()> {
    in_sandbox("released", async |sandbox| {
        let mut accepted = 0;
        for release in fs::read_dir("../crds/released")? {
            let release = release?.file_name().to_string_lossy().into_owned();
            for (name, text) in files(&format!("crds/released/{release}"))? {
                for document in documents(&text)?
                    .iter()
                    .filter(|document| document["kind"] == "PinterestPipeline")
                {
                    create(sandbox, document, true)
                        .await
                        .with_context(|| format!("{release}/{name}"))?;
                    accepted += 1;
                }
            }
        }
        ensure!(accepted >= 4, "only {accepted} samples");
        Ok(())
    })
}

/// The YAML files of a folder of the repository, by name.
fn files(folder: &str) -> Result<BTreeMap<String, String>> {
    let folder = Path::new("..").join(folder);
    let paths: Vec<PathBuf> = fs::read_dir(&folder)
        .with_context(|| folder.display().to_string())?
        .map(|entry| Ok(entry?.path()))
        .collect::<std::io::Result<_>>()?;
    let yaml = paths.iter().filter(|path| {
        path.extension()
            .is_some_and(|extension| extension == "yaml")
    });
    yaml.map(|path| {
        Ok((
            path.file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            fs::read_to_string(path)?,
        ))
    })
    .collect()
}

fn documents(yaml: &str) -> Result<Vec<Value>> {
    Ok(serde_yaml::Deserializer::from_str(yaml)
        .map(Value::deserialize)
        .collect::<Result<_, _>>()?)
}

/// Creates a pipeline as `kubectl create` does: unknown fields are errors. Without `dry_run`, it is
/// created suspended.
async fn create(sandbox: &Sandbox, document: &Value, dry_run: bool) -> Result<()> {
    let mut document = document.clone();
    document["metadata"]["namespace"] = json!(sandbox.namespace);
    if !dry_run {
        document["spec"]["suspend"] = json!(true);
        let object: DynamicObject = serde_json::from_value(document)?;
        sandbox
            .cluster
            .pipelines(&sandbox.namespace)
            .create(&PostParams::default(), &object)
            .await?;
        return Ok(());
    }
    let request = Request::post(format!(
        "/apis/pinpipe.dev/v1alpha1/namespaces/{}/pinterestpipelines\
         ?dryRun=All&fieldValidation=Strict",
        sandbox.namespace
    ))
    .header("content-type", "application/json")
    .body(serde_json::to_vec(&document)?)?;
    sandbox.cluster.client().request_text(request).await?;
    Ok(())
}

async fn update(sandbox: &Sandbox, name: &str, document: &Value) -> Result<()> {
    let patch = PatchParams {
        dry_run: true,
        field_validation: Some(ValidationDirective::Strict),
        ..PatchParams::default()
    };
    sandbox
        .cluster
        .pipelines(&sandbox.namespace)
        .patch(
            name,
            &patch,
            &Patch::Merge(json!({"spec": document["spec"]})),
        )
        .await?;
    Ok(())
}
