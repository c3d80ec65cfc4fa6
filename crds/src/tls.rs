//! TLS and credentials of connections to servers.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::{SecretKeyRef, SecretRef};

/// TLS of the connections to a server. `{}` is TLS with the public certificate authorities, and
/// those of the template's `trustedCASecretRef`.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Tls {
    /// A Secret's key with the PEM certificates of the only authorities to trust. Defaults to the
    /// public ones and those of the template's `trustedCASecretRef`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<SecretKeyRef>,

    /// A Secret with the client's certificate and private key: `tls.crt` and `tls.key`, as in
    /// Secrets of the type `kubernetes.io/tls`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificate_secret_ref: Option<SecretRef>,
}

/// How clients authenticate to Kafka by SASL.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new(
        "(has(self.scramSha512) ? 1 : 0) + (has(self.scramSha256) ? 1 : 0) + \
         (has(self.plain) ? 1 : 0) + (has(self.awsMskIam) ? 1 : 0) == 1"
    )
    .message(
        "kafka.authentication must hold exactly one mechanism: set scramSha512, scramSha256, \
         plain or awsMskIam"
    )
)]
pub struct KafkaAuthentication {
    /// The mechanism SCRAM-SHA-512.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scram_sha512: Option<Credentials>,

    /// The mechanism SCRAM-SHA-256.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scram_sha256: Option<Credentials>,

    /// The mechanism PLAIN. The password is sent as it is: set `tls`, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plain: Option<Credentials>,

    /// An identity of AWS's IAM, for clusters of Amazon MSK: the role of the pods' `ServiceAccount`
    /// (web identity or EKS Pod Identity) or of their node. The operator connects with a role of
    /// its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aws_msk_iam: Option<AwsMskIam>,
}

/// Authentication by an identity of AWS's IAM.
#[derive(KubeSchema, Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AwsMskIam {
    /// The cluster's region.
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(
        validation = Rule::new("self.matches('^[a-z0-9-]+$')").message(
            "awsMskIam.region must consist of lowercase letters, digits and '-': eu-west-1"
        )
    )]
    pub region: String,
}

/// A user's name and password.
#[derive(KubeSchema, Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Credentials {
    /// A Secret with the keys `username` and `password`.
    pub credentials_secret_ref: SecretRef,
}
