//! The operator's record of topics: which pipeline each belongs to, and who created it.
//!
//! The entries of a Kafka cluster are in `ConfigMaps` in the operator's namespace, one key per
//! topic. While this process holds the Lease it is the only writer, so what was read once is not
//! read again; `resourceVersion` and a check of the entries catch any other writer.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex as BlockingMutex, PoisonError},
};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use pinpipe_lease::Proof;
use pinpipe_plan::{
    names::{self, COMPONENT_LABEL, MANAGER, NAME_LABEL},
    ownership::{Entries, Entry},
};
use serde_json::json;
use tokio::sync::Mutex;

use crate::{
    error::{Error, Trying as _},
    metrics::Metrics,
};

/// Annotation of each `ConfigMap`: id of the Kafka cluster.
const CLUSTER_ANNOTATION: &str = "pinpipe.dev/kafka-cluster-id";
/// Attempts of a write that meets another one.
const ATTEMPTS: usize = 5;

/// Desired entries by topic name; None deletes one.
pub type Changes = BTreeMap<String, Option<Entry>>;

/// Result of a write that sent no error.
#[derive(Debug, PartialEq, Eq)]
pub enum Written {
    /// The entries are as desired.
    Done,
    /// Some entry isn't as the caller knew it, so nothing of its `ConfigMap` was written.
    Changed,
    /// The API server refuses the entries with this sentence, for instance because the `ConfigMap`
    /// is full.
    Refused(String),
}

/// The record, and what was read of it.
pub struct Records {
    api: Api<ConfigMap>,
    lease: Option<Proof>,
    metrics: Metrics,
    /// `ConfigMaps` by name.
    shards: BlockingMutex<HashMap<String, Arc<Mutex<Shard>>>>,
}

/// Contents of a `ConfigMap`. None: not read yet.
type Shard = Option<Contents>;

#[derive(Default)]
struct Contents {
    /// None: it doesn't exist.
    version: Option<String>,
    entries: Entries,
}

