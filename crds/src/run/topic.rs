//! Runs that settle what the operator knows of a topic.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::RecordKind;

/// Settles what the operator knows of a topic. It changes nothing in the topic.
#[derive(KubeSchema, Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RunTopic {
    /// The kind of record. The id tells the topic of records from its dead-letter topic.
    pub kind: RecordKind,

    /// What is settled.
    pub action: TopicAction,

    /// The topic's id, as `status.topics` of the pipeline has it. It keeps the run from another
    /// topic of the name.
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(
        validation = Rule::new("self.matches('^[A-Za-z0-9+/=_-]+$')").message(
            "topic.id must be the id of a topic, as status.topics of the pipeline has it"
        )
    )]
    pub id: String,
}

/// What is settled about a topic.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq, Hash, Serialize)]
pub enum TopicAction {
    /// A topic with this id, which somebody deleted, is lost: one that is there now is used, or a
    /// new one is created.
    Forget,
    /// The topic, of which it isn't known who created it (`created: Unknown`), counts as created by
    /// the operator.
    Adopt,
}
