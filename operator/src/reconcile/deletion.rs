//! Deletion. Children go by their owner references; topics stay, unless `deletionPolicy` is
//! `Delete`.
//!
//! Only then a finalizer is set, before the first topic is created. With it a deletion first takes
//! the children away, so that nobody uses the topics any more, then deletes those of which the
//! status proves that this pipeline created them and that still have the id it says. Whatever
//! happens it ends: after [`crate::context::Settings::deletion_deadline`] topics are left where
//! they are, and an event names them.

use std::{collections::BTreeSet, time::Duration};

use k8s_openapi::{api::core::v1::Pod, jiff::Timestamp};
use kube::{
    Api, ResourceExt as _,
    api::{Patch, PatchParams},
    core::ObjectMeta,
    runtime::events::EventType,
};
use pinpipe_crds::{DeletionPolicy, PinterestPipeline, TopicStatus};
use serde_json::json;

use super::{Error, Pass, Passed, Trying as _, drain::passed, has_ended, told};
use crate::{
    claims::Claim,
    context::Context,
    status::{Finding, reasons},
    watched::Outline,
};

/// What holds a pipeline until its topics are deleted.
pub const FINALIZER: &str = "pinpipe.dev/topics";
/// What `kubectl delete --cascade=orphan` sets: children are to stay, and they need their topics.
const ORPHAN: &str = "orphan";
/// How much of the deadline topics wait for the last pod to go: one on a node that is gone never
/// does.
const PODS_FIRST: f64 = 0.4;

/// Why topics are left that were about to be created: whether that came to pass nobody knows.
const UNPROVEN: &str = "the status does not say by their ids that the pipeline created them";

/// What is to be done about topics.
#[derive(Debug, PartialEq, Eq)]
enum Topics {
    /// Nothing: there are none, or they stay by `deletionPolicy`.
    Keep,
    /// These are left though they should go, and why.
    Leave(Vec<String>, &'static str),
    /// The first are to be deleted. Whether the others, by name, are there and ours nobody knows.
    Delete(Vec<TopicStatus>, Vec<String>),
}

/// How far a deletion came.
enum Came {
    /// Topics are deleted.
    Done,
    /// It waits, and for what.
    Waits(String),
}

impl Pass<'_> {
    /// Sets the finalizer, or takes it away, as `deletionPolicy` asks.
    pub(super) async fn keep_finalizer(&self, policy: DeletionPolicy) -> Result<(), Error> {
        let wanted = policy == DeletionPolicy::Delete;
        if wanted == has_finalizer(&self.resource.metadata) {
            return Ok(());
        }
        let mut finalizers = self.resource.finalizers().to_vec();
        finalizers.retain(|finalizer| finalizer != FINALIZER);
        finalizers.extend(wanted.then(|| FINALIZER.to_owned()));
        patch_finalizers(
            self.context,
            &self.namespace,
            &self.resource.metadata,
            finalizers,
        )
        .await
    }

    /// Ends the pipeline.
    pub(super) async fn delete(&self) -> Result<Passed, Error> {
        let metadata = &self.resource.metadata;
        if !has_finalizer(metadata) {
            return Ok(Passed::Gone);
        }
        let others = self.claims_of_others().await?;
        let conflict = Claim::of(&self.resource).conflict(&others).is_some();
        let (topics, unproven) = match topics(&self.resource, self.is_paused(), conflict) {
            Topics::Keep => return self.let_go().await,
            Topics::Leave(names, why) => {
                self.tell_left(&names, why).await;
                return self.let_go().await;
            }
            Topics::Delete(topics, unproven) => (topics, unproven),
        };
        let since = metadata
            .deletion_timestamp
            .as_ref()
            .map_or_else(Timestamp::now, |time| time.0);
        let (elapsed, deadline) = (
            passed(since, Timestamp::now()),
            self.context.settings.deletion_deadline,
        );
        let why = match self.delete_topics(&topics, elapsed).await {
            Ok(Came::Done) => {
                if !unproven.is_empty() {
                    self.tell_left(&unproven, UNPROVEN).await;
                }
                return self.let_go().await;
            }
            Ok(Came::Waits(why)) => why,
            Err(error) if elapsed < deadline => return Err(error),
            Err(error) => error.to_string(),
        };
        if elapsed < deadline {
            let message = format!("the pipeline is being deleted, and with it its topics: {why}");
            self.write_ready(Finding::bad(reasons::DELETING, message))
                .await?;
            return Ok(Passed::Soon);
        }
        let names: Vec<_> = topics
            .into_iter()
            .map(|topic| topic.name)
            .chain(unproven)
            .collect();
        self.tell_left(&names, &why).await;
        self.let_go().await
    }

    async fn delete_topics(
        &self,
        topics: &[TopicStatus],
        elapsed: Duration,
    ) -> Result<Came, Error> {
        let applier = self.applier();
        let mut live = applier.live().await.trying("listing children")?;
        self.context.may_write()?;
        applier
            .prune(&[], &BTreeSet::new(), &mut live)
            .await
            .trying("deleting children")?;
        let pods = self.pods().await?;
        if let Some(wait) = wait_for(&pods, elapsed, self.context.settings.deletion_deadline) {
            return Ok(Came::Waits(wait.to_owned()));
        }
        self.context.may_write()?;
        let delete = async {
            let bootstrap_servers = &self.resource.spec.broker.kafka.bootstrap_servers;
            let names = topics.iter().map(|topic| topic.name.clone()).collect();
            let (broker, seen) = self.context.brokers.see(bootstrap_servers, names).await?;
            let same = |topic: &&TopicStatus| {
                seen.get(&topic.name)
                    .is_some_and(|found| Some(found.id.as_str()) == topic.id.as_deref())
            };
            let same: Vec<&str> = topics
                .iter()
                .filter(same)
                .map(|topic| topic.name.as_str())
                .collect();
            if !same.is_empty() {
                broker.delete(&same).await?;
            }
            Ok::<_, crate::topics::BrokerError>(same.len())
        };
        Ok(match delete.await {
            Ok(deleted) => {
                self.count("delete", deleted);
                Came::Done
            }
            Err(error) => Came::Waits(error.to_string()),
        })
    }

