//! The servers all proofs share, what the chart installs among them, and the ways to them that one
//! operator has to itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    fs::{self, File},
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use futures::TryStreamExt as _;
use k8s_openapi::api::{
    apps::v1::Deployment,
    authentication::v1::{TokenRequest, TokenRequestSpec},
    core::v1::{Namespace, Secret, ServiceAccount},
};
use kube::{
    Api, Client, Config,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
    runtime::{WatchStreamExt as _, watcher},
};
use pinpipe_servers::{
    get,
    kafka::{self, Kafka, Listener},
    kubernetes::Kubernetes,
    listens,
};
use serde::Deserialize as _;
use serde_json::{Value, json};

use crate::{
    lane::Lane,
    tap::{Tap, Use},
};

/// As many operators there may be in all.
pub const LANES: usize = 16;
/// The release's namespace.
pub const SYSTEM: &str = "pinpipe-system";
/// The release, and the operator's account.
pub const RELEASE: &str = "pinpipe";
/// How long a server may take to answer.
const START: Duration = Duration::from_mins(2);

/// A program that ends when it is dropped, or when this process does.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    fn start(command: &mut Command, log: PathBuf) -> Result<Self> {
        let child = spawn(command, &log)?;
        Ok(Self { child, log })
    }

    fn until(&mut self, ready: impl Fn() -> bool) -> Result<()> {
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
        // What has ended by itself can't be killed, and is gone all the same.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a program, its output in a file.
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

/// The end of a log.
pub fn end_of(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

/// A program that ends with the thread that starts it, where util-linux is there to see to it; with
/// the one that drops it elsewhere.
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

/// Where `cargo xtask` keeps what it made or fetched.
fn cache() -> PathBuf {
    env::var_os("PINPIPE_CACHE").map_or_else(
        || PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cache/pinpipe"),
        PathBuf::from,
    )
}

/// The newest folder of Kafka's jars.
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
            "no jars of Kafka under {}: `cargo xtask test` fetches them",
            lib.display()
        )
    })
}

/// The checkout: tests run in their package's folder.
pub fn checkout() -> &'static Path {
    Path::new("..")
}

/// Ports of 127.0.0.1 that nobody listens at, below those that the system gives to whoever
/// connects.
struct Ports(u16);

