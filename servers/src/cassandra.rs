//! A single Cassandra node, set up as that of the image.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{Programs, certificates::Files, listens};

/// The settings of a node.
#[derive(Clone, Debug)]
pub struct Cassandra {
    /// The folder of Cassandra's jars.
    pub lib: PathBuf,
    /// The folder of the image's settings, see [`image`].
    pub image: PathBuf,
    /// The folder of its settings and data.
    pub folder: PathBuf,
    /// The port for clients.
    pub port: u16,
    /// The port for other nodes, of which there are none.
    pub storage_port: u16,
    /// The node's certificate. With one, clients need TLS, and the password `cassandra` of the user
    /// `cassandra`.
    pub certificate: Option<Files>,
}

impl Cassandra {
    /// Writes the settings; returns the command that runs the node.
    pub fn prepare(&self, programs: Programs<'_>) -> Result<Command> {
        let data = self.folder.join("cassandra");
        fs::create_dir_all(&data)?;
        let settings = data.join("cassandra.yaml");
        fs::write(&settings, self.settings(&data)?)?;
        let mut java = programs("java");
        java.arg(format!("@{}", self.image.join("jvm.options").display()))
            .arg(format!("-javaagent:{}", self.agent()?.display()))
            .args(["-Xms64m", "-Xmx256m", "-Xss512k"])
            .args(["-XX:MaxDirectMemorySize=256m", "-XX:+UseSerialGC"])
            .args(["-XX:TieredStopAtLevel=1", "-Djava.awt.headless=true"])
            .args([
                "-Djava.net.preferIPv4Stack=true",
                "-Dcassandra-foreground=yes",
            ])
            .arg("-Dio.netty.tryReflectionSetAccessible=true")
            .arg("-Dcassandra.skip_wait_for_gossip_to_settle=0")
            .args([
                "-Dcassandra.ring_delay_ms=0",
                "-Dcassandra.superuser_setup_delay_ms=0",
            ]);
        for (property, file) in [
            ("cassandra.config=file://", &settings),
            (
                "logback.configurationFile=file://",
                &self.image.join("logback.xml"),
            ),
            ("cassandra.storagedir=", &data),
            ("cassandra.logdir=", &data.join("log")),
        ] {
            java.arg(format!("-D{property}{}", file.display()));
        }
        java.arg("-cp")
            .arg(self.lib.join("*"))
            .arg("org.apache.cassandra.service.CassandraDaemon");
        Ok(java)
    }

    /// Whether the node accepts clients.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        listens(self.port)
    }

    /// The image's settings with this node's folder, ports and address.
    fn settings(&self, data: &Path) -> Result<String> {
        let file = self.image.join("cassandra.yaml");
        let image = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        let Self {
            port, storage_port, ..
        } = self;
        let settings = image
            .replace("/var/lib/cassandra", &data.display().to_string())
            .replace("@POD_IP@", "127.0.0.1")
            .replace("rpc_address: 0.0.0.0", "rpc_address: 127.0.0.1")
            .replace("127.0.0.1:7000", &format!("127.0.0.1:{storage_port}"))
            .replace(
                "\nstorage_port: 7000",
                &format!("\nstorage_port: {storage_port}"),
            )
            .replace(
                "native_transport_port: 9042",
                &format!("native_transport_port: {port}"),
            );
        let Some(certificate) = &self.certificate else {
            return Ok(settings);
        };
        let settings = settings.replace("AllowAllAuthenticator", "PasswordAuthenticator");
        Ok(format!(
            "{settings}
client_encryption_options:
  enabled: true
  optional: false
  keystore: {}
  ssl_context_factory:
    class_name: org.apache.cassandra.security.PEMBasedSslContextFactory
",
            certificate.both.display()
        ))
    }

    /// The Java agent that measures objects, which Cassandra requires.
    fn agent(&self) -> Result<PathBuf> {
        let jars = fs::read_dir(&self.lib)?;
        let mut jars = jars.filter_map(|entry| Some(entry.ok()?.path()));
        let agent = jars.find(|jar| {
            let name = jar.file_name();
            name.is_some_and(|name| name.to_string_lossy().starts_with("jamm-"))
        });
        agent.with_context(|| format!("no jamm-*.jar in {}", self.lib.display()))
    }
}

/// The folder of the settings of the node's image.
#[must_use]
pub fn image(checkout: &Path) -> PathBuf {
    checkout.join("e2e/images/cassandra")
}
