//! The live sinks of stream workers.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    LagThresholds, PodSettings, Resources, SecretKeyRef, SinkAutoscaling, schema::unchanged_or,
};

/// Workers that keep live tables up to date.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Stream {
    /// Each sink is its own Deployment and consumer group: one that is down stalls no other.
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub sinks: Vec<StreamSink>,
}

/// Where one stream worker puts clean records.
#[derive(KubeSchema, Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.postgres)").message("a stream sink must hold exactly one kind of sink: set postgres"),
    validation = Rule::new("!has(self.replicas) || !has(self.autoscaling)")
        .message("a sink's replicas and autoscaling can't both be set: remove one of them")
)]
pub struct StreamSink {
    /// The sink's name, part of its positions' identity: a sink under another name begins anew.
    #[schemars(length(min = 1, max = 20))]
    #[x_kube(
        validation = Rule::new("self.matches('^[a-z]([a-z0-9-]*[a-z0-9])?$')").message(
            "a sink's name must consist of lowercase letters, digits and '-', begin with a letter and end with a letter or digit"
        ),
        validation = Rule::new("self != 'archive'")
            .message("the sink name archive is taken by the raw archive (spec.archive); choose another name")
    )]
    pub name: String,

    /// Where a sink without a position begins; `earliest` unless set. `latest` is resolved once,
    /// when the sink first runs, and remembered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_from: Option<StartFrom>,

    /// How many pods share the topics' partitions; never more than there are partitions. 1 unless
    /// set.
    #[schemars(range(min = 1, max = 100))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,

    /// As many pods as the sink's lag asks for, in place of `replicas`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<SinkAutoscaling>,

    /// What a pod asks for and may use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,

    /// What the condition `LagWithinThreshold` is held against. Nothing is stopped or slowed by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thresholds: Option<LagThresholds>,

    /// Where the pods run, as whom, and what stands on them.
    #[serde(flatten)]
    pub pods: PodSettings,

    /// Live tables in PostgreSQL: `pin`, `geo` and `user_profile`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postgres: Option<Postgres>,
}

/// Where a sink without a position begins.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum StartFrom {
    /// The first record the broker still has.
    #[default]
    Earliest,
    /// The end of the topics when the sink first runs.
    Latest,
}

/// Live tables in PostgreSQL.
#[derive(KubeSchema, Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new(unchanged_or("writeMode", "Upsert")).message(
        "a sink's postgres.writeMode can't be changed, since its tables have another key: add a sink with another name and another \
         postgres.schema, and remove this one once the new one has caught up"
    )
)]
pub struct Postgres {
    /// A Secret's key that holds `postgresql://user:password@host:port/database`.
    pub url_secret_ref: SecretKeyRef,

    /// The schema of the tables, created when absent. `public` unless set.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(
        validation = Rule::new("self.matches('^[a-z_][a-z0-9_]*$') && !self.startsWith('pg_')").message(
            "postgres.schema must consist of lowercase letters, digits and '_', begin with a letter or '_', and not begin with pg_"
        )
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,

    /// What a row is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_mode: Option<WriteMode>,
}

/// What a row is: the latest record of its key (`Upsert`, unless set), or one record, every version
/// of a key (`Append`). Can't be changed later.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
pub enum WriteMode {
    /// The latest record of its key.
    #[default]
    Upsert,
    /// A record, keyed by topic, partition and offset.
    Append,
}
