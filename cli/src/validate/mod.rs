//! Checks the pipelines of a file without a cluster: as YAML, against the schema and the rules of
//! the definition, and by the operator's own validation ([`pinpipe_plan::validate`]).
//!
//! Schema and rules are those of the definition the API server gets, not copies. What only the
//! cluster knows isn't checked: whether Secrets have their keys, whether a pipeline outside the
//! file owns a topic, what the broker allows.

pub mod command;
mod documents;
mod schema;
mod yaml;

use std::{collections::BTreeMap, fmt};

use pinpipe_crds::{PinterestPipeline, check_rules};
use pinpipe_plan::{
    model::Images,
    ownership::Claim,
    validate::{Inputs, SecretKey, references, validate},
};
use serde::Serialize;
use serde_json::{Value, json};

use documents::{API_VERSION, RUN_KIND, full_name, pipelines};
use yaml::{Document, Node};

pub use documents::{Before, named, no_pipeline};

/// Something the API server or the operator would refuse.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Line in the file, from 1.
    pub line: usize,
    /// Path of the field, such as `spec.archive.bucket`; empty for the whole document.
    pub field: String,
    /// What is wrong, and what to do.
    pub message: String,
}

impl Problem {
    fn of_document(line: usize, message: String) -> Self {
        Self {
            line,
            field: String::new(),
            message,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.field.as_str() {
            "" => write!(f, "{}: {}", self.line, self.message),
            field => write!(f, "{}: {field}: {}", self.line, self.message),
        }
    }
}

/// Result of checking one file; empty if the file has no pipeline.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Valid pipelines, each as `<namespace>/<name>`.
    pub valid: Vec<String>,
    /// Problems of the other pipelines, sorted by line within each.
    pub problems: Vec<Problem>,
}

/// Checks every pipeline of a file; other objects are ignored. A pipeline without a namespace is in
/// `namespace`. One that is in `before` is checked as a change, too.
#[must_use]
pub fn check(text: &str, before: &Before, namespace: &str) -> Checked {
    let documents = match pipelines(text) {
        Ok(documents) => documents,
        Err(problem) => {
            return Checked {
                valid: Vec::new(),
                problems: vec![problem],
            };
        }
    };
    let mut checked = Checked::default();
    let mut claims = Vec::new();
    for document in &documents {
        let name = full_name(&document.root, namespace);
        let stored = before.get(documents::kind(&document.root), &name);
        let mut problems = problems(document, stored, namespace, &mut claims);
        if problems.is_empty() {
            checked.valid.push(name);
        }
        problems.sort_by_key(|problem| problem.line);
        checked.problems.append(&mut problems);
    }
    checked
}

fn problems(
    document: &Document,
    stored: Option<&Value>,
    namespace: &str,
    claims: &mut Vec<Claim>,
) -> Vec<Problem> {
    let root = &document.root;
    let at = |field: String, message: String| Problem {
        line: root.line_of(&field),
        field,
        message,
    };
    let faults = document.faults.iter().cloned();
    let mut problems: Vec<Problem> = faults
        .map(|(line, message)| Problem::of_document(line, message))
        .collect();

    let mut resource = root.to_json();
    // The API server ignores the status that a file has.
    if let Some(fields) = resource.as_object_mut() {
        fields.remove("status");
    }
    let kind = documents::kind(root);
    let refusals = schema::check(&envelope(kind), root);
    let blocked = refusals.iter().any(|refusal| refusal.blocks_rules);
    problems.extend(
        refusals
            .into_iter()
            .map(|refusal| at(refusal.field, refusal.message)),
    );
    if blocked {
        return problems;
    }
    if let Err(broken) = check_rules(&resource, stored) {
        problems.extend(
            broken
                .into_iter()
                .map(|rule| at(concerned(root, &rule.field, &rule.message), rule.message)),
        );
        return problems;
    }
    if kind == RUN_KIND {
        return problems;
    }
    problems.extend(
        operator_problems(resource, namespace, claims)
            .into_iter()
            .map(|(field, message)| at(field, message)),
    );
    problems
}

