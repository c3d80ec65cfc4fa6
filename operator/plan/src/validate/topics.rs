//! Names and partitions of topics.

use pinpipe_crds::PinterestPipeline;

use super::Problem;
use crate::{model::Topic, names};

pub(super) fn topics(pipeline: &PinterestPipeline, problems: &mut Vec<Problem>) -> [Topic; 3] {
    let common = pipeline
        .spec
        .broker
        .kafka
        .topics
        .clone()
        .unwrap_or_default();
    let mut overrides = names::topic_overrides(pipeline).into_iter();
    let topics = names::topics(pipeline).map(|name| {
        let own = overrides.next().and_then(|own| own.partitions);
        Topic {
            name,
            partitions: own.or(common.partitions).unwrap_or(3),
            replication_factor: common.replication_factor.unwrap_or(-1),
            config: common.config.clone().unwrap_or_default(),
        }
    });
    let [pin, geo, user] = &topics;
    if pin.name == geo.name || geo.name == user.name || user.name == pin.name {
        problems.push(Problem {
            field: "spec.broker.kafka.topics.overrides",
            message: "two kinds of record share a topic: give each its own name".to_owned(),
        });
    }
    topics
}

/// Partitions of all topics together: observed where a topic is known, else desired.
pub(super) fn partitions(pipeline: &PinterestPipeline, topics: &[Topic; 3]) -> i32 {
    let known = pipeline
        .status
        .as_ref()
        .map(|status| status.topics.as_slice());
    let known = known.unwrap_or_default();
    let observed = |name: &str| {
        known
            .iter()
            .find(|topic| topic.name == name && topic.id.is_some())
    };
    let partitions = topics
        .iter()
        .map(|topic| observed(&topic.name).map_or(topic.partitions, |t| t.partitions));
    partitions.sum()
}
