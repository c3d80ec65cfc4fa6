//! A single Kafka broker that is also the controller.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, ensure};

use crate::Programs;

/// A listener of the broker. Several let different clients reach it at different addresses.
#[derive(Clone, Copy, Debug)]
pub struct Listener {
    /// The port the broker listens at.
    pub port: u16,
    /// The port that the broker advertises to clients of this listener: its own or a proxy's.
    pub advertised: u16,
}

/// A listener with a protocol or an address of its own.
#[derive(Clone, Debug)]
pub struct Secured {
    /// Its name, in capital letters.
    pub name: &'static str,
    /// `PLAINTEXT`, `SSL`, `SASL_SSL` or `SASL_PLAINTEXT`.
    pub protocol: &'static str,
    /// The address it listens at, with brackets if it is of IPv6.
    pub host: &'static str,
    /// Its port.
    pub port: u16,
    /// Settings of this listener, `key=value`.
    pub settings: Vec<String>,
}

/// The settings of a broker.
#[derive(Clone, Debug)]
pub struct Kafka {
    /// The folder of Kafka's jars.
    pub lib: PathBuf,
    /// The file of logging settings.
    pub log4j: PathBuf,
    /// The folder of its settings and data.
    pub folder: PathBuf,
    /// The controller's port.
    pub controller: u16,
    /// The listeners for clients.
    pub listeners: Vec<Listener>,
    /// Further listeners.
    pub secured: Vec<Secured>,
    /// Names and passwords of users who authenticate by SCRAM.
    pub users: Vec<(&'static str, &'static str)>,
    /// The size of the Java heap, such as `512m`.
    pub heap: &'static str,
    /// Further settings, such as `allow.everyone.if.no.acl.found=true`.
    pub settings: Vec<String>,
}

impl Kafka {
    /// Writes the settings and formats the storage; returns the command that runs the broker.
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
        for (name, password) in &self.users {
            for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-512"] {
                format
                    .arg("--add-scram")
                    .arg(format!("{mechanism}=[name={name},password={password}]"));
            }
        }
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
        let secured = |setting: &dyn Fn(&Secured) -> String| {
            let settings = self.secured.iter().map(setting);
            settings.collect::<String>()
        };
        let (controller, data) = (self.controller, self.folder.join("kafka"));
        format!(
            "process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
controller.listener.names=CONTROLLER
listeners={}{},CONTROLLER://127.0.0.1:{controller}
advertised.listeners={}{}
listener.security.protocol.map={}{},CONTROLLER:PLAINTEXT
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
{}{}
",
            each(&|at, listener| format!("CLIENTS{at}://127.0.0.1:{}", listener.port)),
            secured(&|listener| format!(
                ",{}://{}:{}",
                listener.name, listener.host, listener.port
            )),
            each(&|at, listener| format!("CLIENTS{at}://127.0.0.1:{}", listener.advertised)),
            secured(&|listener| format!(
                ",{}://{}:{}",
                listener.name, listener.host, listener.port
            )),
            each(&|at, _| format!("CLIENTS{at}:PLAINTEXT")),
            secured(&|listener| format!(",{}:{}", listener.name, listener.protocol)),
            data.display(),
            secured(&|listener| {
                let name = listener.name.to_lowercase();
                let settings = listener.settings.iter();
                let lines = settings.map(|setting| format!("listener.name.{name}.{setting}"));
                lines.collect::<Vec<_>>().join("\n") + "\n"
            }),
            self.settings.join("\n"),
        )
    }
}

/// The file of logging settings of the broker's image.
#[must_use]
pub fn log4j(checkout: &Path) -> PathBuf {
    checkout.join("e2e/images/kafka/log4j2.xml")
}
