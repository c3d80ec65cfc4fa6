//! How clients reach a cluster: addresses, TLS and credentials.

use std::{collections::BTreeMap, fmt, path::Path};

use anyhow::{Context as _, Result};
use pinpipe_config::{ClientRole, SaslMechanism};
use rdkafka::{ClientConfig, config::RDKafkaLogLevel};

use super::Tokens;
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
    /// The user who authenticates by SASL with a password.
    pub user: Option<User>,
    /// The tokens that authenticate by SASL, in place of a user.
    pub tokens: Option<Tokens>,
    /// Settings that the pipeline's author chose. Clients apply them by [`Tuned`].
    pub settings: BTreeMap<String, String>,
}

/// Settings that the pipeline's author chose, applied to a client's configuration.
pub trait Tuned {
    /// Sets those that clients of this role have, in place of what was set before.
    fn tuned(&mut self, access: &Access, role: ClientRole) -> &mut Self;
}

impl Tuned for ClientConfig {
    fn tuned(&mut self, access: &Access, role: ClientRole) -> &mut Self {
        for (name, value) in pinpipe_config::of_role(&access.settings, role) {
            self.set(name, value);
        }
        self
    }
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

/// Debug output without the content of Secrets.
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
            tokens: config.aws_msk_iam.as_ref().map(Tokens::of_msk),
            settings: config.settings.clone(),
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
            // A broker that stops may answer that there are no brokers. Go back to the bootstrap
            // servers soon, not after five minutes.
            .set("metadata.recovery.rebootstrap.trigger.ms", "10000")
            .set("enable.metrics.push", "false")
            // A connection that a broker closes, as TLS listeners do, is logged at this level.
            .set_log_level(RDKafkaLogLevel::Info);
        self.secure(&mut config);
        config
    }

    fn secure(&self, config: &mut ClientConfig) {
        let protocol = match (&self.tls, self.user.is_some() || self.tokens.is_some()) {
            (None, false) => return,
            (Some(_), false) => "ssl",
            (None, true) => "sasl_plaintext",
            (Some(_), true) => "sasl_ssl",
        };
        config.set("security.protocol", protocol);
        if let Some(tls) = &self.tls {
            match &tls.ca {
                Some(ca) => config.set("ssl.ca.pem", ca),
                None => config.set("ssl.ca.location", PUBLIC_CAS),
            };
            if let (None, Some(trusted)) = (&tls.ca, &tls.trusted) {
                // Besides those of the file.
                config.set("ssl.ca.pem", trusted);
            }
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
        if self.tokens.is_some() {
            config.set("sasl.mechanism", "OAUTHBEARER");
        }
    }
}

#[cfg(test)]
mod tests {
    use pinpipe_config::{KAFKA_SETTINGS, Values, kafka_setting_problem};
    use rdkafka::{
        admin::AdminClient, client::DefaultClientContext, consumer::BaseConsumer,
        producer::BaseProducer,
    };

    use super::*;

    /// Every setting with one of its values, chosen by `choose` from the least and the most.
    fn all(choose: fn(String, String) -> String) -> Access {
        let settings = KAFKA_SETTINGS.iter().map(|setting| {
            let (least, most) = match setting.values {
                Values::Integer(least, most) => (least.to_string(), most.to_string()),
                Values::OneOf(values) => {
                    (values[0].to_owned(), values[values.len() - 1].to_owned())
                }
                Values::Name => ("a".to_owned(), "eu-west-1a".to_owned()),
            };
            (setting.name.to_owned(), choose(least, most))
        });
        Access {
            bootstrap_servers: "127.0.0.1:1".to_owned(),
            settings: settings.collect(),
            ..Access::default()
        }
    }

    /// Together they are the ends of the settings' bounds, which librdkafka checks one by one and
    /// some against each other.
    #[test]
    fn no_client_refuses_what_may_be_set() {
        let low = all(|least, _| least);
        let high = all(|_, most| most);
        let mut mixed = low.clone();
        mixed
            .settings
            .insert("fetch.wait.max.ms".to_owned(), "5000".to_owned());
        for access in [low, high, mixed] {
            for (name, value) in &access.settings {
                assert_eq!(kafka_setting_problem(name, value), None);
            }
            let admin = access
                .client_config("test")
                .tuned(&access, ClientRole::Any)
                .create::<AdminClient<DefaultClientContext>>();
            let consumer = access
                .client_config("test")
                .set("group.id", "g")
                .tuned(&access, ClientRole::Consumer)
                .create::<BaseConsumer>();
            let transactions = access
                .client_config("test")
                .set("transactional.id", "t")
                .set("transaction.timeout.ms", "60000")
                .tuned(&access, ClientRole::Producer)
                .create::<BaseProducer>();
            let producer = access
                .client_config("test")
                .set("enable.idempotence", "true")
                .set("message.timeout.ms", "10000")
                .tuned(&access, ClientRole::Producer)
                .create::<BaseProducer>();
            for error in [
                admin.err(),
                consumer.err(),
                transactions.err(),
                producer.err(),
            ] {
                assert_eq!(error, None, "{:?}", access.settings);
            }
        }
    }

    #[test]
    fn what_is_chosen_replaces_what_a_client_sets_itself() {
        let settings = [("linger.ms", "50"), ("fetch.min.bytes", "9")];
        let access = Access {
            settings: settings
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            ..Access::default()
        };
        let mut config = access.client_config("test");
        config
            .set("linger.ms", "5")
            .tuned(&access, ClientRole::Producer);
        assert_eq!(config.get("linger.ms"), Some("50"));
        assert_eq!(config.get("fetch.min.bytes"), None);
    }
}
