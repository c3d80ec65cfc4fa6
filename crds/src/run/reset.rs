//! Runs that give a sink other positions.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::{IS_TIME, TIME};
use crate::RecordKind;

/// Gives a sink other positions, once: its worker starts there, and moves the positions that the
/// sink keeps with its data.
#[derive(KubeSchema, Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.kinds) || !has(self.to.offsets)").message(
        "reset.kinds is about earliest, latest and time: each of reset.to.offsets has its own kind"
    )
)]
pub struct RunReset {
    /// The stream sink, or `archive`, which moves forward only.
    #[schemars(length(min = 1, max = 20))]
    #[x_kube(
        validation = Rule::new("self.matches('^[a-z]([a-z0-9-]*[a-z0-9])?$')").message(
            "reset.sink must be the name of a sink of spec.stream.sinks of the pipeline, or archive"
        )
    )]
    pub sink: String,

    /// Only the topics of these kinds of record.
    #[schemars(length(max = 3))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kinds: Vec<RecordKind>,

    /// Where the sink goes on.
    pub to: ResetTo,
}

/// Where a sink goes on: exactly one of `earliest`, `latest`, `time` and `offsets`.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new(
        "(has(self.earliest) ? 1 : 0) + (has(self.latest) ? 1 : 0) + (has(self.time) ? 1 : 0) + \
         (has(self.offsets) ? 1 : 0) == 1"
    )
    .message("reset.to must be one thing: set exactly one of earliest, latest, time and offsets")
)]
pub struct ResetTo {
    /// At the first record that the broker has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub earliest: Option<ResetToEnd>,

    /// At the end of the topics.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest: Option<ResetToEnd>,

    /// At the first record that came to the broker at or after this time, such as
    /// `2026-01-31T00:00:00Z`, or at the end.
    #[schemars(length(min = 20, max = 40))]
    #[x_kube(validation = Rule::new(IS_TIME).message(TIME))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,

    /// At these offsets. Other partitions stay where they are.
    #[schemars(length(min = 1, max = 256))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["kind".into(), "partition".into()]))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub offsets: Vec<ResetOffset>,
}

/// The beginning or the end of the topics. It has no settings.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ResetToEnd {}

/// Where a sink goes on in one partition.
#[derive(KubeSchema, Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ResetOffset {
    /// The kind of record, which tells the topic.
    pub kind: RecordKind,

    /// The partition's number.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub partition: i32,

    /// The offset of the next record to be read.
    #[schemars(length(min = 1, max = 18))]
    #[x_kube(
        validation = Rule::new("self.matches('^[0-9]+$')")
            .message("each of reset.to.offsets must have an offset in digits: \"1042\"")
    )]
    pub offset: String,
}
