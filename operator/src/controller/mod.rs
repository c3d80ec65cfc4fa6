//! Runs a pass for every pipeline that changed, whose children changed, or whose time has come.

use std::{
    collections::BTreeSet,
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use futures::{StreamExt as _, future::join_all, join};
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
    Api, Client, Resource, ResourceExt as _,
    api::ListParams,
    runtime::{
        Controller,
        controller::{Action, Config, Error as ControllerError},
        utils::Backoff,
        watcher,
    },
};
use pinpipe_runtime::admin::Readiness;
use rand::Rng as _;
use tokio::{
    sync::SemaphorePermit,
    time::{error::Elapsed, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    MANAGER, build,
    claims::Claim,
    context::Context,
    pass::{self, Error, Passed},
    watched::{FILLED_WITHIN, Outline},
};

/// After how long a pipeline that is ready is looked at again: Secrets are got, not watched, and a
/// broker tells nothing by itself.
const READY_AGAIN: Duration = Duration::from_secs(30);
/// The same for one that isn't ready.
const NOT_READY_AGAIN: Duration = Duration::from_secs(10);
/// The same for one that waits for something that takes seconds.
const SOON_AGAIN: Duration = Duration::from_secs(2);
/// The same for one that can't be done or read, or that is paused: a change of it is an event.
const INVALID_AGAIN: Duration = Duration::from_mins(5);
/// The least time between two that are ready, on average: where there are very many, each is looked
/// at less often.
const BETWEEN_TWO: Duration = Duration::from_millis(100);
/// How long one pass may take. A client retries by itself for much longer.
const PASS_TIMEOUT: Duration = Duration::from_secs(90);
/// The first and the longest wait after a pass failed.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(2), Duration::from_mins(5));
/// How long a list of one pipeline may take.
const LIST_TIMEOUT: Duration = Duration::from_secs(30);
/// After how long a list that failed is tried again.
const LIST_AGAIN: Duration = Duration::from_secs(3);
/// How long nothing is heard of any watch after one failed. The controller waits for all of them
/// together and, by its own default, twice as long after each failure: when the API server comes
/// back all watches fail in a row, and for minutes no event would come through.
const WATCH_AGAIN: Duration = Duration::from_millis(300);
/// Events that come together make one pass.
const DEBOUNCE: Duration = Duration::from_millis(300);

/// Where pipelines are looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// In all namespaces.
    All,
    /// In this one.
    Namespace(String),
}

impl Scope {
    /// These namespaces, each once; all, where none is named.
    #[must_use]
    pub fn of(namespaces: &[String]) -> Vec<Self> {
        let named: BTreeSet<_> = namespaces
            .iter()
            .filter(|namespace| !namespace.is_empty())
            .collect();
        if named.is_empty() {
            return vec![Self::All];
        }
        named.into_iter().cloned().map(Self::Namespace).collect()
    }

    fn api<K>(&self, client: &Client) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        match self {
            Self::All => Api::all(client.clone()),
            Self::Namespace(namespace) => Api::namespaced(client.clone(), namespace),
        }
    }
}

/// Runs until `stop`, and then until passes under way have ended.
pub async fn run(context: Arc<Context>, scopes: Vec<Scope>, stop: CancellationToken) {
    let before = claims_before(&context.client, &scopes).await;
    let controllers: Vec<_> = scopes
        .iter()
        .map(|scope| controller(scope, &context, &stop))
        .collect();
    for (controller, before) in controllers.iter().zip(before) {
        context.watched.add(controller.store(), before);
    }
    let work = join_all(
        controllers
            .into_iter()
            .map(|controller| drive(controller, context.clone())),
    );
    let close = async {
        stop.cancelled().await;
        context.room.close();
    };
    join!(work, close);
}

/// What is claimed in each scope before it is watched. A controller reconciles nothing before its
/// own store holds everything that is there, but doesn't wait for those of others.
async fn claims_before(client: &Client, scopes: &[Scope]) -> Vec<Vec<Claim>> {
    if let [_] = scopes {
        return vec![Vec::new()];
    }
    let list = async |scope: &Scope| {
        let api = scope.api::<Outline>(client);
        match tokio::time::timeout(FILLED_WITHIN, api.list(&ListParams::default())).await {
            Ok(Ok(list)) => list
                .items
                .into_iter()
                .filter_map(|outline| outline.claim.ok())
                .collect(),
            // Where nothing can be listed nothing is run either, and the others mustn't wait for
            // it: its readiness tells of it.
            Ok(Err(_)) | Err(_) => Vec::new(),
        }
    };
    join_all(scopes.iter().map(list)).await
}

