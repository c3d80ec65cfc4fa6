//! Deletion. Children are deleted by their owner references, topics only if `deletionPolicy` is
//! `Delete`.
//!
//! With `Delete`, a finalizer is set before the first topic is created. The deletion then first
//! deletes the children, so that nothing uses the topics any more, and then the topics that the
//! record proves to be this pipeline's and that still have the id in the record. A deletion always
//! ends: after [`crate::context::Settings::deletion_deadline`] the topics are left where they are,
//! and an event names them.
//!
//! The deletion of a namespace may delete the operator's Role in it before the pipelines. So if
//! listing the children and listing pods is forbidden, topics are deleted without waiting for the
//! pods, and the pipeline is released: the chart's cluster-wide role still permits that. Any other
//! refusal is retried until the deadline.

use std::{collections::BTreeSet, time::Duration};

use k8s_openapi::{api::core::v1::Pod, jiff::Timestamp};
use kube::{
    Api, ResourceExt as _,
    api::{Patch, PatchParams},
    core::ObjectMeta,
    runtime::events::EventType,
};
use pinpipe_crds::{Created, DeletionPolicy, PinterestPipeline, condition_types, reasons};
use pinpipe_plan::{
    names,
    ownership::{self, Claim, Deletion},
};
use serde_json::json;

use super::{Outcome, Reconciler, suspend::elapsed};
use crate::{
    context::Context,
    error::{Error, Trying as _},
    finding::Finding,
    kafka::{Broker, Cluster},
    observe::{children::Children, pods::has_ended},
};

/// Finalizer that holds a pipeline until its topics are deleted.
pub const FINALIZER: &str = "pinpipe.dev/topics";
/// Finalizer of `kubectl delete --cascade=orphan`: children stay, and they need their topics.
const ORPHAN: &str = "orphan";
/// Share of the deadline for which topics wait for pods that are stopping. Then they are deleted
/// all the same: a pod whose node is lost never ends.
const PODS_FIRST: f64 = 0.4;

/// Beginning of the event about topics that are left.
const LEFT: &str = "left in Kafka, although deletionPolicy is Delete";
/// End of that event.
const LEFT_ADVICE: &str = "delete yourself those that nobody needs";

