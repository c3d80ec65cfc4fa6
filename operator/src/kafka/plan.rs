//! Decides what to do about topics, and what to report. Pure.

use std::collections::BTreeMap;

use pinpipe_crds::{TopicStatus, reasons};
use pinpipe_plan::{
    build::DesiredTopic,
    model::Forgotten,
    names::{FORGET_ANNOTATION, RESET_ANNOTATION},
};

use super::TopicsState;
use crate::finding::Finding;

/// Setting that decides whose clock a record's timestamp comes from.
const TIMESTAMP_TYPE: &str = "message.timestamp.type";
const LOG_APPEND_TIME: &str = "LogAppendTime";

/// A topic as the broker describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObservedTopic {
    /// Topic id.
    pub id: String,
    /// Number of partitions.
    pub partitions: i32,
    /// Settings, defaults included.
    pub config: BTreeMap<String, String>,
}

/// A topic to be given more partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Raise {
    /// Its name.
    pub name: String,
    /// Number of partitions afterwards.
    pub partitions: i32,
}

/// What to do about a pipeline's topics.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Topics to create.
    pub create: Vec<DesiredTopic>,
    /// Topics to give more partitions.
    pub raise: Vec<Raise>,
    /// Topics as the status must list them before that.
    pub intent: Vec<TopicStatus>,
    /// State of the topics, apart from those to create or to give more partitions.
    pub state: TopicsState,
}

impl Plan {
    /// Sentence about what is left to do. None: nothing. After a change it is what the broker
    /// doesn't show yet.
    #[must_use]
    pub fn pending(&self) -> Option<String> {
        let created = self
            .create
            .first()
            .map(|topic| format!("topic {}, which was just created", topic.name));
        let raised = self.raise.first();
        let pending = created.or_else(|| {
            raised.map(|topic| {
                format!(
                    "the {} partitions of topic {}, which was just given more",
                    topic.partitions, topic.name
                )
            })
        })?;
        Some(format!("the broker does not show {pending} yet"))
    }
}

/// The topics of the status without those to forget. A topic that still exists with its id stays.
#[must_use]
pub fn without_forgotten(
    known: &[TopicStatus],
    forgotten: &[Forgotten],
    observed: &BTreeMap<String, ObservedTopic>,
) -> Vec<TopicStatus> {
    let gone =
        |topic: &TopicStatus| topic.id.as_ref() != observed.get(&topic.name).map(|found| &found.id);
    let requested = |topic: &TopicStatus| {
        forgotten
            .iter()
            .any(|request| request.topic == topic.name && Some(&request.id) == topic.id.as_ref())
    };
    known
        .iter()
        .filter(|topic| !(requested(topic) && gone(topic)))
        .cloned()
        .collect()
}

/// Decides what to do. `known` are the topics of the status, `observed` those that the broker has.
/// `pipeline` names the pipeline to `kubectl`: `-n data pinterestpipeline pinterest`.
#[must_use]
pub fn plan(
    desired_topics: &[DesiredTopic],
    known: &[TopicStatus],
    observed: &BTreeMap<String, ObservedTopic>,
    pipeline: &str,
) -> Plan {
    let (mut create, mut raise, mut topics) = (Vec::new(), Vec::new(), Vec::new());
    let (mut problems, mut notes, mut gone) = (Vec::new(), Vec::new(), Vec::new());
    for desired in desired_topics {
        let name = &desired.name;
        let before = known.iter().find(|topic| topic.name == *name);
        let ours = before.is_some_and(|topic| topic.created_by_us);
        let known_id = before.and_then(|topic| topic.id.as_deref());
        match (observed.get(name), known_id) {
            (Some(found), _) if known_id.is_none_or(|id| id == found.id) => {
                topics.push(TopicStatus {
                    name: name.clone(),
                    id: Some(found.id.clone()),
                    partitions: found.partitions,
                    created_by_us: ours,
                });
                compare(desired, found, &mut problems, &mut notes);
                match partitions(desired, found, ours) {
                    Partitions::Right => {}
                    Partitions::Raise(raised) => raise.push(raised),
                    Partitions::Kept(note) => notes.push(note),
                }
            }
            (Some(_), _) => {
                topics.extend(before.cloned());
                gone.extend(known_id.map(|id| format!("{name}@{id}")));
                problems.push((
                    reasons::TOPIC_REPLACED,
                    format!(
                        "topic {name} was deleted and created again by somebody else; sinks with a \
                         position in the old one stop: restore it, or go on with the new one"
                    ),
                ));
            }
            (None, Some(id)) => {
                topics.extend(before.cloned());
                gone.push(format!("{name}@{id}"));
                problems.push((
                    reasons::TOPIC_MISSING,
                    format!(
                        "topic {name} was deleted by somebody else. The operator does not create it \
                         again, since sinks have positions in it: restore it, or request a new one"
                    ),
                ));
            }
            (None, None) => {
                topics.push(TopicStatus {
                    name: name.clone(),
                    id: None,
                    partitions: desired.partitions,
                    created_by_us: true,
                });
                create.push(desired.clone());
            }
        }
    }
    let intent = topics.clone();
    let mut finding = finding(problems, &notes, desired_topics.len());
    if !gone.is_empty() {
        finding.message = format!("{}; {}", finding.message, way_out(&gone, pipeline));
    }
    Plan {
        create,
        raise,
        intent,
        state: TopicsState { topics, finding },
    }
}