fn controller(scope: &Scope, context: &Context, stop: &CancellationToken) -> Controller<Outline> {
    let client = &context.client;
    let children =
        watcher::Config::default().labels(&format!("{}={MANAGER}", build::MANAGED_BY_LABEL));
    Controller::new(scope.api::<Outline>(client), watcher::Config::default())
        .trigger_backoff(Steady)
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

async fn drive(controller: Controller<Outline>, context: Arc<Context>) {
    controller
        .run(reconcile, on_error, context)
        .for_each(|result| async {
            match result {
                Ok(_)
                | Err(ControllerError::ObjectNotFound(_) | ControllerError::ReconcilerFailed(..)) =>
                    {}
                Err(error) => tracing::warn!(%error, "watching failed, trying again"),
            }
        })
        .await;
}

/// Always the same wait.
struct Steady;

impl Iterator for Steady {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(jittered(WATCH_AGAIN))
    }
}

impl Backoff for Steady {
    fn reset(&mut self) {}
}

/// Ready means that pipelines can be listed. The controller's own store can't be asked: its
/// `wait_until_ready` wakes only whoever asked last, and the controller itself waits there
/// (kube-runtime 5.0, `DelayedInit`), so a second one may wait for ever or make it do so.
pub async fn tell_ready(client: Client, scopes: Vec<Scope>, readiness: Readiness) {
    for scope in scopes {
        let api = scope.api::<Outline>(&client);
        let first = ListParams::default().limit(1);
        while let Err(error) = listed(timeout(LIST_TIMEOUT, api.list_metadata(&first)).await) {
            let place = match &scope {
                Scope::All => String::new(),
                Scope::Namespace(namespace) => format!(" of namespace {namespace}"),
            };
            let message = format!(
                "the PinterestPipelines{place} can't be listed: {error}: is the CRD installed, and may this account list them?"
            );
            tracing::warn!(message);
            readiness.set(Err(message));
            tokio::time::sleep(LIST_AGAIN).await;
        }
    }
    readiness.set(Ok(()));
}

/// Whether a list came, and if not, why.
fn listed<T>(list: Result<kube::Result<T>, Elapsed>) -> Result<(), String> {
    match list {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} s", LIST_TIMEOUT.as_secs())),
    }
}

/// Waits for its turn. That, and not kube, bounds how many passes run at once: over all scopes,
/// each of which has a controller of its own, and so that those that wait can be counted.
async fn reconcile(resource: Arc<Outline>, context: Arc<Context>) -> Result<Action, Error> {
    let waits = context.metrics.queue();
    // Closed when the operator stops: whoever waits then is the next one's to look at.
    let Ok(turn) = context.room.acquire().await else {
        return Ok(Action::await_change());
    };
    drop(waits);
    look(&resource, &context, turn).await
}

async fn look(
    resource: &Outline,
    context: &Context,
    turn: SemaphorePermit<'_>,
) -> Result<Action, Error> {
    let (namespace, name) = (
        resource.namespace().unwrap_or_default(),
        resource.name_any(),
    );
    if let Err(error) = &resource.claim {
        tracing::error!(
            namespace,
            name,
            error,
            "this PinterestPipeline can't be read; it is left as it is"
        );
        context.metrics.passed("invalid", Duration::ZERO);
        let let_go = timeout(
            PASS_TIMEOUT,
            pass::deletion::let_go_unread(context, resource),
        );
        let_go.await.map_err(|_| Error::Timeout(PASS_TIMEOUT))??;
        return Ok(Action::requeue(INVALID_AGAIN));
    }
    let _running = context.metrics.pass();
    let begun = Instant::now();
    let passed = match timeout(
        PASS_TIMEOUT,
        Box::pin(pass::run(context, &namespace, &name, turn)),
    )
    .await
    {
        Ok(passed) => passed,
        Err(_) => Err(Error::Timeout(PASS_TIMEOUT)),
    };
    let outcome = match &passed {
        Ok(Passed::Ready) => "ready",
        Ok(Passed::NotReady | Passed::Soon) => "not_ready",
        Ok(Passed::Invalid) => "invalid",
        Ok(Passed::Paused) => "paused",
        Ok(Passed::Gone) => "gone",
        Err(_) => "error",
    };
    context.metrics.passed(outcome, begun.elapsed());
    tracing::debug!(namespace, name, outcome, took = ?begun.elapsed(), "pass ended");
    let again = match passed? {
        Passed::Ready => ready_again(context.watched.count()),
        Passed::NotReady => NOT_READY_AGAIN,
        Passed::Soon => SOON_AGAIN,
        Passed::Invalid | Passed::Paused => INVALID_AGAIN,
        Passed::Gone => {
            forget(context, resource);
            return Ok(Action::await_change());
        }
    };
    forget(context, resource);
    Ok(Action::requeue(jittered(again)))
}

