//! How clients reach a cluster: addresses, TLS and credentials.

use std::{fmt, path::Path};

use anyhow::{Context as _, Result};
use pinpipe_config::SaslMechanism;
use rdkafka::{ClientConfig, config::RDKafkaLogLevel};

use crate::{
    config::{Kafka, secret_file},
    tls::{PUBLIC_CAS, Tls},
};

/// How clients reach a cluster, with the content of its Secrets.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Access {
    /// `host:port` of one or more brokers, comma-separated.
    pub bootstrap_servers: String,
    /// TLS. None: the connections are plain text.
    pub tls: Option<Tls>,
    /// The user. None: connections are not authenticated by SASL.
    pub user: Option<User>,
}

/// A user who authenticates by SASL.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct User {
    /// The mechanism.
    pub mechanism: SaslMechanism,
    /// The user's name.
    pub name: String,
    /// The password.
    pub password: String,
}

/// Without the content of Secrets.
impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access")
            .field("bootstrap_servers", &self.bootstrap_servers)
            .finish_non_exhaustive()
    }
}

impl Access {
    /// Reads the mounted Secrets of a worker's configuration.
    pub fn read(config: &Kafka) -> Result<Self> {
        Self::from_files(config, &|path| secret_file(path, None))
    }

    /// Reads the configuration's files by `read`.
    pub fn from_files(config: &Kafka, read: &dyn Fn(&Path) -> Result<String>) -> Result<Self> {
        let tls = config.tls.as_ref();
        let tls = tls.map(|tls| Tls::from_files(tls, read)).transpose();
        let user = config.authentication.as_ref().map(|authentication| {
            let file = |name| read(&authentication.credentials_dir.join(name));
            anyhow::Ok(User {
                mechanism: authentication.mechanism,
                name: file("username")?,
                password: file("password")?,
            })
        });
        Ok(Self {
            bootstrap_servers: config.bootstrap_servers.clone(),
            tls: tls.context("spec.broker.kafka.tls")?,
            user: user
                .transpose()
                .context("spec.broker.kafka.authentication")?,
        })
    }

    /// Settings of every client. Workers add their own.
    ///
    /// Clients never create topics: the operator does, with the settings that the pipeline needs.
    #[must_use]
    pub fn client_config(&self, client_id: &str) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.bootstrap_servers)
            .set("client.id", client_id)
            .set("allow.auto.create.topics", "false")
            .set("socket.keepalive.enable", "true")
            .set("socket.connection.setup.timeout.ms", "10000")
            // Reconnect within seconds after a broker restarts, and notice changed brokers within
            // a minute.
            .set("reconnect.backoff.ms", "100")
            .set("reconnect.backoff.max.ms", "3000")
            .set("topic.metadata.refresh.interval.ms", "60000")
            .set("enable.metrics.push", "false")
            // A connection that a broker closes, as TLS listeners do, is logged at this level.
            .set_log_level(RDKafkaLogLevel::Info);
        self.secure(&mut config);
        config
    }

    fn secure(&self, config: &mut ClientConfig) {
        let protocol = match (&self.tls, &self.user) {
            (None, None) => return,
            (Some(_), None) => "ssl",
            (None, Some(_)) => "sasl_plaintext",
            (Some(_), Some(_)) => "sasl_ssl",
        };
        config.set("security.protocol", protocol);
        if let Some(tls) = &self.tls {
            match &tls.ca {
                Some(ca) => config.set("ssl.ca.pem", ca),
                None => config.set("ssl.ca.location", PUBLIC_CAS),
            };
            if let Some((chain, key)) = &tls.certificate {
                config
                    .set("ssl.certificate.pem", chain)
                    .set("ssl.key.pem", key);
            }
        }
        if let Some(user) = &self.user {
            let mechanism = match user.mechanism {
                SaslMechanism::ScramSha512 => "SCRAM-SHA-512",
                SaslMechanism::ScramSha256 => "SCRAM-SHA-256",
                SaslMechanism::Plain => "PLAIN",
            };
            config
                .set("sasl.mechanism", mechanism)
                .set("sasl.username", &user.name)
                .set("sasl.password", &user.password);
        }
    }
}
