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
    let field = "spec.broker.kafka.topics.overrides";
    if pin.name == geo.name || geo.name == user.name || user.name == pin.name {
        let message = "two kinds of record share a topic: give each its own name".to_owned();
        problems.push(Problem { field, message });
    }
    if let Some(message) = collision([&pin.name, &geo.name, &user.name]) {
        problems.push(Problem { field, message });
    }
    topics
}

/// Problem with names that differ, but are the same name in Kafka's metrics, which have '_' for
/// '.': a broker refuses the second of such topics. Source: Kafka's `Topic.hasCollision`.
fn collision(topics: [&str; 3]) -> Option<String> {
    let records = topics.map(|topic| (topic.to_owned(), String::new()));
    let dead_letters = topics.map(|topic| {
        let whose = format!(" (the dead-letter topic of {topic})");
        (names::dead_letter(topic), whose)
    });
    let all = [records, dead_letters].concat();
    let pairs = all
        .iter()
        .enumerate()
        .flat_map(|(index, one)| all[index + 1..].iter().map(move |other| (one, other)));
    let in_metrics = |name: &str| name.replace('.', "_");
    let mut colliding =
        pairs.filter(|((one, _), (other, _))| one != other && in_metrics(one) == in_metrics(other));
    let ((one, whose), (other, others)) = colliding.next()?;
    Some(format!(
        "topics {one}{whose} and {other}{others} differ only by '.' and '_', so that Kafka refuses \
         the second: give one of them another name (if the pipeline exists, delete it and create \
         it again, since names can't be changed)"
    ))
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::samples::pipeline;

    /// Messages about topics with these names; an empty name is the default.
    fn messages(names: [&str; 3]) -> Vec<String> {
        let names = names.map(|name| (!name.is_empty()).then_some(name));
        let [pin, geo, user] = names.map(|name| json!({"name": name}));
        let overrides = json!({"pin": pin, "geo": geo, "user": user});
        let spec = json!({"broker": {"kafka": {
            "bootstrapServers": "k:1", "topics": {"overrides": overrides}}}});
        let mut problems = Vec::new();
        topics(&pipeline(spec), &mut problems);
        problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn names_that_kafka_takes_for_one_are_refused() {
        for names in [
            ["", "", ""],
            ["shop.pin", "shop_geo", "shop-pin"],
            ["Shop.pin", "shop_pin", "shop.user"],
            ["pin.dlq.x", "pin", "pin.x"],
        ] {
            assert_eq!(messages(names), [""; 0], "{names:?}");
        }
        for (names, one, other) in [
            (["shop.pin", "shop_pin", ""], "shop.pin", "shop_pin"),
            (["", "a.b_c", "a_b.c"], "a.b_c", "a_b.c"),
            (
                ["data_pinterest.user", "", ""],
                "data_pinterest.user",
                "data.pinterest.user",
            ),
            (
                ["pin_dlq", "", "pin"],
                "pin_dlq",
                "pin.dlq (the dead-letter topic of pin)",
            ),
        ] {
            let messages = messages(names);
            let [message] = messages.as_slice() else {
                panic!("{names:?}: {messages:?}")
            };
            let begin = "spec.broker.kafka.topics.overrides: ";
            assert!(message.starts_with(begin), "{message}");
            assert!(
                message.contains(&format!("{one} and {other} ")),
                "{message}"
            );
        }
    }
}
