//! Deletion. Children go by their owner references; topics stay unless `deletionPolicy` is `Delete`.
//!
//! Only then a finalizer is set, before the first topic is created. With it, a deletion first
//! deletes the children, so that nothing uses the topics any more, and then the topics that the
//! status proves to be this pipeline's and that still have the id in the status. A deletion always
//! ends: after [`crate::context::Settings::deletion_deadline`] the topics are left where they are,
//! and an event names them.

use std::{collections::BTreeSet, time::Duration};

use k8s_openapi::{api::core::v1::Pod, jiff::Timestamp};
use kube::{
    Api, Resource as _, ResourceExt as _,
    api::{Patch, PatchParams},
    core::ObjectMeta,
    runtime::events::EventType,
};
use pinpipe_crds::{DeletionPolicy, PinterestPipeline, TopicStatus, reasons};
use pinpipe_plan::ownership::Claim;
use serde_json::json;

use super::{Outcome, Reconciler, suspend::elapsed};
use crate::{
    context::Context,
    error::{Error, Trying as _},
    finding::Finding,
    kafka::BrokerError,
    observe::{pipeline_index::CachedPipeline, pods::has_ended},
    status::events::{self, Note},
};

/// Finalizer that holds a pipeline until its topics are deleted.
pub const FINALIZER: &str = "pinpipe.dev/topics";
/// Finalizer of `kubectl delete --cascade=orphan`: children stay, and they need their topics.
const ORPHAN: &str = "orphan";
/// Share of the deadline for which topics wait for the last pod, which never ends if its node is
/// lost.
const PODS_FIRST: f64 = 0.4;

/// Why topics are left that were about to be created.
const UNPROVEN: &str = "the status has no ids of them to prove that the pipeline created them";

/// What to do about the topics of a deleted pipeline.
#[derive(Debug, PartialEq, Eq)]
enum Topics {
    /// Nothing: there are none, or `deletionPolicy` keeps them.
    Keep,
    /// They should be deleted, and are left for this reason.
    Leave(Vec<String>, &'static str),
    /// The first are deleted. Whether the others, by name, exist and are this pipeline's is
    /// unknown.
    Delete(Vec<TopicStatus>, Vec<String>),
}

/// How far a deletion is.
enum Progress {
    Done,
    /// It waits for what the sentence says.
    Waiting(String),
}

impl Reconciler<'_> {
    /// Sets or removes the finalizer, as `deletionPolicy` asks.
    pub(super) async fn keep_finalizer(&self, policy: DeletionPolicy) -> Result<(), Error> {
        let is_wanted = policy == DeletionPolicy::Delete;
        if is_wanted == has_finalizer(&self.resource.metadata) {
            return Ok(());
        }
        let mut finalizers = self.resource.finalizers().to_vec();
        finalizers.retain(|finalizer| finalizer != FINALIZER);
        finalizers.extend(is_wanted.then(|| FINALIZER.to_owned()));
        let metadata = &self.resource.metadata;
        patch_finalizers(self.context, &self.namespace, metadata, finalizers).await
    }

    /// Deletes topics, if they are to be deleted, and releases the resource.
    pub(super) async fn delete(&self) -> Result<Outcome, Error> {
        let metadata = &self.resource.metadata;
        if !has_finalizer(metadata) {
            return Ok(Outcome::Gone);
        }
        let others = self.claims_of_others().await?;
        let conflict = Claim::of(&self.resource).conflict(&others).is_some();
        let (topics, unproven) = match topics(&self.resource, self.is_paused(), conflict) {
            Topics::Keep => return self.release().await,
            Topics::Leave(names, why) => {
                self.report_left(&names, why).await;
                return self.release().await;
            }
            Topics::Delete(topics, unproven) => (topics, unproven),
        };
        let since = metadata.deletion_timestamp.as_ref();
        let since = since.map_or_else(Timestamp::now, |time| time.0);
        let elapsed = elapsed(since, Timestamp::now());
        let deadline = self.context.settings.deletion_deadline;
        let why = match self.delete_topics(&topics, elapsed).await {
            Ok(Progress::Done) => {
                if !unproven.is_empty() {
                    self.report_left(&unproven, UNPROVEN).await;
                }
                return self.release().await;
            }
            Ok(Progress::Waiting(why)) => why,
            Err(error) if elapsed < deadline => return Err(error),
            Err(error) => error.to_string(),
        };
        if elapsed < deadline {
            let message = format!("the pipeline and its topics are being deleted: {why}");
            self.write_ready(Finding::bad(reasons::DELETING, message))
                .await?;
            return Ok(Outcome::Waiting);
        }
        let names: Vec<_> = topics
            .into_iter()
            .map(|topic| topic.name)
            .chain(unproven)
            .collect();
        self.report_left(&names, &why).await;
        self.release().await
    }