/// What to do about the topics of a deleted pipeline.
#[derive(Debug, PartialEq, Eq)]
enum Topics {
    /// Nothing: there are none, or `deletionPolicy` keeps them.
    Keep,
    /// They may be the pipeline's, and are left for this reason.
    Leave(Vec<String>, &'static str),
    /// Delete those that the record proves to be the pipeline's.
    Delete,
}

/// A topic that is left, and why.
type Left = (String, &'static str);

/// How far a deletion is.
enum Progress {
    /// Nothing is left to do; these topics are left.
    Done(Vec<Left>),
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
        match topics(&self.resource, self.is_paused()) {
            Topics::Keep => return self.release().await,
            Topics::Leave(names, why) => {
                if !names.is_empty() {
                    self.report_left(&left(&names, why)).await;
                }
                return self.release().await;
            }
            Topics::Delete => {}
        }
        let since = metadata.deletion_timestamp.as_ref();
        let since = since.map_or_else(Timestamp::now, |time| time.0);
        let elapsed = elapsed(since, Timestamp::now());
        let deadline = self.context.settings.deletion_deadline;
        let children = match self.children().await {
            Err(error) if error.is_forbidden() && self.is_role_gone().await => {
                return self.delete_without_role(&error).await;
            }
            children => children,
        };
        let why = match self.delete_topics(elapsed, children).await {
            Ok(Progress::Done(topics)) => {
                if !topics.is_empty() {
                    self.report_left(&left_each(&topics)).await;
                }
                return self.release().await;
            }
            Ok(Progress::Waiting(why)) => why,
            Err(error) if elapsed < deadline => {
                if error.is_forbidden() {
                    // The next list tells whether the Role is gone.
                    self.context.children.forget(&self.uid);
                }
                return Err(error);
            }
            Err(error) => error.to_string(),
        };
        if elapsed < deadline {
            let message = format!("the pipeline and its topics are being deleted: {why}");
            self.write_ready(Finding::bad(reasons::DELETING, message))
                .await?;
            return Ok(Outcome::Waiting);
        }
        let names = match created(&self.resource) {
            names if names.is_empty() => all_topics(&self.resource),
            names => names,
        };
        self.report_left(&left(&names, &why)).await;
        self.release().await
    }

    async fn delete_topics(
        &self,
        elapsed: Duration,
        children: Result<Children, Error>,
    ) -> Result<Progress, Error> {
        let mut children = children?;
        self.applier()
            .prune(&[], &BTreeSet::new(), &mut children)
            .await?;
        self.end_runs(false).await?;
        let pods = self.labelled_pods().await?;
        let deadline = self.context.settings.deletion_deadline;
        if let Some(why) = wait_for(&pods, elapsed, deadline) {
            return Ok(Progress::Waiting(why.to_owned()));
        }
        self.delete_in_kafka().await
    }

    /// Whether pods can't be listed either. A Role that is there but lacks a permission is a
    /// mistake that may be put right.
    async fn is_role_gone(&self) -> bool {
        let pods = self.labelled_pods().await;
        pods.is_err_and(|error| error.is_forbidden())
    }

    /// Deletes topics without waiting for pods, and releases the resource in any case.
    async fn delete_without_role(&self, error: &Error) -> Result<Outcome, Error> {
        self.context.check_lease()?;
        let (namespace, name) = (&self.namespace, &self.name);
        tracing::warn!(
            namespace,
            name,
            %error,
            "the operator's Role is gone, so the deleted pipeline is released at once"
        );
        let why = match self.delete_in_kafka().await {
            Ok(Progress::Done(topics)) if topics.is_empty() => return self.release().await,
            Ok(Progress::Done(topics)) => left_each(&topics),
            Ok(Progress::Waiting(why)) => left(&all_topics(&self.resource), &why),
            Err(error) => left(&all_topics(&self.resource), &error.to_string()),
        };
        self.report_left(&why).await;
        self.release().await
    }

    async fn delete_in_kafka(&self) -> Result<Progress, Error> {
        let access = match self.kafka_access().await? {
            Ok(access) => access,
            Err(error) => return Ok(Progress::Waiting(error.to_string())),
        };
        let names = all_topics(&self.resource);
        let described = self.context.brokers.describe(&access, names);
        match self.permit.released(described).await {
            Ok((broker, cluster)) => self.delete_from(&broker, &cluster).await,
            Err(error) => Ok(Progress::Waiting(error.to_string())),
        }
    }

    /// Deletes from a cluster the topics that the record proves to be this pipeline's.
    async fn delete_from(&self, broker: &Broker, cluster: &Cluster) -> Result<Progress, Error> {
        let claim = Claim::of(&self.resource);
        let names = all_topics(&self.resource);
        let records = &self.context.records;
        let entries = records.read(&cluster.id, &names).await?;
        let status = self.resource.status.iter();
        let status: Vec<_> = status.flat_map(|status| &status.topics).collect();
        let (mut delete, mut leave) = (Vec::new(), Vec::new());
        for name in names {
            let known = status.iter().find(|topic| topic.name == name).copied();
            let (entry, found) = (entries.get(&name), cluster.topic_id(&name));
            match ownership::deletion(&claim, entry, known, found) {
                Deletion::Delete => delete.push(name),
                Deletion::Leave(why) => leave.push((name, why)),
                Deletion::Ignore => {}
            }
        }
        if !delete.is_empty() {
            self.context.check_lease()?;
            let deleted = broker.delete(delete.clone());
            if let Err(error) = self.permit.released(deleted).await {
                return Ok(Progress::Waiting(error.to_string()));
            }
            self.count("delete", delete.len());
        }
        // Entries of topics that are left stay: a pipeline with this name continues with them.
        let is_gone = |name: &String| delete.contains(name) || cluster.topic_id(name).is_none();
        let gone = entries.iter();
        let gone = gone.filter(|(name, entry)| is_gone(name) && claim.holds(entry));
        let changes = gone.map(|(name, _)| (name.clone(), None)).collect();
        // A refusal is ignored: the entries then stay, and the next pipeline with this name reports
        // that its topics are gone.
        records.write(&cluster.id, &entries, &changes).await?;
        Ok(Progress::Done(leave))
    }

    async fn report_left(&self, message: &str) {
        let (namespace, name) = (&self.namespace, &self.name);
        tracing::warn!(namespace, name, message, "topics are left in Kafka");
        let (type_, reason) = (EventType::Warning, reasons::TOPICS_LEFT);
        self.event(type_, reason, "Delete", message, None).await;
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

pub(super) fn has_finalizer(metadata: &ObjectMeta) -> bool {
    metadata
        .finalizers
        .iter()
        .flatten()
        .any(|finalizer| finalizer == FINALIZER)
}

/// Writes the finalizers, unless the resource has changed since it was read.
pub(super) async fn patch_finalizers(
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
fn topics(resource: &PinterestPipeline, paused: bool) -> Topics {
    let topics = resource.spec.broker.kafka.topics.as_ref();
    if topics.and_then(|topics| topics.deletion_policy) != Some(DeletionPolicy::Delete) {
        return Topics::Keep;
    }
    let status = resource.status.as_ref();
    let is_known = status.is_some_and(|status| !status.topics.is_empty());
    let conditions = status.iter().flat_map(|status| &status.conditions);
    // Reconciled without ever getting to the topics, since no broker answered or another pipeline
    // has them. Without the condition, the first reconcile may have ended after creating some.
    let mut types = conditions.map(|condition| condition.type_.as_str());
    if !is_known && types.any(|type_| type_ == condition_types::TOPICS_READY) {
        return Topics::Keep;
    }
    let finalizers = resource.finalizers();
    if paused {
        Topics::Leave(created(resource), "the pipeline is paused")
    } else if finalizers.iter().any(|finalizer| finalizer == ORPHAN) {
        let why = "the workers that use them stay, too (--cascade=orphan)";
        Topics::Leave(created(resource), why)
    } else {
        Topics::Delete
    }
}

/// Topics that the operator may have created, by the status.
fn created(resource: &PinterestPipeline) -> Vec<String> {
    let topics = resource.status.iter().flat_map(|status| &status.topics);
    let created = topics.filter(|topic| topic.created != Created::Other);
    created.map(|topic| topic.name.clone()).collect()
}

/// Topics and dead-letter topics.
fn all_topics(resource: &PinterestPipeline) -> Vec<String> {
    let topics = names::topics(resource).into_iter();
    topics
        .flat_map(|topic| [names::dead_letter(&topic), topic])
        .collect()
}

pub(super) fn left(topics: &[String], why: &str) -> String {
    let topics = topics.join(", ");
    format!("{LEFT}: {topics}: {why}; {LEFT_ADVICE}")
}

fn left_each(topics: &[Left]) -> String {
    let topics: Vec<_> = topics
        .iter()
        .map(|(topic, why)| format!("{topic}: {why}"))
        .collect();
    format!("{LEFT}: {}; {LEFT_ADVICE}", topics.join("; "))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use pinpipe_plan::samples::pipeline;

    fn deleted(policy: &str, status: &Value, finalizers: &[&str]) -> PinterestPipeline {
        let kafka = json!({"bootstrapServers": "k:1", "topics": {"deletionPolicy": policy}});
        let mut resource = pipeline(json!({"broker": {"kafka": kafka}}));
        resource.metadata.finalizers = Some(finalizers.iter().map(|f| (*f).to_owned()).collect());
        resource.status = Some(serde_json::from_value(status.clone()).unwrap());
        resource
    }

    #[test]
    fn topics_of_a_pipeline_are_deleted_left_or_kept() {
        let topic = |name: &str, by: &str| {
            let mut topic = json!({"name": name, "id": "i", "partitions": 1});
            topic["created"] = json!(by);
            topic
        };
        let mixed = json!({"topics": [
            topic("a", "Operator"),
            topic("b", "Other"),
            topic("c", "Unknown"),
        ]});
        let unreached = json!({"conditions": [{
            "type": "TopicsReady",
            "status": "False",
            "reason": "BrokerUnreachable",
            "message": "m",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }]});
        let (delete, keep) = (Some(None), None);
        let leave = Some(Some(["a", "c"].map(ToOwned::to_owned).to_vec()));
        for (case, policy, status, finalizers, paused, expected) in [
            (
                "deleted",
                "Delete",
                &mixed,
                &[FINALIZER][..],
                false,
                delete.clone(),
            ),
            (
                "kept by policy",
                "Retain",
                &mixed,
                &[FINALIZER],
                false,
                keep.clone(),
            ),
            (
                "no broker ever answered",
                "Delete",
                &unreached,
                &[FINALIZER],
                false,
                keep,
            ),
            (
                "the first reconcile ended early",
                "Delete",
                &json!({}),
                &[FINALIZER],
                false,
                delete,
            ),
            (
                "paused",
                "Delete",
                &mixed,
                &[FINALIZER],
                true,
                leave.clone(),
            ),
            (
                "children stay",
                "Delete",
                &mixed,
                &[FINALIZER, ORPHAN],
                false,
                leave,
            ),
        ] {
            let found = match topics(&deleted(policy, status, finalizers), paused) {
                Topics::Keep => None,
                Topics::Delete => Some(None),
                Topics::Leave(topics, _) => Some(Some(topics)),
            };
            assert_eq!(found, expected, "{case}");
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
