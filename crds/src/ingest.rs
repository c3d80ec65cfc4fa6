//! Ingest, the REST service.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{autoscaling::IngestAutoscaling, template::Template};

/// A CEL rule: with `ingest.autoscaling`, the resources of ingest's pods name the CPU, if they are
/// set at all. The defaults do.
pub(crate) fn scaled_ingest_has_a_cpu_request() -> String {
    let names_cpu = |resources: &str| {
        let amount = |of: &str| format!("has({resources}.{of}) && has({resources}.{of}.cpu)");
        format!("({}) || ({})", amount("requests"), amount("limits"))
    };
    format!(
        "!has(self.ingest) || !has(self.ingest.autoscaling) || \
         (has(self.ingest.template) && has(self.ingest.template.resources) ? ({}) : \
         !has(self.template) || !has(self.template.resources) || {})",
        names_cpu("self.ingest.template.resources"),
        names_cpu("self.template.resources"),
    )
}

/// Ingest, the REST service that accepts records.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.replicas) || !has(self.autoscaling)")
        .message("ingest.replicas and ingest.autoscaling can't both be set: remove one of them")
)]
pub struct Ingest {
    /// Number of desired pods. Defaults to 2.
    #[schemars(range(min = 1, max = 100))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,

    /// Scales the number of pods by CPU usage. Replaces `replicas`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<IngestAutoscaling>,

    /// Size limit of a record, bytes. Ingest refuses larger records and the other workers reject
    /// them. Defaults to 65536.
    #[schemars(range(min = 256, max = 1_000_000))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_record_bytes: Option<i32>,

    /// Further names of the topics, for clients that send records to the topic or stream names of
    /// another system: `/topics/{name}` and `/streams/{name}/record`.
    #[schemars(length(max = 50))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub aliases: Vec<Alias>,

    /// Settings of the pods, laid over those of `spec.template`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<Template>,
}

/// A further name of a topic in the paths of ingest.
#[derive(KubeSchema, Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Alias {
    /// The name in paths, such as `streaming-0a1b-pin`.
    #[schemars(length(min = 1, max = 249))]
    #[x_kube(validation = Rule::new(
        "self.matches('^[a-zA-Z0-9._-]+$') && self != '.' && self != '..'"
    ).message(
        "the name of an alias must consist of letters, digits, '.', '_' and '-', and not be '.' or \
         '..'"
    ))]
    pub name: String,

    /// The kind of the records that are sent to this name.
    pub kind: RecordKind,
}

/// A kind of record: `Pin`, `Geo` or `User`.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
pub enum RecordKind {
    /// Posts.
    Pin,
    /// Where and when pins were posted.
    Geo,
    /// The users who posted pins.
    User,
}
