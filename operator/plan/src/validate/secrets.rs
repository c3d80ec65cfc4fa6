//! The Secrets a resource refers to, and what validation is told about them.

use std::collections::{BTreeMap, BTreeSet};

use pinpipe_crds::PinterestPipelineSpec;

use crate::{
    model::{Mount, Policy, Secrets},
    names,
    ownership::Claim,
};

/// Keys of an S3 Secret, which are also the names of the files a worker reads.
pub(super) const S3_KEYS: [&str; 2] = ["accessKeyId", "secretAccessKey"];
/// Keys of a Cassandra Secret, which are also the names of the files a worker reads.
pub(super) const CASSANDRA_KEYS: [&str; 2] = ["username", "password"];

/// A key of a Secret as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretKey {
    /// The key exists; the digest changes with its value.
    Digest(String),
    /// The Secret does not exist.
    NoSecret,
    /// The Secret exists without the key.
    NoKey,
}

/// Observations that validation needs besides the resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inputs {
    /// State of each key, by name of the Secret and key.
    pub secrets: BTreeMap<(String, String), SecretKey>,
    /// Digest of the Secrets that each child's pods were last made with, by name of the child. It
    /// keeps pods that run from being rolled when a Secret disappears.
    pub previous: BTreeMap<String, String>,
    /// Settings that can't be changed, as the pipeline was first deployed with them, by key.
    pub record: BTreeMap<String, String>,
    /// What the operator permits.
    pub policy: Policy,
    /// Claims of other pipelines.
    pub claims: Vec<Claim>,
}

impl Inputs {
    /// Secrets of a child that mounts these.
    pub(super) fn secrets_of(&self, child: &str, mounts: Vec<Mount>) -> Secrets {
        let (mut digest, mut missing) = (String::new(), Vec::new());
        let keys = mounts.iter().flat_map(|mount| {
            mount
                .files
                .iter()
                .map(move |(key, _)| (mount.secret.clone(), key.clone()))
        });
        for key in keys {
            match self.secrets.get(&key) {
                Some(SecretKey::Digest(one)) => digest.push_str(one),
                Some(SecretKey::NoKey) => {
                    missing.push(format!("Secret {} has no key {}: add it", key.0, key.1));
                }
                Some(SecretKey::NoSecret) | None => missing.push(format!(
                    "Secret {} is missing: create it with the key {}",
                    key.0, key.1
                )),
            }
        }
        let digest = if missing.is_empty() {
            Some(names::hash(&digest))
        } else {
            self.previous.get(child).cloned()
        };
        Secrets {
            mounts,
            digest,
            missing,
        }
    }
}

/// Keys that a resource refers to, by name of the Secret.
#[must_use]
pub fn references(spec: &PinterestPipelineSpec) -> BTreeMap<String, BTreeSet<String>> {
    let mut references: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut refer = |secret: &str, keys: &[&str]| {
        let keys = keys.iter().map(|key| (*key).to_owned());
        references
            .entry(secret.to_owned())
            .or_default()
            .extend(keys);
    };
    let sinks = spec.stream.iter().flat_map(|stream| &stream.sinks);
    let live = sinks.filter_map(|sink| Some(&sink.postgres.as_ref()?.url_secret_ref));
    let sinks = spec.batch.iter().flat_map(|batch| &batch.sinks);
    let loaded = sinks.filter_map(|sink| Some(&sink.postgres.as_ref()?.url_secret_ref));
    for url in live.chain(loaded) {
        refer(&url.name, &[&url.key]);
    }
    if let Some(archive) = &spec.archive {
        refer(&archive.s3.credentials_secret_ref.name, &S3_KEYS);
    }
    let sinks = spec.batch.iter().flat_map(|batch| &batch.sinks);
    let cassandra = sinks.filter_map(|sink| sink.cassandra.as_ref());
    for secret in cassandra.filter_map(|cassandra| cassandra.credentials_secret_ref.as_ref()) {
        refer(&secret.name, &CASSANDRA_KEYS);
    }
    references
}
