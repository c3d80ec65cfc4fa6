//! Index of all pipelines that the operator watches, kept small: there may be thousands.

use std::{
    borrow::Cow,
    collections::HashSet,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Resource, runtime::reflector::Store};
use pinpipe_crds::{Outcome, PinterestPipeline, PinterestPipelineStatus};
use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::Value;

use pinpipe_plan::ownership::Claim;

/// A pipeline in the index. A reconcile reads the whole resource again.
#[derive(Clone, Debug)]
pub struct CachedPipeline {
    metadata: ObjectMeta,
    /// The topics it names. None: not even those can be read.
    pub claim: Option<Claim>,
    /// Why this version can't read the resource, which must not stop the others.
    pub unreadable: Option<String>,
    /// What it reports.
    pub report: Report,
}

/// The parts of a pipeline that metrics show.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Whether `spec.suspend` is set.
    pub suspended: bool,
    /// Type and status of each condition.
    pub conditions: Vec<(String, String)>,
    /// Batch runs. None: there is no `spec.batch`.
    pub runs: Option<RunReport>,
}

/// How batch runs go.
#[derive(Clone, Copy, Debug, Default)]
pub struct RunReport {
    /// Whether one is overdue.
    pub overdue: bool,
    /// Whether the last one succeeded. None: none has ended.
    pub succeeded: Option<bool>,
    /// When one last succeeded, seconds since 1970.
    pub last_success: Option<i64>,
}

impl Report {
    fn of(resource: &Value) -> Self {
        let spec = &resource["spec"];
        let status = PinterestPipelineStatus::deserialize(&resource["status"]).unwrap_or_default();
        let conditions = status.conditions.into_iter();
        let batch = status.batch.unwrap_or_default();
        Self {
            suspended: spec["suspend"] == true,
            conditions: conditions
                .map(|found| (found.type_, found.status))
                .collect(),
            runs: spec["batch"].is_object().then(|| RunReport {
                overdue: batch.overdue,
                succeeded: batch.last_run.map(|run| run.outcome == Outcome::Succeeded),
                last_success: batch.last_successful_time.map(|time| time.0.as_second()),
            }),
        }
    }
}

impl<'de> Deserialize<'de> for CachedPipeline {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let resource = Value::deserialize(deserializer)?;
        let (claim, unreadable, mut metadata) = match PinterestPipeline::deserialize(&resource) {
            Ok(pipeline) => (Some(Claim::of(&pipeline)), None, pipeline.metadata),
            Err(error) => (
                Claim::of_unreadable(&resource),
                Some(error.to_string()),
                ObjectMeta::deserialize(&resource["metadata"]).map_err(D::Error::custom)?,
            ),
        };
        // The largest parts of the metadata.
        metadata.managed_fields = None;
        metadata.annotations = None;
        Ok(Self {
            metadata,
            claim,
            unreadable,
            report: Report::of(&resource),
        })
    }
}

impl Resource for CachedPipeline {
    type DynamicType = ();
    type Scope = <PinterestPipeline as Resource>::Scope;

    fn kind((): &()) -> Cow<'_, str> {
        PinterestPipeline::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        PinterestPipeline::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        PinterestPipeline::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        PinterestPipeline::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// How long a watch may take until it has listed everything.
pub const FILLED_WITHIN: Duration = Duration::from_secs(10);

/// Pipelines of one watch.
struct Scope {
    store: Store<CachedPipeline>,
    /// Claims listed just before the watch began.
    before: Vec<Claim>,
    since: Instant,
}

impl Scope {
    /// Claims that share a topic name with this one.
    fn meeting(&self, claim: &Claim) -> Vec<Claim> {
        // A store is empty until the first list is complete.
        if self.store.is_empty() && self.since.elapsed() < FILLED_WITHIN {
            return self
                .before
                .iter()
                .filter(|other| claim.meets(other))
                .cloned()
                .collect();
        }
        let all = self.store.state();
        let claims = all.iter().filter_map(|pipeline| pipeline.claim.as_ref());
        claims.filter(|other| claim.meets(other)).cloned().collect()
    }
}

/// All pipelines of the watched namespaces. Clones share one index.
#[derive(Clone, Default)]
pub struct PipelineIndex(Arc<Mutex<Vec<Scope>>>);

impl fmt::Debug for PipelineIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PipelineIndex").finish_non_exhaustive()
    }
}

