//! Runs that import raw objects.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{RecordKind, SecretKeyRef, SecretRef};

/// A batch run that loads raw objects another tool wrote. They count as older than everything the
/// archive has written.
#[derive(KubeSchema, Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new(
        "self.layout == 'Objects' ? has(self.kind) && !has(self.topics) : !has(self.kind)"
    )
    .message(
        "import.kind is the kind of all records of layout Objects, and import.topics are those of \
         layout Connector: set the one that belongs to import.layout"
    ),
    validation = Rule::new("!has(self.s3) || has(self.bucket)").message(
        "import.s3 is about another bucket than the archive's: set import.bucket, too"
    )
)]
pub struct RunImport {
    /// The bucket. Defaults to the archive's.
    #[schemars(length(min = 3, max = 255))]
    #[x_kube(
        validation = Rule::new("self.matches('^[A-Za-z0-9][A-Za-z0-9._-]*$')").message(
            "import.bucket must be the name of a bucket, not a URL: letters, digits, '.', '_' and \
             '-'"
        )
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bucket: Option<String>,

    /// The store of the bucket. What it doesn't say is the archive's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<ImportS3>,

    /// How the objects' keys are built.
    pub layout: ImportLayout,

    /// The prefix of the objects' keys, such as `topics`; `/` for the whole bucket.
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(
        validation = Rule::new("!self.contains('://')").message(
            "import.prefix must be a prefix of keys, such as topics, not a URL: the bucket is \
             import.bucket"
        ),
        validation = Rule::new("!self.contains(',')")
            .message("import.prefix can't have a comma, which separates prefixes for the worker")
    )]
    pub prefix: String,

    /// Which topics' objects are read, and the kind of their records (layout `Connector`). For a
    /// kind without any: the pipeline's own topic.
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub topics: Vec<ImportTopic>,

    /// The kind of all records (layout `Objects`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<RecordKind>,
}

/// How the keys of imported objects are built.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
pub enum ImportLayout {
    /// As the widely used S3 sink connector does: `<prefix>/<topic>/…`.
    Connector,
    /// In any way: every object below the prefix has records of one kind.
    Objects,
}

/// A topic of imported objects.
#[derive(KubeSchema, Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ImportTopic {
    /// The topic's name, which is the folder of its objects.
    #[schemars(length(min = 1, max = 249))]
    #[x_kube(
        validation = Rule::new("self.matches('^[A-Za-z0-9._-]+$')").message(
            "import.topics[].name must be the name of a topic: letters, digits, '.', '_' and '-'"
        )
    )]
    pub name: String,

    /// The kind of its records.
    pub kind: RecordKind,
}

/// The store of an import's bucket.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ImportS3 {
    /// URL of the store, such as `https://s3.eu-west-1.amazonaws.com`.
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

    /// The region.
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(
        validation = Rule::new("self.matches('^[a-z0-9-]+$')")
            .message("s3.region must consist of lowercase letters, digits and '-': eu-west-1")
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,

    /// A Secret with the keys `accessKeyId`, `secretAccessKey`, and for temporary credentials
    /// `sessionToken`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<SecretRef>,

    /// A Secret's key with the PEM certificates of the authorities to trust.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<SecretKeyRef>,

    /// Whether the bucket is part of the host's name, rather than of the path, although there is an
    /// endpoint. Defaults to false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtual_hosted_style: Option<bool>,
}
