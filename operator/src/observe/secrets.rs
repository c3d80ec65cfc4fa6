//! The Secrets a pipeline refers to: the only place that reads Secrets, one by one by name.
//!
//! Of each key is kept whether it is there, and of Kafka's Secrets the content, for the operator's
//! own clients.

use std::collections::BTreeMap;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use pinpipe_crds::PinterestPipelineSpec;
use pinpipe_plan::validate::{SecretKey, kafka_for_operator, references};
use pinpipe_runtime::kafka::Access;

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
            let found = state(secret.as_ref(), &key);
            ((name.clone(), key), found)
        }));
    }
    Ok(found)
}

/// How to reach a resource's Kafka cluster, with the content of its Secrets.
pub async fn kafka(
    client: &Client,
    namespace: &str,
    spec: &PinterestPipelineSpec,
) -> kube::Result<Result<Access, BrokerError>> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let mut found = BTreeMap::new();
    let (config, mounts) = kafka_for_operator(spec);
    for mount in mounts {
        let secret = api.get_opt(&mount.secret).await?;
        for (key, file) in &mount.files {
            match text(secret.as_ref(), &mount.secret, key) {
                Ok(text) => found.insert(mount.path(file), text),
                Err(error) => return Ok(Err(error)),
            };
        }
    }
    // The workers read the same from the files that are mounted.
    let access = Access::from_files(&config, &|path| {
        let text = found.get(path).cloned();
        text.with_context(|| format!("{} isn't mounted", path.display()))
    });
    Ok(access.map_err(|error| BrokerError::Unusable(format!("{error:#}"))))
}

/// The text of a Secret's key, without white space at its end, which editors often add.
fn text(secret: Option<&Secret>, name: &str, key: &str) -> Result<String, BrokerError> {
    let found = state(secret, key);
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

fn state(secret: Option<&Secret>, key: &str) -> SecretKey {
    let Some(secret) = secret else {
        return SecretKey::NoSecret;
    };
    let data = secret.data.as_ref();
    if data.is_some_and(|data| data.contains_key(key)) {
        SecretKey::Present
    } else {
        SecretKey::NoKey
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::ByteString;

    use super::*;

    #[test]
    fn a_missing_secret_differs_from_a_missing_key() {
        let data = BTreeMap::from([("url".into(), ByteString(b"postgresql://".into()))]);
        let secret = Secret {
            data: Some(data),
            ..Secret::default()
        };
        assert_eq!(state(Some(&secret), "url"), SecretKey::Present);
        assert_eq!(state(Some(&secret), "uri"), SecretKey::NoKey);
        assert_eq!(state(Some(&Secret::default()), "url"), SecretKey::NoKey);
        assert_eq!(state(None, "url"), SecretKey::NoSecret);
    }
}
