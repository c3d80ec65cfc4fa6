//! Ingest, the REST service.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{SecretRef, autoscaling::IngestAutoscaling, template::Template};

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

    /// How clients authenticate. If absent, everybody may post who reaches the Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authentication: Option<IngestAuthentication>,

    /// TLS of the port for records. If absent, it takes plain text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<IngestTls>,

    /// The Service in front of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<IngestService>,

    /// Limits of each pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<IngestLimits>,

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

/// How clients of ingest authenticate.
#[derive(KubeSchema, Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct IngestAuthentication {
    /// A Secret with a bearer token in each key, of 16 bytes at least. The key is the client's name
    /// in metrics and logs. A renewed Secret is taken up by running pods.
    pub bearer_tokens_secret_ref: SecretRef,
}

/// TLS of ingest's port for records.
#[derive(KubeSchema, Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct IngestTls {
    /// A Secret of the type `kubernetes.io/tls` with the server's certificate chain and private
    /// key: `tls.crt` and `tls.key`. A renewed Secret is taken up by running pods, and open
    /// connections stay open.
    pub certificate_secret_ref: SecretRef,
}

/// The Service in front of ingest's pods.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct IngestService {
    /// How the Service is exposed. Defaults to `ClusterIP`.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub type_: Option<ServiceType>,

    /// Additional annotations of the Service, such as those that configure a cloud provider's load
    /// balancer.
    #[schemars(schema_with = "crate::schema::annotations")]
    #[x_kube(
        validation = Rule::new("self.all(key, !key.startsWith('pinpipe.dev/'))").message(
            "ingest.service.annotations can't contain annotations with the prefix pinpipe.dev/, \
             which is reserved for the operator: choose other names"
        )
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
}

/// How a Service is exposed.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
pub enum ServiceType {
    /// At an address inside the cluster.
    #[serde(rename = "ClusterIP")]
    ClusterIp,
    /// Also at a port of every node.
    NodePort,
    /// Also by a load balancer of the cloud provider.
    LoadBalancer,
}

/// Limits of each of ingest's pods.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct IngestLimits {
    /// Requests a second of one client to one pod: of each token, or of each address where requests
    /// need no token. A client that was idle may send the requests of one second at once. No limit
    /// if absent.
    #[schemars(range(min = 1, max = 1_000_000))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_second_per_client: Option<i32>,

    /// Number of open connections of one pod. The memory limit allows one for each 256 KiB, or
    /// 512 KiB with TLS, and no more whatever is set here. Defaults to that.
    #[schemars(range(min = 1, max = 1_000_000))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<i32>,
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
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq, Hash, Serialize)]
pub enum RecordKind {
    /// Posts.
    Pin,
    /// Where and when pins were posted.
    Geo,
    /// The users who posted pins.
    User,
}
