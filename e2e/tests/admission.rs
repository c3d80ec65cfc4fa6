//! Admission: which pipelines the API server refuses and accepts, and pods under a platform's
//! policy.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use http::Request;
use k8s_openapi::{
    ClusterResourceScope,
    api::{
        admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding},
        core::v1::Pod,
    },
};
use kube::{
    Api, Resource, ResourceExt,
    api::{
        ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams,
        ValidationDirective,
    },
};
use pinpipe_e2e::{
    Sandbox, Spec, eventually, finally, pipeline::READY_WITHIN, scenario::in_sandbox,
};
use serde::{Deserialize as _, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

/// Version of the kinds of pinpipe.
const API_VERSION: &str = "pinpipe.dev/v1alpha1";

#[test]
fn what_is_invalid_is_refused_with_the_message_of_its_rule() -> Result<()> {
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
                    let api = api(sandbox, stored);
                    let stored: DynamicObject = serde_json::from_value(stored.clone())?;
                    let outcome = update(sandbox, &stored.name_any(), change).await;
                    api.delete(&stored.name_any(), &DeleteParams::default())
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
                .filter(|document| document["apiVersion"] == API_VERSION)
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

/// Where a platform gives user ids to pods, as `OpenShift` does by `restricted-v2`, it refuses pods
/// that ask for one outside their namespace's range.
#[test]
fn a_platform_that_chooses_the_user_accepts_pods_that_leave_it_the_choice() -> Result<()> {
    in_sandbox("platform", async |sandbox| {
        let test = async {
            restrict_users(sandbox).await?;
            let spec = Spec::new().live(sandbox).archive(sandbox, 100);
            let pipeline = sandbox.apply("flow", &spec).await?;
            for condition in ["IngestReady", "StreamReady", "ArchiveReady"] {
                let parts = ["PodsRefused", "must be in the ranges"];
                pipeline.has_condition(condition, "False", &parts).await?;
            }
            pipeline
                .change(json!({"template": {"podSecurity": "FromPlatform"}}))
                .await?;
            pipeline.ready().await
        };
        finally(test, async |_| remove_policy(sandbox).await).await
    })
}

/// What the example of a policy caps → the end of its message.
#[test]
fn the_example_of_a_policy_refuses_what_is_above_its_caps() -> Result<()> {
    in_sandbox("caps", async |sandbox| {
        let test = async {
            let examples = files("examples")?;
            let [policy, binding] = &documents(&examples["admission-policy.yaml"])?[..] else {
                anyhow::bail!("not a policy and its binding");
            };
            let spec = |document: &Value| document["spec"].clone();
            put_in_force(sandbox, spec(policy), spec(binding)).await?;
            let mut pipeline = json!({
                "apiVersion": "pinpipe.dev/v1alpha1",
                "kind": "PinterestPipeline",
                "metadata": {"name": "flow"},
                "spec": Spec::new().live(sandbox).0,
            });
            create(sandbox, &pipeline, true).await?;
            let mut scaled = pipeline["spec"]["stream"]["sinks"][0].clone();
            scaled["replicas"].take();
            scaled["autoscaling"] = json!({"targetLag": 1000, "maxReplicas": 11});
            let topics = "/broker/kafka/topics";
            for (field, value, says) in [
                ("/ingest", json!({"replicas": 11}), "ingest.replicas can"),
                (
                    "/ingest",
                    json!({"autoscaling": {"maxReplicas": 11}}),
                    "ingest.autoscaling.maxReplicas can",
                ),
                (
                    "/stream/sinks/0/replicas",
                    json!(11),
                    "replicas of a stream sink can",
                ),
                (
                    "/stream/sinks/0",
                    scaled,
                    "autoscaling of a stream sink must",
                ),
                (topics, json!({"partitions": 13}), "topics.partitions can"),
                (
                    topics,
                    json!({"overrides": {"geo": {"partitions": 13}}}),
                    "topics.overrides can",
                ),
                (
                    topics,
                    json!({"deletionPolicy": "Delete"}),
                    "deletionPolicy must",
                ),
            ] {
                let spec = pipeline["spec"].clone();
                *pipeline["spec"].pointer_mut(field).context(field)? = value;
                // A policy is in force a moment after it was created.
                eventually(READY_WITHIN, says, async || {
                    let refused = create(sandbox, &pipeline, true).await.err();
                    let message = refused.map(|error| format!("{error:#}"));
                    let message = message.unwrap_or_else(|| "accepted".to_owned());
                    ensure!(message.contains(says), "{message}");
                    Ok(())
                })
                .await?;
                pipeline["spec"] = spec;
            }
            create(sandbox, &pipeline, true).await
        };
        finally(test, async |_| remove_policy(sandbox).await).await
    })
}

/// Creates a policy for the sandbox alone. Both objects have the sandbox's name.
async fn put_in_force(sandbox: &Sandbox, policy: Value, mut binding: Value) -> Result<()> {
    let name = &sandbox.namespace;
    binding["policyName"] = json!(name);
    binding["matchResources"] = json!({
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}},
    });
    let metadata = json!({"name": name});
    let policy = json!({"metadata": metadata, "spec": policy});
    create_cluster_wide::<ValidatingAdmissionPolicy>(sandbox, policy).await?;
    let binding = json!({"metadata": metadata, "spec": binding});
    create_cluster_wide::<ValidatingAdmissionPolicyBinding>(sandbox, binding).await
}

