//! The servers that all proofs share, as processes: etcd, API server, garbage collector, and Kafka.

use std::{
    env,
    fs::{self, File},
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use pinpipe_servers::{
    get,
    kafka::{self, Kafka, Listener},
    kubernetes::Kubernetes,
    listens,
};

/// The largest number of operators in a run of all proofs: each needs a listener of the broker.
const MAX_OPERATORS: usize = 24;
/// How long a server may take to answer.
const START: Duration = Duration::from_mins(2);
/// How many lines of a log an error shows.
const LOG_LINES: usize = 15;

/// A process that is killed when it is dropped, or when this process ends.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    fn start(command: &mut Command, log: PathBuf) -> Result<Self> {
        let child = spawn(command, &log)?;
        Ok(Self { child, log })
    }

    fn wait_until(&mut self, ready: impl Fn() -> bool) -> Result<()> {
        let begun = Instant::now();
        while !ready() {
            if let Some(status) = self.child.try_wait()? {
                bail!(
                    "ended with {status}: {}\n{}",
                    self.log.display(),
                    end_of(&self.log)
                );
            }
            ensure!(
                begun.elapsed() < START,
                "no answer: {}\n{}",
                self.log.display(),
                end_of(&self.log)
            );
            sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Killing a process that has already ended fails, which is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a program with its output appended to a file.
pub fn spawn(command: &mut Command, log: &Path) -> Result<Child> {
    let file = File::options().create(true).append(true).open(log)?;
    let shown = format!("starting {command:?}");
    command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .spawn()
        .context(shown)
}

/// The last lines of a log.
pub fn end_of(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}

/// A program that is killed when the thread that started it ends, if util-linux is installed.
pub fn program(name: &str) -> Command {
    let own = cache().join("bin").join(name);
    let path = if own.is_file() {
        own
    } else {
        PathBuf::from(name)
    };
    if Path::new("/usr/bin/setpriv").is_file() {
        let mut command = Command::new("/usr/bin/setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(path);
        return command;
    }
    Command::new(path)
}

/// The folder of programs that `cargo xtask` built or downloaded.
fn cache() -> PathBuf {
    env::var_os("PINPIPE_CACHE").map_or_else(
        || PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cache/pinpipe"),
        PathBuf::from,
    )
}

/// The newest folder with Kafka's jars.
fn kafka_lib() -> Result<PathBuf> {
    let lib = cache().join("lib");
    let folders = fs::read_dir(&lib).with_context(|| format!("reading {}", lib.display()))?;
    let named = folders.filter_map(|entry| Some(entry.ok()?.path()));
    let newest = named
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("kafka-"))
        })
        .max_by_key(|path| {
            fs::metadata(path)
                .and_then(|metadata| metadata.modified())
                .ok()
        });
    newest.with_context(|| {
        format!(
            "no jars of Kafka under {}: `cargo xtask test` downloads them",
            lib.display()
        )
    })
}

/// The root of the checkout. Cargo runs tests in the folder of their package.
pub fn checkout() -> &'static Path {
    Path::new("..")
}

/// Free ports of 127.0.0.1, below the range that the system assigns to outgoing connections.
struct Ports(u16);

impl Ports {
    fn new() -> Self {
        // Concurrent runs start at different ports.
        Self(u16::try_from(10_000 + (std::process::id() % 300) * 70).unwrap_or(10_000))
    }

    fn next(&mut self) -> Result<TcpListener> {
        for _ in 0..10_000 {
            self.0 = if self.0 >= 32_000 { 10_000 } else { self.0 + 1 };
            if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, self.0)) {
                return Ok(listener);
            }
        }
        bail!("no port of 127.0.0.1 is free")
    }

    fn number(&mut self) -> Result<u16> {
        Ok(self.next()?.local_addr()?.port())
    }
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
        let mut ports = Ports::new();
        let mut slots = Vec::new();
        let kafka = ports.number()?;
        let mut listeners = vec![Listener {
            port: kafka,
            advertised: kafka,
        }];
        for at in 0..MAX_OPERATORS {
            let advertised = ports.next()?;
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
            lib: kafka_lib()?,
            log4j: kafka::log4j(checkout()),
            folder: folder.clone(),
            controller: ports.number()?,
            listeners,
            heap: "768m",
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
