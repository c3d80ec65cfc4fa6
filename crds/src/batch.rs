//! Batch runs.

use std::collections::BTreeMap;

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Amount, SecretKeyRef, SecretRef, Template, Tls,
    schema::{
        DURATION, HOST_PORT, IS_DURATION, IS_PERCENTAGE, IS_POSTGRES_SCHEMA, IS_QUANTITY,
        PERCENTAGE, POSTGRES_SCHEMA, QUANTITY, duration_within, unchanged_or,
    },
};

/// Scheduled batch runs, which clean all raw records, load them into sinks and answer the eight
/// questions.
#[derive(KubeSchema, Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Batch {
    /// The schedule in Cron format: minute, hour, day of the month, month, day of the week. A
    /// missed run starts up to five minutes late, otherwise it is skipped. Runs never overlap.
    #[schemars(length(min = 6, max = 100))]
    #[x_kube(
        validation = Rule::new(
            "self.matches('^(@(hourly|daily|midnight|weekly|monthly|yearly|annually)|\
             [0-9A-Za-z*,/?-]+( [0-9A-Za-z*,/?-]+){4})$')"
        )
        .message(
            "batch.schedule must have five fields, minute hour day-of-month month day-of-week, \
             such as \"0 10 * * *\", or be a macro such as @daily"
        )
    )]
    pub schedule: String,

    /// The time zone name for the schedule, such as `Europe/London`. Defaults to `UTC`.
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(
        validation = Rule::new("self.matches('^[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*$')")
            .message(
                "batch.timeZone must be a name of the IANA time zone database, such as Etc/UTC or \
                 Europe/London"
            )
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,

    /// How long a run may be active, retries and waiting for a node included, before it is
    /// terminated and counts as failed, such as `90m` or `6h`. A scheduled run that hasn't
    /// succeeded this long after it was due is overdue. Defaults to 6h.
    #[schemars(length(min = 2, max = 16))]
    #[x_kube(
        validation = Rule::new(IS_DURATION).message(DURATION),
        validation = Rule::new(duration_within("1m", "720h"))
            .message("batch.deadline must be between 1m and 720h")
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<String>,

    /// Settings of the runs' pods, laid over those of `spec.template`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<Template>,

    /// Disk space for data that does not fit into a run's memory, such as `20Gi`. Defaults to 16Gi.
    #[schemars(schema_with = "crate::schema::quantity")]
    #[x_kube(validation = Rule::new(IS_QUANTITY).message(QUANTITY))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scratch_size: Option<Amount>,

    /// Data quality limits. A run that exceeds one fails before it publishes anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quality: Option<Quality>,

    /// Where clean tables and answers are written. Without sinks the answers are in each run's
    /// report and log.
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sinks: Vec<BatchSink>,
}

/// Raw fields that cleaning can set to null: all fields except the keys, without which a record is
/// rejected.
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

fn not_repairable() -> String {
    format!(
        "batch.quality.maxRepaired[].field must be a raw field that cleaning can repair: {}",
        REPAIRABLE_FIELDS.join(", ")
    )
}

/// Data quality limits, percentages of the records that a run read.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Quality {
    /// Maximum percentage of rejected records, such as `5%` or `0.5%`. Unlimited by default.
    #[schemars(length(min = 2, max = 9))]
    #[x_kube(validation = Rule::new(IS_PERCENTAGE).message(PERCENTAGE))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_rejected: Option<String>,

    /// Limits of repaired records, by raw field. Fields that are not listed are unlimited.
    #[schemars(length(max = 18))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["field".into()]))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub max_repaired: Vec<RepairLimit>,
}

/// Limit of the records in which a field was unreadable or out of range.
#[derive(KubeSchema, Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RepairLimit {
    /// The raw field, such as `follower_count`.
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(
        validation = Rule::new(format!("self in ['{}']", REPAIRABLE_FIELDS.join("', '")))
            .message(not_repairable().as_str())
    )]
    pub field: String,

    /// Maximum percentage, such as `20%`, of the records of the kind that has the field.
    #[schemars(length(min = 2, max = 9))]
    #[x_kube(validation = Rule::new(IS_PERCENTAGE).message(PERCENTAGE))]
    pub limit: String,
}

