//! `reset`: gives sinks other positions, by the annotation that the operator reads.

use kube::{
    ResourceExt as _,
    api::{Patch, PatchParams},
};
use pinpipe_crds::PinterestPipeline;
use pinpipe_plan::{
    model::Images,
    names::RESET_ANNOTATION,
    validate::{Inputs, RESET_FORMS, SecretKey, references, validate},
};
use serde_json::json;

use crate::{
    cluster,
    failure::{Failure, Outcome},
    output::print,
    time::now,
};

/// Arguments of `reset`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Pipeline
    #[arg(value_name = "PIPELINE")]
    name: String,

    /// `<sink>[/<topic>[/<partition>]]=earliest|latest|offset:<n>|time:<RFC 3339>`, one for each
    /// sink
    #[arg(required = true, value_name = "REQUEST")]
    requests: Vec<String>,

    #[command(flatten)]
    cluster: cluster::Access,
}

/// Asks the operator for the resets.
pub async fn run(arguments: &Arguments) -> Outcome {
    let cluster = arguments.cluster.cluster().await?;
    let mut pipeline = cluster.pipeline(&arguments.name).await?;
    let present = pipeline.annotations().get(RESET_ANNOTATION).cloned();
    let value = value(
        present.as_deref().unwrap_or_default(),
        &arguments.requests,
        &now().to_string(),
    );
    let annotation = (RESET_ANNOTATION.to_owned(), value.clone());
    pipeline.annotations_mut().extend([annotation]);
    check(&pipeline)?;
    // With the version that was read: a request that somebody adds meanwhile isn't lost.
    let patch = json!({"metadata": {
        "resourceVersion": pipeline.resource_version(),
        "annotations": {RESET_ANNOTATION: value},
    }});
    let api = cluster.api::<PinterestPipeline>();
    let params = PatchParams::default();
    let patched = api
        .patch(&arguments.name, &params, &Patch::Merge(patch))
        .await;
    patched.map_err(|error| cluster.failure("patch pinterestpipelines.pinpipe.dev", &error))?;
    let (namespace, name) = (&cluster.namespace, &arguments.name);
    print(&format!(
        "{RESET_ANNOTATION}={value}\nsee kubectl pinpipe status -n {namespace} {name}; old and new \
         positions are in the log of the sink's worker\n"
    ))?;
    Ok(true)
}

/// The annotation's value: these requests, each made a new one by the time, and those that are
/// there for other sinks.
fn value(present: &str, requests: &[String], time: &str) -> String {
    let sink = |request: &str| {
        request
            .split(['/', '='])
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    let replaced: Vec<String> = requests.iter().map(|request| sink(request)).collect();
    let present = present.split(|c: char| c == ',' || c.is_whitespace());
    let kept = present.filter(|it| !it.is_empty() && !replaced.contains(&sink(it)));
    let new = requests.iter().map(|request| {
        if request.contains('#') {
            request.clone()
        } else {
            format!("{request}#{time}")
        }
    });
    let all: Vec<String> = kept.map(ToOwned::to_owned).chain(new).collect();
    all.join(",")
}

/// Refuses requests that the operator can't read.
fn check(pipeline: &PinterestPipeline) -> Result<(), Failure> {
    let keys = references(&pipeline.spec)
        .into_iter()
        .flat_map(|(secret, keys)| {
            keys.into_iter()
                .map(move |key| ((secret.clone(), key), SecretKey::Present))
        });
    let inputs = Inputs {
        secrets: keys.collect(),
        ..Inputs::default()
    };
    let problems = match validate(pipeline, &inputs, &Images::default()) {
        Ok(validated) => validated.reset_problems,
        Err(problems) => problems.iter().map(ToString::to_string).collect(),
    };
    if problems.is_empty() {
        return Ok(());
    }
    let problems = problems.join("; ");
    Err(Failure::Usage(format!(
        "{problems}; a request is {RESET_FORMS}"
    )))
}

#[cfg(test)]
mod tests {
    use pinpipe_plan::samples::{pipeline, whole};

    use super::*;

    fn requests(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn requests_are_new_ones_and_those_for_other_sinks_stay() {
        for (present, asked, expected) in [
            ("", &["live=earliest"][..], "live=earliest#t"),
            (
                "live/pin=latest#1, archive=latest",
                &["live=earliest"],
                "archive=latest,live=earliest#t",
            ),
            (
                "",
                &["live/pin/2=offset:7#2", "archive=latest"],
                "live/pin/2=offset:7#2,archive=latest#t",
            ),
        ] {
            assert_eq!(value(present, &requests(asked), "t"), expected);
        }
    }

    #[test]
    fn requests_that_can_t_be_read_are_refused_with_the_forms() {
        let with = |value: &str| {
            let mut pipeline = pipeline(whole());
            let annotation = (RESET_ANNOTATION.to_owned(), value.to_owned());
            pipeline.annotations_mut().extend([annotation]);
            check(&pipeline)
        };
        assert!(with("live=earliest#2026-11-30T22:00:00Z").is_ok());
        for value in [
            "lake=earliest",
            "live",
            "live=yesterday",
            "live=latest,live/pin=latest",
        ] {
            let refused = with(value).unwrap_err().to_string();
            assert!(
                refused.contains('`') && refused.contains("earliest|latest"),
                "{refused}"
            );
        }
    }
}
