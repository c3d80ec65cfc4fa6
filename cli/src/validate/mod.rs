//! A file of pipelines, checked without a cluster: as YAML, by the schema and the rules of the
//! definition, and by [`crate::validate`].
//!
//! Schema and rules are those of the definition the API server gets, not copies. What needs the
//! cluster can't be told here: whether Secrets have their keys, whether another pipeline has a
//! topic, whether the broker takes what it is asked for.

pub mod schema;
pub mod yaml;

use std::{collections::BTreeMap, fmt};

use pinpipe_crds::{PinterestPipeline, check_rules};
use serde_json::{Value, json};

use crate::{
    claims::Claim,
    dereference::{self, Dereferenced, SecretKey},
    validate::{self, Images, RESET_ANNOTATION, RESET_FORMS},
};
use yaml::{Document, Node};

const KIND: &str = "PinterestPipeline";
const API_VERSION: &str = "pinpipe.dev/v1alpha1";

/// Something that would not be accepted, or not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file's line, from 1.
    pub line: usize,
    /// `spec.archive.bucket`; empty where it is of no field.
    pub field: String,
    /// What is wrong, and what to do.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.field.as_str() {
            "" => write!(f, "{}: {}", self.line, self.message),
            field => write!(f, "{}: {field}: {}", self.line, self.message),
        }
    }
}

/// What is said of files without a pipeline.
#[must_use]
pub fn none() -> String {
    format!("there is no {KIND} in it, which has kind: {KIND} and apiVersion: {API_VERSION}")
}

/// What a file came to. Nothing at all: there is no pipeline in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// The pipelines in it nothing is wrong with, `<namespace>/<name>`.
    pub valid: Vec<String>,
    /// What is wrong, by line.
    pub problems: Vec<Problem>,
}

/// Checks every pipeline of a file; other objects are passed over. One without a namespace is taken
/// to be in `namespace`. `before` is the file as it was: a pipeline that is in both is checked as a
/// change, too.
#[must_use]
pub fn check(text: &str, before: Option<&str>, namespace: &str) -> Checked {
    let stored = match before.map(pipelines).transpose() {
        Ok(stored) => stored.unwrap_or_default(),
        Err((line, message)) => {
            return Checked::of(line, format!("the file as it was: line {line}: {message}"));
        }
    };
    let documents = match pipelines(text) {
        Ok(documents) => documents,
        Err((line, message)) => return Checked::of(line, message),
    };
    let mut checked = Checked::default();
    let mut claims = Vec::new();
    for document in &documents {
        let name = full_name(&document.root, namespace);
        let old = stored
            .iter()
            .find(|old| full_name(&old.root, namespace) == name);
        let mut problems = problems(document, old, namespace, &mut claims);
        if problems.is_empty() {
            checked.valid.push(name);
        }
        problems.sort_by_key(|problem| problem.line);
        checked.problems.append(&mut problems);
    }
    checked
}

impl Checked {
    fn of(line: usize, message: String) -> Self {
        Self {
            valid: Vec::new(),
            problems: vec![Problem {
                line,
                field: String::new(),
                message,
            }],
        }
    }
}

/// The documents of a file that are meant to be pipelines, by one of the two things that say so.
fn pipelines(text: &str) -> Result<Vec<Document>, (usize, String)> {
    let is_meant = |root: &Node| {
        root.text("kind") == Some(KIND)
            || root
                .text("apiVersion")
                .is_some_and(|version| version.starts_with("pinpipe.dev/"))
    };
    Ok(yaml::read(text)?
        .into_iter()
        .filter(|document| is_meant(&document.root))
        .collect())
}

fn full_name(root: &Node, namespace: &str) -> String {
    let of = |key: &str| {
        root.entry("metadata")
            .and_then(|metadata| metadata.value.text(key))
    };
    format!(
        "{}/{}",
        of("namespace").unwrap_or(namespace),
        of("name").unwrap_or_default()
    )
}

