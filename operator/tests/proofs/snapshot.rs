//! Snapshots of the objects of a namespace and of its topics, without identities and times, so that
//! those of different pipelines can be compared.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use anyhow::{Result, anyhow, bail};
use k8s_openapi::api::batch::v1::Job;
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, ListParams},
};
use pinpipe_crds::PinterestPipeline;
use pinpipe_operator::observe::children;
use pinpipe_plan::names::{APPLIED_ANNOTATION, MANAGER, TEMPLATE_ANNOTATION, hash};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, ConfigSource, OwnedResourceSpecifier, ResourceSpecifier},
    client::DefaultClientContext,
};
use serde_json::{Value, json};

/// How long the broker may take to answer.
const TIMEOUT: Duration = Duration::from_secs(20);
/// The fields that the API server assigns, including the addresses of Services.
const ASSIGNED: [&str; 7] = [
    "/metadata/uid",
    "/metadata/resourceVersion",
    "/metadata/creationTimestamp",
    "/metadata/deletionTimestamp",
    "/spec/clusterIP",
    "/spec/clusterIPs",
    "/metadata/selfLink",
];

/// Objects by kind and name, and topics by name.
pub type Snapshot = BTreeMap<String, Value>;

/// Takes snapshots.
#[derive(Clone)]
pub struct Snapshots {
    client: Client,
    kafka: std::sync::Arc<AdminClient<DefaultClientContext>>,
}

impl Snapshots {
    pub fn new(client: Client, kafka: &str) -> Result<Self> {
        let kafka = ClientConfig::new()
            .set("bootstrap.servers", kafka)
            .create()?;
        Ok(Self {
            client,
            kafka: std::sync::Arc::new(kafka),
        })
    }

    /// The pipelines of a namespace, the objects created for them, and the topics that begin with
    /// the name of the namespace.
    pub async fn take(&self, namespace: &str) -> Result<Snapshot> {
        let objects = self.objects(namespace).await?;
        let mut snapshot = comparable(namespace, objects);
        for (name, topic) in self.topics(&format!("{namespace}.")).await? {
            snapshot.insert(
                format!("Topic {}", name.replacen(namespace, "NS", 1)),
                topic,
            );
        }
        Ok(snapshot)
    }

    /// The pipelines of a namespace and the objects created for them.
    pub async fn objects(&self, namespace: &str) -> Result<Vec<Value>> {
        let mut objects = Vec::new();
        let more = [
            ApiResource::erase::<Job>(&()),
            ApiResource::erase::<PinterestPipeline>(&()),
        ];
        for resource in children::kinds().into_iter().chain(more) {
            let api: Api<DynamicObject> =
                Api::namespaced_with(self.client.clone(), namespace, &resource);
            for object in api.list(&ListParams::default()).await? {
                let mut object = serde_json::to_value(&object)?;
                // The items of a list lack these.
                object["apiVersion"] = json!(resource.api_version);
                object["kind"] = json!(resource.kind);
                // Created by the API server in every namespace.
                let name = object["metadata"]["name"].as_str().unwrap_or_default();
                if !matches!(name, "default" | "kube-root-ca.crt") {
                    objects.push(object);
                }
            }
        }
        Ok(objects)
    }

    /// The topics with this prefix: partitions, and settings other than defaults.
    pub async fn topics(&self, prefix: &str) -> Result<BTreeMap<String, Value>> {
        let (kafka, prefix) = (self.kafka.clone(), prefix.to_owned());
        let found = tokio::task::spawn_blocking(move || {
            let metadata = kafka.inner().fetch_metadata(None, TIMEOUT)?;
            let topics = metadata
                .topics()
                .iter()
                .filter(|topic| topic.name().starts_with(&prefix));
            let found = topics.map(|topic| (topic.name().to_owned(), topic.partitions().len()));
            Ok::<BTreeMap<_, _>, rdkafka::error::KafkaError>(found.collect())
        })
        .await??;
        if found.is_empty() {
            return Ok(BTreeMap::new());
        }
        let resources: Vec<_> = found
            .keys()
            .map(|name| ResourceSpecifier::Topic(name))
            .collect();
        let options = AdminOptions::new().request_timeout(Some(TIMEOUT));
        let mut topics = BTreeMap::new();
        for described in self.kafka.describe_configs(&resources, &options).await? {
            let Ok(described) = described else { continue };
            let OwnedResourceSpecifier::Topic(name) = &described.specifier else {
                continue;
            };
            let own = described
                .entries
                .iter()
                .filter(|entry| entry.source == ConfigSource::DynamicTopic);
            let config: BTreeMap<_, _> = own
                .map(|entry| (entry.name.clone(), entry.value.clone()))
                .collect();
            topics.insert(
                name.clone(),
                json!({"partitions": found.get(name), "config": config}),
            );
        }
        Ok(topics)
    }
}

