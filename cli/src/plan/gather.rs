//! Reads what a plan compares with: the pipeline as it is, its record, its images, which keys its
//! Secrets have, and other pipelines' claims to topics.

use std::collections::BTreeMap;

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Secret},
};
use kube::{Api, ResourceExt as _, api::ListParams};
use pinpipe_crds::PinterestPipeline;
use pinpipe_plan::{
    build::registry_and_tag,
    component::Component,
    model::{Images, ValidatedPipeline},
    names::{self, IMAGE_ANNOTATION, INSTANCE_LABEL, PAUSED_ANNOTATION},
    ownership::Claim,
    validate::{ANY_KEY, Inputs, SecretKey, references, validate},
};
use serde_json::{Value, json};

use super::{
    change::{Change, Refused, compare},
    diff::{Field, fields},
};
use crate::{cluster::Cluster, failure::Failure, validate::Problem};

/// A pipeline of a file, and what the cluster has of it.
pub(super) struct Gathered {
    name: String,
    document: Value,
    live: Option<PinterestPipeline>,
    inputs: Inputs,
    images: Images,
    notes: Vec<String>,
}

/// Reads what the cluster has of a pipeline, named `<namespace>/<name>`.
pub(super) async fn gather(
    cluster: &Cluster,
    full_name: &str,
    document: Value,
) -> Result<Gathered, Failure> {
    let (namespace, name) = full_name.split_once('/').unwrap_or_default();
    let cluster = cluster.in_namespace(namespace);
    let right = "get pinterestpipelines.pinpipe.dev";
    let live = cluster.api::<PinterestPipeline>().get_opt(name).await;
    let live = live.map_err(|error| cluster.failure(right, &error))?;
    let mut notes = Vec::new();
    let mut inputs = Inputs {
        record: record(&cluster, name, &mut notes).await,
        claims: claims(&cluster, full_name, &mut notes).await,
        ..Inputs::default()
    };
    if let Ok(new) = resource(full_name, document.clone(), live.as_ref()) {
        inputs.secrets = secrets(&cluster, live.as_ref(), &new, &mut notes).await;
    }
    let images = images(&cluster, name, live.as_ref()).await;
    Ok(Gathered {
        name: full_name.to_owned(),
        document,
        live,
        inputs,
        images,
        notes,
    })
}

impl Gathered {
    /// The pipeline as the API server has it.
    pub(super) fn stored(&self) -> Option<Value> {
        serde_json::to_value(self.live.as_ref()?).ok()
    }

    /// What applying the file changes.
    pub(super) fn change(&self) -> Change {
        let new = match resource(&self.name, self.document.clone(), self.live.as_ref()) {
            Ok(new) => new,
            Err(error) => return self.refusing(vec![("", error.to_string())]),
        };
        let validated = match validate(&new, &self.inputs, &self.images) {
            Ok(validated) => validated,
            Err(problems) => {
                let problems = problems.into_iter();
                let problems = problems.map(|problem| (problem.field, problem.message));
                return self.refusing(problems.collect());
            }
        };
        let mut notes = self.notes.clone();
        notes.extend(validated.topic_conflict.clone());
        notes.extend(missing(&validated));
        let old = self
            .live
            .as_ref()
            .map(|live| validate(live, &self.inputs, &self.images));
        let old = match old {
            Some(Ok(old)) => Some(old),
            Some(Err(_)) => {
                notes.push(
                    "the pipeline in the cluster is invalid, so that nothing of it is compared: \
                     all objects are listed as if they were new"
                        .to_owned(),
                );
                None
            }
            None => None,
        };
        let topics = self.live.as_ref().and_then(|live| live.status.as_ref());
        let topics = topics
            .map(|status| status.topics.clone())
            .unwrap_or_default();
        let mut change = compare(old.as_ref(), &validated, &topics);
        change.new = self.live.is_none();
        change.annotations = fields(
            &self.live.as_ref().map_or_else(|| json!({}), requests),
            &requests(&new),
        );
        let paused = new.annotations().get(PAUSED_ANNOTATION);
        if paused.is_some_and(|value| value != "false") {
            notes.push(format!(
                "the pipeline is paused: the operator does nothing of this until the annotation \
                 {PAUSED_ANNOTATION} is removed"
            ));
        }
        change.notes = notes;
        if let Some(stored) = self.stored() {
            change.spec = fields(&stored["spec"], &json!(new.spec));
        }
        change
    }

    fn refusing(&self, problems: Vec<(&str, String)>) -> Change {
        let refused = problems.into_iter().map(|(field, message)| Refused {
            field: self.values(field),
            message,
        });
        Change {
            pipeline: self.name.clone(),
            refused: refused.collect(),
            notes: self.notes.clone(),
            ..Change::default()
        }
    }

    /// Both values of a field that is refused.
    fn values(&self, path: &str) -> Field {
        let stored = self.stored().unwrap_or_default();
        Field {
            path: path.to_owned(),
            before: lookup(&stored, path).cloned(),
            after: lookup(&self.document, path).cloned(),
        }
    }
}

