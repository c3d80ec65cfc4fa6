//! The raw archive.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Amount, S3, Template,
    schema::{
        DURATION, IS_DURATION, IS_QUANTITY, QUANTITY, duration_within, quantity_within,
        unchanged_or,
    },
};

/// The worker that writes raw records to an object store.
#[derive(KubeSchema, Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.bucket == oldSelf.bucket").message(
        "spec.archive.bucket can't be changed, since the archive's positions are its objects \
         there: create another pipeline with the new bucket; this one's objects stay when it is \
         deleted; if you set back the first bucket, remove spec.archive and add it again"
    ),
    validation = Rule::new(unchanged_or("prefix", "topics")).message(
        "spec.archive.prefix can't be changed, since the archive's positions are its objects \
         there: create another pipeline with the new prefix; this one's objects stay when it is \
         deleted; if you set back the first prefix, remove spec.archive and add it again"
    ),
    validation = Rule::new(unchanged_or("compression", "None")).message(
        "spec.archive.compression can't be changed, since it is part of the objects' names and \
         the archive's positions are those names: create another pipeline with the new \
         compression; this one's objects stay when it is deleted; if you set back the first \
         compression, remove spec.archive and add it again"
    )
)]
pub struct Archive {
    /// The bucket, created if it does not exist. Immutable.
    #[schemars(length(min = 3, max = 63))]
    #[x_kube(
        validation = Rule::new("self.matches('^[a-z0-9][a-z0-9.-]*[a-z0-9]$')").message(
            "archive.bucket must consist of lowercase letters, digits, '.' and '-', and begin and \
             end with a letter or digit"
        )
    )]
    pub bucket: String,

    /// The key prefix of the raw objects, without leading or trailing slash. Defaults to `topics`.
    /// Immutable.
    #[schemars(length(min = 1, max = 200))]
    #[x_kube(
        validation = Rule::new(
            "self.matches('^[A-Za-z0-9_][A-Za-z0-9._=-]*(/[A-Za-z0-9_][A-Za-z0-9._=-]*)*$')"
        )
        .message(
            "archive.prefix must be names of letters, digits, '.', '_', '=' and '-' separated by \
             single slashes, without a slash at either end"
        ),
        validation = Rule::new("self != 'runs' && !self.startsWith('runs/')").message(
            "archive.prefix can't be runs or below it, where batch runs keep their manifests and \
             reports; choose another prefix"
        )
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,

    /// How objects are compressed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<Compression>,

    /// When an object is closed: at the first limit reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotate: Option<Rotate>,

    /// The object store.
    pub s3: S3,

    /// Settings of the pod, laid over those of `spec.template`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<Template>,
}

/// How raw objects are compressed: `None` (default, `.json`), `Gzip` (`.json.gz`) or `Zstd`
/// (`.json.zst`). Immutable.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
pub enum Compression {
    /// Uncompressed, `.json`.
    #[default]
    None,
    /// gzip, `.json.gz`.
    Gzip,
    /// Zstandard, `.json.zst`.
    Zstd,
}

/// When an object is closed.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rotate {
    /// Size of the raw records before compression, such as `64Mi`. Defaults to 128Mi.
    #[schemars(schema_with = "crate::schema::quantity")]
    #[x_kube(
        validation = Rule::new(IS_QUANTITY).message(QUANTITY),
        validation = Rule::new(quantity_within("1Ki", "1Gi"))
            .message("rotate.size must be between 1Ki and 1Gi")
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Amount>,

    /// Number of records. Defaults to 100000.
    #[schemars(range(min = 1, max = 10_000_000))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub records: Option<i64>,

    /// Time since the object's first record arrived, such as `90s`, `5m` or `1h30m`. Defaults to
    /// 5m.
    #[schemars(length(min = 2, max = 16))]
    #[x_kube(
        validation = Rule::new(IS_DURATION).message(DURATION),
        validation = Rule::new(duration_within("1s", "24h"))
            .message("rotate.interval must be between 1s and 24h")
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<String>,
}
