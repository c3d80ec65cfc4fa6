//! Sinks of stream workers.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    SecretKeyRef, SinkAutoscaling, Template, Tls,
    schema::{IS_POSTGRES_SCHEMA, POSTGRES_SCHEMA, unchanged_or},
};

/// Stream workers, which keep live tables up to date.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Stream {
    /// The sinks. Each has its own Deployment and consumer group, so a sink that is down does not
    /// affect the others.
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub sinks: Vec<StreamSink>,
}

/// A sink for clean records.
#[derive(KubeSchema, Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.postgres)")
        .message("a stream sink must hold exactly one kind of sink: set postgres"),
    validation = Rule::new("!has(self.replicas) || !has(self.autoscaling)")
        .message("a sink's replicas and autoscaling can't both be set: remove one of them")
)]
pub struct StreamSink {
    /// The sink's name. Positions are stored by name: a renamed sink starts without positions.
    #[schemars(length(min = 1, max = 20))]
    #[x_kube(
        validation = Rule::new("self.matches('^[a-z]([a-z0-9-]*[a-z0-9])?$')").message(
            "a sink's name must consist of lowercase letters, digits and '-', begin with a letter \
             and end with a letter or digit"
        ),
        validation = Rule::new("self != 'archive'").message(
            "the sink name archive is reserved for the raw archive (spec.archive); choose another \
             name"
        ),
        validation = Rule::new("self != 'dead-letters'").message(
            "the sink name dead-letters is reserved for the positions of the dead letters; choose \
             another name"
        )
    )]
    pub name: String,

    /// Where a sink without stored positions starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_from: Option<StartFrom>,

    /// Number of desired pods, limited by the number of partitions, which the pods share. Defaults
    /// to 1.
    #[schemars(range(min = 1, max = 100))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,

    /// Scales the number of pods by the sink's lag. Replaces `replicas`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<SinkAutoscaling>,

    /// Settings of the pods, laid over those of `spec.template`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<Template>,

    /// Live tables in PostgreSQL: `pin`, `geo` and `user_profile`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postgres: Option<Postgres>,
}

/// Where a sink without stored positions starts: at the earliest record that the broker retains
/// (`Earliest`, default), or at the end of the topics when the sink runs for the first time
/// (`Latest`).
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
pub enum StartFrom {
    /// The earliest record that the broker retains.
    #[default]
    Earliest,
    /// The end of the topics when the sink runs for the first time.
    Latest,
}

/// Live tables in PostgreSQL.
#[derive(KubeSchema, Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new(unchanged_or("writeMode", "Upsert")).message(
        "a sink's postgres.writeMode can't be changed, since its tables have another key: add a \
         sink with another name and another postgres.schema, and remove this one once the new one \
         has caught up"
    )
)]
pub struct Postgres {
    /// A Secret's key with the URL `postgresql://user:password@host:port/database?sslmode=require`.
    pub url_secret_ref: SecretKeyRef,

    /// Certificates of the connection. The URL's `sslmode` says whether there is TLS; with a
    /// certificate named here it is `verify-full` unless set.
    #[serde(flatten)]
    pub tls: Tls,

    /// The schema of the tables, created if it does not exist. Defaults to `public`.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = Rule::new(IS_POSTGRES_SCHEMA).message(POSTGRES_SCHEMA))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,

    /// What a row stands for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_mode: Option<WriteMode>,
}

/// What a row stands for: the latest record of a key (`Upsert`, default) or one record, so that all
/// versions of a key are kept (`Append`). Immutable.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
pub enum WriteMode {
    /// The latest record of a key.
    #[default]
    Upsert,
    /// One record. The primary key is topic, partition and offset.
    Append,
}