impl PipelineIndex {
    /// Adds the store of a watch, and the claims that were listed `before` it began.
    pub fn add(&self, store: Store<CachedPipeline>, before: Vec<Claim>) {
        let scope = Scope {
            store,
            before,
            since: Instant::now(),
        };
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(scope);
    }

    /// Number of pipelines.
    #[must_use]
    pub fn count(&self) -> usize {
        let scopes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        scopes.iter().map(|scope| scope.store.len()).sum()
    }

    /// All pipelines.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<CachedPipeline>> {
        let scopes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let pipelines = scopes.iter().flat_map(|scope| scope.store.state());
        pipelines.collect()
    }

    /// Whether there is a pipeline with this UID.
    #[must_use]
    pub fn contains(&self, uid: &str) -> bool {
        let scopes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut stores = scopes.iter().map(|scope| scope.store.state());
        stores.any(|all| {
            all.iter()
                .any(|found| found.metadata.uid.as_deref() == Some(uid))
        })
    }

    /// UIDs of all pipelines.
    #[must_use]
    pub fn uids(&self) -> HashSet<String> {
        let scopes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let pipelines = scopes.iter().flat_map(|scope| scope.store.state());
        pipelines
            .filter_map(|found| found.metadata.uid.clone())
            .collect()
    }

    /// Claims of other pipelines that share a topic name with this one.
    #[must_use]
    pub fn meeting(&self, claim: &Claim) -> Vec<Claim> {
        let scopes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        scopes
            .iter()
            .flat_map(|scope| scope.meeting(claim))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::slice;

    use kube::runtime::{reflector, watcher::Event};
    use serde_json::json;

    use super::*;

    fn outline(name: &str, spec: &serde_json::Value) -> CachedPipeline {
        serde_json::from_value(json!({
            "apiVersion": "pinpipe.dev/v1alpha1",
            "kind": "PinterestPipeline",
            "metadata": {
                "namespace": "b",
                "name": name,
                "uid": name,
                "managedFields": [{"manager": "m"}],
            },
            "spec": spec,
        }))
        .unwrap()
    }

    #[test]
    fn claims_listed_before_a_watch_count_until_the_watch_has_listed_everything() {
        let pipeline = |name| {
            let pins = json!({"overrides": {"pin": {"name": "pins"}}});
            outline(
                name,
                &json!({"broker": {"kafka": {"bootstrapServers": "k.x:1", "topics": pins}}}),
            )
        };
        let index = PipelineIndex::default();
        let (store, mut writer) = reflector::store();
        index.add(store, vec![pipeline("gone").claim.unwrap()]);
        let [me, gone, there] = ["me", "gone", "there"].map(|name| pipeline(name).claim.unwrap());
        assert_eq!(index.meeting(&me), slice::from_ref(&gone));
        writer.apply_watcher_event(&Event::Init);
        writer.apply_watcher_event(&Event::InitApply(pipeline("there")));
        assert_eq!(
            index.meeting(&me),
            [gone],
            "the watch may not have listed everything yet"
        );
        writer.apply_watcher_event(&Event::InitApply(pipeline("me")));
        writer.apply_watcher_event(&Event::InitDone);
        assert_eq!(index.meeting(&me), [there]);
        assert_eq!(index.count(), 2);
    }

    #[test]
    fn a_pipeline_that_cannot_be_read_keeps_its_topics() {
        let mut spec = json!({"broker": {"kafka": {"bootstrapServers": "k.x:1", "topics": {
            "overrides": {"pin": {"name": "pins"}}}}}});
        let younger = outline("younger", &spec).claim.unwrap();
        spec["archive"] = json!({"bucket": 7});
        let older = outline("older", &spec);
        assert!(older.unreadable.is_some());
        let older = older.claim.unwrap();
        assert_eq!(older, {
            spec["archive"] = Value::Null;
            outline("older", &spec).claim.unwrap()
        });
        assert!(younger.meets(&older));
    }

    #[test]
    fn a_pipeline_that_cannot_be_read_is_known_by_its_name() {
        let outline = outline("odd", &json!({"broker": "none"}));
        assert!(outline.claim.is_none() && outline.unreadable.is_some());
        assert_eq!(outline.meta().name.as_deref(), Some("odd"));
        assert_eq!(outline.meta().managed_fields, None);
    }
}
