//! Servers that the tests of one program share: each is started once, at its first use, and ends
//! with the program.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc)]

use std::{
    fs,
    net::{Ipv6Addr, TcpListener},
    path::{Path, PathBuf},
    sync::{OnceLock, mpsc},
    thread,
};

use anyhow::{Context as _, Result};

use crate::{
    cassandra::{self, Cassandra},
    get,
    kafka::{self, Kafka, Listener, Secured},
    kubernetes::Kubernetes,
    listens,
    postgres::Postgres,
    process::{Ports, Process, cache, lib, program},
    s3::{S3, S3Ports},
};

/// The beginning of the names of this program's folders.
const FOLDER: &str = "pinpipe-stores-";

/// The folder of all files of this run. Those of earlier runs are removed.
#[must_use]
pub fn folder() -> &'static Path {
    static CELL: OnceLock<PathBuf> = OnceLock::new();
    CELL.get_or_init(|| {
        let all = std::env::temp_dir();
        for entry in fs::read_dir(&all).unwrap().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let run = name.strip_prefix(FOLDER);
            if run.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        let own = all.join(format!("{FOLDER}{}", std::process::id()));
        fs::create_dir_all(&own).unwrap();
        own
    })
}

/// A free port.
#[must_use]
pub fn port() -> u16 {
    static PORTS: OnceLock<std::sync::Mutex<Ports>> = OnceLock::new();
    let ports = PORTS.get_or_init(std::sync::Mutex::default);
    ports.lock().unwrap().number().unwrap()
}

/// Starts a server on a thread that lives as long as this program: the server ends with it.
pub fn keep<T: Send + 'static>(start: impl FnOnce() -> Result<(Process, T)> + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let (_process, server) = match start() {
            Ok((process, server)) => (Some(process), Ok(server)),
            Err(error) => (None, Err(error)),
        };
        sender.send(server).unwrap();
        loop {
            thread::park();
        }
    });
    receiver.recv().unwrap().unwrap()
}

/// Whether this machine has IPv6.
#[must_use]
pub fn has_ipv6() -> bool {
    TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}

/// The port of a PostgreSQL server whose superuser is `postgres`, without a password. Where this
/// machine has IPv6, it can be reached at the same port of `[::1]`, too.
#[must_use]
pub fn postgres() -> u16 {
    static PORT: OnceLock<u16> = OnceLock::new();
    *PORT.get_or_init(|| {
        keep(|| {
            let server = Postgres {
                folder: folder().to_path_buf(),
                port: port(),
                settings: [
                    "fsync=off",
                    "synchronous_commit=off",
                    "shared_buffers=32MB",
                    "max_connections=200",
                ]
                .map(str::to_owned)
                .into(),
            };
            let log = folder().join("postgres.log");
            let mut process = Process::start(&mut server.prepare()?, log)?;
            process
                .wait_until(|| server.is_ready())
                .context("PostgreSQL")?;
            Ok((process, server.port))
        })
    })
}

/// The port of a Kafka broker that permits everything unless a rule forbids it. Where this machine
/// has IPv6, it can be reached at the same port of `[::1]`, too.
#[must_use]
pub fn kafka() -> u16 {
    static PORT: OnceLock<u16> = OnceLock::new();
    *PORT.get_or_init(|| keep(|| start_kafka(port(), None)))
}

/// Starts such a broker, with a second listener for users who authenticate by SCRAM-SHA-512;
/// `settings` are more settings of that listener, which begin with the mechanism's name. Returns
/// the ports of the listeners: for everybody, and for the users.
#[must_use]
pub fn kafka_with_users(users: &[(&'static str, &'static str)], settings: &[&str]) -> (u16, u16) {
    let (clients, sasl) = (port(), port());
    let login = "org.apache.kafka.common.security.scram.ScramLoginModule required;";
    let mut all = vec![
        "sasl.enabled.mechanisms=SCRAM-SHA-512".to_owned(),
        format!("scram-sha-512.sasl.jaas.config={login}"),
    ];
    all.extend(settings.iter().map(|setting| (*setting).to_owned()));
    let secured = Secured {
        name: "SASL",
        protocol: "SASL_PLAINTEXT",
        host: "127.0.0.1",
        port: sasl,
        settings: all,
    };
    let secured = Some((secured, users.to_vec()));
    keep(move || start_kafka(clients, secured));
    (clients, sasl)
}

