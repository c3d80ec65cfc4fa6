//! Connections to Kafka, and TLS of those to any server.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

/// How to reach the Kafka cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Kafka {
    /// `host:port` of one or more brokers, comma-separated.
    pub bootstrap_servers: String,
    /// TLS. Plain text if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// Authentication by SASL. None if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authentication: Option<Authentication>,
    /// Authentication by an identity in AWS, in place of [`Self::authentication`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aws_msk_iam: Option<AwsMskIam>,
    /// Settings of the clients, of [`KAFKA_SETTINGS`](crate::KAFKA_SETTINGS).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, String>,
}

/// TLS of a connection to a server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tls {
    /// A file with the PEM certificates of the authorities to trust. The public ones if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// A directory with the client's certificate and key, `tls.crt` and `tls.key`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_dir: Option<PathBuf>,
    /// Authorities to trust besides the public ones. Has no effect beside `ca_file`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trusted_ca: Option<TrustedCa>,
}

/// Certificates of authorities that a worker trusts besides the public ones.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrustedCa {
    /// A file with the certificates in PEM.
    pub file: PathBuf,
    /// The Secret and key behind `file`, as messages name them: `Secret company, key ca.crt`.
    pub secret: String,
}

/// How a worker authenticates to Kafka.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Authentication {
    /// The SASL mechanism.
    pub mechanism: SaslMechanism,
    /// A directory with the files `username` and `password`.
    pub credentials_dir: PathBuf,
}

/// Authentication to Amazon MSK by the worker's identity in AWS.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AwsMskIam {
    /// The cluster's region.
    pub region: String,
    /// Authorities to trust besides the public ones where AWS is asked for credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trusted_ca: Option<TrustedCa>,
}

/// A mechanism of SASL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SaslMechanism {
    /// SCRAM-SHA-512.
    ScramSha512,
    /// SCRAM-SHA-256.
    ScramSha256,
    /// PLAIN: the password is sent as it is.
    Plain,
}