fn problems(
    document: &Document,
    before: Option<&Document>,
    namespace: &str,
    claims: &mut Vec<Claim>,
) -> Vec<Problem> {
    let root = &document.root;
    let at = |field: String, message: String| Problem {
        line: root.line_of(&field),
        field,
        message,
    };
    let mut problems: Vec<Problem> = document
        .faults
        .iter()
        .map(|(line, message)| Problem {
            line: *line,
            field: String::new(),
            message: message.clone(),
        })
        .collect();

    let mut resource = root.to_json();
    // The API server keeps a status to itself: what a file says of it is passed over.
    if let Some(fields) = resource.as_object_mut() {
        fields.remove("status");
    }
    let mut refusals = Vec::new();
    schema::check(&envelope(), root, "", &mut refusals);
    let blocked = refusals.iter().any(|refusal| refusal.blocks_rules);
    problems.extend(
        refusals
            .into_iter()
            .map(|refusal| at(refusal.field, refusal.message)),
    );
    if blocked {
        return problems;
    }
    let stored = before.map(|before| before.root.to_json());
    if let Err(broken) = check_rules(&resource, stored.as_ref()) {
        problems.extend(
            broken
                .into_iter()
                .map(|rule| at(concerned(root, &rule.field, &rule.message), rule.message)),
        );
        return problems;
    }
    problems.extend(
        as_operator(resource, namespace, claims)
            .into_iter()
            .map(|(field, message)| at(field, message)),
    );
    problems
}

/// The schema of a whole object: what is said of metadata is Kubernetes' own, and bounds just what
/// people write there.
fn envelope() -> Value {
    let spec = pinpipe_crds::schema()["properties"]["spec"].take();
    let text = || json!({"type": "string"});
    let texts = || json!({"type": "object", "additionalProperties": text()});
    json!({
        "type": "object",
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "properties": {
            "apiVersion": {"type": "string", "enum": [API_VERSION]},
            "kind": {"type": "string", "enum": [KIND]},
            "metadata": {
                "type": "object",
                "required": ["name"],
                "properties": {
                    "name": text(), "generateName": text(), "namespace": text(), "labels": texts(), "annotations": texts(),
                    "uid": text(), "resourceVersion": text(), "selfLink": text(), "generation": {}, "creationTimestamp": {},
                    "deletionTimestamp": {}, "deletionGracePeriodSeconds": {}, "finalizers": {}, "ownerReferences": {}, "managedFields": {},
                },
            },
            "spec": spec,
            "status": {},
        },
    })
}

/// The field a broken rule is about. A rule stands at the nearest object that has all it compares;
/// its message often names the field itself, from `spec` on or from the last part of the rule's
/// place.
fn concerned(root: &Node, place: &str, message: &str) -> String {
    let last = place.rsplit('.').next().unwrap_or_default();
    let above = place.strip_suffix(last).unwrap_or_default();
    let words = message
        .split_whitespace()
        .map(|word| word.trim_end_matches([':', ',', ';', ')']));
    let fields = words.filter_map(|word| match word.split_once('.')?.0 {
        "spec" | "metadata" => Some(word.to_owned()),
        first if first == last => Some(format!("{above}{word}")),
        _ => None,
    });
    let mut below = fields.filter(|field| field.starts_with(place) && root.has(field));
    below.next().unwrap_or_else(|| place.to_owned())
}

/// What the operator would say, were every Secret there. `claims` are those of the pipelines
/// further up, which are taken to be older.
fn as_operator(
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
        Err(error) => return vec![(String::new(), format!("it can't be read: {error}"))],
    };
    let secrets = dereference::references(&pipeline.spec)
        .into_iter()
        .flat_map(|(secret, keys)| {
            keys.into_iter()
                .map(move |key| ((secret.clone(), key), SecretKey::Digest(String::new())))
        });
    let found = Dereferenced {
        secrets: secrets.collect(),
        claims: claims.clone(),
        ..Dereferenced::default()
    };
    let images = Images {
        registry: String::new(),
        tag: String::new(),
        digests: BTreeMap::new(),
    };
    let validated = validate::validate(&pipeline, &found, &images);
    claims.push(Claim::of(&pipeline));
    match validated {
        Ok(validated) => {
            let resets = validated.reset_problems.into_iter().map(|problem| {
                (
                    format!("metadata.annotations[{RESET_ANNOTATION}]"),
                    format!("{problem}; a request is {RESET_FORMS}"),
                )
            });
            // Each begins with its annotation.
            let requests =
                validated.requests.problems.into_iter().map(|(_, problem)| {
                    match problem.split_once(": ") {
                        Some((annotation, problem)) => (
                            format!("metadata.annotations[{annotation}]"),
                            problem.to_owned(),
                        ),
                        None => (String::new(), problem),
                    }
                });
            let conflict = validated
                .topic_conflict
                .map(|conflict| ("spec.broker.kafka.topics".to_owned(), conflict));
            resets.chain(requests).chain(conflict).collect()
        }
        Err(problems) => problems
            .into_iter()
            .map(|problem| (problem.field.to_owned(), problem.message))
            .collect(),
    }
}

#[cfg(test)]
mod tests;
