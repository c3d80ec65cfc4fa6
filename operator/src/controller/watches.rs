//! Watches of pipelines and their children.

use std::{collections::BTreeSet, fmt::Debug, future::ready, time::Duration};

use futures::{
    Stream, StreamExt as _,
    channel::mpsc::{UnboundedReceiver, unbounded},
    future::join_all,
    stream::iter,
};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::Deployment,
        autoscaling::v2::HorizontalPodAutoscaler,
        batch::v1::{CronJob, Job},
        coordination::v1::Lease,
        core::v1::{ConfigMap, Service, ServiceAccount},
        networking::v1::NetworkPolicy,
        policy::v1::PodDisruptionBudget,
        rbac::v1::{Role, RoleBinding},
    },
};
use kube::{
    Api, Client, Resource,
    api::{ListParams, ObjectMeta},
    core::PartialObjectMeta,
    runtime::{
        Controller, WatchStreamExt as _, controller::Config, reflector, reflector::ObjectRef,
        utils::Backoff, watcher, watcher::Event,
    },
};
use pinpipe_plan::{
    names::{self, MANAGED_BY_LABEL, MANAGER},
    ownership::Claim,
};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::requeue::jittered;
use crate::{
    context::Context,
    observe::{
        child_cache::{self, Concerned, Matters},
        pipeline_index::{CachedPipeline, FILLED_WITHIN},
        run_index::CachedRun,
    },
};

/// Backoff of the merged watch stream after an error. It doesn't grow: when the API server is
/// available again all watches fail in a row, and with kube's default, which doubles with each
/// failure, no event would arrive for minutes.
const WATCH_BACKOFF: Duration = Duration::from_millis(300);
/// Events within this time start one reconcile.
const DEBOUNCE: Duration = Duration::from_millis(300);

/// Namespaces in which pipelines are reconciled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All namespaces.
    All,
    /// One namespace.
    Namespace(String),
}

impl Scope {
    /// A scope for each of these namespaces; one for all where none is named.
    #[must_use]
    pub fn of(namespaces: &[String]) -> Vec<Self> {
        let named = namespaces.iter().filter(|namespace| !namespace.is_empty());
        let named: BTreeSet<_> = named.collect();
        if named.is_empty() {
            return vec![Self::All];
        }
        named.into_iter().cloned().map(Self::Namespace).collect()
    }

    fn namespace(&self) -> Option<&str> {
        match self {
            Self::All => None,
            Self::Namespace(namespace) => Some(namespace),
        }
    }

    pub(super) fn api<K>(&self, client: &Client) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        match self {
            Self::All => Api::all(client.clone()),
            Self::Namespace(namespace) => Api::namespaced(client.clone(), namespace),
        }
    }
}

/// Claims of each scope before it is watched. A controller reconciles nothing before its own store
/// is filled, but doesn't wait for the stores of other scopes.
pub(super) async fn claims_before(client: &Client, scopes: &[Scope]) -> Vec<Vec<Claim>> {
    if let [_] = scopes {
        return vec![Vec::new()];
    }
    let list = async |scope: &Scope| {
        let api = scope.api::<CachedPipeline>(client);
        match tokio::time::timeout(FILLED_WITHIN, api.list(&ListParams::default())).await {
            Ok(Ok(list)) => list
                .items
                .into_iter()
                .filter_map(|found| found.claim)
                .collect(),
            // Where nothing can be listed nothing is reconciled either; the readiness says so, and
            // the other scopes must not wait.
            Ok(Err(_)) | Err(_) => Vec::new(),
        }
    };
    join_all(scopes.iter().map(list)).await
}

/// Watches the runs of one scope until `stop`, from now on, for the index. Returns the pipelines
/// whose runs change.
pub(super) fn runs(
    scope: &Scope,
    context: &Context,
    stop: &CancellationToken,
) -> UnboundedReceiver<ObjectRef<CachedPipeline>> {
    let (store, writer) = reflector::store();
    let (listed, filled) = watch::channel(false);
    context.runs.add(scope.namespace(), store, filled);
    let api = scope.api::<CachedRun>(&context.client);
    let events = watcher(api, watcher::Config::default()).backoff(ConstantBackoff);
    let (send, changed) = unbounded();
    let work = reflector(writer, events).for_each(move |event| {
        let pipeline = match event {
            // Everything is reconciled at the start; only a run without a pipeline would be left.
            Ok(Event::InitApply(run)) => run.pipeline().filter(|_| run.is_open()),
            Ok(Event::Apply(run) | Event::Delete(run)) => run.pipeline(),
            Ok(Event::InitDone) => {
                listed.send_replace(true);
                None
            }
            Ok(Event::Init) => None,
            Err(error) => {
                tracing::warn!(%error, "the watch of PinterestRuns failed, trying again");
                None
            }
        };
        if let Some(pipeline) = pipeline {
            // An error: the controller has ended.
            let _ = send.unbounded_send(pipeline);
        }
        ready(())
    });
    tokio::spawn(stop.clone().run_until_cancelled_owned(work));
    changed
}

