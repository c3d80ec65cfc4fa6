use std::slice;

use pinpipe_crds::Created::{Operator, Other, Unknown};

use super::*;

const STAMPED: [(&str, &str); 2] = [
    ("message.timestamp.type", "LogAppendTime"),
    ("retention.ms", "1000"),
];

fn pairs(config: &[(&str, &str)]) -> impl Iterator<Item = (String, String)> {
    let pairs = config.iter();
    pairs.map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
}

fn desired(name: &str, partitions: i32) -> DesiredTopic {
    DesiredTopic {
        kind: RecordKind::Pin,
        name: name.to_owned(),
        partitions,
        replication_factor: -1,
        config: pairs(&STAMPED).collect(),
        dead_letters: false,
        managed: true,
    }
}

fn observed(id: &str, partitions: i32, config: &[(&str, &str)]) -> ObservedTopic {
    ObservedTopic {
        id: id.to_owned(),
        partitions,
        config: pairs(config).collect(),
    }
}

fn only(topic: ObservedTopic) -> BTreeMap<String, ObservedTopic> {
    BTreeMap::from([("t".to_owned(), topic)])
}

fn known(id: Option<&str>, created: Created) -> TopicStatus {
    TopicStatus {
        name: "t".to_owned(),
        id: id.map(ToOwned::to_owned),
        partitions: 3,
        created,
    }
}

fn planned(
    desired_topics: &[DesiredTopic],
    known: &[TopicStatus],
    observed: &BTreeMap<String, ObservedTopic>,
) -> Plan {
    plan(desired_topics, known, observed)
}

fn request(action: TopicAction, id: &str) -> TopicRequest {
    TopicRequest {
        run: "r".to_owned(),
        names: ["t".to_owned(), "t.dlq".to_owned()],
        action,
        id: id.to_owned(),
    }
}

/// Who created it, the broker's id, the id to adopt → who created it afterwards.
#[test]
fn a_topic_of_unknown_origin_is_adopted_by_its_present_id() {
    for (created, found, id, expected) in [
        (Unknown, Some("a"), "a", Operator),
        (Unknown, Some("a"), "b", Unknown),
        (Unknown, Some("b"), "a", Unknown),
        (Unknown, None, "a", Unknown),
        (Other, Some("a"), "a", Other),
        (Operator, Some("a"), "a", Operator),
    ] {
        let observed = found.map(|id| only(observed(id, 3, &STAMPED)));
        let adopt = [request(TopicAction::Adopt, id)];
        let known = [known(Some("a"), created)];
        let left = settled(&known, &adopt, &observed.unwrap_or_default());
        assert_eq!(left[0].created, expected, "{created:?} {found:?} {id}");
    }
}

/// Known id, the broker's, the id to forget → whether the topic is created again, its id and
/// creator.
#[test]
fn a_topic_that_is_gone_is_forgotten_by_the_id_it_had() {
    let forget = |id: &str| [request(TopicAction::Forget, id)];
    for (case, found, forgotten, create, id, created) in [
        ("missing", None, "a", true, None, Unknown),
        ("replaced", Some("b"), "a", false, Some("b"), Other),
        (
            "there as it was",
            Some("a"),
            "a",
            false,
            Some("a"),
            Operator,
        ),
        ("another id", None, "b", false, Some("a"), Operator),
    ] {
        let observed = found.map(|id| only(observed(id, 3, &STAMPED)));
        let observed = observed.unwrap_or_default();
        let known = [known(Some("a"), Operator)];
        let known = settled(&known, &forget(forgotten), &observed);
        let plan = planned(&[desired("t", 3)], &known, &observed);
        assert_eq!(plan.create.len() == 1, create, "{case}");
        let topic = &plan.state.topics[0];
        assert_eq!(
            (topic.id.as_deref(), topic.created),
            (id, created),
            "{case}"
        );
    }
    // A request that was carried out finds another id and does nothing.
    let after = [known(Some("b"), Operator)];
    let again = settled(&after, &forget("a"), &BTreeMap::new());
    assert_eq!(again, after);
}

#[test]
fn the_way_out_is_a_run_for_each_topic_that_is_gone() {
    let known = |name: &str, id: &str| TopicStatus {
        name: name.to_owned(),
        ..known(Some(id), Operator)
    };
    let observed = BTreeMap::from([("u".to_owned(), observed("c", 3, &STAMPED))]);
    let plan = planned(
        &[desired("t", 3), desired("u", 3)],
        &[known("t", "a"), known("u", "b")],
        &observed,
    );
    let message = &plan.state.finding.message;
    for expected in [
        "topic t was deleted",
        "(and 1 more)",
        "topic: {kind: Pin, action: Forget, id: \"a\"}, \
         topic: {kind: Pin, action: Forget, id: \"b\"};",
        "kubectl pinpipe reset",
    ] {
        assert!(message.contains(expected), "{message}");
    }
}

