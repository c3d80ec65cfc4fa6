//! Batch runs.

use std::collections::BTreeMap;

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Amount, PodSettings, Resources, SecretRef,
    schema::{HOST_PORT, unchanged_or},
};

/// The scheduled run that cleans all raw records, loads them and answers the eight questions.
#[derive(KubeSchema, Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Batch {
    /// When runs start: minute, hour, day of the month, month, day of the week. Missed runs are not
    /// made up for, and two never overlap.
    #[schemars(length(min = 6, max = 100))]
    #[x_kube(
        validation = Rule::new("self.matches('^(@(hourly|daily|midnight|weekly|monthly|yearly|annually)|[0-9A-Za-z*,/?-]+( [0-9A-Za-z*,/?-]+){4})$')")
            .message("batch.schedule must have five fields, minute hour day-of-month month day-of-week, such as \"0 10 * * *\", or be @daily or the like")
    )]
    pub schedule: String,

    /// The schedule's time zone. `UTC` unless set.
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(
        validation = Rule::new("self.matches('^[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*$')")
            .message("batch.timeZone must be a name of the IANA time zone database, such as Etc/UTC or Europe/London")
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,

    /// What a run's pod asks for and may use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,

    /// Where runs' pods run, as whom, and what stands on them.
    #[serde(flatten)]
    pub pods: PodSettings,

    /// Disk a run may take for what doesn't fit into its memory, bytes: `20Gi`. 16Gi unless set.
    #[schemars(schema_with = "crate::schema::quantity")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scratch_size: Option<Amount>,

    /// What a run must not exceed: one that does fails before it publishes anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quality: Option<Quality>,

    /// Where clean tables and answers go.
    #[schemars(length(min = 1, max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub sinks: Vec<BatchSink>,
}

/// The raw fields cleaning can make null: all but those that key a record, which is rejected
/// without them.
pub const REPAIRABLE_FIELDS: [&str; 18] = [
    "title",
    "category",
    "description",
    "poster_name",
    "follower_count",
    "tag_list",
    "is_image_or_video",
    "image_src",
    "downloaded",
    "save_location",
    "timestamp",
    "latitude",
    "longitude",
    "country",
    "first_name",
    "last_name",
    "age",
    "date_joined",
];

fn repairable_alone() -> String {
    format!(
        "batch.quality.maxRepairedRatio: its keys must be raw fields that cleaning can repair: {}",
        REPAIRABLE_FIELDS.join(", ")
    )
}

/// What a run must not exceed. Ratios are of the records the run read, 0 to 1.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Quality {
    /// Rejected records of all records read, 0 to 1: `0.01` is one in a hundred. No limit unless
    /// set.
    #[schemars(range(min = 0.0, max = 1.0))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_rejected_ratio: Option<f64>,

    /// By raw field (`follower_count`), the records in which it couldn't be read or was out of
    /// range, of the records of the kind that has it, 0 to 1. No limit for a field that isn't
    /// named.
    #[schemars(schema_with = "crate::schema::ratios")]
    #[x_kube(
        validation = Rule::new(format!("self.all(field, field in ['{}'])", REPAIRABLE_FIELDS.join("', '")))
            .message(repairable_alone().as_str())
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_repaired_ratio: Option<BTreeMap<String, f64>>,
}

/// Where a batch run puts clean tables and answers.
#[derive(KubeSchema, Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.cassandra)").message("a batch sink must hold exactly one kind of sink: set cassandra"))]
pub struct BatchSink {
    /// The sink's name.
    #[schemars(length(min = 1, max = 20))]
    #[x_kube(
        validation = Rule::new("self.matches('^[a-z]([a-z0-9-]*[a-z0-9])?$')").message(
            "a sink's name must consist of lowercase letters, digits and '-', begin with a letter and end with a letter or digit"
        )
    )]
    pub name: String,

    /// Tables in a Cassandra cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cassandra: Option<Cassandra>,
}

/// Tables in a Cassandra cluster.
#[derive(KubeSchema, Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new(unchanged_or("keyspace", "pinterest_data")).message(
        "a sink's cassandra.keyspace can't be changed, since a run loads just the rows that have changed and the new keyspace would lack \
         all others: add a sink with another name and the new keyspace, make a full run (charts/pinpipe-job, command=full), and then remove \
         this one"
    )
)]
pub struct Cassandra {
    /// `host:port` of one or more nodes; the others are found from there.
    #[schemars(length(min = 1, max = 16), inner(length(min = 3, max = 260)))]
    #[x_kube(
        validation = Rule::new(format!("self.all(point, point.matches('^{HOST_PORT}$'))"))
            .message("each of cassandra.contactPoints must be host:port, such as cassandra.example:9042")
    )]
    pub contact_points: Vec<String>,

    /// The keyspace, created when absent. `pinterest_data` unless set. Can't be changed later.
    #[schemars(length(min = 1, max = 48))]
    #[x_kube(
        validation = Rule::new("self.matches('^[a-z][a-z0-9_]*$') && !self.startsWith('system')").message(
            "cassandra.keyspace must consist of lowercase letters, digits and '_', begin with a letter, and not begin with system"
        )
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keyspace: Option<String>,

    /// The replication factor a new keyspace is created with. 1 unless set.
    #[schemars(range(min = 1, max = 10))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replication_factor: Option<i32>,

    /// A Secret with the keys `username` and `password`; absent: no authentication.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<SecretRef>,
}
