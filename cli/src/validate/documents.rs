//! The pipelines among the documents of files.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    Problem,
    yaml::{self, Document, Kind, Node},
};

pub(super) const KIND: &str = "PinterestPipeline";
pub(super) const RUN_KIND: &str = "PinterestRun";
pub(super) const API_VERSION: &str = "pinpipe.dev/v1alpha1";

/// Message about a file without a pipeline.
#[must_use]
pub fn no_pipeline() -> String {
    format!("no pipeline found: one has kind: {KIND} and apiVersion: {API_VERSION}")
}

/// Pipelines and runs as they were before a change, by kind and name.
#[derive(Debug, Default)]
pub struct Before(BTreeMap<(&'static str, String), Value>);

impl Before {
    /// Adds the pipelines of a file; those without a namespace are in `namespace`.
    pub fn add(&mut self, text: &str, namespace: &str) -> Result<(), Problem> {
        for Document { root, .. } in pipelines(text)? {
            let (name, value) = (full_name(&root, namespace), root.to_json());
            let key = (kind(&root), name.clone());
            if self.0.get(&key).is_some_and(|other| *other != value) {
                let message = format!(
                    "{name} was found twice, with different content: compare with one version of it"
                );
                return Err(Problem::of_document(root.line, message));
            }
            self.0.insert(key, value);
        }
        Ok(())
    }

    /// Adds a pipeline as the API server has it, by its name `<namespace>/<name>`.
    pub fn insert(&mut self, name: String, stored: Value) {
        self.0.insert((KIND, name), stored);
    }

    /// Whether there was a pipeline or a run of this name, `<namespace>/<name>`.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        [KIND, RUN_KIND]
            .iter()
            .any(|kind| self.get(kind, name).is_some())
    }

    pub(super) fn get(&self, kind: &'static str, name: &str) -> Option<&Value> {
        self.0.get(&(kind, name.to_owned()))
    }
}

/// The pipelines of a file, without its runs, each with its name `<namespace>/<name>`; those
/// without a namespace are in `namespace`.
pub fn named(text: &str, namespace: &str) -> Result<Vec<(String, Value)>, Problem> {
    let documents = pipelines(text)?.into_iter();
    let named = documents.filter(|document| kind(&document.root) == KIND);
    let named = named.map(|Document { root, .. }| (full_name(&root, namespace), root.to_json()));
    Ok(named.collect())
}

/// The documents of a file, or items of its Lists, that are meant to be pipelines.
pub(super) fn pipelines(text: &str) -> Result<Vec<Document>, Problem> {
    let documents =
        yaml::read(text).map_err(|(line, message)| Problem::of_document(line, message))?;
    let documents = documents.into_iter().flat_map(items);
    Ok(documents
        .filter(|document| is_meant(&document.root))
        .collect())
}

/// `<namespace>/<name>` of a pipeline.
pub(super) fn full_name(root: &Node, namespace: &str) -> String {
    let metadata = root.entry("metadata").map(|metadata| &metadata.value);
    let text = |key: &str| metadata.and_then(|metadata| metadata.text(key));
    format!(
        "{}/{}",
        text("namespace").unwrap_or(namespace),
        text("name").unwrap_or_default()
    )
}

/// The kind that a document is checked as: a misspelt one is a pipeline's.
pub(super) fn kind(root: &Node) -> &'static str {
    match root.text("kind") {
        Some(RUN_KIND) => RUN_KIND,
        _ => KIND,
    }
}

/// Whether kind or apiVersion is a pipeline's: the other one may be misspelt.
fn is_meant(root: &Node) -> bool {
    let version = root.text("apiVersion").unwrap_or_default();
    root.text("kind") == Some(KIND) || version.starts_with("pinpipe.dev/")
}

/// The items of a List, which `kubectl get -o yaml` prints for several objects; otherwise the
/// document itself.
fn items(document: Document) -> Vec<Document> {
    let kind = document.root.text("kind").unwrap_or_default();
    let items = document.root.entry("items").map(|entry| &entry.value.kind);
    match items {
        Some(Kind::List(items)) if kind.ends_with("List") => {
            let items = items.iter().filter(|item| is_meant(item)).cloned();
            let mut documents: Vec<_> = items
                .map(|root| Document {
                    root,
                    faults: Vec::new(),
                })
                .collect();
            if let Some(first) = documents.first_mut() {
                first.faults = document.faults;
            }
            documents
        }
        _ => vec![document],
    }
}