/// What makes a file invalid, with both values of the fields if it is known of which pipeline.
pub(super) fn refused(file: &str, problems: Vec<Problem>, values: Option<&Gathered>) -> Change {
    let refused = problems.into_iter().map(|problem| Refused {
        field: values.map_or_else(
            || Field {
                path: problem.field.clone(),
                before: None,
                after: None,
            },
            |gathered| gathered.values(&problem.field),
        ),
        message: format!("{} (line {})", problem.message, problem.line),
    });
    Change {
        pipeline: values.map_or_else(|| file.to_owned(), |gathered| gathered.name.clone()),
        refused: refused.collect(),
        ..Change::default()
    }
}

/// The pipeline as it would be stored: the file's spec, labels and annotations over what is there.
fn resource(
    full_name: &str,
    mut document: Value,
    live: Option<&PinterestPipeline>,
) -> serde_json::Result<PinterestPipeline> {
    let (namespace, name) = full_name.split_once('/').unwrap_or_default();
    // Younger than all others, which therefore keep the topics they share with it.
    let mut metadata = json!({"namespace": namespace, "name": name, "uid": "new",
        "creationTimestamp": "9999-01-01T00:00:00Z"});
    if let Some(live) = live {
        metadata = serde_json::to_value(&live.metadata)?;
    }
    if let Some(annotations) = document["metadata"]["annotations"].as_object() {
        if metadata["annotations"].is_null() {
            metadata["annotations"] = json!({});
        }
        for (key, value) in annotations {
            metadata["annotations"][key] = value.clone();
        }
    }
    document["metadata"] = metadata;
    document["status"] = json!(live.and_then(|live| live.status.as_ref()));
    serde_json::from_value(document)
}

/// The annotations of a pipeline that ask the operator for something.
fn requests(pipeline: &PinterestPipeline) -> Value {
    let annotations = pipeline.annotations().iter();
    let requests = annotations.filter(|(name, _)| name.starts_with("pinpipe.dev/"));
    requests
        .map(|(name, value)| (name.clone(), Value::from(value.as_str())))
        .collect()
}

/// The value at a path, such as `spec.stream.sinks[0].postgres`.
fn lookup<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    let path = path.replace('[', ".").replace(']', "");
    let mut found = value;
    for part in path.split('.').filter(|part| !part.is_empty()) {
        found = match found {
            Value::Array(elements) => match part.parse::<usize>() {
                Ok(place) => elements.get(place)?,
                Err(_) => elements.iter().find(|element| element["name"] == part)?,
            },
            found => found.get(part)?,
        };
    }
    Some(found).filter(|value| !value.is_null() && !path.is_empty())
}

/// Sentences about components that wait for Secrets.
fn missing(pipeline: &ValidatedPipeline) -> Vec<String> {
    let batch = pipeline.batch.iter().map(|_| Component::Batch);
    let components = pipeline.deployments().into_iter().chain(batch);
    let missing = components.flat_map(|component| {
        let secrets = pipeline.secrets(&component);
        let missing = secrets
            .map(|secrets| secrets.missing.clone())
            .unwrap_or_default();
        missing
            .into_iter()
            .map(move |sentence| format!("{component} waits: {sentence}"))
    });
    missing.collect()
}

/// Settings that can't be changed, as the pipeline was first deployed with them.
async fn record(
    cluster: &Cluster,
    name: &str,
    notes: &mut Vec<String>,
) -> BTreeMap<String, String> {
    match cluster
        .api::<ConfigMap>()
        .get_opt(&names::record(name))
        .await
    {
        Ok(record) => record.and_then(|record| record.data).unwrap_or_default(),
        Err(error) => {
            notes.push(cluster.failure("get configmaps", &error).to_string());
            BTreeMap::new()
        }
    }
}

/// Claims of all other pipelines to topics.
async fn claims(cluster: &Cluster, full_name: &str, notes: &mut Vec<String>) -> Vec<Claim> {
    let all: Api<PinterestPipeline> = Api::all(cluster.client.clone());
    match all.list(&ListParams::default()).await {
        Ok(pipelines) => {
            let claims = pipelines.items.iter().map(Claim::of);
            claims
                .filter(|claim| claim.pipeline() != full_name)
                .collect()
        }
        Err(error) => {
            let right = "list pinterestpipelines.pinpipe.dev in all namespaces";
            notes.push(cluster.failure(right, &error).to_string());
            Vec::new()
        }
    }
}