/// A sink for clean tables and answers of batch runs.
#[derive(KubeSchema, Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.cassandra) != has(self.postgres)").message(
        "a batch sink must hold exactly one kind of sink: set either cassandra or postgres"
    )
)]
pub struct BatchSink {
    /// The sink's name.
    #[schemars(length(min = 1, max = 20))]
    #[x_kube(
        validation = Rule::new("self.matches('^[a-z]([a-z0-9-]*[a-z0-9])?$')").message(
            "a sink's name must consist of lowercase letters, digits and '-', begin with a letter \
             and end with a letter or digit"
        )
    )]
    pub name: String,

    /// Tables in a Cassandra cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cassandra: Option<Cassandra>,

    /// Tables in a PostgreSQL database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postgres: Option<BatchPostgres>,
}

/// Tables of batch runs in a PostgreSQL database. A schema is for one pipeline alone.
#[derive(KubeSchema, Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BatchPostgres {
    /// A Secret's key with the URL `postgresql://user:password@host:port/database?sslmode=require`.
    pub url_secret_ref: SecretKeyRef,

    /// Certificates of the connection. The URL's `sslmode` says whether there is TLS; with a
    /// certificate named here it is `verify-full` unless set.
    #[serde(flatten)]
    pub tls: Tls,

    /// The schema of the tables, created if it does not exist. Defaults to `batch`. If it is
    /// changed, the next run fills the new schema, and the tables in the old one stay.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = Rule::new(IS_POSTGRES_SCHEMA).message(POSTGRES_SCHEMA))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
}

/// Tables in a Cassandra cluster.
#[derive(KubeSchema, Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new(unchanged_or("keyspace", "pinterest_data")).message(
        "a sink's cassandra.keyspace can't be changed, since the tables in the old one would stay \
         and get no more rows: add a sink with another name and the new keyspace, and remove this \
         one once a run has filled the new one; if you set back the first keyspace, remove the \
         sink and add it again"
    )
)]
pub struct Cassandra {
    /// `host:port` of one or more nodes, from which the others are discovered.
    #[schemars(length(min = 1, max = 16), inner(length(min = 3, max = 260)))]
    #[x_kube(
        validation = Rule::new(format!("self.all(point, point.matches('^{HOST_PORT}$'))"))
            .message(
                "each of cassandra.contactPoints must be host:port, such as cassandra.example:9042"
            )
    )]
    pub contact_points: Vec<String>,

    /// The keyspace, created if it does not exist. Defaults to `pinterest_data`. Immutable.
    #[schemars(length(min = 1, max = 48))]
    #[x_kube(
        validation = Rule::new(
            "self.matches('^[a-z][a-z0-9_]*$') && !self.startsWith('system')"
        )
        .message(
            "cassandra.keyspace must consist of lowercase letters, digits and '_', begin with a \
             letter, and not begin with system"
        )
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keyspace: Option<String>,

    /// Number of replicas by datacenter with which the keyspace is created (strategy
    /// `NetworkTopologyStrategy`), such as `{dc1: 3}`. By default there is one replica in the
    /// cluster (`SimpleStrategy`), which is for trials on one node. An existing keyspace is not
    /// changed.
    #[schemars(schema_with = "crate::schema::replication")]
    #[x_kube(
        validation = Rule::new(
            "self.all(name, name.matches('^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$') && \
             name != 'class' && name != 'replication_factor')"
        )
        .message(
            "cassandra.replication: its keys must be names of datacenters, as nodetool status \
             shows them: dc1"
        )
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replication: Option<BTreeMap<String, u32>>,

    /// TLS of the connections to the nodes. Without it they are plain text. The nodes' certificates
    /// must be for the host name of a contact point, or for the node's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,

    /// A Secret with the keys `username` and `password`. Without it, there is no authentication.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<SecretRef>,
}
