//! A run's turn: it waits for the pipeline's Lease, works while it holds it, and writes for the
//! operator how far it is and how it ended.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use pinpipe_config::Batch;
use pinpipe_lease::{self as lease, Held};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    output::Output,
    plan::Request,
    progress::Progress,
    replay, run,
    runs::{self, Runs},
    store::Store,
    summary::Summary,
};

/// How long the API server may be unavailable while a run waits for the Lease.
const API_SERVER_PATIENCE: Duration = Duration::from_secs(25);
/// What an interrupted run means for its data.
const RESUMED: &str = "nothing was published and the next run resumes this one";

/// What a run does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// Reads records into the lake and the sinks of the batch.
    Batch(Request),
    /// Writes records into a live sink again.
    Live(replay::Request),
}

/// Completes unfinished runs, then the run `name`, while holding the Lease. If `stop` is cancelled
/// or the Lease is lost, it ends early and publishes nothing. `output` is the `ConfigMap` that the
/// operator reads.
pub async fn execute(
    config: &Batch,
    client: kube::Client,
    name: &str,
    work: &Work,
    output: Option<&str>,
    stop: &CancellationToken,
) -> Result<Summary> {
    runs::check_name(name)?;
    let held = tokio::select! {
        held = acquire_lease(config, client.clone()) => held?,
        () = stop.cancelled() => bail!("stopped while waiting for the Lease {}", config.lease),
    };
    let (started, progress) = (Instant::now(), Progress::default());
    progress.begin();
    let reporting = output
        .map(|output| Output::new(client, &config.pipeline.namespace, output, name))
        .map(|output| output.report(progress.clone()));
    // Its state is large.
    let working = Box::pin(async {
        match work {
            Work::Batch(request) => run::execute(config, name, request, &progress, &held).await,
            Work::Live(request) => replay::execute(config, name, request, &progress, &held).await,
        }
    });
    let result = tokio::select! {
        biased;
        () = stop.cancelled() => Err(anyhow!("stopped by a signal; {RESUMED}")),
        error = held.lost() => Err(anyhow::Error::from(error).context(RESUMED)),
        result = working => result,
    };
    // Without the Lease, the object may be another run's.
    if let Some(reporting) = reporting
        && held.check().is_ok()
    {
        let seconds = started.elapsed().as_secs_f64();
        let report = ended(config, name, work, seconds, &result).await;
        reporting.end(report).await;
    }
    held.release().await;
    result
}

/// A client of the API server that the pod belongs to.
pub async fn client(config: &Batch) -> Result<kube::Client> {
    kube::Client::try_default().await.with_context(|| {
        format!(
            "no Kubernetes API client for the Lease {}: the run needs its ServiceAccount token",
            config.lease
        )
    })
}

/// Waits for the Lease as long as another run holds it.
async fn acquire_lease(config: &Batch, client: kube::Client) -> Result<Held> {
    let api = kube::Api::namespaced(client, &config.pipeline.namespace);
    let (identity, patience) = (lease::identity().await, Some(API_SERVER_PATIENCE));
    Ok(lease::acquire(api, &config.lease, &identity, patience).await?)
}

/// The report of a run that has ended; of one that failed, its summary.
async fn ended(
    config: &Batch,
    run: &str,
    work: &Work,
    seconds: f64,
    result: &Result<Summary>,
) -> Value {
    let summary = match result {
        Ok(summary) => summary,
        Err(error) => return json!(Summary::of_failure(run, seconds, error)),
    };
    let report = async {
        let store = Store::open(&config.zone).await?;
        let runs = Runs::new(&config.pipeline);
        let key = match work {
            Work::Batch(_) => runs.report(run),
            Work::Live(_) => runs.live_backfill(run),
        };
        store.get_json::<Value>(&key).await
    };
    report.await.unwrap_or_else(|error| {
        warn!("the report can't be read again: {error:#}");
        json!(summary)
    })
}

#[cfg(test)]
mod server_tests;