/// A snapshot in which UIDs, hashes, the namespace and the broker's address are replaced by names
/// that are the same for equal content.
pub fn comparable(namespace: &str, objects: Vec<Value>) -> Snapshot {
    let mut names: Vec<(String, String)> = Vec::new();
    for object in &objects {
        let (kind, metadata) = (
            object["kind"].as_str().unwrap_or_default(),
            &object["metadata"],
        );
        if let Some(broker) = object["spec"]["broker"]["kafka"]["bootstrapServers"].as_str() {
            // Each operator has a proxy of its own to the broker.
            names.push((broker.to_owned(), "BROKER".to_owned()));
            let settings = &object["spec"]["broker"]["kafka"]["settings"];
            let mut kafka = json!({"bootstrapServers": broker});
            if settings.is_object() {
                kafka["settings"] = settings.clone();
            }
            let settings = hash(&settings.to_string());
            names.push((hash(&kafka.to_string()), format!("BROKER with {settings}")));
        }
        if let Some(uid) = metadata["uid"].as_str() {
            // Names of runs and ids of resets contain hashes of the UID.
            for value in metadata["annotations"]
                .as_object()
                .into_iter()
                .flatten()
                .filter_map(|(_, value)| value.as_str())
            {
                names.push((
                    hash(&format!("{uid}/{value}"))[..10].to_owned(),
                    format!("RUN {value}"),
                ));
                let sink = value.split('=').next().unwrap_or_default();
                let id = hash(&format!("{uid}/{sink}/{value}"))[..16].to_owned();
                // Quoted in YAML if it could be read as a number.
                names.push((format!("'{id}'"), format!("RESET {value}")));
                names.push((id, format!("RESET {value}")));
            }
            names.push((
                uid.to_owned(),
                format!(
                    "UID of {kind} {}",
                    metadata["name"].as_str().unwrap_or_default()
                ),
            ));
        }
    }
    let known = names.clone();
    let plain = |text: &str| replaced(&text.replace(namespace, "NS"), &known);
    let mut digested = Vec::new();
    for object in &objects {
        for text in object["data"]
            .as_object()
            .into_iter()
            .flatten()
            .filter_map(|(_, text)| text.as_str())
        {
            let (own, other) = (hash(text), hash(&plain(text)));
            names.push((own[..10].to_owned(), other[..10].to_owned()));
            names.push((own, other));
        }
        let of = object["metadata"]["name"].as_str().unwrap_or_default();
        for run in [&object["spec"]["jobTemplate"], object] {
            let digest = &run["metadata"]["annotations"][TEMPLATE_ANNOTATION];
            let digest = digest.as_str().unwrap_or_default();
            if !digest.is_empty() && !digested.iter().any(|(known, _)| known == digest) {
                digested.push((digest.to_owned(), format!("Run of {of}")));
            }
        }
    }
    // Longer texts first, since they may contain shorter ones.
    names.extend(digested);
    names.sort_by_key(|(from, _)| std::cmp::Reverse(from.len()));
    let mut snapshot = Snapshot::new();
    for object in objects {
        let object = without_assigned(object);
        let text = replaced(&object.to_string().replace(namespace, "NS"), &names);
        let object: Value = serde_json::from_str(&text).unwrap_or(object);
        let key = format!(
            "{} {}",
            object["kind"].as_str().unwrap_or_default(),
            object["metadata"]["name"].as_str().unwrap_or_default()
        );
        snapshot.insert(key, object);
    }
    snapshot
}

/// A snapshot of the children in a namespace, without status and history.
pub fn children(namespace: &str, objects: Vec<Value>) -> Snapshot {
    let mut snapshot = comparable(namespace, objects);
    snapshot.retain(|key, _| !key.starts_with("PinterestPipeline ") && !key.starts_with("Job "));
    snapshot.values_mut().for_each(without_history);
    snapshot
}

