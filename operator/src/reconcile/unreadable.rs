//! A resource that this version can't read, for instance because its definition is newer: its
//! workers are left as they are, and the status says so.

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Condition, jiff::Timestamp};
use kube::{
    Api, Resource as _, ResourceExt as _,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
    runtime::events::EventType,
};
use pinpipe_crds::{PinterestPipeline, reasons};
use pinpipe_plan::names::MANAGER;
use serde_json::{Value, json};

use super::{
    deletion::{FINALIZER, has_finalizer, left, patch_finalizers},
    pause::is_paused,
    runs::runs_of_unreadable,
};
use crate::{
    context::Context,
    error::{Error, Trying as _},
    finding::Finding,
    observe::pipeline_index::CachedPipeline,
    status::{
        self, SUMMARY,
        events::{self, Note},
    },
};

/// Reports a resource that can't be read because of this error, or releases it if it is deleted.
pub async fn unreadable(
    context: &Context,
    resource: &CachedPipeline,
    error: &str,
) -> Result<(), Error> {
    if resource.meta().deletion_timestamp.is_some() {
        return release(context, resource).await;
    }
    let (namespace, name) = (
        resource.namespace().unwrap_or_default(),
        resource.name_any(),
    );
    let kind = ApiResource::erase::<PinterestPipeline>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(context.client.clone(), &namespace, &kind);
    let found = api.get_opt(&name).await;
    let Some(found) = found.trying("reading the pipeline")? else {
        return Ok(());
    };
    runs_of_unreadable(context, &namespace, &name).await?;
    let generation = found.metadata.generation;
    let Some(status) = status_of(&found.data["status"], error, generation) else {
        return Ok(());
    };
    if is_paused(&found.metadata) {
        return Ok(());
    }
    context.check_lease()?;
    let body = json!({
        "apiVersion": kind.api_version,
        "kind": kind.kind,
        "metadata": {"name": name, "uid": found.metadata.uid},
        "status": status,
    });
    let params = PatchParams::apply(MANAGER).force();
    let written = api.patch_status(&name, &params, &Patch::Apply(&body)).await;
    written.trying("writing the status")?;
    context.metrics.wrote("apply", "pinterestpipelines/status");
    Ok(())
}

/// The status with the summary of a resource that can't be read; everything else stays. None: it
/// says so already.
fn status_of(before: &Value, error: &str, generation: Option<i64>) -> Option<Value> {
    let message = format!(
        "this version of the operator can't read it: {error}; upgrade the operator, or set what \
         it can read; nothing was changed"
    );
    let old = before["conditions"].as_array().cloned().unwrap_or_default();
    let read: Vec<Condition> = old
        .iter()
        .filter_map(|condition| serde_json::from_value(condition.clone()).ok())
        .collect();
    let summary = status::summary(Finding::bad(reasons::INVALID_SPEC, message));
    let summary = status::conditions(&read, summary, generation, Timestamp::now());
    let others = old
        .into_iter()
        .filter(|condition| !SUMMARY.contains(&condition["type"].as_str().unwrap_or_default()));
    let mut status = match before {
        Value::Object(_) => before.clone(),
        _ => json!({}),
    };
    let summary = summary.into_iter().map(|condition| json!(condition));
    status["conditions"] = summary.chain(others).collect();
    status["observedGeneration"] = json!(generation);
    (status != *before).then_some(status)
}

/// Releases a deleted resource that can't be read: the topics it created can't be read either.
async fn release(context: &Context, resource: &CachedPipeline) -> Result<(), Error> {
    let metadata = resource.meta();
    if !has_finalizer(metadata) {
        return Ok(());
    }
    let why = "this version of the operator can't read the pipeline";
    let message = left(&["its topics".to_owned()], why);
    let note = Note {
        type_: EventType::Warning,
        reason: reasons::TOPICS_LEFT,
        action: "Delete",
        message: &message,
        secondary: None,
    };
    events::publish(context, &resource.object_ref(&()), note).await;
    let mut finalizers = metadata.finalizers.clone().unwrap_or_default();
    finalizers.retain(|finalizer| finalizer != FINALIZER);
    let namespace = resource.namespace().unwrap_or_default();
    patch_finalizers(context, &namespace, metadata, finalizers).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_reported_once_and_nothing_else_of_the_status_is_lost() {
        let ready = |type_: &str| {
            json!({
                "type": type_, "status": "True", "reason": "Ready", "message": "all works",
                "observedGeneration": 1, "lastTransitionTime": "2026-01-01T00:00:00Z",
            })
        };
        let before = json!({
            "observedGeneration": 1,
            "conditions": [ready("Ready"), ready("IngestReady")],
            "topics": [{"name": "t", "id": "1", "new": "field"}],
        });
        let after = status_of(&before, "unknown variant `Lz4`", Some(2)).unwrap();
        let conditions = after["conditions"].as_array().unwrap();
        let short: Vec<_> = conditions
            .iter()
            .map(|condition| {
                ["type", "status", "reason"].map(|key| condition[key].as_str().unwrap())
            })
            .collect();
        assert_eq!(
            short,
            [
                ["Ready", "False", "InvalidSpec"],
                ["Stalled", "True", "InvalidSpec"],
                ["IngestReady", "True", "Ready"],
            ]
        );
        let message = conditions[0]["message"].as_str().unwrap();
        assert!(message.contains("Lz4"), "{message}");
        assert_eq!(after["observedGeneration"], 2);
        assert_eq!(after["topics"], before["topics"]);
        assert_eq!(status_of(&after, "unknown variant `Lz4`", Some(2)), None);
        assert!(status_of(&Value::Null, "no", Some(1)).is_some());
    }
}
