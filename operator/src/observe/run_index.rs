//! Index of all runs that the operator watches.

use std::{
    borrow::Cow,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{
    Api, Client, Resource,
    api::ListParams,
    runtime::reflector::{ObjectRef, Store},
};
use pinpipe_crds::PinterestRun;
use pinpipe_plan::run::is_final;
use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::Value;
use tokio::{sync::watch, time::timeout};

use super::pipeline_index::CachedPipeline;

/// A run in the index.
#[derive(Clone, Debug)]
pub struct CachedRun {
    metadata: ObjectMeta,
    /// None: this version can't read it, which must not stop the others.
    pub run: Option<PinterestRun>,
}

impl CachedRun {
    /// The pipeline it names.
    #[must_use]
    pub fn pipeline(&self) -> Option<ObjectRef<CachedPipeline>> {
        let name = &self.run.as_ref()?.spec.pipeline_ref.name;
        Some(ObjectRef::new(name).within(self.metadata.namespace.as_deref()?))
    }

    /// Whether it waits or is under way.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.run.as_ref().is_some_and(|run| !is_final(run))
    }
}

impl<'de> Deserialize<'de> for CachedRun {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut resource = Value::deserialize(deserializer)?;
        if let Some(metadata) = resource["metadata"].as_object_mut() {
            metadata.remove("managedFields");
        }
        let metadata = ObjectMeta::deserialize(&resource["metadata"]).map_err(D::Error::custom)?;
        let run = PinterestRun::deserialize(&resource);
        let run = run.inspect_err(|error| {
            let (namespace, name) = (&metadata.namespace, &metadata.name);
            tracing::error!(?namespace, ?name, %error, "a PinterestRun can't be read");
        });
        Ok(Self {
            run: run.ok(),
            metadata,
        })
    }
}

impl Resource for CachedRun {
    type DynamicType = ();
    type Scope = <PinterestRun as Resource>::Scope;

    fn kind((): &()) -> Cow<'_, str> {
        PinterestRun::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        PinterestRun::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        PinterestRun::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        PinterestRun::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// Runs of one watch.
struct Scope {
    /// None: all namespaces.
    namespace: Option<String>,
    store: Store<CachedRun>,
    /// Whether everything has been listed.
    filled: watch::Receiver<bool>,
}

/// All runs of the watched namespaces.
#[derive(Default)]
pub struct RunIndex(Mutex<Vec<Scope>>);

impl RunIndex {
    /// Adds the store of a watch of one namespace or of all, and whether it is filled.
    pub fn add(
        &self,
        namespace: Option<&str>,
        store: Store<CachedRun>,
        filled: watch::Receiver<bool>,
    ) {
        let scope = Scope {
            namespace: namespace.map(ToOwned::to_owned),
            store,
            filled,
        };
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(scope);
    }

    /// Waits until all watches have listed everything, but no longer than this.
    pub async fn filled(&self, within: Duration) {
        let scopes = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let filled: Vec<_> = scopes().iter().map(|scope| scope.filled.clone()).collect();
        let all = async {
            for mut filled in filled {
                // An error: the operator stops.
                let _ = filled.wait_for(|filled| *filled).await;
            }
        };
        if timeout(within, all).await.is_err() {
            tracing::warn!("PinterestRuns can't be listed yet, so none is started");
        }
    }

    /// Runs of a pipeline, as the watch last had them. None: not everything is listed yet.
    #[must_use]
    pub fn of(&self, namespace: &str, pipeline: &str) -> Option<Vec<PinterestRun>> {
        let scopes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut scopes = scopes.iter();
        let scope = scopes.find(|scope| {
            let watched = scope.namespace.as_deref();
            watched.is_none_or(|watched| watched == namespace)
        })?;
        if !*scope.filled.borrow() {
            return None;
        }
        let all = scope.store.state();
        let runs = all.iter().filter_map(|cached| cached.run.clone());
        let of = |run: &PinterestRun| {
            run.spec.pipeline_ref.name == pipeline
                && run.metadata.namespace.as_deref() == Some(namespace)
        };
        Some(runs.filter(of).collect())
    }
}

/// Lists the runs of a pipeline.
pub async fn list(
    client: &Client,
    namespace: &str,
    pipeline: &str,
) -> kube::Result<Vec<PinterestRun>> {
    let api: Api<CachedRun> = Api::namespaced(client.clone(), namespace);
    let of = ListParams::default().fields(&format!("spec.pipelineRef.name={pipeline}"));
    let runs = api.list(&of).await?.items.into_iter();
    Ok(runs.filter_map(|cached| cached.run).collect())
}

#[cfg(test)]
mod tests {
    use kube::runtime::{reflector, watcher::Event};
    use pinpipe_plan::samples::run;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_namespace_that_cannot_be_listed_holds_no_other_back() {
        let index = RunIndex::default();
        let (store, mut writer) = reflector::store();
        let (filled, is_filled) = watch::channel(false);
        index.add(Some("data"), store, is_filled);
        let (_forbidden, never) = watch::channel(false);
        let (store, _) = reflector::store();
        index.add(Some("other"), store, never);
        assert_eq!(index.of("data", "pinterest"), None, "not listed yet");
        let cached = json!(run("r", json!({"batch": {}})));
        let cached: CachedRun = serde_json::from_value(cached).unwrap();
        writer.apply_watcher_event(&Event::Init);
        writer.apply_watcher_event(&Event::InitApply(cached));
        writer.apply_watcher_event(&Event::InitDone);
        filled.send_replace(true);
        assert_eq!(index.of("data", "pinterest").unwrap().len(), 1);
        assert_eq!(index.of("data", "another").unwrap().len(), 0);
        assert_eq!(index.of("other", "pinterest"), None);
        assert_eq!(index.of("third", "pinterest"), None, "not watched");
    }
}