    async fn tell_left(&self, topics: &[String], why: &str) {
        let note = left(topics, why);
        tracing::warn!(
            namespace = self.namespace,
            name = self.name,
            note,
            "topics are left"
        );
        self.event(
            EventType::Warning,
            reasons::TOPICS_LEFT,
            "Delete",
            &note,
            None,
        )
        .await;
    }

    /// Takes the finalizer away, upon which the API server takes the pipeline away.
    async fn let_go(&self) -> Result<Passed, Error> {
        let mut finalizers = self.resource.finalizers().to_vec();
        finalizers.retain(|finalizer| finalizer != FINALIZER);
        patch_finalizers(
            self.context,
            &self.namespace,
            &self.resource.metadata,
            finalizers,
        )
        .await?;
        Ok(Passed::Gone)
    }
}

/// Ends the deletion of a resource that can't be read: what topics it created can't be read either.
pub async fn let_go_unread(context: &Context, resource: &Outline) -> Result<(), Error> {
    let metadata = kube::Resource::meta(resource);
    if metadata.deletion_timestamp.is_none() || !has_finalizer(metadata) {
        return Ok(());
    }
    let why = "the pipeline can't be read by this version of the operator";
    let note = left(&["its topics".to_owned()], why);
    let about = kube::Resource::object_ref(resource, &());
    told(
        context,
        &about,
        EventType::Warning,
        reasons::TOPICS_LEFT,
        "Delete",
        &note,
        None,
    )
    .await;
    let mut finalizers = metadata.finalizers.clone().unwrap_or_default();
    finalizers.retain(|finalizer| finalizer != FINALIZER);
    patch_finalizers(
        context,
        &resource.namespace().unwrap_or_default(),
        metadata,
        finalizers,
    )
    .await
}

/// Why topics aren't deleted while these pods are there.
fn wait_for(pods: &[Pod], elapsed: Duration, deadline: Duration) -> Option<&'static str> {
    let running: Vec<_> = pods.iter().filter(|pod| !has_ended(pod)).collect();
    if running
        .iter()
        .any(|pod| pod.metadata.deletion_timestamp.is_none())
    {
        // Nobody stops them: they are somebody else's by now (--cascade=orphan), or the cluster is
        // slow.
        return Some("pods that use them run");
    }
    (!running.is_empty() && elapsed < deadline.mul_f64(PODS_FIRST)).then_some("its pods stop first")
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
    context.may_write()?;
    let api: Api<PinterestPipeline> = Api::namespaced(context.client.clone(), namespace);
    let patch = json!({"metadata": {"resourceVersion": metadata.resource_version, "finalizers": finalizers}});
    let name = metadata.name.as_deref().unwrap_or_default();
    let patched = api
        .patch_metadata(name, &PatchParams::default(), &Patch::Merge(patch))
        .await;
    patched.trying("writing the finalizer")?;
    context.metrics.wrote("patch", "pinterestpipelines");
    Ok(())
}

/// What is to be done about the topics of a pipeline that is being deleted.
fn topics(resource: &PinterestPipeline, paused: bool, conflict: bool) -> Topics {
    let policy = resource
        .spec
        .broker
        .kafka
        .topics
        .as_ref()
        .and_then(|topics| topics.deletion_policy);
    if policy != Some(DeletionPolicy::Delete) {
        return Topics::Keep;
    }
    let known = resource.status.iter().flat_map(|status| &status.topics);
    let (proven, unproven): (Vec<_>, Vec<_>) = known
        .filter(|topic| topic.created_by_us)
        .cloned()
        .partition(|topic| topic.id.is_some());
    let unproven: Vec<_> = unproven.into_iter().map(|topic| topic.name).collect();
    let leave = |why| {
        Topics::Leave(
            proven
                .iter()
                .map(|topic| topic.name.clone())
                .chain(unproven.clone())
                .collect(),
            why,
        )
    };
    if proven.is_empty() && unproven.is_empty() {
        Topics::Keep
    } else if paused {
        leave("the pipeline is paused")
    } else if conflict {
        leave("one of them belongs to an older pipeline")
    } else if resource
        .finalizers()
        .iter()
        .any(|finalizer| finalizer == ORPHAN)
    {
        leave("the workers that use them were to stay, too (--cascade=orphan)")
    } else if proven.is_empty() {
        leave(UNPROVEN)
    } else {
        Topics::Delete(proven, unproven)
    }
}

fn left(topics: &[String], why: &str) -> String {
    format!(
        "left in Kafka: {}, though deletionPolicy is Delete: {why}; delete yourself those that nobody needs",
        topics.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::validate::tests::pipeline;

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
    fn topics_wait_for_pods_and_not_for_ever_for_those_that_are_told_to_stop() {
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
        assert_eq!(at(&outlives, 100), Some("pods that use them run"));
    }
}
