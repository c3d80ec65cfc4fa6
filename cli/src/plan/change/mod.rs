//! What a change of a pipeline does: two builds compared, without a client.

use std::collections::{BTreeMap, BTreeSet};

use pinpipe_config::CONFIG_KEY;
use pinpipe_crds::{Created, TopicStatus};
use pinpipe_plan::{
    build::{DesiredTopic, Object, Observed, build, topics},
    model::ValidatedPipeline,
    names::COMPONENT_LABEL,
};
use serde::Serialize;
use serde_json::Value;

use crate::plan::diff::{Field, fields};

/// What applying a file does to one pipeline.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::plan) struct Change {
    /// `<namespace>/<name>`.
    pub(in crate::plan) pipeline: String,
    /// Whether the pipeline is new.
    pub(in crate::plan) new: bool,
    /// Fields of the spec that change.
    pub(in crate::plan) spec: Vec<Field>,
    /// Annotations that ask the operator for something, and change.
    pub(in crate::plan) annotations: Vec<Field>,
    pub(in crate::plan) objects: Vec<ObjectChange>,
    pub(in crate::plan) topics: Vec<TopicChange>,
    pub(in crate::plan) restarts: Vec<Restart>,
    /// Sentences about batch runs.
    pub(in crate::plan) batch: Vec<String>,
    /// What can't be done; nothing is changed then.
    pub(in crate::plan) refused: Vec<Refused>,
    /// What was not compared, and why.
    pub(in crate::plan) notes: Vec<String>,
}

/// Something that can't be changed, or is invalid.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(in crate::plan) struct Refused {
    #[serde(flatten)]
    pub(in crate::plan) field: Field,
    pub(in crate::plan) message: String,
}

/// What happens to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::plan) enum Action {
    Create,
    Change,
    Delete,
}

/// An object that is created, changed or deleted.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(in crate::plan) struct ObjectChange {
    pub(in crate::plan) action: Action,
    pub(in crate::plan) kind: String,
    pub(in crate::plan) name: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(in crate::plan) fields: Vec<Field>,
}

/// A topic that is created or gets more partitions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(in crate::plan) struct TopicChange {
    pub(in crate::plan) topic: String,
    pub(in crate::plan) what: String,
}

/// Pods that start, stop or are replaced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(in crate::plan) struct Restart {
    pub(in crate::plan) component: String,
    /// `start`, `restart`, `stop` or `scale`.
    pub(in crate::plan) what: &'static str,
    /// The fields that are the reason.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(in crate::plan) because: Vec<String>,
}

impl Change {
    /// Whether applying the file changes anything.
    pub(in crate::plan) fn is_any(&self) -> bool {
        let fields = self.spec.is_empty() && self.annotations.is_empty();
        self.new || !(fields && self.objects.is_empty() && self.topics.is_empty())
    }
}

/// Compares what two versions of a pipeline want. `known` are the topics of its status.
pub(in crate::plan) fn compare(
    old: Option<&ValidatedPipeline>,
    new: &ValidatedPipeline,
    known: &[TopicStatus],
) -> Change {
    let built = |pipeline: &ValidatedPipeline| {
        let desired = build(pipeline, &Observed::default());
        let mut all = vec![desired.record];
        all.extend(desired.objects);
        all
    };
    let (before, after) = (old.map(built).unwrap_or_default(), built(new));
    let configs = Configs::of(&before, &after);
    Change {
        pipeline: format!("{}/{}", new.namespace, new.name),
        new: old.is_none(),
        objects: objects(&before, &after, &configs),
        topics: topic_changes(old, new, known),
        restarts: restarts(&before, &after, &configs),
        batch: runs(&before, &after, &configs),
        ..Change::default()
    }
}

/// The configurations of the components, and how they differ.
struct Configs {
    names: BTreeSet<String>,
    changed: BTreeMap<String, Vec<Field>>,
}

impl Configs {
    fn of(before: &[Object], after: &[Object]) -> Self {
        let (old, new) = (configs(before), configs(after));
        let changed = new.iter().filter_map(|(component, config)| {
            let mut differing = fields(old.get(component)?, config);
            for field in &mut differing {
                // Of the tags that tell variants.
                field.path.retain(|c| c != '!');
            }
            Some((component.clone(), differing))
        });
        let maps = before
            .iter()
            .chain(after)
            .filter(|object| is_config(object));
        Self {
            changed: changed.collect(),
            names: maps.map(|object| object.name.clone()).collect(),
        }
    }