/// Controller of one scope. `runs` are the pipelines whose runs change.
pub(super) fn controller(
    scope: &Scope,
    runs: UnboundedReceiver<ObjectRef<CachedPipeline>>,
    context: &Context,
    stop: &CancellationToken,
) -> Controller<CachedPipeline> {
    let client = &context.client;
    let watch = Watches { scope, context };
    Controller::new(
        scope.api::<CachedPipeline>(client),
        watcher::Config::default(),
    )
    .trigger_backoff(ConstantBackoff)
    .with_config(Config::default().debounce(DEBOUNCE))
    .reconcile_on(watch.children::<Deployment>(Matters::Always))
    .reconcile_on(watch.children::<CronJob>(Matters::Always))
    .reconcile_on(watch.children::<Service>(Matters::WhenOurs))
    .reconcile_on(watch.children::<ConfigMap>(Matters::WhenOurs))
    .reconcile_on(watch.children::<ServiceAccount>(Matters::WhenOurs))
    .reconcile_on(watch.children::<Lease>(Matters::WhenOurs))
    .reconcile_on(watch.children::<Role>(Matters::WhenOurs))
    .reconcile_on(watch.children::<RoleBinding>(Matters::WhenOurs))
    .reconcile_on(watch.children::<NetworkPolicy>(Matters::WhenOurs))
    .reconcile_on(watch.children::<PodDisruptionBudget>(Matters::WhenOurs))
    .reconcile_on(watch.children::<HorizontalPodAutoscaler>(Matters::WhenOurs))
    .reconcile_on(watch.jobs())
    .reconcile_on(runs)
    .graceful_shutdown_on(stop.clone().cancelled_owned())
}

/// Metadata watches of one scope.
struct Watches<'a> {
    scope: &'a Scope,
    context: &'a Context,
}

impl Watches<'_> {
    /// Pipelines whose children of a kind change.
    fn children<K>(
        &self,
        matters: Matters,
    ) -> impl Stream<Item = ObjectRef<CachedPipeline>> + use<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + Debug
            + Send
            + 'static,
    {
        let labels = format!("{MANAGED_BY_LABEL}={MANAGER}");
        self.stream::<K>(&labels, matters, child_cache::owner)
    }

    /// Pipelines whose Jobs change.
    fn jobs(&self) -> impl Stream<Item = ObjectRef<CachedPipeline>> + use<> {
        self.stream::<Job>(
            &names::all_runs_selector(),
            Matters::Always,
            child_cache::instance,
        )
    }

    fn stream<K>(
        &self,
        labels: &str,
        matters: Matters,
        pipeline: fn(&ObjectMeta) -> Option<(String, String)>,
    ) -> impl Stream<Item = ObjectRef<CachedPipeline>> + use<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + Debug
            + Send
            + 'static,
    {
        let api = self.scope.api::<PartialObjectMeta<K>>(&self.context.client);
        let kind = K::kind(&());
        let watch = self
            .context
            .children
            .watch(&kind, self.scope.namespace(), matters);
        let events = watcher(api, watcher::Config::default().labels(labels));
        events.backoff(ConstantBackoff).flat_map(move |event| {
            let concerned = match event {
                Ok(event) => match watch.observe(&event) {
                    Concerned::Nobody => Vec::new(),
                    Concerned::Owner => owner(&event, pipeline).into_iter().collect(),
                    Concerned::Owners(pipelines) => pipelines,
                },
                Err(error) => {
                    tracing::warn!(%error, kind = %K::kind(&()), "a watch failed, trying again");
                    Vec::new()
                }
            };
            let concerned = concerned.into_iter();
            iter(concerned.map(|(namespace, name)| ObjectRef::new(&name).within(&namespace)))
        })
    }
}

/// Namespace and name of the pipeline of an event's object.
fn owner<K: Resource>(
    event: &Event<K>,
    pipeline: fn(&ObjectMeta) -> Option<(String, String)>,
) -> Option<(String, String)> {
    match event {
        Event::Apply(object) | Event::InitApply(object) | Event::Delete(object) => {
            pipeline(object.meta())
        }
        Event::Init | Event::InitDone => None,
    }
}

/// [`WATCH_BACKOFF`] with jitter.
struct ConstantBackoff;

impl Iterator for ConstantBackoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(jittered(WATCH_BACKOFF))
    }
}

impl Backoff for ConstantBackoff {
    fn reset(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_namespace_is_watched_once_and_without_any_all_are() {
        let scopes = |names: &[&str]| {
            Scope::of(
                &names
                    .iter()
                    .map(|name| (*name).to_owned())
                    .collect::<Vec<_>>(),
            )
        };
        assert_eq!(scopes(&[]), [Scope::All]);
        assert_eq!(scopes(&[""]), [Scope::All]);
        let two = ["a", "b"].map(|name| Scope::Namespace(name.to_owned()));
        assert_eq!(scopes(&["b", "a", "b"]), two);
    }
}
