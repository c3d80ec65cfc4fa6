//! The servers of a measurement, as processes of this machine on 127.0.0.1; ended when dropped.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use pinpipe_servers::kafka::{self, Kafka, Listener};
use pinpipe_servers::postgres::Postgres;
use pinpipe_servers::s3::{S3 as S3Server, S3Ports};
use pinpipe_servers::{get, kubernetes, listens};

use crate::context::{Context, on_path};
use crate::debian::{self, need};
use crate::images;
use crate::{go, helm, process};

/// The ports, all on 127.0.0.1.
pub const KAFKA: u16 = 24092;
const KAFKA_CONTROLLER: u16 = 24093;
pub const POSTGRES: u16 = 24432;
pub const S3: u16 = 24900;
pub const S3_FILER: u16 = 24930;
const S3_PORTS: S3Ports = S3Ports {
    gateway: S3,
    master: 24910,
    volume: 24920,
    filer: S3_FILER,
};
const ETCD: u16 = 24379;
const ETCD_PEER: u16 = 24380;
const API_SERVER: u16 = 24443;

/// How long a server may take to answer.
const START: Duration = Duration::from_mins(1);
/// How long a process may take to end.
const STOP: Duration = Duration::from_secs(20);

/// A running program.
pub struct Running {
    pub child: Child,
    name: String,
    log: PathBuf,
}

impl Drop for Running {
    fn drop(&mut self) {
        process::stop(&[self.child.id()], STOP);
        let _ = self.child.wait();
    }
}

impl Running {
    /// Starts a program whose output goes to its own log.
    pub fn start(context: &Context, name: &str, command: &mut Command) -> Result<Self> {
        let log = context.cache.join("logs").join(format!("bench-{name}.log"));
        let file = File::create(&log).with_context(|| format!("creating {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        process::remember(&context.children_file(), child.id());
        Ok(Self {
            child,
            name: name.to_owned(),
            log,
        })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it is ready.
    pub fn until(mut self, ready: impl Fn() -> bool) -> Result<Self> {
        let begun = Instant::now();
        while !ready() {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended with {status}: {}", self.name, self.log.display());
            }
            ensure!(
                begun.elapsed() < START,
                "{} does not answer: {}",
                self.name,
                self.log.display()
            );
            sleep(Duration::from_millis(100));
        }
        Ok(self)
    }

    pub fn failure(&self) -> String {
        format!("{}: see {}", self.name, self.log.display())
    }
}

/// Ensures that what runs a Kafka broker, an API server and the chart on this machine is there.
pub fn programs(context: &Context) -> Result<()> {
    debian::ensure(context, &[need("java", "openjdk-17-jre-headless")])?;
    images::lib(context, "kafka")?;
    helm::ensure(context)?;
    go::node_programs(context)
}

/// One Kafka broker.
pub fn kafka(context: &Context, folder: &Path) -> Result<Running> {
    debian::ensure(context, &[need("java", "openjdk-17-jre-headless")])?;
    let broker = Kafka {
        lib: images::lib(context, "kafka")?,
        log4j: kafka::log4j(&context.root),
        folder: folder.to_path_buf(),
        controller: KAFKA_CONTROLLER,
        listeners: vec![Listener {
            port: KAFKA,
            advertised: KAFKA,
        }],
        secured: Vec::new(),
        users: Vec::new(),
        heap: "512m",
        settings: Vec::new(),
    };
    let mut serve = broker.prepare(&|program| context.command(program))?;
    Running::start(context, "kafka", &mut serve)?.until(|| listens(KAFKA))
}

/// `SeaweedFS` with its S3 gateway; the credentials are in a folder, as workers read them.
pub fn s3(context: &Context, folder: &Path) -> Result<Running> {
    let server = S3Server {
        weed: images::lib(context, "s3")?.join("bin/weed"),
        folder: folder.to_path_buf(),
        ports: S3_PORTS,
        authorizes: true,
        volume_megabytes: 1024,
    };
    Running::start(context, "s3", &mut server.prepare()?)?.until(|| server.is_ready())
}

/// PostgreSQL with durable commits. Its superuser is `postgres`, from this machine without a
/// password.
pub fn postgres(context: &Context, folder: &Path) -> Result<Running> {
    ensure_postgres(context)?;
    let server = Postgres {
        folder: folder.to_path_buf(),
        port: POSTGRES,
        settings: ["shared_buffers=256MB", "max_wal_size=4GB"]
            .map(str::to_owned)
            .into(),
    };
    Running::start(context, "postgres", &mut server.prepare()?)?.until(|| server.is_ready())
}

/// Ensures that the programs of a PostgreSQL server are there.
fn ensure_postgres(context: &Context) -> Result<()> {
    if pinpipe_servers::postgres::programs().is_err() && !on_path("pg_ctlcluster") {
        debian::ensure(context, &[need("pg_ctlcluster", "postgresql")])?;
    }
    pinpipe_servers::postgres::programs().map(drop)
}

/// Ensures that what the workers' tests start on this machine is there: a Kafka broker, PostgreSQL,
/// a pooler, Cassandra, an object store, and libraries of clients in Python.
pub fn stores(context: &Context) -> Result<()> {
    ensure_postgres(context)?;
    debian::ensure(
        context,
        &[
            need("java", "openjdk-17-jre-headless"),
            need("pgbouncer", "pgbouncer"),
            need("python3", "python3"),
            need("curl", "curl"),
        ],
    )?;
    for server in ["kafka", "cassandra", "s3"] {
        images::lib(context, server)?;
    }
    for name in ["clients", "schemathesis"] {
        images::wheels(context, name, &context.root.join("e2e/cases").join(name))?;
    }
    Ok(())
}

/// `psql` to that server.
pub fn psql_command(context: &Context) -> Command {
    let mut psql = context.command("psql");
    psql.args([
        "--no-psqlrc",
        "--quiet",
        "--tuples-only",
        "--no-align",
        "--set=ON_ERROR_STOP=1",
        "--host=127.0.0.1",
    ])
    .args(["--username=postgres", "--dbname=postgres"])
    .arg(format!("--port={POSTGRES}"));
    psql
}

/// The result of an SQL statement, as text.
pub fn psql(context: &Context, sql: &str) -> Result<String> {
    let output = psql_command(context).args(["--command", sql]).output()?;
    ensure!(
        output.status.success(),
        "psql: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// A Kubernetes API server for the batch worker's Lease, and the kubeconfig for it.
pub struct Kubernetes {
    _servers: [Running; 2],
    pub kubeconfig: PathBuf,
}

pub fn kubernetes(context: &Context, folder: &Path) -> Result<Kubernetes> {
    go::node_programs(context)?;
    let programs = |program: &str| context.command(program);
    let kubernetes = kubernetes::Kubernetes {
        hyperkube: context.bin("hyperkube"),
        folder: folder.to_path_buf(),
        etcd: ETCD,
        etcd_peer: ETCD_PEER,
        port: API_SERVER,
        authorization: "AlwaysAllow",
    };
    let etcd = Running::start(context, "etcd", &mut kubernetes.etcd(&programs))?
        .until(|| get(ETCD, "/health").is_some())?;
    let server = Running::start(
        context,
        "kube-apiserver",
        &mut kubernetes.api_server(&programs)?,
    )?
    .until(|| kubernetes.is_ready(&programs))?;
    Ok(Kubernetes {
        _servers: [server, etcd],
        kubeconfig: kubernetes.kubeconfig(),
    })
}