    /// Whether a field only says which configuration a pod has.
    fn is_reference(&self, field: &Field) -> bool {
        let names = |value: &Option<Value>| {
            let name = value.as_ref().and_then(Value::as_str);
            name.is_some_and(|name| self.names.contains(name))
        };
        field.path.ends_with("-hash") || names(&field.before) || names(&field.after)
    }
}

fn is_config(object: &Object) -> bool {
    object.resource.kind == "ConfigMap" && !component(object).is_empty()
}

/// Name of the component that an object belongs to.
fn component(object: &Object) -> &str {
    let labels = &object.body["metadata"]["labels"];
    labels[COMPONENT_LABEL].as_str().unwrap_or_default()
}

/// Configurations by component.
fn configs(objects: &[Object]) -> BTreeMap<String, Value> {
    let maps = objects.iter().filter(|object| is_config(object));
    maps.filter_map(|object| {
        let yaml = object.body["data"][CONFIG_KEY].as_str()?;
        let config: serde_yaml::Value = serde_yaml::from_str(yaml).ok()?;
        Some((
            component(object).to_owned(),
            serde_json::to_value(config).ok()?,
        ))
    })
    .collect()
}

fn find<'a>(objects: &'a [Object], kind: &str, name: &str) -> Option<&'a Object> {
    let mut objects = objects.iter();
    objects.find(|object| object.resource.kind == kind && object.name == name)
}

fn objects(before: &[Object], after: &[Object], configs: &Configs) -> Vec<ObjectChange> {
    let change = |action, object: &Object, fields| ObjectChange {
        action,
        kind: object.resource.kind.clone(),
        name: object.name.clone(),
        fields,
    };
    let same = |objects: &[Object], object: &Object| {
        find(objects, &object.resource.kind, &object.name).is_some()
    };
    let gone = before.iter().filter(|object| !same(after, object));
    let gone = gone.map(|object| change(Action::Delete, object, Vec::new()));
    let written = after.iter().filter_map(|object| {
        let Some(old) = find(before, &object.resource.kind, &object.name) else {
            return Some(change(Action::Create, object, Vec::new()));
        };
        let mut differing = fields(&old.body, &object.body);
        if differing.is_empty() {
            return None;
        }
        if let Some(config) = configs.changed.get(component(object))
            && differing.iter().any(|field| configs.is_reference(field))
        {
            differing.retain(|field| !configs.is_reference(field));
            differing.extend(config.iter().map(|field| Field {
                path: format!("configuration: {}", field.path),
                ..field.clone()
            }));
        }
        Some(change(Action::Change, object, differing))
    });
    written.chain(gone).collect()
}

fn topic_changes(
    old: Option<&ValidatedPipeline>,
    new: &ValidatedPipeline,
    known: &[TopicStatus],
) -> Vec<TopicChange> {
    let before = old.map(topics).unwrap_or_default();
    let changes = topics(new).into_iter().flat_map(|topic| {
        let existing = known.iter().find(|known| known.name == topic.name);
        let old = before.iter().find(|old| old.name == topic.name);
        let what = topic_change(old, &topic, existing);
        what.into_iter().map(move |what| TopicChange {
            topic: topic.name.clone(),
            what,
        })
    });
    changes.collect()
}

fn topic_change(
    old: Option<&DesiredTopic>,
    new: &DesiredTopic,
    existing: Option<&TopicStatus>,
) -> Vec<String> {
    let partitions = new.partitions;
    let Some(old) = old else {
        let what = match (existing, new.managed) {
            (Some(_), _) => return Vec::new(),
            (None, true) => {
                format!("is created with {partitions} partitions unless it exists")
            }
            (None, false) => "must exist: management is Existing".to_owned(),
        };
        return vec![what];
    };
    let mut told = Vec::new();
    let had = existing.map_or(old.partitions, |topic| topic.partitions);
    let own = existing.is_none_or(|topic| topic.created == Created::Operator);
    if partitions != old.partitions {
        told.push(match (new.managed && own, had.cmp(&partitions)) {
            (_, std::cmp::Ordering::Equal) => return Vec::new(),
            (true, std::cmp::Ordering::Less) => {
                format!(
                    "gets {partitions} partitions, has {had}: new records of a key may go to \
                         another partition"
                )
            }
            (false, std::cmp::Ordering::Less) => {
                format!("keeps its {had} partitions: the operator didn't create it")
            }
            (_, std::cmp::Ordering::Greater) => {
                format!("keeps its {had} partitions: Kafka can't remove any")
            }
        });
    }
    if new.config != old.config {
        told.push("keeps its settings: those of the spec are for topics that are created".into());
    }
    told
}

