//! One Kafka broker that is its own controller.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, ensure};

use crate::Programs;

/// Where clients come in. Several, where each is to find the broker by another way.
#[derive(Clone, Copy, Debug)]
pub struct Listener {
    /// The port the broker listens at.
    pub port: u16,
    /// The port it tells clients that come in here: its own, or that of somebody who stands
    /// between.
    pub advertised: u16,
}

/// A broker.
#[derive(Clone, Debug)]
pub struct Kafka {
    /// The folder of its jars.
    pub lib: PathBuf,
    /// How it logs.
    pub log4j: PathBuf,
    /// The folder of its files.
    pub folder: PathBuf,
    /// The controller's port.
    pub controller: u16,
    /// Where clients come in.
    pub listeners: Vec<Listener>,
    /// The Java heap: `512m`.
    pub heap: &'static str,
}

impl Kafka {
    /// Writes its files; gives the command that serves.
    pub fn prepare(&self, programs: Programs<'_>) -> Result<Command> {
        let settings = self.folder.join("kafka.properties");
        fs::write(&settings, self.settings())?;
        let mut format = self.java(programs, "128m");
        format
            .args([
                "kafka.tools.StorageTool",
                "format",
                "--cluster-id",
                "cGlucGlwZS1iZW5jaC0wMQ",
                "--config",
            ])
            .arg(&settings);
        let output = format.output()?;
        ensure!(
            output.status.success(),
            "Kafka's storage: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let mut serve = self.java(programs, self.heap);
        serve.arg("kafka.Kafka").arg(settings);
        Ok(serve)
    }

    fn java(&self, programs: Programs<'_>, heap: &str) -> Command {
        let mut java = programs("java");
        java.arg(format!("-Xmx{heap}"))
            .args(["-XX:+UseSerialGC", "-Djava.awt.headless=true"])
            .arg(format!(
                "-Dlog4j2.configurationFile={}",
                self.log4j.display()
            ))
            .arg("-cp")
            .arg(self.lib.join("*"));
        java
    }

    fn settings(&self) -> String {
        let each = |setting: &dyn Fn(usize, &Listener) -> String| {
            self.listeners
                .iter()
                .enumerate()
                .map(|(at, listener)| setting(at, listener))
                .collect::<Vec<_>>()
                .join(",")
        };
        let (controller, data) = (self.controller, self.folder.join("kafka"));
        format!(
            "process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
controller.listener.names=CONTROLLER
listeners={},CONTROLLER://127.0.0.1:{controller}
advertised.listeners={}
listener.security.protocol.map={},CONTROLLER:PLAINTEXT
inter.broker.listener.name=CLIENTS0
log.dirs={}
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
",
            each(&|at, listener| format!("CLIENTS{at}://127.0.0.1:{}", listener.port)),
            each(&|at, listener| format!("CLIENTS{at}://127.0.0.1:{}", listener.advertised)),
            each(&|at, _| format!("CLIENTS{at}:PLAINTEXT")),
            data.display(),
        )
    }
}

/// The settings of logging beside the other files of the broker's image.
#[must_use]
pub fn log4j(checkout: &Path) -> PathBuf {
    checkout.join("e2e/images/kafka/log4j2.xml")
}
