//! Topics.

use serde_json::json;

use crate::{build::DesiredTopic, samples::validated};

#[test]
fn the_broker_sets_timestamps_and_dead_letter_topics_take_larger_records() {
    let topics = crate::build::topics(&validated(
        json!({"broker": {"kafka": {"bootstrapServers": "k:1", "topics": {
        "partitions": 4, "config": {"retention.ms": "5", "max.message.bytes": "2000000"}}}}}),
    ));
    let names: Vec<_> = topics
        .iter()
        .map(|topic| (topic.name.as_str(), topic.partitions))
        .collect();
    assert_eq!(
        names,
        [
            ("data.pinterest.pin", 4),
            ("data.pinterest.pin.dlq", 1),
            ("data.pinterest.geo", 4),
            ("data.pinterest.geo.dlq", 1),
            ("data.pinterest.user", 4),
            ("data.pinterest.user.dlq", 1),
        ]
    );
    let config = |topic: &DesiredTopic, key: &str| {
        topic
            .config
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value.clone())
    };
    for topic in &topics {
        assert_eq!(
            config(topic, "message.timestamp.type").as_deref(),
            Some("LogAppendTime")
        );
        assert_eq!(config(topic, "retention.ms").as_deref(), Some("5"));
    }
    assert_eq!(
        config(&topics[0], "max.message.bytes").as_deref(),
        Some("2000000")
    );
    assert_eq!(
        config(&topics[1], "max.message.bytes").as_deref(),
        Some("2065536")
    );
}

#[test]
fn existing_topics_are_not_managed() {
    for (management, managed) in [("Managed", true), ("Existing", false)] {
        let topics = json!({"management": management});
        let kafka = json!({"bootstrapServers": "k:1", "topics": topics});
        let topics = crate::build::topics(&validated(json!({"broker": {"kafka": kafka}})));
        assert_eq!(topics.len(), 6);
        assert!(
            topics.iter().all(|topic| topic.managed == managed),
            "{management}"
        );
    }
}