/// Pods of Deployments that start, stop or are replaced.
fn restarts(before: &[Object], after: &[Object], configs: &Configs) -> Vec<Restart> {
    let is_deployment = |object: &&Object| object.resource.kind == "Deployment";
    let stopped = before
        .iter()
        .filter(is_deployment)
        .filter(|object| find(after, "Deployment", &object.name).is_none());
    let stopped = stopped.map(|object| Restart {
        component: component(object).to_owned(),
        what: "stop",
        because: Vec::new(),
    });
    let others = after.iter().filter(is_deployment).filter_map(|object| {
        let component = component(object);
        let (what, because) = match find(before, "Deployment", &object.name) {
            None => ("start", Vec::new()),
            Some(old) => rolled(old, object, configs, component)?,
        };
        Some(Restart {
            component: component.to_owned(),
            what,
            because,
        })
    });
    others.chain(stopped).collect()
}

fn rolled(
    old: &Object,
    new: &Object,
    configs: &Configs,
    component: &str,
) -> Option<(&'static str, Vec<String>)> {
    let template = |object: &Object| object.body["spec"]["template"].clone();
    let differing = fields(&template(old), &template(new));
    if differing.is_empty() {
        let replicas = |object: &Object| object.body["spec"]["replicas"].clone();
        let scaled = fields(&replicas(old), &replicas(new));
        let field = scaled.first()?;
        let number = |value: &Option<Value>| {
            value
                .as_ref()
                .map_or_else(|| "an autoscaler's".to_owned(), Value::to_string)
        };
        let told = format!("pods: {} → {}", number(&field.before), number(&field.after));
        return Some(("scale", vec![told]));
    }
    let of_config = configs.changed.get(component).into_iter().flatten();
    let of_config = of_config.map(|field| format!("configuration: {}", field.path));
    let of_pod = differing
        .iter()
        .filter(|field| !configs.is_reference(field));
    let of_pod = of_pod.map(|field| field.path.clone());
    Some(("restart", of_config.chain(of_pod).collect()))
}

/// Sentences about batch runs.
fn runs(before: &[Object], after: &[Object], configs: &Configs) -> Vec<String> {
    let cron_job = |objects: &[Object]| {
        let mut objects = objects.iter();
        let found = objects.find(|object| object.resource.kind == "CronJob");
        found.map(|object| object.body["spec"].clone())
    };
    let (old, new) = match (cron_job(before), cron_job(after)) {
        (None, None) => return Vec::new(),
        (None, Some(new)) => {
            let schedule = new["schedule"].as_str().unwrap_or_default();
            return vec![format!("runs start by the schedule {schedule}")];
        }
        (Some(_), None) => return vec!["no run starts any more".to_owned()],
        (Some(old), Some(new)) => (old, new),
    };
    let mut told = Vec::new();
    for field in ["schedule", "timeZone", "suspend"] {
        if old[field] != new[field] {
            told.push(format!("{field}: {} → {}", old[field], new[field]));
        }
    }
    let differing = fields(&old["jobTemplate"], &new["jobTemplate"]);
    if !differing.is_empty() {
        let of_config = configs.changed.get("batch").into_iter().flatten();
        let of_config = of_config.map(|field| format!("configuration: {}", field.path));
        let of_job = differing
            .iter()
            .filter(|field| !configs.is_reference(field));
        let because: Vec<String> = of_config
            .chain(of_job.map(|field| field.path.clone()))
            .collect();
        told.push(format!("the next run differs in {}", because.join(", ")));
    }
    told
}

#[cfg(test)]
mod tests;
