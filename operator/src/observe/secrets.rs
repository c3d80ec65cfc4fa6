//! The Secrets a pipeline refers to: the only place that reads Secrets, one by one by name.
//!
//! Only a digest of each key is kept, and of Kafka's Secrets the content, for the operator's own
//! clients. The digest is keyed with the Secret's UID, a random number, so that a pod's annotation
//! can contain it without revealing a short password.

use std::collections::BTreeMap;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use pinpipe_crds::{self as crds, PinterestPipelineSpec};
use pinpipe_plan::{
    names::hex,
    validate::{SecretKey, kafka_config, kafka_mounts, references},
};
use pinpipe_runtime::kafka::Access;
use sha2::{Digest as _, Sha256};

use crate::kafka::BrokerError;

/// Reads the Secrets a resource refers to.
pub async fn read(
    client: &Client,
    namespace: &str,
    spec: &PinterestPipelineSpec,
) -> kube::Result<BTreeMap<(String, String), SecretKey>> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let mut found = BTreeMap::new();
    for (name, keys) in references(spec) {
        let secret = api.get_opt(&name).await?;
        found.extend(keys.into_iter().map(|key| {
            let digest = digest(secret.as_ref(), &key);
            ((name.clone(), key), digest)
        }));
    }
    Ok(found)
}

/// How to reach a Kafka cluster, with the content of its Secrets.
pub async fn kafka(
    client: &Client,
    namespace: &str,
    kafka: &crds::Kafka,
) -> kube::Result<Result<Access, BrokerError>> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let mut found = BTreeMap::new();
    for mount in kafka_mounts(kafka) {
        let secret = api.get_opt(&mount.secret).await?;
        for (key, file) in &mount.files {
            match text(secret.as_ref(), &mount.secret, key) {
                Ok(text) => found.insert(mount.path(file), text),
                Err(error) => return Ok(Err(error)),
            };
        }
    }
    // The workers read the same from the files that are mounted.
    let access = Access::from_files(&kafka_config(kafka), &|path| {
        let text = found.get(path).cloned();
        text.with_context(|| format!("{} isn't mounted", path.display()))
    });
    Ok(access.map_err(|error| BrokerError::Unusable(format!("{error:#}"))))
}

/// The text of a Secret's key, without white space at its end, which editors often add.
fn text(secret: Option<&Secret>, name: &str, key: &str) -> Result<String, BrokerError> {
    let found = digest(secret, key);
    if let Some(missing) = found.missing(name, key) {
        return Err(BrokerError::SecretMissing(missing));
    }
    let data = secret.and_then(|secret| secret.data.as_ref()?.get(key));
    let data = data.map(|data| data.0.as_slice()).unwrap_or_default();
    match str::from_utf8(data).map(str::trim_end) {
        Ok(text) if !text.is_empty() => Ok(text.to_owned()),
        _ => Err(BrokerError::Unusable(format!(
            "Secret {name}, key {key} has no text: set it to a value"
        ))),
    }
}

fn digest(secret: Option<&Secret>, key: &str) -> SecretKey {
    let Some(secret) = secret else {
        return SecretKey::NoSecret;
    };
    let Some(value) = secret.data.as_ref().and_then(|data| data.get(key)) else {
        return SecretKey::NoKey;
    };
    let mut hash = Sha256::new();
    // Every UID has the same length, so UID and value can't be confused.
    hash.update(secret.metadata.uid.as_deref().unwrap_or_default());
    hash.update(&value.0);
    SecretKey::Digest(hex(&hash.finalize()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::ByteString;

    use super::*;

    fn secret(uid: &str, value: &str) -> Secret {
        let data = BTreeMap::from([("url".into(), ByteString(value.into()))]);
        let mut secret = Secret {
            data: Some(data),
            ..Secret::default()
        };
        secret.metadata.uid = Some(uid.into());
        secret
    }

    #[test]
    fn a_digest_changes_with_the_value_and_tells_what_is_missing() {
        let one = digest(Some(&secret("u", "a")), "url");
        assert_eq!(one, digest(Some(&secret("u", "a")), "url"));
        assert_ne!(one, digest(Some(&secret("u", "b")), "url"));
        assert_ne!(one, digest(Some(&secret("v", "a")), "url"));
        assert_eq!(digest(Some(&secret("u", "a")), "uri"), SecretKey::NoKey);
        assert_eq!(digest(None, "url"), SecretKey::NoSecret);
    }
}
