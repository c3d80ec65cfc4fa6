//! An operator as a process, with its own proxies to the API server and the broker.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use kube::Client;
use pinpipe_servers::process::{end_of, program, spawn};
use tokio::sync::watch;

use crate::{
    api_proxy::ApiProxy, cluster::SYSTEM, kafka_proxy, servers::Slot, traffic::Traffic, wait::until,
};

/// The registry of worker images.
pub const REGISTRY: &str = "registry.test/pinpipe";
/// The tag of worker images.
pub const TAG: &str = "1";

/// An operator, running or not.
pub struct Operator {
    /// Its traffic.
    pub traffic: Arc<Traffic>,
    /// Its proxy to the API server.
    pub api: Arc<ApiProxy>,
    /// The broker's address for its pipelines, which is that of the proxy.
    pub bootstrap_servers: String,
    /// While it is on, the broker answers none of its pipelines.
    pub outage: watch::Sender<bool>,
    name: String,
    admin: u16,
    kubeconfig: PathBuf,
    log: PathBuf,
}

impl Operator {
    pub async fn new(client: Client, slot: Slot, folder: &Path) -> Result<Self> {
        let traffic = Arc::new(Traffic::default());
        let (api, port) = ApiProxy::serve(client, Arc::clone(&traffic)).await?;
        let bootstrap_servers = slot.advertised.local_addr()?.to_string();
        let outage = kafka_proxy::serve(slot.advertised, slot.broker, Arc::clone(&traffic))?;
        let kubeconfig = folder.join(format!("{}.kubeconfig", slot.name));
        fs::write(
            &kubeconfig,
            format!(
                "apiVersion: v1
kind: Config
current-context: test
contexts: [{{name: test, context: {{cluster: test, user: operator}}}}]
clusters: [{{name: test, cluster: {{server: 'http://127.0.0.1:{port}'}}}}]
users: [{{name: operator, user: {{}}}}]
"
            ),
        )?;
        let log = folder.join(format!("{}.log", slot.name));
        Ok(Self {
            traffic,
            api,
            bootstrap_servers,
            outage,
            name: slot.name,
            admin: slot.admin,
            kubeconfig,
            log,
        })
    }

    /// Starts the operator: the real binary, with these arguments.
    pub fn start(&self, arguments: &[&str]) -> Result<()> {
        let mut command: Command = program(env!("CARGO_BIN_EXE_pinpipe-operator"));
        command
            .args([
                "--image-registry",
                REGISTRY,
                "--image-tag",
                TAG,
                "--admin-port",
                &self.admin.to_string(),
                "--operator-namespace",
                SYSTEM,
            ])
            .args(arguments)
            .env_clear()
            .env("KUBECONFIG", &self.kubeconfig)
            .env("PINPIPE_LOG_FORMAT", "plain")
            .env("RUST_LOG", "info,pinpipe_operator=debug");
        self.traffic.attach(spawn(&mut command, &self.log)?);
        Ok(())
    }

    /// Starts the operator unless it is running.
    pub fn revive(&self, arguments: &[&str]) -> Result<()> {
        if self.traffic.pid().is_none() {
            self.start(arguments)
        } else {
            Ok(())
        }
    }

    /// The sum of the samples of a metric; `name` is the start of their lines.
    pub async fn metric(&self, name: &str) -> Result<f64> {
        let url = format!("http://127.0.0.1:{}/metrics", self.admin);
        let client = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(5))
            .build()?;
        let text = client.get(url).send().await?.text().await?;
        let samples = text.lines().filter(|line| line.starts_with(name));
        Ok(samples
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum())
    }

    /// The number of completed reconciles.
    pub async fn reconciles(&self) -> Result<f64> {
        self.metric("pinpipe_operator_reconciles_total").await
    }

    /// Waits until that many reconciles are complete and none is running.
    pub async fn wait_for_reconciles(&self, reconciles: f64) -> Result<()> {
        until("enough reconciles", Duration::from_secs(90), async || {
            let (ended, running) = (
                self.reconciles().await?,
                self.metric("pinpipe_operator_reconciles_running").await?,
            );
            ensure!(
                ended >= reconciles && running < 0.5,
                "{ended} of {reconciles} reconciles, {running} running"
            );
            Ok(())
        })
        .await
        .with_context(|| self.log_end())
    }

    /// The resident memory of the operator, bytes.
    pub fn memory(&self) -> Result<u64> {
        let pid = self.traffic.pid().context("the operator is not running")?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .context("no VmRSS")?;
        let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kilobytes * 1024)
    }

    /// The end of its log.
    pub fn log_end(&self) -> String {
        format!("the log of {} ends with:\n{}", self.name, end_of(&self.log))
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.traffic.kill();
    }
}
