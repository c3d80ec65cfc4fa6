//! The servers that all proofs share, as processes: etcd, API server, garbage collector, and Kafka.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use pinpipe_servers::{
    get,
    kafka::{self, Kafka, Listener},
    kubernetes::Kubernetes,
    listens,
    process::{Ports, Process, cache, lib, program},
};

/// The largest number of operators in a run of all proofs: each needs a listener of the broker.
const MAX_OPERATORS: usize = 24;

/// The root of the checkout. Cargo runs tests in the folder of their package.
pub fn checkout() -> &'static Path {
    Path::new("..")
}

/// The ports reserved for one operator.
pub struct Slot {
    /// The address that the broker advertises to clients that connect to `broker`.
    pub advertised: TcpListener,
    /// The listener of the broker.
    pub broker: u16,
    pub admin: u16,
    pub name: String,
}

/// The running servers.
pub struct Servers {
    _processes: Vec<Process>,
    /// The folder of their files and logs.
    pub folder: PathBuf,
    pub kubeconfig: PathBuf,
    /// The port of the broker for the proofs themselves.
    pub kafka: u16,
    pub slots: Vec<Slot>,
}

impl Servers {
    /// Call this from the main thread: the processes are killed when the calling thread ends.
    pub fn start(folder: PathBuf) -> Result<Self> {
        let mut ports = Ports::default();
        let mut slots = Vec::new();
        let kafka = ports.number()?;
        let mut listeners = vec![Listener {
            port: kafka,
            advertised: kafka,
        }];
        for at in 0..MAX_OPERATORS {
            let advertised = ports.listener()?;
            let broker = ports.number()?;
            listeners.push(Listener {
                port: broker,
                advertised: advertised.local_addr()?.port(),
            });
            slots.push(Slot {
                advertised,
                broker,
                admin: ports.number()?,
                name: format!("operator-{at}"),
            });
        }
        let kubernetes = Kubernetes {
            hyperkube: cache().join("bin/hyperkube"),
            folder: folder.clone(),
            etcd: ports.number()?,
            etcd_peer: ports.number()?,
            port: ports.number()?,
            authorization: "RBAC",
        };
        let mut etcd = Process::start(&mut kubernetes.etcd(&program), folder.join("etcd.log"))?;
        let broker = Kafka {
            lib: lib("kafka")?,
            log4j: kafka::log4j(checkout()),
            folder: folder.clone(),
            controller: ports.number()?,
            listeners,
            secured: Vec::new(),
            users: Vec::new(),
            heap: "768m",
            settings: Vec::new(),
        };
        let mut broker = Process::start(&mut broker.prepare(&program)?, folder.join("kafka.log"))?;
        etcd.wait_until(|| get(kubernetes.etcd, "/health").is_some())
            .context("etcd")?;
        let mut server = Process::start(
            &mut kubernetes.api_server(&program)?,
            folder.join("kube-apiserver.log"),
        )?;
        server
            .wait_until(|| kubernetes.is_ready(&program))
            .context("kube-apiserver")?;
        let mut manager = kubernetes.controllers(&program, "garbage-collector-controller")?;
        let manager = Process::start(&mut manager, folder.join("kube-controller-manager.log"))?;
        broker.wait_until(|| listens(kafka)).context("Kafka")?;
        let kubeconfig = kubernetes.kubeconfig();
        Ok(Self {
            _processes: vec![manager, server, broker, etcd],
            folder,
            kubeconfig,
            kafka,
            slots,
        })
    }
}