impl Records {
    /// The record in this namespace.
    #[must_use]
    pub fn new(client: Client, namespace: &str, lease: Option<Proof>, metrics: Metrics) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            lease,
            metrics,
            shards: BlockingMutex::default(),
        }
    }

    /// Entries of these topics of a cluster.
    pub async fn read(&self, cluster: &str, topics: &[String]) -> Result<Entries, Error> {
        let mut found = Entries::new();
        for topic in topics {
            let name = config_map(cluster, topic);
            let shard = self.shard(&name);
            let mut shard = shard.lock().await;
            let contents = self.loaded(&name, &mut shard).await?;
            if let Some(entry) = contents.entries.get(topic) {
                found.insert(topic.clone(), entry.clone());
            }
        }
        Ok(found)
    }

    /// Writes entries of a cluster, which must be `known` as they were before.
    pub async fn write(
        &self,
        cluster: &str,
        known: &Entries,
        changes: &Changes,
    ) -> Result<Written, Error> {
        let mut by_config_map: BTreeMap<String, Changes> = BTreeMap::new();
        for (topic, entry) in changes {
            let changes = by_config_map.entry(config_map(cluster, topic)).or_default();
            changes.insert(topic.clone(), entry.clone());
        }
        for (name, changes) in by_config_map {
            let shard = self.shard(&name);
            let mut shard = shard.lock().await;
            match self
                .write_one(cluster, &name, &mut shard, known, &changes)
                .await?
            {
                Written::Done => {}
                problem => return Ok(problem),
            }
        }
        Ok(Written::Done)
    }

    async fn write_one(
        &self,
        cluster: &str,
        name: &str,
        shard: &mut Shard,
        known: &Entries,
        changes: &Changes,
    ) -> Result<Written, Error> {
        let mut attempts = 1;
        loop {
            let contents = self.loaded(name, shard).await?;
            let is_known = |topic: &String| contents.entries.get(topic) == known.get(topic);
            if !changes.keys().all(is_known) {
                return Ok(Written::Changed);
            }
            let is_desired = |(topic, entry): (&String, &Option<Entry>)| {
                contents.entries.get(topic) == entry.as_ref()
            };
            if changes.iter().all(is_desired) {
                return Ok(Written::Done);
            }
            match self
                .send(cluster, name, contents.version.as_deref(), changes)
                .await
            {
                Ok(version) => {
                    contents.version = version;
                    for (topic, entry) in changes {
                        match entry {
                            Some(entry) => contents.entries.insert(topic.clone(), entry.clone()),
                            None => contents.entries.remove(topic),
                        };
                    }
                    return Ok(Written::Done);
                }
                // Another writer was faster.
                Err(Error::Api { source, .. })
                    if has_code(&source, &[404, 409]) && attempts < ATTEMPTS =>
                {
                    attempts += 1;
                    *shard = None;
                }
                Err(error) => {
                    if let Some(refusal) = refusal(&error) {
                        return Ok(Written::Refused(refusal));
                    }
                    // It may have been written all the same.
                    *shard = None;
                    return Err(error);
                }
            }
        }
    }

    /// Writes a `ConfigMap` of this version. Returns its new version.
    async fn send(
        &self,
        cluster: &str,
        name: &str,
        version: Option<&str>,
        changes: &Changes,
    ) -> Result<Option<String>, Error> {
        if let Some(lease) = &self.lease {
            lease.check()?;
        }
        let texts = changes.iter().map(|(topic, entry)| {
            // An entry has no map with other keys than text, so it always serialises.
            let text = |entry: &Entry| serde_json::to_string(entry).unwrap_or_default();
            (topic.clone(), entry.as_ref().map(text))
        });
        let texts: BTreeMap<String, Option<String>> = texts.collect();
        let (verb, metadata) = if let Some(version) = version {
            let patch = json!({"metadata": {"resourceVersion": version}, "data": texts});
            let patch = Patch::Merge(patch);
            let params = PatchParams {
                field_manager: Some(MANAGER.to_owned()),
                ..PatchParams::default()
            };
            // The metadata alone is returned: the ConfigMap may have a MiB.
            let patched = self.api.patch_metadata(name, &params, &patch);
            let patched = patched.await.trying("writing the record of topics")?;
            ("patch", patched.metadata)
        } else {
            let (key, value) = NAME_LABEL;
            let config_map = json!({
                "metadata": {
                    "name": name,
                    "labels": {key: value, COMPONENT_LABEL: "topics"},
                    "annotations": {CLUSTER_ANNOTATION: cluster},
                },
                "data": texts.into_iter().filter_map(|(topic, text)| Some((topic, text?)))
                    .collect::<BTreeMap<_, _>>(),
            });
            let config_map = serde_json::from_value(config_map)
                .map_err(kube::Error::SerdeError)
                .trying("making the record of topics")?;
            let params = PostParams {
                field_manager: Some(MANAGER.to_owned()),
                ..PostParams::default()
            };
            let created = self.api.create(&params, &config_map).await;
            (
                "create",
                created.trying("writing the record of topics")?.metadata,
            )
        };
        self.metrics.wrote(verb, "configmaps");
        Ok(metadata.resource_version)
    }

    fn shard(&self, name: &str) -> Arc<Mutex<Shard>> {
        let mut shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(shards.entry(name.to_owned()).or_default())
    }

    async fn loaded<'a>(
        &self,
        name: &str,
        shard: &'a mut Shard,
    ) -> Result<&'a mut Contents, Error> {
        if shard.is_none() {
            let found = self.api.get_opt(name).await;
            let found = found.trying("reading the record of topics")?;
            *shard = Some(found.map(contents).unwrap_or_default());
        }
        Ok(shard.get_or_insert_default())
    }
}