/// Which of the keys exist that both versions refer to. Values are dropped at once.
async fn secrets(
    cluster: &Cluster,
    live: Option<&PinterestPipeline>,
    new: &PinterestPipeline,
    notes: &mut Vec<String>,
) -> BTreeMap<(String, String), SecretKey> {
    let mut wanted = references(&new.spec);
    for (secret, keys) in live.map(|live| references(&live.spec)).unwrap_or_default() {
        wanted.entry(secret).or_default().extend(keys);
    }
    let mut found = BTreeMap::new();
    for (secret, keys) in wanted {
        let read = cluster.api::<Secret>().get_opt(&secret).await;
        let state = |key: &str| match &read {
            Ok(Some(read)) => {
                let data = read.data.as_ref();
                let has = data.is_some_and(|data| match key {
                    ANY_KEY => !data.is_empty(),
                    key => data.contains_key(key),
                });
                if has {
                    SecretKey::Present
                } else {
                    SecretKey::NoKey
                }
            }
            Ok(None) => SecretKey::NoSecret,
            // It isn't known.
            Err(_) => SecretKey::Present,
        };
        for key in keys {
            let state = state(&key);
            found.insert((secret.clone(), key), state);
        }
        if let Err(error) = &read {
            notes.push(format!(
                "whether Secret {secret} has its keys: {}",
                cluster.failure("get secrets", error)
            ));
        }
    }
    found
}

/// Workers with a Deployment, as their images are named.
const WORKERS: [&str; 3] = ["ingest", "stream", "emulator"];

/// The operator's images, as far as a Deployment tells them that has no others.
async fn images(cluster: &Cluster, name: &str, live: Option<&PinterestPipeline>) -> Images {
    let unknown = Images {
        registry: "<the operator's registry>".to_owned(),
        tag: "<the operator's tag>".to_owned(),
        ..Images::default()
    };
    let own = live.and_then(|live| live.spec.image.as_ref());
    let labels = format!("{INSTANCE_LABEL}={name}");
    let deployments = cluster
        .list::<Deployment>("list deployments", &labels)
        .await;
    let deployments = deployments.unwrap_or_default();
    let applied = deployments
        .iter()
        .filter_map(|deployment| deployment.annotations().get(IMAGE_ANNOTATION));
    let mut found = applied.filter_map(|image| {
        let mut workers = WORKERS.iter();
        workers.find_map(|worker| registry_and_tag(image, worker))
    });
    let Some((registry, tag)) = found.next() else {
        return unknown;
    };
    let set = |own: Option<&String>, applied: String, unknown: String| {
        if own.is_none() { applied } else { unknown }
    };
    Images {
        registry: set(
            own.and_then(|own| own.registry.as_ref()),
            registry.to_owned(),
            unknown.registry,
        ),
        tag: set(
            own.and_then(|own| own.tag.as_ref()),
            tag.to_owned(),
            unknown.tag,
        ),
        ..Images::default()
    }
}

#[cfg(test)]
mod tests {
    use pinpipe_plan::samples::{all_there, pipeline, whole};

    use super::*;

    fn gathered(edit: impl FnOnce(&mut Value)) -> Gathered {
        let live = pipeline(whole());
        let mut document = serde_json::to_value(pipeline(whole())).unwrap();
        edit(&mut document);
        let mut inputs = all_there(&live);
        inputs.record = BTreeMap::from([("archive.bucket".to_owned(), "raw".to_owned())]);
        Gathered {
            name: "data/pinterest".to_owned(),
            document,
            inputs,
            live: Some(live),
            images: pinpipe_plan::samples::images(),
            notes: Vec::new(),
        }
    }

    #[test]
    fn the_same_file_changes_nothing() {
        let change = gathered(|_| {}).change();
        assert!(!change.is_any() && change.refused.is_empty(), "{change:?}");
    }

    #[test]
    fn fields_of_the_spec_are_told_with_both_values() {
        let change = gathered(|file| file["spec"]["suspend"] = json!(true)).change();
        let told: Vec<_> = change.spec.iter().map(|field| &*field.path).collect();
        assert_eq!(told, ["suspend"]);
        assert!(
            change
                .restarts
                .iter()
                .all(|restart| restart.what == "scale"),
            "{change:?}"
        );
    }

    #[test]
    fn what_can_t_be_changed_has_both_values() {
        let change = gathered(|file| file["spec"]["archive"]["bucket"] = json!("other")).change();
        let [refused] = change.refused.as_slice() else {
            panic!("{change:?}")
        };
        assert_eq!(refused.field.path, "spec.archive.bucket");
        assert_eq!(refused.field.before, Some(json!("raw")));
        assert_eq!(refused.field.after, Some(json!("other")));
    }

    #[test]
    fn missing_secrets_are_noted() {
        let mut without = gathered(|_| {});
        without.inputs.secrets.clear();
        let notes = without.change().notes;
        assert!(
            notes
                .iter()
                .any(|note| note.starts_with("stream-live waits: ")),
            "{notes:?}"
        );
        assert!(
            notes.iter().any(|note| note.starts_with("batch waits: ")),
            "{notes:?}"
        );
    }

    #[test]
    fn paths_of_problems_are_followed() {
        let value = json!({"a": {"list": [{"name": "x", "v": 1}]}});
        assert_eq!(lookup(&value, "a.list[0].v"), Some(&json!(1)));
        assert_eq!(lookup(&value, "a.list[x].v"), Some(&json!(1)));
        assert_eq!((lookup(&value, "a.b"), lookup(&value, "")), (None, None));
    }
}
