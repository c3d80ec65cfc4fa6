//! Watches of pipelines and their children.

use std::{collections::BTreeSet, time::Duration};

use futures::future::join_all;
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::Deployment,
        autoscaling::v2::HorizontalPodAutoscaler,
        batch::v1::CronJob,
        core::v1::{ConfigMap, Service, ServiceAccount},
        policy::v1::PodDisruptionBudget,
        rbac::v1::{Role, RoleBinding},
    },
};
use kube::{
    Api, Client, Resource,
    api::ListParams,
    runtime::{Controller, controller::Config, utils::Backoff, watcher},
};
use pinpipe_plan::{
    names::{MANAGED_BY_LABEL, MANAGER},
    ownership::Claim,
};
use tokio_util::sync::CancellationToken;

use super::requeue::jittered;
use crate::{
    context::Context,
    observe::pipeline_index::{CachedPipeline, FILLED_WITHIN},
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

/// Controller of one scope.
pub(super) fn controller(
    scope: &Scope,
    context: &Context,
    stop: &CancellationToken,
) -> Controller<CachedPipeline> {
    let client = &context.client;
    let managed = format!("{MANAGED_BY_LABEL}={MANAGER}");
    let children = watcher::Config::default().labels(&managed);
    Controller::new(
        scope.api::<CachedPipeline>(client),
        watcher::Config::default(),
    )
    .trigger_backoff(ConstantBackoff)
    .with_config(Config::default().debounce(DEBOUNCE))
    .owns(scope.api::<Deployment>(client), children.clone())
    .owns(scope.api::<CronJob>(client), children.clone())
    .owns(scope.api::<Service>(client), children.clone())
    .owns(scope.api::<ConfigMap>(client), children.clone())
    .owns(scope.api::<ServiceAccount>(client), children.clone())
    .owns(scope.api::<Role>(client), children.clone())
    .owns(scope.api::<RoleBinding>(client), children.clone())
    .owns(scope.api::<PodDisruptionBudget>(client), children.clone())
    .owns(scope.api::<HorizontalPodAutoscaler>(client), children)
    .graceful_shutdown_on(stop.clone().cancelled_owned())
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
