//! The ingest worker: see the library.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use axum::serve::ListenerExt;
use clap::Parser;
use pinpipe_config::{ADMIN_PORT, HTTP_PORT, Ingest};
use pinpipe_ingest::{
    budget::Budget,
    http::{Limits, Service, router},
    metrics::Metrics,
    producer::{Producer, Settings},
};
use pinpipe_runtime::{admin::Admin, cli::WorkerArgs, config, outage::Outage, shutdown, telemetry};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// How long a record may take to be confirmed.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(10);

/// How long requests in work may take to end once the worker was told to stop, and what is queued
/// for the broker after them: with the pod's pre-stop pause, less than its grace period of 30 s.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(15);
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// The memory of all requests together, and of the queue to the broker: at least this, bytes.
const IN_FLIGHT_BYTES: usize = 64 * 1024 * 1024;

/// The records of one request.
const REQUEST_RECORDS: usize = 10_000;

/// Takes records by HTTP and stores them in their Kafka topics.
#[derive(Parser)]
#[command(name = "pinpipe-ingest", version)]
struct Args {
    #[command(flatten)]
    worker: WorkerArgs,
    /// The port on which records are taken.
    #[arg(long, default_value_t = HTTP_PORT)]
    port: u16,
    /// The port of /healthz, /readyz and /metrics.
    #[arg(long, default_value_t = ADMIN_PORT)]
    admin_port: u16,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    telemetry::init(args.worker.log_format);
    let stop = shutdown::on_signal();
    let config: Ingest = config::load(&args.worker.config)?;

    let mut admin = Admin::new();
    let metrics = Metrics::register(admin.registry());
    let readiness = admin.readiness();
    let producer = producer(
        &config,
        &metrics,
        Outage::new(readiness.clone(), "BrokerUnavailable"),
    )?;
    let service = service(&config, producer.clone(), metrics);

    let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, args.port));
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("port {} can't be listened at", args.port))?
        .tap_io(|stream| _ = stream.set_nodelay(true));
    let stop_admin = CancellationToken::new();
    let mut admin =
        tokio::spawn(admin.serve(args.admin_port, axum::Router::new(), stop_admin.clone()));
    readiness.set(Ok(()));
    tracing::info!(
        port = args.port,
        bootstrap_servers = config.kafka.bootstrap_servers,
        "taking records"
    );

    let draining = CancellationToken::new();
    let server = axum::serve(listener, router(service))
        .with_graceful_shutdown(draining.clone().cancelled_owned());
    let server = tokio::spawn(server.into_future());
    let died = tokio::select! {
        () = stop.cancelled() => false,
        () = producer.dead() => true,
        result = &mut admin => return result?,
    };
    readiness.set(Err("stopping".to_owned()));
    draining.cancel();
    if let Ok(result) = tokio::time::timeout(DRAIN_TIMEOUT, server).await {
        result??;
    } else {
        tracing::warn!(
            "requests were still open after {} s and get no answer",
            DRAIN_TIMEOUT.as_secs()
        );
    }
    tokio::task::spawn_blocking(move || producer.flush(FLUSH_TIMEOUT)).await??;
    stop_admin.cancel();
    admin.await??;
    if died {
        bail!("the Kafka producer met an error it can't go on after: start the worker again");
    }
    tracing::info!("stopped");
    Ok(())
}

fn producer(config: &Ingest, metrics: &Metrics, outage: Outage) -> Result<Producer> {
    let settings = Settings {
        max_record_bytes: config.max_record_bytes,
        delivery_timeout: DELIVERY_TIMEOUT,
        queue_bytes: in_flight_bytes(config),
    };
    Producer::new(&config.kafka, settings, metrics.broker_up.clone(), outage)
}

fn service(config: &Ingest, producer: Producer, metrics: Metrics) -> Service {
    Service {
        topics: config.topics.clone(),
        limits: Limits {
            record_bytes: config.max_record_bytes as usize,
            request_bytes: config.max_request_bytes as usize,
            request_records: REQUEST_RECORDS,
        },
        budget: Budget::new(in_flight_bytes(config), metrics.in_flight_bytes.clone()),
        producer,
        metrics,
    }
}

/// Room for a few requests of the largest size, whatever that is.
fn in_flight_bytes(config: &Ingest) -> usize {
    IN_FLIGHT_BYTES.max(config.max_request_bytes as usize * 4)
}
