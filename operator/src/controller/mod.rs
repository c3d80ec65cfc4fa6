//! Starts a reconcile for every pipeline that changed, whose children changed, or whose time has
//! come.

mod readiness;
mod requeue;
mod watches;

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use futures::{StreamExt as _, future::join_all, join};
use kube::{
    ResourceExt as _,
    runtime::controller::{Action, Controller, Error as ControllerError},
};
use tokio::time::{interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    context::Context,
    error::Error,
    observe::{
        child_cache::Of,
        pipeline_index::{CachedPipeline, FILLED_WITHIN},
    },
    permits::Permit,
    reconcile::{self, Outcome},
};

pub use readiness::report_readiness;
pub use watches::Scope;

/// Time-out of one reconcile. Without it a client may retry for hours.
const RECONCILE_TIMEOUT: Duration = Duration::from_secs(90);
/// Time between two looks for pipelines that are gone.
const FORGET: Duration = Duration::from_mins(1);

/// Runs until `stop`, and then until the reconciles that are under way have ended.
pub async fn run(context: Arc<Context>, scopes: Vec<Scope>, stop: CancellationToken) {
    let before = watches::claims_before(&context.client, &scopes).await;
    let runs = scopes
        .iter()
        .map(|scope| watches::runs(scope, &context, &stop));
    let runs: Vec<_> = runs.collect();
    context.runs.filled(FILLED_WITHIN).await;
    let controllers = scopes.iter().zip(runs);
    let controllers =
        controllers.map(|(scope, runs)| watches::controller(scope, runs, &context, &stop));
    let controllers: Vec<_> = controllers.collect();
    for (controller, before) in controllers.iter().zip(before) {
        context.pipelines.add(controller.store(), before);
    }
    let work = join_all(
        controllers
            .into_iter()
            .map(|c| drive(c, Arc::clone(&context))),
    );
    let close = async {
        let mut forget = interval(FORGET);
        while stop.run_until_cancelled(forget.tick()).await.is_some() {
            context.forget_gone();
        }
        context.permits.close();
    };
    join!(work, close);
}

async fn drive(controller: Controller<CachedPipeline>, context: Arc<Context>) {
    let results = controller.run(reconcile, on_error, Arc::clone(&context));
    results
        .for_each(|result| async {
            match result {
                Ok(_) | Err(ControllerError::ReconcilerFailed(..)) => {}
                Err(ControllerError::ObjectNotFound(pipeline)) => {
                    let (namespace, name) = (pipeline.namespace, pipeline.name);
                    let context = Arc::clone(&context);
                    tokio::spawn(hold_runs(context, namespace.unwrap_or_default(), name));
                }
                Err(error) => tracing::warn!(%error, "a watch failed, trying again"),
            }
        })
        .await;
}

/// Reports that the runs of a pipeline that doesn't exist wait for it.
async fn hold_runs(context: Arc<Context>, namespace: String, name: String) {
    let held = reconcile::runs_without_pipeline(&context, &namespace, &name);
    match timeout(RECONCILE_TIMEOUT, held).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(namespace, name, %error, "runs can't be reported"),
        Err(_) => tracing::warn!(namespace, name, "runs can't be reported in time"),
    }
}

/// Waits for a concurrency permit. The permits, and not kube, bound how many reconciles run at
/// once: they count over all scopes, each of which has its own controller, and those that wait can
/// be counted.
async fn reconcile(resource: Arc<CachedPipeline>, context: Arc<Context>) -> Result<Action, Error> {
    let waiting = context.metrics.queued();
    // None: the operator stops. The replica that takes over reconciles whatever waited here.
    let Some(permit) = context.permits.permit().await else {
        return Ok(Action::await_change());
    };
    drop(waiting);
    reconcile_one(&resource, &context, permit).await
}

async fn reconcile_one<'a>(
    resource: &CachedPipeline,
    context: &'a Context,
    permit: Permit<'a>,
) -> Result<Action, Error> {
    let (namespace, name) = (
        resource.namespace().unwrap_or_default(),
        resource.name_any(),
    );
    if let Some(error) = &resource.unreadable {
        tracing::error!(
            namespace,
            name,
            error,
            "a PinterestPipeline can't be read and is left alone"
        );
        context.metrics.reconciled("invalid", Duration::ZERO);
        let report = reconcile::unreadable(context, resource, error);
        timeout(RECONCILE_TIMEOUT, report)
            .await
            .map_err(|_| Error::Timeout(RECONCILE_TIMEOUT))??;
        return Ok(requeue::after(
            Outcome::Invalid,
            0,
            context.pipelines.count(),
        ));
    }
    let _running = context.metrics.running();
    let start = Instant::now();
    let run = Box::pin(reconcile::reconcile(context, &namespace, &name, permit));
    let outcome = match timeout(RECONCILE_TIMEOUT, run).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Error::Timeout(RECONCILE_TIMEOUT)),
    };
    let (label, duration) = (
        outcome.as_ref().map_or("error", |o| o.label()),
        start.elapsed(),
    );
    context.metrics.reconciled(label, duration);
    tracing::debug!(namespace, name, outcome = label, ?duration, "reconciled");
    let outcome = outcome?;
    forget_failures(context, resource);
    let unchanged = count_unready(context, resource, outcome);
    Ok(requeue::after(
        outcome,
        unchanged,
        context.pipelines.count(),
    ))
}