/// Command that makes the operator forget topics, and what to do after that.
fn way_out(gone: &[String], pipeline: &str) -> String {
    format!(
        "to go on without the lost records: kubectl annotate --overwrite {pipeline} \
         {FORGET_ANNOTATION}={}, and then reset the sinks that stopped ({RESET_ANNOTATION})",
        gone.join(",")
    )
}

/// What to do about a topic's partitions.
enum Partitions {
    Right,
    Raise(Raise),
    /// Nothing, for the reason in this sentence.
    Kept(String),
}

/// More partitions move keys to other partitions. Sinks order records by `LogAppendTime` first, so
/// that is harmless where the broker sets timestamps, and nowhere else. Fewer partitions are
/// impossible.
fn partitions(desired: &DesiredTopic, found: &ObservedTopic, ours: bool) -> Partitions {
    let (name, there, wanted) = (&desired.name, found.partitions, desired.partitions);
    let kept = |why: &str| {
        Partitions::Kept(format!(
            "topic {name} keeps its {there} partitions, not {wanted}: {why}"
        ))
    };
    if desired.dead_letters || there == wanted {
        Partitions::Right
    } else if there > wanted {
        kept("a topic can't lose partitions")
    } else if !ours {
        kept(
            "this pipeline did not create it, so raise them yourself (kafka-topics --alter \
             --partitions)",
        )
    } else if found
        .config
        .get(TIMESTAMP_TYPE)
        .is_none_or(|stamped| stamped != LOG_APPEND_TIME)
    {
        kept("its message.timestamp.type must be LogAppendTime first, by which records are ordered")
    } else {
        Partitions::Raise(Raise {
            name: name.clone(),
            partitions: wanted,
        })
    }
}