/// After how long one of so many pipelines that is ready is looked at again.
fn ready_again(pipelines: usize) -> Duration {
    READY_AGAIN.max(BETWEEN_TWO.saturating_mul(u32::try_from(pipelines).unwrap_or(u32::MAX)))
}

/// Forgets that passes failed.
fn forget(context: &Context, resource: &Outline) {
    let mut failures = context
        .failures
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    failures.remove(&resource.uid().unwrap_or_default());
}

#[expect(clippy::needless_pass_by_value, reason = "the signature is kube's")]
fn on_error(resource: Arc<Outline>, error: &Error, context: Arc<Context>) -> Action {
    context.metrics.failed(error.kind());
    let failed = {
        let mut failures = context
            .failures
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let count = failures
            .entry(resource.uid().unwrap_or_default())
            .or_default();
        *count = count.saturating_add(1);
        *count
    };
    let wait = jittered(back_off(failed));
    let (namespace, name) = (
        resource.namespace().unwrap_or_default(),
        resource.name_any(),
    );
    tracing::warn!(namespace, name, %error, failed, ?wait, "the pass failed, trying again");
    Action::requeue(wait)
}

/// The wait after so many failures in a row.
fn back_off(failed: u32) -> Duration {
    let factor = 2_u32.saturating_pow(failed.saturating_sub(1));
    BACK_OFF.0.saturating_mul(factor).min(BACK_OFF.1)
}

/// Up to a fifth longer, so that pipelines don't come in step.
fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(rand::rng().random_range(1.0..1.2))
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use http::{Request, Response};
    use kube::client::Body;
    use prometheus_client::{encoding::text::encode, registry::Registry};
    use serde_json::json;
    use tower::{BoxError, service_fn};

    use super::*;
    use crate::{
        context::Settings,
        metrics::Metrics,
        said,
        validate::tests::{images, pipeline},
    };

    /// Waits for what another task is about to do.
    async fn until(what: &str, holds: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !holds() {
            assert!(Instant::now() < deadline, "{what}");
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn passes_beyond_the_bound_wait_are_counted_and_end_with_the_operator() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let silent = service_fn(async |_: Request<Body>| {
            pending::<Result<Response<Body>, BoxError>>().await
        });
        let (drain_deadline, deletion_deadline) = (Duration::ZERO, Duration::ZERO);
        let settings = Settings {
            images: images(),
            concurrency: 1,
            drain_deadline,
            deletion_deadline,
        };
        let context = Context::new(
            Client::new(silent, "data"),
            said::client().unwrap(),
            settings,
            metrics,
            None,
        );
        let context = Arc::new(context);
        let outline: Arc<Outline> =
            Arc::new(serde_json::from_value(json!(pipeline(json!({})))).unwrap());
        let told = |line: &str| {
            let mut text = String::new();
            encode(&mut text, &registry).unwrap();
            text.lines().any(|told| told == line)
        };
        let first = tokio::spawn(reconcile(outline.clone(), context.clone()));
        until("a pass runs", || {
            told("operator_reconciles_running 1") && told("operator_queue_depth 0")
        })
        .await;
        let second = tokio::spawn(reconcile(outline, context.clone()));
        until("another waits", || told("operator_queue_depth 1")).await;
        assert!(told("operator_reconciles_running 1"));
        context.room.close();
        assert_eq!(second.await.unwrap().unwrap(), Action::await_change());
        assert!(
            told("operator_queue_depth 0") && !first.is_finished(),
            "the one that runs isn't broken off"
        );
        first.abort();
    }

    #[test]
    fn waits_double_up_to_a_bound() {
        assert_eq!(back_off(1), BACK_OFF.0);
        assert_eq!(back_off(2), BACK_OFF.0 * 2);
        assert_eq!(back_off(3), BACK_OFF.0 * 4);
        assert_eq!(back_off(u32::MAX), BACK_OFF.1);
    }

    #[test]
    fn many_pipelines_are_looked_at_less_often() {
        assert_eq!(ready_again(0), READY_AGAIN);
        assert_eq!(ready_again(300), READY_AGAIN);
        assert_eq!(ready_again(1000), Duration::from_secs(100));
    }

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
        assert_eq!(
            scopes(&["b", "a", "b"]),
            ["a", "b"].map(|name| Scope::Namespace(name.to_owned()))
        );
    }

    #[test]
    fn jitter_only_lengthens() {
        for _ in 0..100 {
            let wait = jittered(READY_AGAIN);
            assert!(wait >= READY_AGAIN && wait < READY_AGAIN * 6 / 5 + Duration::from_millis(1));
        }
    }
}