    async fn delete_topics(
        &self,
        topics: &[TopicStatus],
        elapsed: Duration,
    ) -> Result<Progress, Error> {
        let mut children = self.children().await?;
        self.applier()
            .prune(&[], &BTreeSet::new(), &mut children)
            .await?;
        let pods = self.pods().await?;
        let deadline = self.context.settings.deletion_deadline;
        if let Some(why) = wait_for(&pods, elapsed, deadline) {
            return Ok(Progress::Waiting(why.to_owned()));
        }
        let bootstrap_servers = &self.resource.spec.broker.kafka.bootstrap_servers;
        let names = topics.iter().map(|topic| topic.name.clone()).collect();
        let described = self.context.brokers.describe(bootstrap_servers, names);
        let described = self.permit.released(described).await;
        self.context.check_lease()?;
        let delete = async {
            let (broker, observed) = described?;
            let is_same = |topic: &&TopicStatus| {
                observed
                    .get(&topic.name)
                    .is_some_and(|found| Some(&found.id) == topic.id.as_ref())
            };
            let same = topics
                .iter()
                .filter(is_same)
                .map(|topic| topic.name.as_str());
            let same: Vec<&str> = same.collect();
            if !same.is_empty() {
                broker.delete(&same).await?;
            }
            Ok::<_, BrokerError>(same.len())
        };
        Ok(match self.permit.released(delete).await {
            Ok(deleted) => {
                self.count("delete", deleted);
                Progress::Done
            }
            Err(error) => Progress::Waiting(error.to_string()),
        })
    }

    async fn report_left(&self, topics: &[String], why: &str) {
        let message = left(topics, why);
        let (namespace, name) = (&self.namespace, &self.name);
        tracing::warn!(namespace, name, message, "topics are left in Kafka");
        let (type_, reason) = (EventType::Warning, reasons::TOPICS_LEFT);
        self.event(type_, reason, "Delete", &message, None).await;
    }

    /// Removes the finalizer, whereupon the API server deletes the resource.
    async fn release(&self) -> Result<Outcome, Error> {
        let mut finalizers = self.resource.finalizers().to_vec();
        finalizers.retain(|finalizer| finalizer != FINALIZER);
        let metadata = &self.resource.metadata;
        patch_finalizers(self.context, &self.namespace, metadata, finalizers).await?;
        Ok(Outcome::Gone)
    }
}