impl Ports {
    fn new() -> Self {
        // Runs side by side begin apart.
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

/// What one operator has to itself.
pub struct Slot {
    /// Where clients of the broker come in that come by `broker`.
    pub advertised: TcpListener,
    pub broker: u16,
    pub admin: u16,
    pub name: String,
}

/// The servers, as processes.
pub struct Servers {
    _processes: Vec<Process>,
    folder: PathBuf,
    kubeconfig: PathBuf,
    kafka: u16,
    slots: Vec<Slot>,
}

impl Servers {
    /// To be called by the thread that lives longest: processes end with it.
    pub fn start(folder: PathBuf) -> Result<Self> {
        let mut ports = Ports::new();
        let mut slots = Vec::new();
        let kafka = ports.number()?;
        let mut listeners = vec![Listener {
            port: kafka,
            advertised: kafka,
        }];
        for at in 0..LANES {
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
        etcd.until(|| get(kubernetes.etcd, "/health").is_some())
            .context("etcd")?;
        let mut server = Process::start(
            &mut kubernetes.api_server(&program)?,
            folder.join("kube-apiserver.log"),
        )?;
        server
            .until(|| kubernetes.is_ready(&program))
            .context("kube-apiserver")?;
        let mut manager = kubernetes.controllers(&program, "garbage-collector-controller")?;
        let manager = Process::start(&mut manager, folder.join("kube-controller-manager.log"))?;
        broker.until(|| listens(kafka)).context("Kafka")?;
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

/// The servers with the chart installed, and somebody who may do everything.
pub struct World {
    /// Who may do everything.
    pub admin: Client,
    /// Who the operator is to the API server.
    operator: Config,
    /// What the chart's Roles and `ClusterRoles` are, by kind and name.
    pub roles: BTreeMap<(String, String), Value>,
    /// Where files go.
    pub folder: PathBuf,
    /// The broker, by a way of our own.
    pub kafka: String,
    slots: Mutex<Vec<Slot>>,
    taps: Mutex<Vec<Arc<Tap>>>,
}

impl World {
    /// Installs the chart.
    pub async fn new(servers: &mut Servers) -> Result<Self> {
        let file = Kubeconfig::read_from(&servers.kubeconfig)?;
        let mut config =
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
        config.default_retry = false;
        config.proxy_url = None;
        let admin = Client::try_from(config.clone())?;
        let mut world = Self {
            admin,
            operator: config,
            roles: BTreeMap::new(),
            folder: servers.folder.clone(),
            kafka: format!("127.0.0.1:{}", servers.kafka),
            slots: Mutex::new(std::mem::take(&mut servers.slots)),
            taps: Mutex::default(),
        };
        world.namespace(SYSTEM).await?;
        world.install().await?;
        let accounts: Api<ServiceAccount> = Api::namespaced(world.admin.clone(), SYSTEM);
        let spec = TokenRequestSpec {
            expiration_seconds: Some(7200),
            ..TokenRequestSpec::default()
        };
        let request = TokenRequest {
            spec,
            ..TokenRequest::default()
        };
        let token = accounts
            .create_token_request(RELEASE, &PostParams::default(), &request)
            .await?;
        let token = token.status.context("the API server gave no token")?.token;
        world.operator.auth_info.token = Some(token.into());
        Ok(world)
    }

    /// Applies what the chart renders, but for the operator's own Deployment.
    async fn install(&mut self) -> Result<()> {
        let mut helm = program("helm");
        helm.args(["template", RELEASE, "charts/pinpipe", "--namespace", SYSTEM])
            .current_dir(checkout());
        let output = helm.output().context("starting helm")?;
        ensure!(
            output.status.success(),
            "helm: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        for document in serde_yaml::Deserializer::from_slice(&output.stdout) {
            let object = Value::deserialize(document)?;
            let (kind, metadata) = (
                object["kind"].as_str().unwrap_or_default(),
                &object["metadata"],
            );
            let name = metadata["name"].as_str().unwrap_or_default();
            let (root, plural) = match kind {
                "" | "Deployment" => continue,
                "ServiceAccount" => ("/api/v1".to_owned(), "serviceaccounts".to_owned()),
                kind => (
                    format!(
                        "/apis/{}",
                        object["apiVersion"].as_str().unwrap_or_default()
                    ),
                    format!("{}s", kind.to_lowercase()),
                ),
            };
            let place = metadata["namespace"]
                .as_str()
                .map_or(root.clone(), |name| format!("{root}/namespaces/{name}"));
            let request = http::Request::post(format!("{place}/{plural}"))
                .header("content-type", "application/json")
                .body(serde_json::to_vec(&object)?)?;
            self.admin
                .request::<Value>(request)
                .await
                .with_context(|| format!("creating {kind} {name}"))?;
            if kind.ends_with("Role") {
                self.roles
                    .insert((kind.to_owned(), name.to_owned()), object);
            }
        }
        let definition = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/pinterestpipelines.pinpipe.dev";
        until(
            "the definition is established",
            Duration::from_secs(30),
            async || {
                let found: Value = self
                    .admin
                    .request(http::Request::get(definition).body(Vec::new())?)
                    .await?;
                let conditions = found["status"]["conditions"]
                    .as_array()
                    .cloned()
                    .unwrap_or_default();
                let established = |condition: &Value| {
                    condition["type"] == "Established" && condition["status"] == "True"
                };
                ensure!(conditions.iter().any(established), "{conditions:?}");
                Ok(())
            },
        )
        .await
    }

    /// Makes a namespace.
    pub async fn namespace(&self, name: &str) -> Result<()> {
        let api: Api<Namespace> = Api::all(self.admin.clone());
        let metadata = ObjectMeta {
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        };
        api.create(
            &PostParams::default(),
            &Namespace {
                metadata,
                ..Namespace::default()
            },
        )
        .await?;
        Ok(())
    }

    /// Makes a namespace with the Secrets that [`crate::specs`] names.
    pub async fn place(&self, name: &str) -> Result<()> {
        self.namespace(name).await?;
        let api: Api<Secret> = Api::namespaced(self.admin.clone(), name);
        for (name, keys) in [
            ("warehouse", &["url", "other"][..]),
            ("s3", &["accessKeyId", "secretAccessKey"]),
            ("cassandra", &["username", "password"]),
        ] {
            let data: BTreeMap<_, _> = keys
                .iter()
                .map(|key| ((*key).to_owned(), format!("{name}-{key}")))
                .collect();
            let metadata = ObjectMeta {
                name: Some(name.to_owned()),
                ..ObjectMeta::default()
            };
            let secret = Secret {
                metadata,
                string_data: Some(data),
                ..Secret::default()
            };
            api.create(&PostParams::default(), &secret).await?;
        }
        Ok(())
    }

    /// An operator's own ways to the servers. It isn't started yet.
    pub async fn lane(&self) -> Result<Lane> {
        let slot = self
            .slots
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        let slot = slot.context("every lane is taken")?;
        let lane = Lane::new(Client::try_from(self.operator.clone())?, slot, &self.folder).await?;
        self.taps
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Arc::clone(&lane.tap));
        Ok(lane)
    }

    /// What all operators so far needed permission for, and what they gave on.
    pub fn permissions(&self) -> (BTreeSet<Use>, BTreeSet<Use>) {
        let (mut used, mut granted) = (BTreeSet::new(), BTreeSet::new());
        for tap in self
            .taps
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
        {
            let (by_one, given_by_one) = tap.permissions();
            used.extend(by_one);
            granted.extend(given_by_one);
        }
        (used, granted)
    }

    /// Says of every Deployment, again and again, that its pods are ready: what controllers and
    /// nodes would do.
    pub async fn run_deployments(&self) -> Result<()> {
        let all: Api<Deployment> = Api::all(self.admin.clone());
        watcher(all, watcher::Config::default())
            .default_backoff()
            .applied_objects()
            .try_for_each_concurrent(8, |deployment| async move {
                let replicas = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
                let metadata = &deployment.metadata;
                let observed = deployment.status.as_ref().and_then(|status| status.observed_generation);
                if observed == metadata.generation {
                    return Ok(());
                }
                let status = json!({"status": {"observedGeneration": metadata.generation, "replicas": replicas,
                    "updatedReplicas": replicas, "readyReplicas": replicas, "availableReplicas": replicas}});
                let (namespace, name) =
                    (metadata.namespace.as_deref().unwrap_or_default(), metadata.name.as_deref().unwrap_or_default());
                let api: Api<Deployment> = Api::namespaced(self.admin.clone(), namespace);
                let written = api.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await;
                // One that was deleted meanwhile needs none.
                if let Err(error) = written
                    && !matches!(&error, kube::Error::Api(status) if status.code == 404)
                {
                    println!("the status of Deployment {namespace}/{name} can't be written: {error}");
                }
                Ok(())
            })
            .await?;
        Ok(())
    }
}

/// Looks until `look` has an answer. What it said last is part of the error once `deadline` has
/// passed.
pub async fn until<T>(
    what: &str,
    deadline: Duration,
    mut look: impl AsyncFnMut() -> Result<T>,
) -> Result<T> {
    let begun = Instant::now();
    loop {
        match look().await {
            Ok(found) => return Ok(found),
            Err(error) if begun.elapsed() > deadline => {
                return Err(error.context(format!(
                    "{what}: not within {} s; instead",
                    deadline.as_secs()
                )));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}
