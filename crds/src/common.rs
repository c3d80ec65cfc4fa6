//! What several components share: Secrets, object stores, images, resources.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

/// A Secret of the pipeline's namespace.
#[derive(KubeSchema, Clone, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretRef {
    /// The Secret's name.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(
        validation = Rule::new("self.matches('^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$')").message(
            "a Secret's name must consist of lowercase letters, digits, '-' and '.', and begin and end with a letter or digit"
        )
    )]
    pub name: String,
}

/// A key of a Secret of the pipeline's namespace.
#[derive(KubeSchema, Clone, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeyRef {
    /// The Secret's name.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(
        validation = Rule::new("self.matches('^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$')").message(
            "a Secret's name must consist of lowercase letters, digits, '-' and '.', and begin and end with a letter or digit"
        )
    )]
    pub name: String,

    /// The key in the Secret's data.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(
        validation = Rule::new("self.matches('^[A-Za-z0-9._-]+$')")
            .message("a Secret's key must consist of letters, digits, '-', '_' and '.'")
    )]
    pub key: String,
}

/// An object store that speaks S3.
#[derive(KubeSchema, Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct S3 {
    /// `http://host:port` of a server other than AWS; absent: AWS itself.
    #[schemars(length(min = 8, max = 512))]
    #[x_kube(
        validation = Rule::new("self.matches('^https?://[A-Za-z0-9._:-]+/?$')")
            .message("s3.endpoint must be http://host:port or https://host, without a path: http://s3.example:9000")
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,

    /// The region. `us-east-1` unless set, which most servers other than AWS take.
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(
        validation = Rule::new("self.matches('^[a-z0-9-]+$')")
            .message("s3.region must consist of lowercase letters, digits and '-': eu-west-1")
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,

    /// A Secret with the keys `accessKeyId` and `secretAccessKey`.
    pub credentials_secret_ref: SecretRef,
}

/// Where the workers' images come from: `<registry>/<worker>:<tag>`, or
/// `<registry>/<worker>:<tag>@<digest>`.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Image {
    /// The registry, with the path in it; the operator's own unless set.
    #[schemars(length(min = 1, max = 200))]
    #[x_kube(
        validation = Rule::new("self.matches('^[A-Za-z0-9][A-Za-z0-9._:/-]*[A-Za-z0-9]$')")
            .message("image.registry must be a registry and path without a slash at its end: ghcr.io/pinpipe")
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry: Option<String>,

    /// The tag; empty or absent: the operator's own version.
    #[schemars(length(max = 128))]
    #[x_kube(
        validation = Rule::new("self.matches('^([A-Za-z0-9_][A-Za-z0-9_.-]*)?$')")
            .message("image.tag must be a tag such as 0.1.0, or empty for the operator's own version")
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,

    /// The images' digests, by worker. A worker named here runs just that image, whatever its tag
    /// says by now. Without a tag, the operator's own digests, if it was given any, hold for those
    /// that aren't named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digests: Option<ImageDigests>,

    /// When images are pulled. `IfNotPresent` unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_policy: Option<PullPolicy>,

    /// Secrets that hold the registry's credentials.
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_secrets: Option<Vec<SecretRef>>,
}

/// The images' digests, `sha256:` and 64 hexadecimal digits each.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageDigests {
    /// Of the image `ingest`.
    #[schemars(schema_with = "crate::schema::digest")]
    #[x_kube(validation = Rule::new(IS_DIGEST).message(DIGEST))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingest: Option<String>,

    /// Of the image `stream`, which is the archive's, too.
    #[schemars(schema_with = "crate::schema::digest")]
    #[x_kube(validation = Rule::new(IS_DIGEST).message(DIGEST))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,

    /// Of the image `batch`.
    #[schemars(schema_with = "crate::schema::digest")]
    #[x_kube(validation = Rule::new(IS_DIGEST).message(DIGEST))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<String>,

    /// Of the image `emulator`.
    #[schemars(schema_with = "crate::schema::digest")]
    #[x_kube(validation = Rule::new(IS_DIGEST).message(DIGEST))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub emulator: Option<String>,
}

const IS_DIGEST: &str = "self.matches('^sha256:[0-9a-f]{64}$')";
const DIGEST: &str = "an image's digest must be sha256: and 64 hexadecimal digits, as docker images --digests shows it";

/// When images are pulled.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
pub enum PullPolicy {
    /// Before every start of a container.
    Always,
    /// Where the node hasn't the image.
    IfNotPresent,
    /// Never: the node must have it.
    Never,
}

/// What a pod asks for and may use. Where this is set it stands for itself; nothing of the defaults
/// is added.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new(
        "!has(self.requests) || !has(self.limits) || !has(self.requests.cpu) || !has(self.limits.cpu) || \
         quantity(string(self.requests.cpu)).compareTo(quantity(string(self.limits.cpu))) <= 0"
    )
    .message("resources.requests.cpu must not be more than resources.limits.cpu"),
    validation = Rule::new(
        "!has(self.requests) || !has(self.limits) || !has(self.requests.memory) || !has(self.limits.memory) || \
         quantity(string(self.requests.memory)).compareTo(quantity(string(self.limits.memory))) <= 0"
    )
    .message("resources.requests.memory must not be more than resources.limits.memory")
)]
pub struct Resources {
    /// What the scheduler keeps free for the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<Amounts>,

    /// What the pod may use at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Amounts>,
}

/// Amounts of what a node has.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Amounts {
    /// Processor time, cores: `500m`, `2`.
    #[schemars(schema_with = "crate::schema::quantity")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Amount>,

    /// Memory, bytes: `256Mi`, `1Gi`.
    #[schemars(schema_with = "crate::schema::quantity")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Amount>,
}

/// A quantity in Kubernetes' notation. A plain integer may be written without quotes.
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