fn status((id, created): (Option<&str>, Created)) -> TopicStatus {
    known(id, created)
}

/// What is known, the broker's id → whether the topic is created, its id and creator, the reason.
#[test]
fn what_is_done_about_a_topic() {
    let (ready, a) = (reasons::TOPICS_READY, Some("a"));
    let (missing, replaced) = (reasons::TOPIC_MISSING, reasons::TOPIC_REPLACED);
    for (case, known, found, create, id, created, reason) in [
        ("absent", None, None, true, None, Unknown, ready),
        ("there before", None, a, false, a, Other, ready),
        (
            "crashed before creating it",
            Some((None, Unknown)),
            None,
            true,
            None,
            Unknown,
            ready,
        ),
        (
            "crashed after creating it",
            Some((None, Unknown)),
            a,
            false,
            a,
            Unknown,
            ready,
        ),
        (
            "created just now",
            Some((None, Operator)),
            a,
            false,
            a,
            Operator,
            ready,
        ),
        ("settled", Some((a, Operator)), a, false, a, Operator, ready),
        (
            "gone",
            Some((a, Operator)),
            None,
            false,
            a,
            Operator,
            missing,
        ),
        (
            "gone, not the operator's",
            Some((a, Other)),
            None,
            false,
            a,
            Other,
            missing,
        ),
        (
            "replaced",
            Some((a, Operator)),
            Some("b"),
            false,
            a,
            Operator,
            replaced,
        ),
    ] {
        let observed = found.map(|id| only(observed(id, 3, &STAMPED)));
        let known: Vec<_> = known.map(status).into_iter().collect();
        let plan = planned(&[desired("t", 3)], &known, &observed.unwrap_or_default());
        assert_eq!(plan.create.len() == 1, create, "{case}");
        let topic = &plan.state.topics[0];
        assert_eq!(
            (topic.id.as_deref(), topic.created),
            (id, created),
            "{case}"
        );
        assert_eq!(plan.state.finding.reason, reason, "{case}");
        assert_eq!(plan.intent, plan.state.topics, "{case}");
    }
}

#[test]
fn other_settings_are_reported_and_left() {
    let config = [STAMPED[0], ("retention.ms", "2000")];
    let plan = planned(&[desired("t", 6)], &[], &only(observed("a", 3, &config)));
    assert!(plan.create.is_empty() && plan.raise.is_empty() && plan.state.finding.ok);
    assert_eq!(plan.state.topics[0].partitions, 3);
    for expected in [
        "keeps its 3 partitions, not 6",
        "keeps its retention.ms=2000, not 1000",
    ] {
        let finding = &plan.state.finding;
        assert!(finding.message.contains(expected), "{finding:?}");
    }
}

#[test]
fn a_dead_letter_topic_that_is_too_small_for_the_largest_records_is_reported() {
    let limit = |bytes| ("max.message.bytes", bytes);
    let dead_letters = DesiredTopic {
        config: pairs(&[limit("1114124")]).collect(),
        dead_letters: true,
        ..desired("t", 1)
    };
    for (found, is_too_small) in [
        (Some("1048588"), true),
        (Some("1114124"), false),
        (Some("20000000"), false),
        (None, false),
    ] {
        let found = found.map(limit);
        let observed = only(observed("a", 1, found.as_slice()));
        let finding = planned(slice::from_ref(&dead_letters), &[], &observed)
            .state
            .finding;
        let command = "--entity-name t --add-config max.message.bytes=1114124";
        assert!(finding.ok);
        assert_eq!(
            finding.message.contains(command),
            is_too_small,
            "{finding:?}"
        );
    }
}

