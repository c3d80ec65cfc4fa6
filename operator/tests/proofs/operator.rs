//! An operator as a process, with its own ways to the API server and the broker.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use kube::Client;

use crate::{
    api::Api,
    broker,
    tap::Tap,
    world::{Slot, end_of, program, spawn, until},
};

/// The registry that the operator takes workers' images from.
pub const REGISTRY: &str = "registry.test/pinpipe";
/// The tag of workers' images.
pub const TAG: &str = "1";

/// An operator, started or not.
pub struct Lane {
    /// What goes by.
    pub tap: Arc<Tap>,
    /// Its way to the API server.
    pub api: Arc<Api>,
    /// The broker as pipelines name it whose operator this is.
    pub bootstrap_servers: String,
    name: String,
    admin: u16,
    kubeconfig: PathBuf,
    log: PathBuf,
}

impl Lane {
    pub async fn new(client: Client, slot: Slot, folder: &Path) -> Result<Self> {
        let tap = Arc::new(Tap::default());
        let (api, port) = Api::serve(client, Arc::clone(&tap)).await?;
        let bootstrap_servers = slot.advertised.local_addr()?.to_string();
        broker::serve(slot.advertised, slot.broker, Arc::clone(&tap))?;
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
            tap,
            api,
            bootstrap_servers,
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
            ])
            .args(arguments)
            .env_clear()
            .env("KUBECONFIG", &self.kubeconfig)
            .env("PINPIPE_LOG_FORMAT", "plain")
            .env("RUST_LOG", "info,pinpipe_operator=debug");
        self.tap.attach(spawn(&mut command, &self.log)?);
        Ok(())
    }

    /// Starts it where it doesn't run.
    pub fn revive(&self, arguments: &[&str]) -> Result<()> {
        if self.tap.pid().is_none() {
            self.start(arguments)
        } else {
            Ok(())
        }
    }

    /// A sum over the samples of a metric whose line begins with this.
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

    /// How many passes have ended.
    pub async fn passes(&self) -> Result<f64> {
        self.metric("pinpipe_operator_reconciles_total").await
    }

    /// Waits until so many passes have ended, and none is under way.
    pub async fn passed(&self, passes: f64) -> Result<()> {
        until(
            "the operator looked again",
            Duration::from_secs(90),
            async || {
                let (ended, running) = (
                    self.passes().await?,
                    self.metric("pinpipe_operator_reconciles_running").await?,
                );
                ensure!(
                    ended >= passes && running < 0.5,
                    "{ended} of {passes} passes, {running} under way"
                );
                Ok(())
            },
        )
        .await
        .with_context(|| self.last_words())
    }

    /// The resident set of the operator, bytes.
    pub fn memory(&self) -> Result<u64> {
        let pid = self.tap.pid().context("the operator does not run")?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .context("no VmRSS")?;
        let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kilobytes * 1024)
    }

    /// The end of its log.
    pub fn last_words(&self) -> String {
        format!("{} said last:\n{}", self.name, end_of(&self.log))
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.tap.kill();
    }
}