/// Compares the settings of an existing topic with the desired ones. They are left as they are.
fn compare(
    desired: &DesiredTopic,
    found: &ObservedTopic,
    problems: &mut Vec<(&'static str, String)>,
    notes: &mut Vec<String>,
) {
    let name = &desired.name;
    let stamped = found
        .config
        .get(TIMESTAMP_TYPE)
        .map_or(LOG_APPEND_TIME, String::as_str);
    if stamped != LOG_APPEND_TIME && !desired.dead_letters {
        problems.push((
            reasons::TOPIC_UNSUITABLE,
            format!(
                "topic {name} has message.timestamp.type={stamped}, so records can't be ordered: set \
                 it to LogAppendTime (kafka-configs --alter --entity-type topics --entity-name \
                 {name} --add-config message.timestamp.type=LogAppendTime)"
            ),
        ));
    }
    if desired.dead_letters {
        return;
    }
    for (key, wanted) in desired
        .config
        .iter()
        .filter(|(key, _)| key != TIMESTAMP_TYPE)
    {
        if let Some(value) = found.config.get(key)
            && value != wanted
        {
            notes.push(format!(
                "topic {name} keeps its {key}={value}, not {wanted}"
            ));
        }
    }
}

fn finding(problems: Vec<(&'static str, String)>, notes: &[String], topics: usize) -> Finding {
    let more = problems.len().saturating_sub(1);
    match problems.into_iter().next() {
        Some((reason, message)) if more > 0 => {
            Finding::bad(reason, format!("{message} (and {more} more)"))
        }
        Some((reason, message)) => Finding::bad(reason, message),
        None if notes.is_empty() => Finding::good(
            reasons::TOPICS_READY,
            format!("all {topics} topics are there"),
        ),
        None => Finding::good(
            reasons::TOPICS_READY,
            format!(
                "all {topics} topics are there; not all settings are as desired: {}",
                notes.join("; ")
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(name: &str, partitions: i32) -> DesiredTopic {
        let config = vec![
            (
                "message.timestamp.type".to_owned(),
                "LogAppendTime".to_owned(),
            ),
            ("retention.ms".to_owned(), "1000".to_owned()),
        ];
        DesiredTopic {
            name: name.to_owned(),
            partitions,
            replication_factor: -1,
            config,
            dead_letters: false,
        }
    }

    fn seen(id: &str, partitions: i32, config: &[(&str, &str)]) -> ObservedTopic {
        let config = config
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        ObservedTopic {
            id: id.to_owned(),
            partitions,
            config,
        }
    }

    fn status(id: Option<&str>, created_by_us: bool) -> TopicStatus {
        TopicStatus {
            name: "t".to_owned(),
            id: id.map(ToOwned::to_owned),
            partitions: 3,
            created_by_us,
        }
    }

    fn planned(
        desired_topics: &[DesiredTopic],
        known: &[TopicStatus],
        observed: &BTreeMap<String, ObservedTopic>,
    ) -> Plan {
        plan(
            desired_topics,
            known,
            observed,
            "-n data pinterestpipeline pinterest",
        )
    }

    /// The broker's id now, what is to be forgotten → whether the topic is created anew, its id and
    /// `createdByUs` in the status.
    #[test]
    fn a_topic_that_is_gone_is_forgotten_by_the_id_it_had() {
        let asked = |id: &str| {
            [Forgotten {
                topic: "t".to_owned(),
                id: id.to_owned(),
            }]
        };
        for (case, found, forgotten, created, id, ours) in [
            ("missing", None, "a", true, None, true),
            (
                "replaced: adopted, and not ours",
                Some("b"),
                "a",
                false,
                Some("b"),
                false,
            ),
            ("there as it was", Some("a"), "a", false, Some("a"), true),
            ("another id was named", None, "b", false, Some("a"), true),
        ] {
            let seen = found
                .map(|id| ("t".to_owned(), seen(id, 3, &[])))
                .into_iter()
                .collect();
            let known = without_forgotten(&[status(Some("a"), true)], &asked(forgotten), &seen);
            let plan = planned(&[wish("t", 3)], &known, &seen);
            assert_eq!(plan.create.len() == 1, created, "{case}");
            let topic = &plan.state.topics[0];
            assert_eq!(
                (topic.id.as_deref(), topic.created_by_us),
                (id, ours),
                "{case}"
            );
        }
        // Once: what stands in the status after that isn't what was named.
        let after = [status(Some("b"), true)];
        assert_eq!(
            without_forgotten(&after, &asked("a"), &BTreeMap::new()),
            after
        );
    }

    #[test]
    fn the_way_out_is_a_command_for_all_topics_that_are_gone() {
        let known = |name: &str, id: &str| TopicStatus {
            name: name.to_owned(),
            ..status(Some(id), true)
        };
        let seen = BTreeMap::from([("u".to_owned(), seen("c", 3, &[]))]);
        let plan = planned(
            &[wish("t", 3), wish("u", 3)],
            &[known("t", "a"), known("u", "b")],
            &seen,
        );
        let said = &plan.state.finding.message;
        let command = "kubectl annotate --overwrite -n data pinterestpipeline pinterest pinpipe.dev/forget-topic=t@a,u@b,";
        assert!(
            said.contains("topic t was deleted") && said.contains("(and 1 more)"),
            "{said}"
        );
        assert!(
            said.contains(command) && said.contains("pinpipe.dev/reset-sink"),
            "{said}"
        );
    }

    /// Known, seen → created?, id and `createdByUs` in the status, reason.
    #[test]
    fn what_is_done_about_a_topic() {
        let stamped = [
            ("message.timestamp.type", "LogAppendTime"),
            ("retention.ms", "1000"),
        ];
        let ready = reasons::TOPICS_READY;
        for (case, known, found, created, id, ours, reason) in [
            ("absent", None, None, true, None, true, ready),
            (
                "there before us",
                None,
                Some("a"),
                false,
                Some("a"),
                false,
                ready,
            ),
            (
                "meant, not created: we died between",
                Some(status(None, true)),
                None,
                true,
                None,
                true,
                ready,
            ),
            (
                "meant and created: we died after",
                Some(status(None, true)),
                Some("a"),
                false,
                Some("a"),
                true,
                ready,
            ),
            (
                "settled",
                Some(status(Some("a"), true)),
                Some("a"),
                false,
                Some("a"),
                true,
                ready,
            ),
            (
                "gone",
                Some(status(Some("a"), true)),
                None,
                false,
                Some("a"),
                true,
                reasons::TOPIC_MISSING,
            ),
            (
                "gone, not ours",
                Some(status(Some("a"), false)),
                None,
                false,
                Some("a"),
                false,
                reasons::TOPIC_MISSING,
            ),
            (
                "replaced",
                Some(status(Some("a"), true)),
                Some("b"),
                false,
                Some("a"),
                true,
                reasons::TOPIC_REPLACED,
            ),
        ] {
            let seen = found
                .map(|id| ("t".to_owned(), seen(id, 3, &stamped)))
                .into_iter()
                .collect();
            let plan = planned(&[wish("t", 3)], known.as_slice(), &seen);
            assert_eq!(plan.create.len() == 1, created, "{case}");
            let topic = &plan.state.topics[0];
            assert_eq!(
                (topic.id.as_deref(), topic.created_by_us),
                (id, ours),
                "{case}"
            );
            assert_eq!(plan.state.finding.reason, reason, "{case}");
            assert_eq!(plan.intent, plan.state.topics, "{case}");
        }
    }

    #[test]
    fn differences_are_told_and_left() {
        let found = seen(
            "a",
            3,
            &[
                ("message.timestamp.type", "LogAppendTime"),
                ("retention.ms", "2000"),
            ],
        );
        let plan = planned(
            &[wish("t", 6)],
            &[],
            &BTreeMap::from([("t".to_owned(), found)]),
        );
        assert!(plan.create.is_empty() && plan.raise.is_empty() && plan.state.finding.ok);
        assert_eq!(plan.state.topics[0].partitions, 3);
        for told in [
            "keeps its 3 partitions, not 6",
            "keeps its retention.ms=2000, not 1000",
        ] {
            assert!(
                plan.state.finding.message.contains(told),
                "{:?}",
                plan.state.finding
            );
        }
    }

    /// Partitions there, ours, stamp → raised to 6, and what is told.
    #[test]
    fn partitions_are_raised_where_that_is_safe_and_ours_to_do() {
        let broker = Some("LogAppendTime");
        for (there, ours, stamp, raised, told) in [
            (3, true, broker, true, ""),
            (6, true, broker, false, ""),
            (7, true, broker, false, "can't lose partitions"),
            (3, false, broker, false, "did not create it"),
            (
                3,
                true,
                None,
                false,
                "its message.timestamp.type must be LogAppendTime first",
            ),
            (
                3,
                true,
                Some("CreateTime"),
                false,
                "set it to LogAppendTime",
            ),
        ] {
            let config: Vec<_> = stamp
                .map(|stamp| ("message.timestamp.type", stamp))
                .into_iter()
                .collect();
            let seen = BTreeMap::from([("t".to_owned(), seen("a", there, &config))]);
            let plan = planned(&[wish("t", 6)], &[status(Some("a"), ours)], &seen);
            let raise: Vec<_> = plan
                .raise
                .iter()
                .map(|raise| (raise.name.as_str(), raise.partitions))
                .collect();
            assert_eq!(
                raise,
                if raised { vec![("t", 6)] } else { vec![] },
                "{there} {ours} {stamp:?}"
            );
            assert!(
                plan.state.finding.message.contains(told),
                "{:?}",
                plan.state.finding
            );
            assert_eq!(plan.state.topics[0].partitions, there);
        }
        let letters = DesiredTopic {
            dead_letters: true,
            ..wish("t", 1)
        };
        let seen = BTreeMap::from([(
            "t".to_owned(),
            seen("a", 3, &[("message.timestamp.type", "LogAppendTime")]),
        )]);
        let plan = planned(&[letters], &[status(Some("a"), true)], &seen);
        assert!(
            plan.raise.is_empty() && !plan.state.finding.message.contains("partitions"),
            "{plan:?}"
        );
    }

    #[test]
    fn a_topic_stamped_by_its_producers_is_no_good() {
        let found = seen("a", 3, &[("message.timestamp.type", "CreateTime")]);
        let plan = planned(
            &[wish("t", 3)],
            &[],
            &BTreeMap::from([("t".to_owned(), found)]),
        );
        assert_eq!(plan.state.finding.reason, reasons::TOPIC_UNSUITABLE);
    }
}
