//! Types shared by several components: Secrets, object stores, images, resources.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use crate::schema::{IS_QUANTITY, QUANTITY};

/// Reference to a Secret in the pipeline's namespace.
#[derive(KubeSchema, Clone, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(
        validation = Rule::new("self.matches('^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$')").message(
            "a Secret's name must consist of lowercase letters, digits, '-' and '.', and begin and \
             end with a letter or digit"
        )
    )]
    pub name: String,
}

/// Reference to a key of a Secret in the pipeline's namespace.
#[derive(KubeSchema, Clone, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeyRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(
        validation = Rule::new("self.matches('^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$')").message(
            "a Secret's name must consist of lowercase letters, digits, '-' and '.', and begin and \
             end with a letter or digit"
        )
    )]
    pub name: String,

    /// The key of the Secret to select from.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(
        validation = Rule::new("self.matches('^[A-Za-z0-9._-]+$')")
            .message("a Secret's key must consist of letters, digits, '-', '_' and '.'")
    )]
    pub key: String,
}

/// An S3-compatible object store.
#[derive(KubeSchema, Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct S3 {
    /// URL of an S3-compatible server, such as `http://host:port`. Defaults to AWS.
    #[schemars(length(min = 8, max = 512))]
    #[x_kube(
        validation = Rule::new(r"self.matches('^https?://[\\[\\]A-Za-z0-9._:-]+/?$')")
            .message(
                "s3.endpoint must be http://host:port or https://host, without a path: \
                 http://s3.example:9000"
            )
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,

    /// The region. Defaults to `us-east-1`, which most servers other than AWS accept.
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(
        validation = Rule::new("self.matches('^[a-z0-9-]+$')")
            .message("s3.region must consist of lowercase letters, digits and '-': eu-west-1")
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,

    /// A Secret with the keys `accessKeyId`, `secretAccessKey`, and for temporary credentials
    /// `sessionToken`. Without it, the workers use the role of their `ServiceAccount` (web identity
    /// or EKS Pod Identity) or of their node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<SecretRef>,

    /// A Secret's key with the PEM certificates of the authorities to trust if the endpoint is
    /// HTTPS. Defaults to the public ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<SecretKeyRef>,

    /// How the store encrypts objects that are written. Defaults to the bucket's own setting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_side_encryption: Option<ServerSideEncryption>,
}

/// Encryption of objects by the store, with a key of AWS's Key Management Service (SSE-KMS).
#[derive(KubeSchema, Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerSideEncryption {
    /// The key's id or ARN, or an alias or its ARN. Objects that were written with another key stay
    /// as they are.
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(
        validation = Rule::new("self.matches('^[A-Za-z0-9:/_-]+$')").message(
            "s3.serverSideEncryption.kmsKeyId must be the id, ARN or alias of a KMS key: \
             arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
        )
    )]
    pub kms_key_id: String,
}

/// The workers' images: `<registry>/<worker>:<tag>`.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Image {
    /// The registry and path. Defaults to the operator's.
    #[schemars(length(min = 1, max = 200))]
    #[x_kube(
        validation = Rule::new("self.matches('^[A-Za-z0-9][A-Za-z0-9._:/-]*[A-Za-z0-9]$')")
            .message(
                "image.registry must be a registry and path without a trailing slash: \
                 ghcr.io/pinpipe"
            )
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry: Option<String>,

    /// The tag. Defaults to the operator's version, also if empty. Digests that the operator is
    /// configured with apply if there is none.
    #[schemars(length(max = 128))]
    #[x_kube(
        validation = Rule::new("self.matches('^([A-Za-z0-9_][A-Za-z0-9_.-]*)?$')")
            .message("image.tag must be a tag such as 0.1.0, or empty for the operator's version")
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,

    /// When images are pulled. Defaults to `IfNotPresent`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_policy: Option<PullPolicy>,
}

/// When images are pulled.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
pub enum PullPolicy {
    /// Before every start of a container.
    Always,
    /// If the image is not present on the node.
    IfNotPresent,
    /// Never: the image must be present on the node.
    Never,
}

/// Compute resources required by a pod. If set, they replace all defaults.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new(
        "!has(self.requests) || !has(self.limits) || !has(self.requests.cpu) || \
         !has(self.limits.cpu) || \
         quantity(string(self.requests.cpu)).compareTo(quantity(string(self.limits.cpu))) <= 0"
    )
    .message("resources.requests.cpu must not be more than resources.limits.cpu"),
    validation = Rule::new(
        "!has(self.requests) || !has(self.limits) || !has(self.requests.memory) || \
         !has(self.limits.memory) || \
         quantity(string(self.requests.memory)).compareTo(\
         quantity(string(self.limits.memory))) <= 0"
    )
    .message("resources.requests.memory must not be more than resources.limits.memory")
)]
pub struct Resources {
    /// The minimum amount of compute resources required.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<Amounts>,

    /// The maximum amount of compute resources allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Amounts>,
}

/// Amounts of CPU, memory and disk space.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Amounts {
    /// CPU, cores, such as `500m` or `2`.
    #[schemars(schema_with = "crate::schema::quantity")]
    #[x_kube(validation = Rule::new(IS_QUANTITY).message(QUANTITY))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Amount>,

    /// Memory, bytes, such as `256Mi` or `1Gi`.
    #[schemars(schema_with = "crate::schema::quantity")]
    #[x_kube(validation = Rule::new(IS_QUANTITY).message(QUANTITY))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Amount>,

    /// Disk space of the container and of its log, bytes, such as `1Gi`. A batch run's scratch
    /// volume counts, too.
    #[schemars(schema_with = "crate::schema::quantity")]
    #[x_kube(validation = Rule::new(IS_QUANTITY).message(QUANTITY))]
    #[serde(
        rename = "ephemeral-storage",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub ephemeral_storage: Option<Amount>,
}

/// A Kubernetes quantity. Integers may be written without quotes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Amount(pub String);

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Integer(i64),
            Text(String),
        }
        Ok(match Written::deserialize(deserializer)? {
            Written::Integer(number) => Self(number.to_string()),
            Written::Text(text) => Self(text),
        })
    }
}