/// Schema of a whole object. The definition has none for metadata, which is Kubernetes' own: of it,
/// the fields that people write are checked.
fn envelope(kind: &str) -> Value {
    let mut schema = match kind {
        RUN_KIND => pinpipe_crds::run_schema(),
        _ => pinpipe_crds::schema(),
    };
    let spec = schema["properties"]["spec"].take();
    let text = || json!({"type": "string"});
    let texts = || json!({"type": "object", "additionalProperties": text()});
    json!({
        "type": "object",
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "properties": {
            "apiVersion": {"type": "string", "enum": [API_VERSION]},
            "kind": {"type": "string", "enum": [kind]},
            "metadata": {
                "type": "object",
                "required": ["name"],
                "properties": {
                    "name": text(), "generateName": text(), "namespace": text(),
                    "labels": texts(), "annotations": texts(),
                    "uid": text(), "resourceVersion": text(), "selfLink": text(),
                    "generation": {}, "creationTimestamp": {}, "deletionTimestamp": {},
                    "deletionGracePeriodSeconds": {}, "finalizers": {}, "ownerReferences": {},
                    "managedFields": {},
                },
            },
            "spec": spec,
            "status": {},
        },
    })
}

/// The field a broken rule is about. A rule is at the nearest object that has all fields it
/// compares; its message often names the field, either from `spec` on or from the last part of the
/// rule's own path on.
fn concerned(root: &Node, path: &str, message: &str) -> String {
    let last = path.rsplit('.').next().unwrap_or_default();
    let above = path.strip_suffix(last).unwrap_or_default();
    let words = message
        .split_whitespace()
        .map(|word| word.trim_end_matches([':', ',', ';', ')']));
    let fields = words.filter_map(|word| match word.split_once('.')?.0 {
        "spec" | "metadata" => Some(word.to_owned()),
        first if first == last => Some(format!("{above}{word}")),
        _ => None,
    });
    let mut below = fields.filter(|field| field.starts_with(path) && root.has(field));
    below.next().unwrap_or_else(|| path.to_owned())
}

/// Problems, each with its field, that the operator would report if every Secret existed. `claims`
/// are those of the file's earlier pipelines, which count as older; this pipeline's is added.
fn operator_problems(
    mut resource: Value,
    namespace: &str,
    claims: &mut Vec<Claim>,
) -> Vec<(String, String)> {
    let metadata = &mut resource["metadata"];
    if metadata["namespace"].is_null() {
        metadata["namespace"] = json!(namespace);
    }
    if metadata["uid"].is_null() {
        metadata["uid"] = json!(format!("{:09}", claims.len()));
    }
    let pipeline: PinterestPipeline = match serde_json::from_value(resource) {
        Ok(pipeline) => pipeline,
        Err(error) => return vec![(String::new(), format!("can't be read: {error}"))],
    };
    let secrets = references(&pipeline.spec)
        .into_iter()
        .flat_map(|(secret, keys)| {
            keys.into_iter()
                .map(move |key| ((secret.clone(), key), SecretKey::Present))
        });
    let inputs = Inputs {
        secrets: secrets.collect(),
        claims: claims.clone(),
        ..Inputs::default()
    };
    let images = Images {
        registry: String::new(),
        tag: String::new(),
        digests: BTreeMap::new(),
        repositories: BTreeMap::new(),
    };
    let validated = validate(&pipeline, &inputs, &images);
    claims.push(Claim::of(&pipeline));
    match validated {
        Ok(validated) => {
            let removed = validated.removed_annotations.into_iter();
            let removed = removed.map(|(path, sentence)| (path.to_owned(), sentence));
            let conflict = validated
                .topic_conflict
                .map(|conflict| ("spec.broker.kafka.topics".to_owned(), conflict));
            removed.chain(conflict).collect()
        }
        Err(problems) => problems
            .into_iter()
            .map(|problem| (problem.field.to_owned(), problem.message))
            .collect(),
    }
}

#[cfg(test)]
mod tests;
