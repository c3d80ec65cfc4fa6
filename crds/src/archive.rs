//! The raw archive.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{LagThresholds, PodSettings, Resources, S3, schema::unchanged_or};

/// The worker that writes raw records to an object store.
#[derive(KubeSchema, Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.bucket == oldSelf.bucket").message(
        "spec.archive.bucket can't be changed, since the archive's positions are its objects there: create another pipeline with the new \
         bucket; this one's objects stay when it is deleted"
    ),
    validation = Rule::new(unchanged_or("prefix", "topics")).message(
        "spec.archive.prefix can't be changed, since the archive's positions are its objects there: create another pipeline with the new \
         prefix; this one's objects stay when it is deleted"
    ),
    validation = Rule::new(unchanged_or("compression", "None")).message(
        "spec.archive.compression can't be changed, since an object's name tells how it is written and the archive's positions are \
         those names: create another pipeline with the new compression; this one's objects stay when it is deleted"
    )
)]
pub struct Archive {
    /// The bucket, created when absent. Can't be changed later.
    #[schemars(length(min = 3, max = 63))]
    #[x_kube(
        validation = Rule::new("self.matches('^[a-z0-9][a-z0-9.-]*[a-z0-9]$')").message(
            "archive.bucket must consist of lowercase letters, digits, '.' and '-', and begin and end with a letter or digit"
        )
    )]
    pub bucket: String,

    /// The key prefix of the raw objects, without a slash at either end; `topics` unless set. Can't
    /// be changed later.
    #[schemars(length(min = 1, max = 200))]
    #[x_kube(
        validation = Rule::new("self.matches('^[A-Za-z0-9_][A-Za-z0-9._=-]*(/[A-Za-z0-9_][A-Za-z0-9._=-]*)*$')").message(
            "archive.prefix must be names of letters, digits, '.', '_', '=' and '-' with single slashes between them, and none at either end"
        ),
        validation = Rule::new("self != 'runs' && !self.startsWith('runs/')")
            .message("archive.prefix can't be runs or below it, where batch runs keep their manifests and reports; choose another prefix")
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,

    /// How objects are compressed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<Compression>,

    /// When an object is closed: at the first limit that is reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotate: Option<Rotate>,

    /// What the condition `LagWithinThreshold` is held against. Records wait for up to
    /// `rotate.interval` here, so the lag goes up and down by what comes in within that time.
    /// Nothing is stopped or slowed by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thresholds: Option<LagThresholds>,

    /// The object store.
    pub s3: S3,

    /// What the pod asks for and may use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,

    /// Where the pods run, as whom, and what stands on them.
    #[serde(flatten)]
    pub pods: PodSettings,
}

/// How raw objects are compressed: not at all (`None`, unless set: `.json`), by gzip (`.json.gz`)
/// or Zstandard (`.json.zst`). Can't be changed later.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
pub enum Compression {
    /// Not at all: `.json`.
    #[default]
    None,
    /// By gzip: `.json.gz`.
    Gzip,
    /// By Zstandard: `.json.zst`.
    Zstd,
}

/// When an object is closed.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rotate {
    /// Bytes of raw records, before compression. 134217728 (128 MiB) unless set.
    #[schemars(range(min = 1024, max = 1_073_741_824))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<i64>,

    /// Records. 100000 unless set.
    #[schemars(range(min = 1, max = 10_000_000))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub records: Option<i64>,

    /// Time on the wall clock since the object's first record came: `90s`, `5m`, `1h30m`. 5m unless
    /// set.
    #[schemars(length(min = 2, max = 16))]
    #[x_kube(
        validation = Rule::new("self.matches('^([0-9]{1,5}h)?([0-9]{1,5}m)?([0-9]{1,5}s)?$')")
            .message("rotate.interval must be hours, minutes and seconds, such as 90s, 5m or 1h30m"),
        validation = Rule::new(
            "!self.matches('^([0-9]{1,5}h)?([0-9]{1,5}m)?([0-9]{1,5}s)?$') || \
             (duration(self) >= duration('1s') && duration(self) <= duration('24h'))"
        )
        .message("rotate.interval must be between 1s and 24h")
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<String>,
}