async fn remove_policy(sandbox: &Sandbox) -> Result<()> {
    let name = &sandbox.namespace;
    let binding = delete::<ValidatingAdmissionPolicyBinding>(sandbox, name).await;
    let policy = delete::<ValidatingAdmissionPolicy>(sandbox, name).await;
    binding.and(policy)
}

/// Puts in force that no pod of the sandbox asks for a user outside a range.
async fn restrict_users(sandbox: &Sandbox) -> Result<()> {
    let user = "object.spec.securityContext.runAsUser";
    let rule = json!({"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"],
        "resources": ["pods"]});
    let validation = json!({
        "expression": format!(
            "!has(object.spec.securityContext) || !has({user}) || \
             ({user} >= 1000680000 && {user} <= 1000689999)"
        ),
        "message": "runAsUser: Invalid value: must be in the ranges: [1000680000, 1000689999]",
    });
    let policy = json!({
        "failurePolicy": "Fail",
        "matchConstraints": {"resourceRules": [rule]},
        "validations": [validation],
    });
    put_in_force(sandbox, policy, json!({"validationActions": ["Deny"]})).await?;
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "refused"},
        "spec": {
            "securityContext": {"runAsUser": 65532},
            "containers": [{"name": "none", "image": "none"}],
        },
    }))?;
    let dry_run = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let pods = sandbox.cluster.api::<Pod>(&sandbox.namespace);
    eventually(READY_WITHIN, "users are restricted", async || {
        match pods.create(&dry_run, &pod).await {
            Err(kube::Error::Api(status)) if status.message.contains("in the ranges") => Ok(()),
            other => Err(anyhow::anyhow!("{:?}", other.map(|pod| pod.name_any()))),
        }
    })
    .await
}

/// The API of a kind of object that is in no namespace.
fn cluster_wide<K>(sandbox: &Sandbox) -> Api<K>
where
    K: Resource<Scope = ClusterResourceScope>,
    K::DynamicType: Default,
{
    Api::all(sandbox.cluster.client())
}

async fn create_cluster_wide<K>(sandbox: &Sandbox, object: Value) -> Result<()>
where
    K: Resource<Scope = ClusterResourceScope> + Clone + Debug + Serialize + DeserializeOwned,
    K::DynamicType: Default,
{
    let object: K = serde_json::from_value(object)?;
    cluster_wide(sandbox)
        .create(&PostParams::default(), &object)
        .await?;
    Ok(())
}

async fn delete<K>(sandbox: &Sandbox, name: &str) -> Result<()>
where
    K: Resource<Scope = ClusterResourceScope> + Clone + Debug + DeserializeOwned,
    K::DynamicType: Default,
{
    let api: Api<K> = cluster_wide(sandbox);
    api.delete(name, &DeleteParams::default()).await?;
    Ok(())
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

/// The API of a document's kind.
fn api(sandbox: &Sandbox, document: &Value) -> Api<DynamicObject> {
    let kind = document["kind"].as_str().unwrap_or_default();
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("pinpipe.dev", "v1alpha1", kind));
    Api::namespaced_with(sandbox.cluster.client(), &sandbox.namespace, &resource)
}

/// Creates an object as `kubectl create` does: unknown fields are errors. Without `dry_run`, a
/// pipeline is created suspended.
async fn create(sandbox: &Sandbox, document: &Value, dry_run: bool) -> Result<()> {
    let mut document = document.clone();
    document["metadata"]["namespace"] = json!(sandbox.namespace);
    if !dry_run {
        if document["kind"] == "PinterestPipeline" {
            document["spec"]["suspend"] = json!(true);
        }
        let api = api(sandbox, &document);
        let object: DynamicObject = serde_json::from_value(document)?;
        api.create(&PostParams::default(), &object).await?;
        return Ok(());
    }
    let api = api(sandbox, &document);
    let request = Request::post(format!(
        "{}?dryRun=All&fieldValidation=Strict",
        api.resource_url()
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
    let change = Patch::Merge(json!({"spec": document["spec"]}));
    api(sandbox, document).patch(name, &patch, &change).await?;
    Ok(())
}
