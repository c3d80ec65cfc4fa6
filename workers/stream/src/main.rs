//! The stream worker: consumes a pipeline's Kafka topics, cleans the records and stores them in one
//! sink. The archive is this worker with the raw sink.

use std::{sync::Arc, time::Duration};

use axum::{Json, Router, routing::get};
use clap::Parser;
use pinpipe_config::{ADMIN_PORT, CONTROL_PORT, RESET_PATH, ResetState, Stream, StreamSink};
use pinpipe_runtime::{
    admin::{Admin, Readiness},
    certificate_metrics,
    cli::WorkerArgs,
    config,
    kafka::Access,
    outage::Outage,
    shutdown, telemetry,
};
use pinpipe_stream::{
    archive::Archive,
    backoff::Backoff,
    budget,
    commit::SinkHealth,
    control,
    dead_letter::DeadLetters,
    metrics::Metrics,
    postgres::Postgres,
    renewal,
    reset::RequestedReset,
    session::{self, Worker},
    sink::{Halt, SINK_UNAVAILABLE, Sink, SinkError, unavailable_reason},
};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

/// The reason in `/readyz` while dead letters can't be written.
const DEAD_LETTERS_UNAVAILABLE: &str = "DeadLettersUnavailable";
/// The delay between a failed session and the next.
const RESTART_DELAY: Duration = Duration::from_secs(1);

/// Consumes a pipeline's topics into one sink.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    worker: WorkerArgs,
    /// The port of /healthz, /readyz, /metrics and /reset.
    #[arg(long, env = "PINPIPE_ADMIN_PORT", default_value_t = ADMIN_PORT)]
    admin_port: u16,
    /// The port of POST /flush.
    #[arg(long, env = "PINPIPE_CONTROL_PORT", default_value_t = CONTROL_PORT)]
    control_port: u16,
    /// The pod's name, which no other worker of the group may have. A container that starts again
    /// reads at once what the group still has for the one of this name that was killed.
    #[arg(long, env = "HOSTNAME")]
    pod: Option<String>,
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
            serve(config, &name, sink, args, stop).await
        }
        StreamSink::Archive(archive) => {
            let sink = Archive::new(archive, config.group.clone());
            serve(config, "archive", sink, args, stop).await
        }
    }
}

/// Runs the worker with its admin server and its control server until `stop`.
async fn serve<S: Sink>(
    config: Stream,
    name: &str,
    sink: S,
    args: Args,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut admin = Admin::new();
    let metrics = Metrics::new(admin.registry(), &config.pipeline, name);
    let secrets = renewal::mounted(&config).map(|(_, mounted)| mounted);
    certificate_metrics::register(admin.registry(), secrets);
    let readiness = admin.readiness();
    let flush = Arc::new(Notify::new());
    let reset = config.reset.clone().map(RequestedReset::new).map(Arc::new);
    let routes = Router::new().route(
        RESET_PATH,
        get({
            let reset = reset.clone();
            async move || Json(reset.map_or_else(ResetState::default, |reset| reset.state()))
        }),
    );
    // The servers stop last: a worker that drains still answers its probes.
    let served = CancellationToken::new();
    let admin_server = tokio::spawn(admin.serve(args.admin_port, routes, served.clone()));
    let control_server = control::serve(args.control_port, flush.clone(), served.clone());
    let control_server = tokio::spawn(control_server);
    let work = async {
        let parts = (metrics, readiness, flush, reset);
        work(config, name, args.pod, sink, parts, &stop).await;
        served.cancel();
    };
    tokio::pin!(admin_server, control_server);
    tokio::select! {
        served = &mut admin_server => return served?,
        served = &mut control_server => return served?,
        () = work => {}
    }
    control_server.await??;
    admin_server.await?
}

/// What the worker shares with its servers.
type Parts = (Metrics, Readiness, Arc<Notify>, Option<Arc<RequestedReset>>);

/// Runs the worker until `stop`, once the Secrets for its brokers can be used.
async fn work<S: Sink>(
    config: Stream,
    name: &str,
    pod: Option<String>,
    sink: S,
    (metrics, readiness, flush, reset): Parts,
    stop: &CancellationToken,
) {
    let mut watcher = renewal::watcher(&config, readiness.clone());
    let access = tokio::select! {
        () = stop.cancelled() => return,
        access = watcher.first(|| Access::read(&config.kafka)) => access,
    };
    let (renewed, access) = watch::channel(access);
    let dead_letters = DeadLetters::new(
        access.clone(),
        &config.group,
        metrics.dead_letters_up.clone(),
        Outage::new(readiness.clone(), DEAD_LETTERS_UNAVAILABLE),
    );
    let worker = Arc::new(Worker {
        name: name.to_owned(),
        pod,
        sink: Arc::new(sink),
        health: Arc::new(SinkHealth::new(
            metrics.clone(),
            Outage::new(readiness.clone(), SINK_UNAVAILABLE),
        )),
        reset,
        dead_letters,
        metrics,
        readiness: readiness.clone(),
        budget: budget::bytes(),
        flush,
        config,
    });
    tracing::info!(
        group = worker.config.group,
        budget = worker.budget,
        "the stream worker starts"
    );
    let (config, sink) = (worker.config.clone(), worker.sink.clone());
    let sessions = async {
        tokio::select! {
            () = stop.cancelled() => {}
            () = Box::pin(wait_for_sink(&worker, &readiness)) => {
                run_sessions(&worker, access, stop).await;
            }
        }
    };
    // Not in a task of its own: the process must not go on without it.
    tokio::select! {
        () = sessions => {}
        never = renewal::take_up(watcher, config, sink, renewed) => match never {},
    }
}

/// Checks the sink until it answers. The worker is not ready before: a wrong URL or an outdated
/// Secret must show at once rather than with the first record. Later outages leave the worker
/// ready, since another pod could not reach the sink either.
///
/// What halts the sink as a whole halts it here; what concerns a part of it, such as one table,
/// halts the partitions that need it.
async fn wait_for_sink<S: Sink>(worker: &Worker<S, DeadLetters>, readiness: &Readiness) {
    let mut backoff = Backoff::default();
    loop {
        match worker.sink.check().await {
            Err(SinkError::Unavailable(error)) => {
                worker.metrics.halted(None);
                worker.health.down(&error);
                let reason = unavailable_reason(&error);
                readiness.set(Err(format!("{reason}: {error:#}")));
            }
            Err(SinkError::Halt(halt @ Halt::StoreUnsuitable(_))) => {
                let why = halt.to_string();
                if readiness.get() != Err(why.clone()) {
                    tracing::error!(reason = halt.reason(), "{why}");
                }
                worker.metrics.halted(Some(halt.reason()));
                readiness.set(Err(why));
            }
            Ok(()) | Err(SinkError::Halt(_)) => break,
        }
        tokio::time::sleep(backoff.wait()).await;
    }
    worker.metrics.halted(None);
    worker.health.up();
    readiness.set(Ok(()));
}

/// Runs one session after the other until `stop`. An unavailable broker or sink ends no session,
/// nor does a partition that must stop.
async fn run_sessions<S: Sink>(
    worker: &Arc<Worker<S, DeadLetters>>,
    mut access: watch::Receiver<Access>,
    stop: &CancellationToken,
) {
    while !stop.is_cancelled() {
        if let Err(error) = session::run(worker, &mut access, stop).await {
            tracing::warn!(error = format!("{error:#}"), "the session restarts");
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(RESTART_DELAY) => {}
            }
        }
    }
    tracing::info!("the stream worker stops");
}
