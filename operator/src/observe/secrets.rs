//! Phase 1: reads what a resource names. The only place that reads Secrets, and it gets just those,
//! one by one. What other pipelines claim is known from the watch.
//!
//! Of a Secret nothing is kept but a digest of each key referred to. The digest is keyed with the
//! Secret's UID, a random number known only to who may read the Secret, so it can stand in a pod's
//! annotation without giving short passwords away.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use pinpipe_crds::PinterestPipelineSpec;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::{build::hex, claims::Claim};

/// The keys of an S3 Secret, which are also the names of the files a worker reads.
pub const S3_KEYS: [&str; 2] = ["accessKeyId", "secretAccessKey"];
/// The keys of a Cassandra Secret, which are also the names of the files a worker reads.
pub const CASSANDRA_KEYS: [&str; 2] = ["username", "password"];

/// A key of a Secret as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretKey {
    /// It is there; this tells a changed value from the same.
    Digest(String),
    /// The Secret isn't there.
    NoSecret,
    /// The Secret is there, the key isn't.
    NoKey,
}

/// What was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dereferenced {
    /// Secret name and key → what was found.
    pub secrets: BTreeMap<(String, String), SecretKey>,
    /// Child → the digest of Secrets its pods were last made with, so that a Secret that is gone
    /// doesn't roll pods that run.
    pub previous: BTreeMap<String, String>,
    /// What other pipelines claim.
    pub claims: Vec<Claim>,
}

/// Which keys of which Secrets a resource refers to.
#[must_use]
pub fn references(spec: &PinterestPipelineSpec) -> BTreeMap<String, BTreeSet<String>> {
    let mut references: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut refer = |name: &str, keys: &[&str]| {
        references
            .entry(name.to_owned())
            .or_default()
            .extend(keys.iter().map(|key| (*key).to_owned()));
    };
    for postgres in spec
        .stream
        .iter()
        .flat_map(|s| &s.sinks)
        .filter_map(|sink| sink.postgres.as_ref())
    {
        refer(
            &postgres.url_secret_ref.name,
            &[&postgres.url_secret_ref.key],
        );
    }
    if let Some(archive) = &spec.archive {
        refer(&archive.s3.credentials_secret_ref.name, &S3_KEYS);
    }
    for cassandra in spec
        .batch
        .iter()
        .flat_map(|b| &b.sinks)
        .filter_map(|sink| sink.cassandra.as_ref())
    {
        if let Some(secret) = &cassandra.credentials_secret_ref {
            refer(&secret.name, &CASSANDRA_KEYS);
        }
    }
    references
}

/// Gets the Secrets a resource refers to.
pub async fn secrets(
    client: &Client,
    namespace: &str,
    spec: &PinterestPipelineSpec,
) -> kube::Result<BTreeMap<(String, String), SecretKey>> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let mut found = BTreeMap::new();
    for (name, keys) in references(spec) {
        let secret = api.get_opt(&name).await?;
        found.extend(
            keys.into_iter()
                .map(|key| ((name.clone(), key.clone()), digest(secret.as_ref(), &key))),
        );
    }
    Ok(found)
}

fn digest(secret: Option<&Secret>, key: &str) -> SecretKey {
    let Some(secret) = secret else {
        return SecretKey::NoSecret;
    };
    let Some(value) = secret.data.as_ref().and_then(|data| data.get(key)) else {
        return SecretKey::NoKey;
    };
    let mut hash = Sha256::new();
    // The UID has one length, so what is hashed can be read in one way only.
    hash.update(secret.metadata.uid.as_deref().unwrap_or_default());
    hash.update(&value.0);
    SecretKey::Digest(hex(&hash.finalize()))
}

/// The digests of Secrets that live Deployments' and `CronJob`s' pods were made with, by name.
#[must_use]
pub fn previous<'a>(objects: impl IntoIterator<Item = &'a Value>) -> BTreeMap<String, String> {
    objects
        .into_iter()
        .filter_map(|object| {
            let spec = &object["spec"];
            let template = if spec["jobTemplate"].is_object() {
                &spec["jobTemplate"]["spec"]["template"]
            } else {
                &spec["template"]
            };
            let digest =
                template["metadata"]["annotations"][crate::build::SECRETS_ANNOTATION].as_str()?;
            Some((
                object["metadata"]["name"].as_str()?.to_owned(),
                digest.to_owned(),
            ))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::ByteString;

    use super::*;

    fn secret(uid: &str, value: &str) -> Secret {
        let mut secret = Secret {
            data: Some(BTreeMap::from([("url".into(), ByteString(value.into()))])),
            ..Secret::default()
        };
        secret.metadata.uid = Some(uid.into());
        secret
    }

    #[test]
    fn a_digest_changes_with_the_value_and_says_what_is_missing() {
        let one = digest(Some(&secret("u", "a")), "url");
        assert_eq!(one, digest(Some(&secret("u", "a")), "url"));
        assert_ne!(one, digest(Some(&secret("u", "b")), "url"));
        assert_ne!(one, digest(Some(&secret("v", "a")), "url"));
        assert_eq!(digest(Some(&secret("u", "a")), "uri"), SecretKey::NoKey);
        assert_eq!(digest(None, "url"), SecretKey::NoSecret);
    }
}