/// Whether the operator sets the number of a Deployment's pods.
pub fn sets_replicas(deployment: &Value) -> bool {
    let entries = deployment["metadata"]["managedFields"].as_array();
    let mut own = entries
        .into_iter()
        .flatten()
        .filter(|entry| entry["manager"] == MANAGER && entry["operation"] == "Apply");
    own.any(|entry| !entry["fieldsV1"]["f:spec"]["f:replicas"].is_null())
}

/// Removes status, generation, the managed fields of others, and the number of pods where others
/// set it. Sets are sorted, because server-side apply keeps the order of items that are already
/// there.
pub fn without_history(object: &mut Value) {
    if object["kind"] == "Deployment" && !sets_replicas(object) {
        object["spec"]["replicas"] = json!("set by others");
    }
    if let Some(object) = object.as_object_mut() {
        object.remove("status");
    }
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("generation");
        if let Some(entries) = metadata
            .get_mut("managedFields")
            .and_then(Value::as_array_mut)
        {
            entries.retain(|entry| entry["manager"] == MANAGER);
        }
    }
    for set in [
        "/spec/template/spec/imagePullSecrets",
        "/spec/jobTemplate/spec/template/spec/imagePullSecrets",
    ] {
        if let Some(set) = object.pointer_mut(set).and_then(Value::as_array_mut) {
            set.sort_by_key(ToString::to_string);
        }
    }
}

fn replaced(text: &str, names: &[(String, String)]) -> String {
    names
        .iter()
        .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// An object without assigned fields and times.
pub fn without_assigned(mut object: Value) -> Value {
    for field in ASSIGNED {
        let (parent, field) = field.rsplit_once('/').unwrap_or_default();
        if let Some(parent) = object.pointer_mut(parent).and_then(Value::as_object_mut) {
            parent.remove(field);
        }
    }
    // A hash of the owner's UID, among others.
    let applied = object
        .pointer_mut("/metadata/annotations")
        .and_then(Value::as_object_mut);
    if let Some(annotations) = applied {
        annotations.remove(APPLIED_ANNOTATION);
    }
    without_times(&mut object);
    object
}

/// Removes times of managed fields and conditions, and ids of topics.
fn without_times(object: &mut Value) {
    for path in [
        "/metadata/managedFields",
        "/status/conditions",
        "/status/topics",
    ] {
        for entry in object
            .pointer_mut(path)
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            if let Some(entry) = entry.as_object_mut() {
                entry.remove("time");
                entry.remove("lastTransitionTime");
                if let Some(id) = entry.get_mut("id") {
                    *id = json!("ID");
                }
            }
        }
    }
}

/// Compares two snapshots. The error lists missing and unexpected objects, and fields that differ.
pub fn ensure_same(expected: &Snapshot, found: &Snapshot) -> Result<()> {
    let mut text = String::new();
    for (key, value) in expected {
        match found.get(key) {
            None => writeln!(text, "  missing: {key}")?,
            Some(found) => differences(key, value, found, &mut text)?,
        }
    }
    for key in found.keys().filter(|key| !expected.contains_key(*key)) {
        writeln!(text, "  unexpected: {key}")?;
    }
    if text.is_empty() {
        Ok(())
    } else {
        bail!("not as expected:\n{text}")
    }
}

fn differences(path: &str, expected: &Value, found: &Value, text: &mut String) -> Result<()> {
    match (expected, found) {
        (Value::Object(one), Value::Object(other)) => {
            let keys: std::collections::BTreeSet<_> = one.keys().chain(other.keys()).collect();
            for key in keys {
                let (one, other) = (
                    one.get(key).unwrap_or(&Value::Null),
                    other.get(key).unwrap_or(&Value::Null),
                );
                differences(&format!("{path}/{key}"), one, other, text)?;
            }
        }
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
            for (at, (one, other)) in one.iter().zip(other).enumerate() {
                differences(&format!("{path}/{at}"), one, other, text)?;
            }
        }
        (one, other) if one == other => {}
        (one, other) => writeln!(text, "  {path}\n    expected {one}\n    found    {other}")?,
    }
    Ok(())
}

/// A condition of a pipeline.
pub fn condition<'a>(pipeline: &'a Value, type_: &str) -> Result<&'a Value> {
    let conditions = pipeline["status"]["conditions"].as_array();
    let found = conditions
        .into_iter()
        .flatten()
        .find(|condition| condition["type"] == type_);
    found.ok_or_else(|| anyhow!("no condition {type_}: {}", pipeline["status"]))
}