/// Partitions at the broker, creator, timestamp type → whether they are raised to 6, and a part of
/// the message.
#[test]
fn partitions_are_raised_of_topics_that_the_operator_created_and_the_broker_stamps() {
    let broker = Some("LogAppendTime");
    for (there, created, stamp, raised, message) in [
        (3, Operator, broker, true, ""),
        (6, Operator, broker, false, ""),
        (7, Operator, broker, false, "can't lose partitions"),
        (3, Other, broker, false, "did not create it"),
        (3, Unknown, broker, false, "isn't known whether"),
        (
            3,
            Operator,
            None,
            false,
            "doesn't show message.timestamp.type",
        ),
        (
            3,
            Operator,
            Some("CreateTime"),
            false,
            "set it to LogAppendTime",
        ),
    ] {
        let config = stamp.map(|stamp| ("message.timestamp.type", stamp));
        let observed = only(observed("a", there, config.as_slice()));
        let plan = planned(&[desired("t", 6)], &[known(Some("a"), created)], &observed);
        let raise = plan.raise.iter();
        let raise: Vec<_> = raise.map(|to| (to.name.as_str(), to.partitions)).collect();
        let expected = if raised { vec![("t", 6)] } else { vec![] };
        assert_eq!(raise, expected, "{there} {created:?} {stamp:?}");
        let finding = &plan.state.finding;
        assert!(finding.message.contains(message), "{finding:?}");
        assert_eq!(plan.state.topics[0].partitions, there);
    }
    let dead_letters = DesiredTopic {
        dead_letters: true,
        ..desired("t", 1)
    };
    let observed = only(observed("a", 3, &STAMPED));
    let plan = planned(&[dead_letters], &[known(Some("a"), Operator)], &observed);
    let message = &plan.state.finding.message;
    assert!(
        plan.raise.is_empty() && !message.contains("partitions"),
        "{plan:?}"
    );
}

/// A topic is suitable only where the broker says that it stamps records.
#[test]
fn a_topic_is_suitable_if_the_broker_stamps_its_records() {
    let stamp = "message.timestamp.type";
    for (config, reason, suitability) in [
        (
            vec![(stamp, "LogAppendTime")],
            reasons::TOPICS_READY,
            Suitability::Suitable,
        ),
        (
            vec![(stamp, "CreateTime")],
            reasons::TOPIC_UNSUITABLE,
            Suitability::Unsuitable,
        ),
        (vec![], reasons::BROKER_FAILED, Suitability::Unknown),
    ] {
        let plan = planned(&[desired("t", 3)], &[], &only(observed("a", 3, &config)));
        assert_eq!(plan.state.finding.reason, reason);
        assert_eq!(plan.state.suitability, suitability, "{config:?}");
    }
}

/// What is known, the broker's id and settings → id, creator, reason, and a part of the message.
#[test]
fn existing_topics_are_only_described() {
    let stamp = "message.timestamp.type";
    let (stamped, other) = ([(stamp, "LogAppendTime")], [(stamp, "CreateTime")]);
    let a = Some("a");
    let ready = reasons::TOPICS_READY;
    for (known, found, id, created, reason, message) in [
        (
            None,
            None,
            None,
            Other,
            reasons::TOPIC_MISSING,
            "don't exist: t; create each",
        ),
        (
            Some((None, Other)),
            None,
            None,
            Other,
            reasons::TOPIC_MISSING,
            "management: Managed",
        ),
        (
            None,
            Some(&stamped[..]),
            a,
            Other,
            ready,
            "all 1 topics are there",
        ),
        (
            Some((a, Operator)),
            Some(&stamped[..]),
            a,
            Operator,
            ready,
            "all 1 topics are there",
        ),
        (
            None,
            Some(&[][..]),
            a,
            Other,
            ready,
            "may not read the settings of topic t",
        ),
        (
            None,
            Some(&other[..]),
            a,
            Other,
            reasons::TOPIC_UNSUITABLE,
            "CreateTime",
        ),
        (
            Some((a, Other)),
            None,
            a,
            Other,
            reasons::TOPIC_MISSING,
            "was deleted by somebody else",
        ),
    ] {
        let observed = found.map(|config| only(observed("a", 3, config)));
        let known: Vec<_> = known.map(status).into_iter().collect();
        let existing = DesiredTopic {
            managed: false,
            ..desired("t", 6)
        };
        let plan = planned(&[existing], &known, &observed.unwrap_or_default());
        assert!(plan.create.is_empty() && plan.raise.is_empty(), "{plan:?}");
        let topic = &plan.intent[0];
        assert_eq!((topic.id.as_deref(), topic.created), (id, created));
        let finding = &plan.state.finding;
        assert_eq!(finding.reason, reason);
        assert!(finding.message.contains(message), "{finding:?}");
    }
}

#[test]
fn all_topics_that_somebody_has_to_create_are_named_at_once() {
    let topics = ["t", "u"].map(|name| DesiredTopic {
        managed: false,
        ..desired(name, 3)
    });
    let message = planned(&topics, &[], &BTreeMap::new())
        .state
        .finding
        .message;
    assert!(message.contains("these don't exist: t, u;"), "{message}");
}