fn start_kafka(
    clients: u16,
    secured: Option<(Secured, Vec<(&'static str, &'static str)>)>,
) -> Result<(Process, u16)> {
    let last = secured
        .as_ref()
        .map_or(clients, |(secured, _)| secured.port);
    let (secured, users) = secured.unzip();
    let ipv6 = Secured {
        name: "IPV6",
        protocol: "PLAINTEXT",
        host: "[::1]",
        port: clients,
        settings: Vec::new(),
    };
    let ipv6 = has_ipv6().then_some(ipv6);
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let own = folder().join(format!("kafka-{clients}"));
    fs::create_dir(&own)?;
    let broker = Kafka {
        lib: lib("kafka")?,
        log4j: kafka::log4j(&checkout),
        folder: own.clone(),
        controller: port(),
        listeners: vec![Listener {
            port: clients,
            advertised: clients,
        }],
        secured: secured.into_iter().chain(ipv6).collect(),
        users: users.unwrap_or_default(),
        heap: "256m",
        settings: [
            "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "allow.everyone.if.no.acl.found=true",
        ]
        .map(str::to_owned)
        .into(),
    };
    let mut command = broker.prepare(&program)?;
    let mut process = Process::start(&mut command, own.join("log"))?;
    process.wait_until(|| listens(last)).context("Kafka")?;
    Ok((process, clients))
}

/// The path of the kubeconfig of a Kubernetes API server without nodes, for a user who may do
/// everything.
#[must_use]
pub fn kubernetes() -> &'static Path {
    static CELL: OnceLock<PathBuf> = OnceLock::new();
    CELL.get_or_init(|| {
        let kubernetes = Kubernetes {
            hyperkube: cache().join("bin/hyperkube"),
            folder: folder().join("kubernetes"),
            etcd: port(),
            etcd_peer: port(),
            port: port(),
            authorization: "AlwaysAllow",
        };
        fs::create_dir_all(&kubernetes.folder).unwrap();
        let (store, server) = (kubernetes.clone(), kubernetes.clone());
        keep(move || {
            let log = store.folder.join("etcd.log");
            let mut process = Process::start(&mut store.etcd(&program), log)?;
            process
                .wait_until(|| get(store.etcd, "/health").is_some())
                .context("etcd")?;
            Ok((process, ()))
        });
        keep(move || {
            let log = server.folder.join("kube-apiserver.log");
            let mut process = Process::start(&mut server.api_server(&program)?, log)?;
            process
                .wait_until(|| server.is_ready(&program))
                .context("kube-apiserver")?;
            Ok((process, ()))
        });
        kubernetes.kubeconfig()
    })
}

/// The port of a Cassandra node that asks for no credentials.
#[must_use]
pub fn cassandra() -> u16 {
    static PORT: OnceLock<u16> = OnceLock::new();
    *PORT.get_or_init(|| {
        keep(|| {
            let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
            let node = Cassandra {
                lib: lib("cassandra")?,
                image: cassandra::image(&checkout.canonicalize()?),
                folder: folder().to_path_buf(),
                port: port(),
                storage_port: port(),
                certificate: None,
            };
            let log = folder().join("cassandra.log");
            let mut process = Process::start(&mut node.prepare(&program)?, log)?;
            process
                .wait_until(|| node.is_ready())
                .context("Cassandra")?;
            Ok((process, node.port))
        })
    })
}

/// The port of an object store that checks credentials, and the folder of those it takes; or of one
/// that doesn't.
#[must_use]
pub fn s3(authorizes: bool) -> &'static (u16, PathBuf) {
    static STORES: [OnceLock<(u16, PathBuf)>; 2] = [const { OnceLock::new() }; 2];
    STORES[usize::from(authorizes)].get_or_init(|| {
        keep(move || {
            let folder = folder().join(format!("s3-{authorizes}"));
            fs::create_dir_all(&folder)?;
            let server = s3_server(&folder, authorizes)?;
            let mut process = Process::start(&mut server.prepare()?, folder.join("log"))?;
            process.wait_until(|| server.is_ready()).context("S3")?;
            Ok((process, (server.ports.gateway, server.credentials())))
        })
    })
}

/// The settings of an object store with its data in this folder.
pub fn s3_server(folder: &Path, authorizes: bool) -> Result<S3> {
    Ok(S3 {
        weed: lib("s3")?.join("bin/weed"),
        folder: folder.to_path_buf(),
        ports: S3Ports {
            gateway: port_pair(),
            master: port_pair(),
            volume: port_pair(),
            filer: port_pair(),
        },
        authorizes,
        volume_megabytes: 256,
    })
}

/// A free port that is followed by another.
fn port_pair() -> u16 {
    let mut first = port();
    loop {
        let next = port();
        if next == first + 1 {
            return first;
        }
        first = next;
    }
}
