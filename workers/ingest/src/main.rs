//! The ingest worker.

use std::{convert::Infallible, time::Duration};

use anyhow::{Result, bail};
use clap::Parser;
use pinpipe_config::{ADMIN_PORT, HTTP_PORT, Ingest};
use pinpipe_ingest::{
    budget::{Budget, Memory},
    describe::Descriptions,
    http::{Limits, Service, router},
    metrics::Metrics,
    names::Names,
    producer::{Producer, Settings},
};
use pinpipe_runtime::{
    admin::Admin,
    cli::WorkerArgs,
    config::{self, Kafka},
    kafka::Access,
    malloc, memory,
    outage::{BROKER_UNAVAILABLE, Outage},
    renewal::{Mounted, Watcher},
    server, shutdown, telemetry,
};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

/// How long the broker may take to confirm a record.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(10);

/// How long requests in flight may take after the stop signal. Together with [`FLUSH_TIMEOUT`] and
/// the pod's preStop sleep, this must be less than the termination grace period of 30 s.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(15);
/// How long the producer's queue may take to be sent after the last request.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// Accepts records by HTTP and sends them to their Kafka topics.
#[derive(Parser)]
#[command(name = "pinpipe-ingest", version)]
struct Args {
    #[command(flatten)]
    worker: WorkerArgs,
    /// The port for records.
    #[arg(long, default_value_t = HTTP_PORT)]
    port: u16,
    /// The port for /healthz, /readyz and /metrics.
    #[arg(long, default_value_t = ADMIN_PORT)]
    admin_port: u16,
    /// The memory to use at most, bytes: the container's limit unless given.
    #[arg(long, value_name = "BYTES")]
    memory_bytes: Option<usize>,
}

fn main() -> Result<()> {
    malloc::return_freed_memory();
    Runtime::new()?.block_on(run())
}

async fn run() -> Result<()> {
    let args = Args::parse();
    telemetry::init(args.worker.log_format);
    let stop = shutdown::on_signal();
    let config: Ingest = config::load(&args.worker.config)?;
    let memory = Memory::of(
        args.memory_bytes.or_else(memory::limit),
        config.max_request_bytes as usize,
    );

    let mut admin = Admin::new();
    let metrics = Metrics::register(admin.registry());
    let readiness = admin.readiness();
    let mounted = Mounted::kafka(&config.kafka).into_iter();
    let mut watcher = Watcher::new(mounted.map(|mounted| ((), mounted)), readiness.clone());
    let stop_admin = CancellationToken::new();
    let mut admin =
        tokio::spawn(admin.serve(args.admin_port, axum::Router::new(), stop_admin.clone()));
    let access = tokio::select! {
        () = stop.cancelled() => return Ok(()),
        result = &mut admin => return result?,
        access = watcher.first(|| Access::read(&config.kafka)) => access,
    };
    let producer = producer(
        &config,
        &access,
        memory,
        &metrics,
        Outage::new(readiness.clone(), BROKER_UNAVAILABLE),
    )?;
    let service = service(&config, memory, producer.clone(), metrics);

    let listener = server::listen(args.port)?;
    readiness.set(Ok(()));
    tracing::info!(
        port = args.port,
        bootstrap_servers = config.kafka.bootstrap_servers,
        "accepting records"
    );

    let draining = CancellationToken::new();
    let server = tokio::spawn(server::serve(
        listener,
        router(service),
        memory.connections,
        draining.clone(),
    ));
    let fatal = tokio::select! {
        () = stop.cancelled() => None,
        error = producer.dead() => Some(error),
        result = &mut admin => return result?,
        // Not in a task of its own: the process must not go on without it.
        never = take_up(watcher, &config.kafka, &producer) => match never {},
    };
    readiness.set(Err("stopping".to_owned()));
    draining.cancel();
    if let Ok(result) = tokio::time::timeout(DRAIN_TIMEOUT, server).await {
        result?;
    } else {
        tracing::warn!(
            "requests still open after {} s get no response",
            DRAIN_TIMEOUT.as_secs()
        );
    }
    let flushed = tokio::task::spawn_blocking(move || producer.flush(FLUSH_TIMEOUT)).await?;
    stop_admin.cancel();
    admin.await??;
    if let Some(error) = fatal {
        bail!("the Kafka producer can't go on, so the worker has to be started again: {error}");
    }
    flushed?;
    tracing::info!("stopped");
    Ok(())
}

/// Takes up renewed Secrets, for ever.
async fn take_up(mut watcher: Watcher<()>, kafka: &Kafka, producer: &Producer) -> Infallible {
    loop {
        for change in watcher.changed().await {
            let read = Access::read(kafka);
            watcher.report(&change, read.and_then(|access| producer.renew(&access)));
        }
    }
}

fn producer(
    config: &Ingest,
    access: &Access,
    memory: Memory,
    metrics: &Metrics,
    outage: Outage,
) -> Result<Producer> {
    let settings = Settings {
        max_record_bytes: config.max_record_bytes,
        delivery_timeout: DELIVERY_TIMEOUT,
        queue_bytes: memory.requests,
    };
    Producer::new(access, settings, metrics.broker_up.clone(), outage)
}

fn service(config: &Ingest, memory: Memory, producer: Producer, metrics: Metrics) -> Service {
    Service {
        names: Names::new(config.topics.clone(), &config.aliases),
        limits: Limits {
            record_bytes: config.max_record_bytes as usize,
            request_bytes: memory.request_bytes,
            request_records: memory.request_records,
        },
        budget: Budget::new(memory.requests, metrics.in_flight_bytes.clone()),
        producer,
        descriptions: Descriptions::default(),
        metrics,
    }
}
