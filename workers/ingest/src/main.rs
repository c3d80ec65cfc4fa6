//! The ingest worker.

use std::{convert::Infallible, time::Duration};

use anyhow::{Result, bail};
use clap::Parser;
use pinpipe_config::{ADMIN_PORT, HTTP_PORT, Ingest};
use pinpipe_ingest::{
    budget::{Budget, Memory},
    describe::Descriptions,
    gate::{self, Gate, Tokens},
    http::{Limits, Service, router},
    metrics::Metrics,
    names::Names,
    producer::{Producer, Settings},
};
use pinpipe_runtime::{
    admin::Admin,
    certificate_metrics,
    cli::WorkerArgs,
    config,
    kafka::Access,
    malloc, memory,
    outage::{BROKER_UNAVAILABLE, Outage},
    renewal::{Mounted, Watcher},
    server::{self, Acceptor},
    shutdown, telemetry,
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

/// The field that names the Secret with clients' tokens.
const TOKENS: &str = "spec.ingest.authentication.bearerTokensSecretRef";
/// The field that names the Secret with the server's certificate.
const CERTIFICATE: &str = "spec.ingest.tls.certificateSecretRef";

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
    let gate_metrics = gate::Metrics::register(admin.registry());
    let secrets = mounted(&config).map(|(_, mounted)| mounted);
    certificate_metrics::register(admin.registry(), secrets);
    let mut watcher = Watcher::new(mounted(&config), readiness.clone());
    let stop_admin = CancellationToken::new();
    let mut admin =
        tokio::spawn(admin.serve(args.admin_port, axum::Router::new(), stop_admin.clone()));
    let Secrets {
        access,
        tokens,
        tls,
    } = tokio::select! {
        () = stop.cancelled() => return Ok(()),
        result = &mut admin => return result?,
        secrets = watcher.first(|| Secrets::read(&config)) => secrets,
    };
    let producer = producer(
        &config,
        &access,
        memory,
        &metrics,
        Outage::new(readiness.clone(), BROKER_UNAVAILABLE),
    )?;
    let service = service(&config, memory, producer.clone(), metrics);
    let gate = Gate::new(tokens, config.requests_per_second_per_client, gate_metrics);

    let listener = server::listen(args.port)?;
    readiness.set(Ok(()));
    tracing::info!(
        port = args.port,
        bootstrap_servers = config.kafka.bootstrap_servers,
        "accepting records"
    );

    let draining = CancellationToken::new();
    let server = tokio::spawn(server::serve_tls(
        listener,
        gate.clone()
            .router(readiness.clone(), router(service), memory.request_bytes),
        memory.connections(tls.is_some(), config.max_connections),
        tls.clone(),
        draining.clone(),
    ));
    let renewed = Renewed {
        config: &config,
        producer: &producer,
        gate: &gate,
        tls: tls.as_ref(),
    };
    let fatal = tokio::select! {
        () = stop.cancelled() => None,
        error = producer.dead() => Some(error),
        result = &mut admin => return result?,
        // Not in a task of its own: the process must not go on without it.
        never = renewed.take_up(watcher) => match never {},
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

/// What a Secret is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Purpose {
    Kafka,
    Tokens,
    Certificate,
}

/// The files of the Secrets that are mounted.
fn mounted(config: &Ingest) -> impl Iterator<Item = (Purpose, Mounted)> {
    let kafka = Mounted::kafka(&config.kafka).into_iter();
    let kafka = kafka.map(|mounted| (Purpose::Kafka, mounted));
    let own = [
        (Purpose::Tokens, TOKENS, &config.tokens_dir),
        (Purpose::Certificate, CERTIFICATE, &config.certificate_dir),
    ];
    let own = own.into_iter().filter_map(|(purpose, field, folder)| {
        let mounted = Mounted {
            field: field.to_owned(),
            files: vec![folder.clone()?],
        };
        Some((purpose, mounted))
    });
    kafka.chain(own)
}

/// What the worker can't start without.
struct Secrets {
    access: Access,
    tokens: Option<Tokens>,
    tls: Option<Acceptor>,
}

impl Secrets {
    fn read(config: &Ingest) -> Result<Self> {
        let certificate = config.certificate_dir.clone();
        let certificate = certificate.map(|folder| Acceptor::read(folder, "certificateSecretRef"));
        Ok(Self {
            access: Access::read(&config.kafka)?,
            tokens: config.tokens_dir.as_deref().map(Tokens::read).transpose()?,
            tls: certificate.transpose()?,
        })
    }
}

/// What takes up renewed Secrets.
struct Renewed<'a> {
    config: &'a Ingest,
    producer: &'a Producer,
    gate: &'a Gate,
    tls: Option<&'a Acceptor>,
}

impl Renewed<'_> {
    /// Takes up renewed Secrets, for ever.
    async fn take_up(&self, mut watcher: Watcher<Purpose>) -> Infallible {
        loop {
            for change in watcher.changed().await {
                watcher.report(&change, self.renew(change.client));
            }
        }
    }

    fn renew(&self, purpose: Purpose) -> Result<()> {
        match purpose {
            Purpose::Kafka => self.producer.renew(&Access::read(&self.config.kafka)?),
            Purpose::Tokens => {
                if let Some(folder) = &self.config.tokens_dir {
                    self.gate.renew(Tokens::read(folder)?);
                }
                Ok(())
            }
            Purpose::Certificate => self.tls.map_or(Ok(()), Acceptor::renew),
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