/// Entries that can't be read are left out: their topics count as unknown.
fn contents(config_map: ConfigMap) -> Contents {
    let data = config_map.data.into_iter().flatten();
    let entries = data.filter_map(|(topic, text)| match serde_json::from_str(&text) {
        Ok(entry) => Some((topic, entry)),
        Err(error) => {
            tracing::error!(topic, %error, "an entry of the record of topics can't be read");
            None
        }
    });
    Contents {
        entries: entries.collect(),
        version: config_map.metadata.resource_version,
    }
}

/// The API server's sentence about a write that it refuses.
fn refusal(error: &Error) -> Option<String> {
    let Error::Api { source, .. } = error else {
        return None;
    };
    let kube::Error::Api(status) = source.as_ref() else {
        return None;
    };
    matches!(status.code, 403 | 413 | 422).then(|| status.message.clone())
}

fn has_code(error: &kube::Error, codes: &[u16]) -> bool {
    matches!(error, kube::Error::Api(status) if codes.contains(&status.code))
}

/// Name of the `ConfigMap` with a topic's entry, one of 16 of its cluster. An entry takes about
/// 200 bytes and a `ConfigMap` holds a MiB, which together is enough for some ten thousand
/// pipelines. The topics of one pipeline with default names share a `ConfigMap`.
fn config_map(cluster: &str, topic: &str) -> String {
    let records = topic.strip_suffix(".dlq").unwrap_or(topic);
    let (pipeline, _) = records.rsplit_once('.').unwrap_or((records, ""));
    let (cluster, shard) = (names::hash(cluster), names::hash(pipeline));
    format!("pinpipe-topics-{}-{}", &cluster[..16], &shard[..1])
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http::{Request, Response};
    use kube::client::Body;
    use pinpipe_crds::Created;
    use prometheus_client::registry::Registry;
    use serde_json::Value;
    use tower::{BoxError, service_fn};

    use super::*;

    const TOPIC: &str = "data.pinterest.pin";

    fn entry(id: Option<&str>) -> Entry {
        Entry {
            pipeline: "data/pinterest".to_owned(),
            uid: "u".to_owned(),
            created: Created::Operator,
            id: id.map(ToOwned::to_owned),
        }
    }

    /// A `ConfigMap` on an API server that counts requests and compares versions.
    #[derive(Default)]
    struct Server {
        requests: AtomicUsize,
        stored: BlockingMutex<Option<Value>>,
    }

    impl Server {
        async fn answer(self: Arc<Self>, request: Request<Body>) -> Response<Body> {
            self.requests.fetch_add(1, Ordering::Relaxed);
            let method = request.method().as_str().to_owned();
            let body = request.into_body().collect_bytes().await.unwrap();
            let mut stored = self.stored.lock().unwrap();
            let failure = |code: u16| {
                let reason = if code == 404 { "NotFound" } else { "Conflict" };
                let status = json!({"kind": "Status", "status": "Failure", "code": code,
                    "reason": reason, "message": "m"});
                (code, status)
            };
            let (code, answer) = match (method.as_str(), stored.clone()) {
                ("GET", Some(found)) => (200, found),
                ("POST", None) => {
                    let mut new: Value = serde_json::from_slice(&body).unwrap();
                    new["metadata"]["resourceVersion"] = json!("1");
                    *stored = Some(new.clone());
                    (201, new)
                }
                ("PATCH", Some(mut found)) => {
                    let patch: Value = serde_json::from_slice(&body).unwrap();
                    let version = found["metadata"]["resourceVersion"].as_str().unwrap();
                    if patch["metadata"]["resourceVersion"] == version {
                        let next = version.parse::<u32>().unwrap() + 1;
                        found["metadata"]["resourceVersion"] = json!(next.to_string());
                        for (topic, entry) in patch["data"].as_object().unwrap() {
                            found["data"][topic] = entry.clone();
                        }
                        *stored = Some(found.clone());
                        (200, found)
                    } else {
                        failure(409)
                    }
                }
                ("GET" | "PATCH", None) => failure(404),
                (_, _) => failure(409),
            };
            let body = Body::from(serde_json::to_vec(&answer).unwrap());
            Response::builder().status(code).body(body).unwrap()
        }

        fn records(self: &Arc<Self>) -> Records {
            let server = Arc::clone(self);
            let service = service_fn(move |request: Request<Body>| {
                let server = Arc::clone(&server);
                async move { Ok::<_, BoxError>(server.answer(request).await) }
            });
            let metrics = Metrics::register(&mut Registry::default());
            Records::new(Client::new(service, "system"), "system", None, metrics)
        }
    }

    fn change(entry: Option<Entry>) -> Changes {
        Changes::from([(TOPIC.to_owned(), entry)])
    }

    fn known(entry: Entry) -> Entries {
        Entries::from([(TOPIC.to_owned(), entry)])
    }

    #[tokio::test]
    async fn entries_are_read_once_and_written_when_they_differ() {
        let server = Arc::new(Server::default());
        let records = server.records();
        let topics = [TOPIC.to_owned(), format!("{TOPIC}.dlq")];
        assert_eq!(records.read("c", &topics).await.unwrap(), Entries::new());
        let intent = change(Some(entry(None)));
        let done = records.write("c", &Entries::new(), &intent).await.unwrap();
        assert_eq!(done, Written::Done);
        let settled = change(Some(entry(Some("i"))));
        let before = known(entry(None));
        assert_eq!(
            records.write("c", &before, &settled).await.unwrap(),
            Written::Done
        );
        let requests = server.requests.load(Ordering::Relaxed);
        assert_eq!(requests, 3, "a read, a creation, a patch");
        let found = known(entry(Some("i")));
        assert_eq!(records.read("c", &topics).await.unwrap(), found);
        assert_eq!(
            records.write("c", &found, &settled).await.unwrap(),
            Written::Done
        );
        assert_eq!(
            server.requests.load(Ordering::Relaxed),
            requests,
            "nothing is sent"
        );

        let restarted = server.records();
        assert_eq!(restarted.read("c", &topics).await.unwrap(), found);
        let removed = change(None);
        assert_eq!(
            restarted.write("c", &found, &removed).await.unwrap(),
            Written::Done
        );
        assert_eq!(restarted.read("c", &topics).await.unwrap(), Entries::new());
    }

    #[tokio::test]
    async fn of_two_writers_one_makes_the_entry_and_the_other_learns_of_it() {
        let server = Arc::new(Server::default());
        let (one, other) = (server.records(), server.records());
        let topics = [TOPIC.to_owned()];
        for records in [&one, &other] {
            assert_eq!(records.read("c", &topics).await.unwrap(), Entries::new());
        }
        let mine = change(Some(entry(None)));
        assert_eq!(
            one.write("c", &Entries::new(), &mine).await.unwrap(),
            Written::Done
        );
        let stranger = Entry {
            pipeline: "other/pinterest".to_owned(),
            ..entry(None)
        };
        let theirs = change(Some(stranger));
        assert_eq!(
            other.write("c", &Entries::new(), &theirs).await.unwrap(),
            Written::Changed
        );
        assert_eq!(other.read("c", &topics).await.unwrap(), known(entry(None)));
    }

    #[test]
    fn topics_with_default_names_share_a_config_map_and_clusters_do_not() {
        let all = ["pin", "geo", "user"].map(|kind| config_map("c", &format!("data.p.{kind}")));
        assert!(all.iter().all(|name| *name == all[0]), "{all:?}");
        assert_eq!(config_map("c", "data.p.pin.dlq"), all[0]);
        assert_ne!(config_map("d", "data.p.pin"), all[0]);
        assert!(all[0].len() <= 63 && !all[0].contains(char::is_uppercase));
    }
}
