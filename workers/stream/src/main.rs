//! The stream worker: Kafka → clean → a sink. The archive is this worker with the raw sink.

mod archive;
mod backoff;
mod budget;
mod commit;
mod consumer;
mod dead_letter;
mod lane;
mod metrics;
#[cfg(test)]
mod model;
mod postgres;
mod protocol;
mod reset;
mod resume;
mod session;
mod sink;

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    http::StatusCode,
    routing::{get, post},
};
use clap::Parser;
use pinpipe_config::{ADMIN_PORT, Stream, StreamSink};
use pinpipe_runtime::{
    admin::{Admin, Readiness},
    cli::WorkerArgs,
    config, figures,
    outage::Outage,
    shutdown, telemetry,
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    archive::Archive,
    backoff::Backoff,
    commit::SinkHealth,
    dead_letter::DeadLetters,
    metrics::Metrics,
    postgres::Postgres,
    session::{End, Worker},
    sink::{Sink, SinkError},
};

/// What `/readyz` calls it when the sink doesn't answer.
const SINK_UNAVAILABLE: &str = "SinkUnavailable";
/// How long a stopped sink waits before it looks whether somebody has reset it.
const HALTED: Duration = Duration::from_secs(30);
/// How long a broken session waits before the next.
const AGAIN: Duration = Duration::from_secs(1);

/// Consumes a pipeline's topics into one sink.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    worker: WorkerArgs,
    /// The port of /healthz, /readyz, /metrics and POST /flush.
    #[arg(long, env = "PINPIPE_ADMIN_PORT", default_value_t = ADMIN_PORT)]
    admin_port: u16,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    telemetry::init(args.worker.log_format);
    let stop = shutdown::on_signal();
    let config: Stream = config::load(&args.worker.config)?;
    match config.sink.clone() {
        StreamSink::Postgres(postgres) => {
            let name = postgres.name.clone();
            let sink = Postgres::new(postgres, config.group.clone());
            serve(config, &name, sink, args.admin_port, stop).await
        }
        StreamSink::Archive(archive) => {
            let sink = Archive::new(archive, config.group.clone());
            serve(config, "archive", sink, args.admin_port, stop).await
        }
    }
}

/// Runs the worker and its admin server until `stop`.
async fn serve<S: Sink>(
    config: Stream,
    name: &str,
    sink: S,
    port: u16,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut admin = Admin::new();
    let metrics = Metrics::new(admin.registry(), &config.pipeline, name);
    let readiness = admin.readiness();
    let flush = Arc::new(Notify::new());
    let routes = Router::new()
        .route(
            "/flush",
            post({
                let flush = flush.clone();
                async move || {
                    flush.notify_one();
                    StatusCode::ACCEPTED
                }
            }),
        )
        .route(
            figures::PATH,
            get({
                let metrics = metrics.clone();
                async move || Json(metrics.figures())
            }),
        );
    let dead_letters = config
        .writes_dead_letters
        .then(|| DeadLetters::new(&config.kafka, &config.group))
        .transpose()?;
    let worker = Worker {
        sink: Arc::new(sink),
        health: Arc::new(SinkHealth::new(
            metrics.clone(),
            Outage::new(readiness.clone(), SINK_UNAVAILABLE),
        )),
        dead_letters,
        metrics,
        budget: budget::bytes(),
        flush,
        config,
    };
    tracing::info!(
        group = worker.config.group,
        budget = worker.budget,
        "the stream worker begins"
    );
    // The admin server outlives the work: a worker that drains still answers its probes.
    let served = CancellationToken::new();
    let admin_server = tokio::spawn(admin.serve(port, routes, served.clone()));
    let work = async {
        tokio::select! {
            () = stop.cancelled() => {}
            () = reach(&worker, &readiness) => work(&worker, &readiness, &stop).await,
        }
        served.cancel();
    };
    tokio::pin!(admin_server);
    tokio::select! {
        answered = &mut admin_server => answered?,
        () = work => admin_server.await?,
    }
}

/// Asks the sink until it answers. One that never did (a wrong URL, a Secret of another time) must
/// not look as if it worked until the first records come; one that is away later leaves its worker
/// ready, since another would do no better.
async fn reach<S: Sink>(worker: &Worker<S>, readiness: &Readiness) {
    let mut backoff = Backoff::default();
    while let Err(SinkError::Away(error)) = worker.sink.check().await {
        worker.health.down(&error);
        readiness.set(Err(format!("{SINK_UNAVAILABLE}: {error:#}")));
        tokio::time::sleep(backoff.next()).await;
    }
    worker.health.up();
    readiness.set(Ok(()));
}

/// One session after the other. A broker or sink that is away ends none; a sink that must stop is
/// looked at again now and then, so that a reset needs no restart.
async fn work<S: Sink>(worker: &Worker<S>, readiness: &Readiness, stop: &CancellationToken) {
    let resumed = || {
        readiness.set(Ok(()));
        worker.metrics.halted(None);
    };
    loop {
        let wait = match session::run(worker, stop, &resumed).await {
            Ok(()) => return tracing::info!("the stream worker ends"),
            Err(End::Halt(halt)) => {
                let why = reset::explained(&halt, &worker.config);
                tracing::error!(reason = halt.reason(), "{why}");
                worker.metrics.halted(Some(halt.reason()));
                readiness.set(Err(why));
                HALTED
            }
            Err(End::Again(error)) => {
                tracing::warn!(error = format!("{error:#}"), "the consumer begins anew");
                AGAIN
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}
