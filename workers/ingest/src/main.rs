//! The ingest worker.

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

/// How long the broker may take to confirm a record.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(10);

/// How long requests in flight may take after the stop signal. Together with [`FLUSH_TIMEOUT`] and
/// the pod's preStop sleep, this must be less than the termination grace period of 30 s.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(15);
/// How long the producer's queue may take to be sent after the last request.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// Minimum memory of all requests, and of the producer's queue, bytes.
const IN_FLIGHT_BYTES: usize = 64 * 1024 * 1024;

/// Maximum number of records of a request.
const REQUEST_RECORDS: usize = 10_000;

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
        .with_context(|| format!("can't listen on port {}", args.port))?
        .tap_io(|stream| _ = stream.set_nodelay(true));
    let stop_admin = CancellationToken::new();
    let mut admin =
        tokio::spawn(admin.serve(args.admin_port, axum::Router::new(), stop_admin.clone()));
    readiness.set(Ok(()));
    tracing::info!(
        port = args.port,
        bootstrap_servers = config.kafka.bootstrap_servers,
        "accepting records"
    );

    let draining = CancellationToken::new();
    let server = axum::serve(listener, router(service))
        .with_graceful_shutdown(draining.clone().cancelled_owned());
    let server = tokio::spawn(server.into_future());
    let is_dead = tokio::select! {
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
            "requests still open after {} s get no response",
            DRAIN_TIMEOUT.as_secs()
        );
    }
    tokio::task::spawn_blocking(move || producer.flush(FLUSH_TIMEOUT)).await??;
    stop_admin.cancel();
    admin.await??;
    if is_dead {
        bail!("the Kafka producer had a fatal error: restart the worker");
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

/// Memory for at least four requests of the maximum size.
fn in_flight_bytes(config: &Ingest) -> usize {
    IN_FLIGHT_BYTES.max(config.max_request_bytes as usize * 4)
}