/// Number of consecutive reconciles that found the same pipeline not ready, or the same run
/// active. It begins again with each change of the pipeline, its status included, and of the
/// children in [`ChildCache::fingerprint`](crate::observe::child_cache::ChildCache::fingerprint).
fn count_unready(context: &Context, resource: &CachedPipeline, outcome: Outcome) -> u32 {
    let uid = resource.uid().unwrap_or_default();
    let mut unready = context
        .unready
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    if !matches!(outcome, Outcome::NotReady | Outcome::RunActive) {
        unready.remove(&uid);
        return 0;
    }
    let (namespace, name) = (
        resource.namespace().unwrap_or_default(),
        resource.name_any(),
    );
    let children = context.children.fingerprint(Of {
        namespace: &namespace,
        name: &name,
        uid: &uid,
    });
    let mut hasher = DefaultHasher::new();
    (resource.resource_version(), children).hash(&mut hasher);
    let found = hasher.finish();
    let (before, count) = unready.entry(uid).or_insert((0, 0));
    *count = if *before == found {
        count.saturating_add(1)
    } else {
        0
    };
    *before = found;
    *count
}

fn forget_failures(context: &Context, resource: &CachedPipeline) {
    let mut failures = context
        .failures
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    failures.remove(&resource.uid().unwrap_or_default());
}

#[expect(clippy::needless_pass_by_value, reason = "the signature is kube's")]
fn on_error(resource: Arc<CachedPipeline>, error: &Error, context: Arc<Context>) -> Action {
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
    let wait = requeue::backoff(failed);
    let (namespace, name) = (
        resource.namespace().unwrap_or_default(),
        resource.name_any(),
    );
    tracing::warn!(namespace, name, %error, failed, ?wait, "a reconcile failed, trying again");
    Action::requeue(wait)
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use http::{Request, Response};
    use kube::client::{Body, Client};
    use pinpipe_plan::{
        model::Policy,
        samples::{images, pipeline},
    };
    use prometheus_client::{encoding::text::encode, registry::Registry};
    use serde_json::json;
    use tower::{BoxError, service_fn};

    use super::*;
    use crate::{context::Settings, metrics::Metrics, observe::worker_health};

    /// Waits for what another task is about to do.
    async fn until(what: &str, holds: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !holds() {
            assert!(Instant::now() < deadline, "{what}");
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn reconciles_beyond_the_bound_wait_are_counted_and_end_with_the_operator() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let silent = service_fn(async |_: Request<Body>| {
            pending::<Result<Response<Body>, BoxError>>().await
        });
        let settings = Settings {
            namespace: "pinpipe-system".to_owned(),
            images: images(),
            policy: Policy::default(),
            concurrency: 1,
            rollout_concurrency: 1,
            deletion_deadline: Duration::ZERO,
        };
        let (client, pods) = (
            Client::new(silent, "data"),
            worker_health::client().unwrap(),
        );
        let context = Arc::new(Context::new(client, pods, settings, metrics, None));
        let cached: CachedPipeline = serde_json::from_value(json!(pipeline(json!({})))).unwrap();
        let cached = Arc::new(cached);
        let has = |line: &str| {
            let mut text = String::new();
            encode(&mut text, &registry).unwrap();
            text.lines().any(|found| found == line)
        };
        let first = tokio::spawn(reconcile(cached.clone(), context.clone()));
        let runs = || has("operator_reconciles_running 1") && has("operator_queue_depth 0");
        until("one runs", runs).await;
        let second = tokio::spawn(reconcile(cached, context.clone()));
        until("another waits", || has("operator_queue_depth 1")).await;
        assert!(has("operator_reconciles_running 1"));
        context.permits.close();
        assert_eq!(second.await.unwrap().unwrap(), Action::await_change());
        assert!(
            has("operator_queue_depth 0") && !first.is_finished(),
            "the first one goes on"
        );
        first.abort();
    }

    #[tokio::test]
    async fn what_is_kept_of_a_pipeline_goes_with_it() {
        let settings = Settings {
            namespace: "pinpipe-system".to_owned(),
            images: images(),
            policy: Policy::default(),
            concurrency: 1,
            rollout_concurrency: 1,
            deletion_deadline: Duration::ZERO,
        };
        let silent = service_fn(async |_: Request<Body>| {
            pending::<Result<Response<Body>, BoxError>>().await
        });
        let metrics = Metrics::register(&mut Registry::default());
        let client = Client::new(silent, "data");
        let pods = worker_health::client().unwrap();
        let context = Arc::new(Context::new(client, pods, settings, metrics, None));
        let cached: CachedPipeline = serde_json::from_value(json!(pipeline(json!({})))).unwrap();
        let counts = [0, 1, 2].map(|_| count_unready(&context, &cached, Outcome::NotReady));
        assert_eq!(counts, [0, 1, 2]);
        let _ = on_error(Arc::new(cached), &Error::Timeout(FORGET), context.clone());
        assert_eq!(context.failures.lock().unwrap().len(), 1);
        context.forget_gone();
        assert!(context.failures.lock().unwrap().is_empty());
        assert!(context.unready.lock().unwrap().is_empty());
    }
}
