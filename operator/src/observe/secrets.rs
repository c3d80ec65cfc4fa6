//! The Secrets a pipeline refers to: the only place that reads Secrets, one by one by name.
//!
//! Of each key is kept whether it is there, and of Kafka's Secrets the content, for the operator's
//! own clients.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use pinpipe_crds::PinterestPipelineSpec;
use pinpipe_plan::{
    model::Mount,
    validate::{ANY_KEY, SecretKey, kafka_for_operator, references},
};
use pinpipe_runtime::kafka::Access;

use crate::kafka::BrokerError;

/// What was found in the Secrets that a resource refers to.
#[derive(Debug)]
pub struct Found {
    /// State of each key, by name of the Secret and key.
    pub keys: BTreeMap<(String, String), SecretKey>,
    /// How to reach the Kafka cluster, with the content of its Secrets.
    pub kafka: Result<Access, BrokerError>,
}

/// Reads the Secrets that a resource refers to, each once.
pub async fn read(
    client: &Client,
    namespace: &str,
    spec: &PinterestPipelineSpec,
) -> kube::Result<Found> {
    let references = references(spec);
    let secrets = get(client, namespace, references.keys().cloned()).await?;
    let keys = references.into_iter().flat_map(|(name, keys)| {
        let secret = secrets.get(&name).and_then(Option::as_ref);
        let keys = keys.into_iter();
        keys.map(move |key| {
            let found = state(secret, &key);
            ((name.clone(), key), found)
        })
    });
    Ok(Found {
        keys: keys.collect(),
        kafka: access(spec, &secrets),
    })
}

/// How to reach a resource's Kafka cluster, by the Secrets for that alone.
pub async fn kafka(
    client: &Client,
    namespace: &str,
    spec: &PinterestPipelineSpec,
) -> kube::Result<Result<Access, BrokerError>> {
    let (_, mounts) = kafka_for_operator(spec);
    let names = mounts.into_iter().map(|mount| mount.secret);
    let secrets = get(client, namespace, names).await?;
    Ok(access(spec, &secrets))
}

/// Secrets by name; `None` if the namespace has no Secret of that name.
type Secrets = BTreeMap<String, Option<Secret>>;

async fn get(
    client: &Client,
    namespace: &str,
    names: impl Iterator<Item = String>,
) -> kube::Result<Secrets> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let mut found = Secrets::new();
    for name in names.collect::<BTreeSet<_>>() {
        let secret = api.get_opt(&name).await?;
        found.insert(name, secret);
    }
    Ok(found)
}

fn access(spec: &PinterestPipelineSpec, secrets: &Secrets) -> Result<Access, BrokerError> {
    let (config, mounts) = kafka_for_operator(spec);
    let mut found = BTreeMap::new();
    for mount in mounts {
        let secret = secrets.get(&mount.secret).and_then(Option::as_ref);
        for (key, file) in &mount.files {
            found.insert(mount.path(file), text(secret, &mount, key)?);
        }
    }
    // The workers read the same from the files that are mounted.
    let access = Access::from_files(&config, &|path| {
        let text = found.get(path).cloned();
        text.with_context(|| format!("{} isn't mounted", path.display()))
    });
    access.map_err(|error| BrokerError::Unusable(format!("{error:#}")))
}

/// The text of a Secret's key, without white space at its end, which editors often add.
fn text(secret: Option<&Secret>, mount: &Mount, key: &str) -> Result<String, BrokerError> {
    let found = state(secret, key);
    if let Some(missing) = found.missing(mount, key) {
        return Err(BrokerError::SecretMissing(missing));
    }
    let data = secret.and_then(|secret| secret.data.as_ref()?.get(key));
    let data = data.map(|data| data.0.as_slice()).unwrap_or_default();
    match str::from_utf8(data).map(str::trim_end) {
        Ok(text) if !text.is_empty() => Ok(text.to_owned()),
        _ => Err(BrokerError::Unusable(format!(
            "Secret {}, key {key} has no text: set it to a value",
            mount.secret
        ))),
    }
}

fn state(secret: Option<&Secret>, key: &str) -> SecretKey {
    let Some(secret) = secret else {
        return SecretKey::NoSecret;
    };
    let data = secret.data.as_ref();
    let is_there = |data: &BTreeMap<_, _>| match key {
        ANY_KEY => !data.is_empty(),
        key => data.contains_key(key),
    };
    if data.is_some_and(is_there) {
        SecretKey::Present
    } else {
        SecretKey::NoKey
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use http::{Request, Response};
    use k8s_openapi::ByteString;
    use kube::client::Body;
    use pinpipe_crds::PinterestPipeline;
    use pinpipe_plan::samples::{pipeline, whole};
    use serde_json::json;
    use tower::{BoxError, service_fn};

    use super::*;

    /// A client of an API server whose Secrets all have these keys, and the names of those it has
    /// read.
    fn client(keys: &[(&str, &str)]) -> (Client, Arc<Mutex<Vec<String>>>) {
        let data = keys.iter();
        let data = data.map(|(key, value)| ((*key).to_owned(), ByteString((*value).into())));
        let secret = Secret {
            data: Some(data.collect()),
            ..Secret::default()
        };
        let body = serde_json::to_vec(&secret).unwrap();
        let read = Arc::new(Mutex::new(Vec::new()));
        let names = read.clone();
        let service = service_fn(move |request: Request<Body>| {
            let name = request.uri().path().rsplit('/').next().map(str::to_owned);
            names.lock().unwrap().extend(name);
            let response = Response::new(Body::from(body.clone()));
            async move { Ok::<_, BoxError>(response) }
        });
        (Client::new(service, "data"), read)
    }

    #[tokio::test]
    async fn each_secret_is_read_once() {
        let mut spec = whole();
        spec["broker"] = json!({"kafka": {
            "bootstrapServers": "kafka:9093",
            "authentication": {"plain": {"credentialsSecretRef": {"name": "kafka-user"}}},
        }});
        let PinterestPipeline { spec, .. } = pipeline(spec);
        let keys = [
            "username",
            "password",
            "accessKeyId",
            "secretAccessKey",
            "uri",
        ];
        let (client, read) = client(&keys.map(|key| (key, "text\n")));
        let found = super::read(&client, "data", &spec).await.unwrap();
        let mut names = std::mem::take(&mut *read.lock().unwrap());
        names.sort();
        assert_eq!(names, ["cassandra", "kafka-user", "s3", "warehouse"]);
        let mut states = found.keys.values();
        assert!(states.all(|state| *state == SecretKey::Present));
        let user = found.kafka.unwrap().user.unwrap();
        assert_eq!((&*user.name, &*user.password), ("text", "text"));

        kafka(&client, "data", &spec).await.unwrap().unwrap();
        assert_eq!(*read.lock().unwrap(), ["kafka-user"]);
    }

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
        assert_eq!(state(Some(&secret), ANY_KEY), SecretKey::Present);
        assert_eq!(state(Some(&Secret::default()), ANY_KEY), SecretKey::NoKey);
        assert_eq!(state(None, ANY_KEY), SecretKey::NoSecret);
    }
}