/// Releases a deleted resource that can't be read: the topics it created can't be read either.
pub async fn release_unreadable(context: &Context, resource: &CachedPipeline) -> Result<(), Error> {
    let metadata = resource.meta();
    if metadata.deletion_timestamp.is_none() || !has_finalizer(metadata) {
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

/// Why topics wait for these pods. None: they don't.
fn wait_for(pods: &[Pod], elapsed: Duration, deadline: Duration) -> Option<&'static str> {
    let running: Vec<_> = pods.iter().filter(|pod| !has_ended(pod)).collect();
    if running
        .iter()
        .any(|pod| pod.metadata.deletion_timestamp.is_none())
    {
        // Either the children were orphaned (--cascade=orphan), or the cluster is slow.
        return Some("pods that use them are running");
    }
    let is_early = elapsed < deadline.mul_f64(PODS_FIRST);
    (!running.is_empty() && is_early).then_some("its pods stop first")
}

fn has_finalizer(metadata: &ObjectMeta) -> bool {
    metadata
        .finalizers
        .iter()
        .flatten()
        .any(|finalizer| finalizer == FINALIZER)
}

/// Writes the finalizers, unless the resource has changed since it was read.
async fn patch_finalizers(
    context: &Context,
    namespace: &str,
    metadata: &ObjectMeta,
    finalizers: Vec<String>,
) -> Result<(), Error> {
    context.check_lease()?;
    let api: Api<PinterestPipeline> = Api::namespaced(context.client.clone(), namespace);
    let version = &metadata.resource_version;
    let patch = json!({"metadata": {"resourceVersion": version, "finalizers": finalizers}});
    let name = metadata.name.as_deref().unwrap_or_default();
    let patched = api
        .patch_metadata(name, &PatchParams::default(), &Patch::Merge(patch))
        .await;
    patched.trying("writing the finalizer")?;
    context.metrics.wrote("patch", "pinterestpipelines");
    Ok(())
}

/// Decides what to do about the topics of a deleted pipeline.
fn topics(resource: &PinterestPipeline, paused: bool, conflict: bool) -> Topics {
    let topics = resource.spec.broker.kafka.topics.as_ref();
    if topics.and_then(|topics| topics.deletion_policy) != Some(DeletionPolicy::Delete) {
        return Topics::Keep;
    }
    let known = resource.status.iter().flat_map(|status| &status.topics);
    let created = known.filter(|topic| topic.created_by_us).cloned();
    let (proven, unproven): (Vec<_>, Vec<_>) = created.partition(|topic| topic.id.is_some());
    let unproven: Vec<_> = unproven.into_iter().map(|topic| topic.name).collect();
    let leave = |why| {
        let proven = proven.iter().map(|topic| topic.name.clone());
        Topics::Leave(proven.chain(unproven.clone()).collect(), why)
    };
    if proven.is_empty() && unproven.is_empty() {
        Topics::Keep
    } else if paused {
        leave("the pipeline is paused")
    } else if conflict {
        leave("one of them belongs to another pipeline")
    } else if resource
        .finalizers()
        .iter()
        .any(|finalizer| finalizer == ORPHAN)
    {
        leave("the workers that use them stay, too (--cascade=orphan)")
    } else if proven.is_empty() {
        leave(UNPROVEN)
    } else {
        Topics::Delete(proven, unproven)
    }
}

fn left(topics: &[String], why: &str) -> String {
    format!(
        "left in Kafka, although deletionPolicy is Delete: {}: {why}; delete yourself those that \
         nobody needs",
        topics.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use pinpipe_plan::samples::pipeline;

    fn going(policy: &str, topics: &Value, finalizers: &[&str]) -> PinterestPipeline {
        let kafka = json!({"bootstrapServers": "k:1", "topics": {"deletionPolicy": policy}});
        let mut resource = pipeline(json!({"broker": {"kafka": kafka}}));
        resource.metadata.finalizers = Some(finalizers.iter().map(|f| (*f).to_owned()).collect());
        resource.status = Some(serde_json::from_value(json!({"topics": topics})).unwrap());
        resource
    }

    #[test]
    fn only_topics_that_the_status_proves_ours_are_deleted() {
        let topic = |name: &str, id: Option<&str>, ours: bool| {
            let mut topic = json!({"name": name, "partitions": 1, "createdByUs": ours});
            if let Some(id) = id {
                topic["id"] = json!(id);
            }
            topic
        };
        let mixed = json!([
            topic("a", Some("1"), true),
            topic("b", Some("2"), false),
            topic("c", None, true)
        ]);
        let Topics::Delete(deleted, unproven) =
            topics(&going("Delete", &mixed, &[FINALIZER]), false, false)
        else {
            panic!("nothing is to be deleted")
        };
        assert_eq!(
            deleted
                .iter()
                .map(|topic| topic.name.as_str())
                .collect::<Vec<_>>(),
            ["a"]
        );
        assert_eq!(unproven, ["c"]);

        let names = |names: &[&str]| {
            names
                .iter()
                .map(|name| (*name).to_owned())
                .collect::<Vec<_>>()
        };
        for (case, policy, known, finalizers, [paused, conflict], expected) in [
            (
                "kept by policy",
                "Retain",
                mixed.clone(),
                &[FINALIZER][..],
                [false, false],
                None,
            ),
            (
                "never reconciled",
                "Delete",
                json!([]),
                &[FINALIZER],
                [false, false],
                None,
            ),
            (
                "not ours",
                "Delete",
                json!([topic("b", Some("2"), false)]),
                &[FINALIZER],
                [false, false],
                None,
            ),
            (
                "about to be created",
                "Delete",
                json!([topic("c", None, true)]),
                &[FINALIZER],
                [false, false],
                Some(names(&["c"])),
            ),
            (
                "paused",
                "Delete",
                mixed.clone(),
                &[FINALIZER],
                [true, false],
                Some(names(&["a", "c"])),
            ),
            (
                "another's",
                "Delete",
                mixed.clone(),
                &[FINALIZER],
                [false, true],
                Some(names(&["a", "c"])),
            ),
            (
                "children stay",
                "Delete",
                mixed,
                &[FINALIZER, ORPHAN],
                [false, false],
                Some(names(&["a", "c"])),
            ),
        ] {
            let found = topics(&going(policy, &known, finalizers), paused, conflict);
            match (found, expected) {
                (Topics::Keep, None) => {}
                (Topics::Leave(found, _), Some(expected)) => assert_eq!(found, expected, "{case}"),
                (found, _) => panic!("{case}: {found:?}"),
            }
        }
    }

    #[test]
    fn topics_wait_for_pods_but_not_for_ever_for_those_that_are_stopping() {
        let pod = |going: bool, phase: &str| -> Pod {
            let mut pod = json!({"metadata": {"name": "p"}, "status": {"phase": phase}});
            if going {
                pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            }
            serde_json::from_value(pod).unwrap()
        };
        let at = |pods: &[Pod], seconds| {
            wait_for(pods, Duration::from_secs(seconds), Duration::from_secs(100))
        };
        assert_eq!(at(&[], 0), None);
        assert_eq!(at(&[pod(false, "Succeeded")], 0), None);
        assert_eq!(at(&[pod(true, "Running")], 0), Some("its pods stop first"));
        assert_eq!(
            at(&[pod(true, "Running")], 40),
            None,
            "its node may be gone"
        );
        let outlives = [pod(true, "Running"), pod(false, "Running")];
        assert_eq!(at(&outlives, 100), Some("pods that use them are running"));
    }
}
