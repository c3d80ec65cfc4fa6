//! The Secrets a resource refers to, and what validation is told about them.

use std::collections::{BTreeMap, BTreeSet};

use pinpipe_crds::PinterestPipelineSpec;

use super::{ingest, kafka, mounts::USER_KEYS, s3, template, tls, trust};
use crate::{
    model::{Mount, Policy, Secrets},
    mounts::ANY_KEY,
    ownership::Claim,
};

/// A key of a Secret as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretKey {
    /// The key exists.
    Present,
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
    /// Names of the Deployments and `CronJobs` that exist. A Secret that disappears changes none of
    /// them.
    pub deployed: BTreeSet<String>,
    /// Settings that can't be changed, as the pipeline was first deployed with them, by key.
    pub record: BTreeMap<String, String>,
    /// What the operator permits.
    pub policy: Policy,
    /// Claims of other pipelines.
    pub claims: Vec<Claim>,
    /// Namespace of the operator, from which it connects to pods.
    pub operator_namespace: String,
}

impl SecretKey {
    /// Sentence about a key that is missing, and about all of the mount if it has none. None: the
    /// key exists.
    #[must_use]
    pub fn missing(&self, mount: &Mount, key: &str) -> Option<String> {
        let secret = &mount.secret;
        match self {
            Self::Present => None,
            Self::NoKey if key == ANY_KEY => Some(format!("Secret {secret} has no key: add one")),
            Self::NoSecret if key == ANY_KEY => {
                Some(format!("Secret {secret} is missing: create it"))
            }
            Self::NoKey => Some(format!("Secret {secret} has no key {key}: add it")),
            Self::NoSecret => {
                let keys: Vec<&str> = mount.files.iter().map(|(key, _)| key.as_str()).collect();
                let (what, keys) = match keys.as_slice() {
                    [key] => ("key", (*key).to_owned()),
                    keys => ("keys", keys.join(" and ")),
                };
                Some(format!(
                    "Secret {secret} is missing: create it with the {what} {keys}"
                ))
            }
        }
    }
}

impl Inputs {
    /// Secrets of a child that mounts these.
    pub(super) fn secrets_of(&self, child: &str, mounts: Vec<Mount>) -> Secrets {
        let mut missing = Vec::new();
        for mount in &mounts {
            for key in mount.keys() {
                let found = self.secrets.get(&(mount.secret.clone(), key.to_owned()));
                let found = found.unwrap_or(&SecretKey::NoSecret);
                missing.extend(found.missing(mount, key));
            }
        }
        // A Secret that is missing lacks all its keys.
        missing.dedup();
        Secrets {
            mounts,
            missing,
            deployed: self.deployed.contains(child),
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
    refer_to(&kafka::mounts(&spec.broker.kafka), &mut refer);
    for found in template::all(spec) {
        let trusted = trust::mount(found.template);
        refer_to(trusted.as_slice(), &mut refer);
    }
    let sinks = spec.stream.iter().flat_map(|stream| &stream.sinks);
    let live = sinks.filter_map(|sink| sink.postgres.as_ref());
    let live = live.map(|postgres| (&postgres.url_secret_ref, &postgres.tls));
    let sinks = spec.batch.iter().flat_map(|batch| &batch.sinks);
    let loaded = sinks.filter_map(|sink| sink.postgres.as_ref());
    let loaded = loaded.map(|postgres| (&postgres.url_secret_ref, &postgres.tls));
    for (url, certificates) in live.chain(loaded) {
        refer(&url.name, &[&url.key]);
        refer_to(&tls::mounts(certificates, "postgres"), &mut refer);
    }
    if let Some(ingest) = &spec.ingest {
        refer_to(&ingest::mounts(ingest), &mut refer);
    }
    if let Some(archive) = &spec.archive {
        refer_to(&s3::mounts(&archive.s3), &mut refer);
    }
    let sinks = spec.batch.iter().flat_map(|batch| &batch.sinks);
    let cassandra = sinks.filter_map(|sink| sink.cassandra.as_ref());
    for cassandra in cassandra {
        if let Some(secret) = &cassandra.credentials_secret_ref {
            refer(&secret.name, &USER_KEYS);
        }
        if let Some(tls) = &cassandra.tls {
            refer_to(&tls::mounts(tls, "cassandra"), &mut refer);
        }
    }
    references
}

fn refer_to(mounts: &[Mount], refer: &mut impl FnMut(&str, &[&str])) {
    for mount in mounts {
        for key in mount.keys() {
            refer(&mount.secret, &[key]);
        }
    }
}
