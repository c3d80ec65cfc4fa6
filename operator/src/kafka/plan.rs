//! What is to be done about topics, and what to say. Pure.

use std::collections::BTreeMap;

use pinpipe_crds::TopicStatus;

use super::Outcome;
use crate::{
    build::TopicWish,
    status::{Finding, reasons},
    validate::{FORGET_ANNOTATION, Forgotten, RESET_ANNOTATION},
};

/// The setting that says whose time a record bears.
const STAMP: &str = "message.timestamp.type";
const STAMPED_BY_BROKER: &str = "LogAppendTime";

/// A topic as the broker has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Its identity.
    pub id: String,
    /// Its partitions.
    pub partitions: i32,
    /// Its settings, defaults among them.
    pub config: BTreeMap<String, String>,
}

/// A topic that is to have more partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Raise {
    /// Its name.
    pub name: String,
    /// Partitions it is to have in all.
    pub partitions: i32,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Topics to be created.
    pub create: Vec<TopicWish>,
    /// Topics of ours to be given more partitions.
    pub raise: Vec<Raise>,
    /// The status as it must be written before they are.
    pub intent: Vec<TopicStatus>,
    /// How topics stand, apart from those to be created or raised.
    pub outcome: Outcome,
}

impl Plan {
    /// What is still to be done, in a sentence: after it was done, the broker doesn't show it yet.
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

/// The status without the topics that are to be forgotten. One that is there as it was stays.
#[must_use]
pub fn without(
    known: &[TopicStatus],
    forgotten: &[Forgotten],
    seen: &BTreeMap<String, Seen>,
) -> Vec<TopicStatus> {
    let gone =
        |topic: &TopicStatus| topic.id.as_ref() != seen.get(&topic.name).map(|found| &found.id);
    let asked = |topic: &TopicStatus| {
        forgotten
            .iter()
            .any(|asked| asked.topic == topic.name && Some(&asked.id) == topic.id.as_ref())
    };
    known
        .iter()
        .filter(|topic| !(asked(topic) && gone(topic)))
        .cloned()
        .collect()
}

/// `known` is the status as it is, `seen` what the broker has of the topics wished for. `pipeline`
/// names the pipeline to `kubectl`: `-n data pinterestpipeline pinterest`.
#[must_use]
pub fn plan(
    wishes: &[TopicWish],
    known: &[TopicStatus],
    seen: &BTreeMap<String, Seen>,
    pipeline: &str,
) -> Plan {
    let (mut create, mut raise, mut topics) = (Vec::new(), Vec::new(), Vec::new());
    let (mut problems, mut notes, mut gone) = (Vec::new(), Vec::new(), Vec::new());
    for wish in wishes {
        let name = &wish.name;
        let before = known.iter().find(|topic| topic.name == *name);
        let ours = before.is_some_and(|topic| topic.created_by_us);
        let known_id = before.and_then(|topic| topic.id.as_deref());
        match (seen.get(name), known_id) {
            (Some(found), _) if known_id.is_none_or(|id| id == found.id) => {
                topics.push(TopicStatus {
                    name: name.clone(),
                    id: Some(found.id.clone()),
                    partitions: found.partitions,
                    created_by_us: ours,
                });
                compare(wish, found, &mut problems, &mut notes);
                match partitions(wish, found, ours) {
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
                        "topic {name} was deleted and created again by somebody else; sinks with a position in the old one stop: \
                         restore it, or go on with the new one"
                    ),
                ));
            }
            (None, Some(id)) => {
                topics.extend(before.cloned());
                gone.push(format!("{name}@{id}"));
                problems.push((
                    reasons::TOPIC_MISSING,
                    format!(
                        "topic {name} was deleted by somebody else, and is not created again by itself, since sinks have positions in it: \
                         restore it, or have it created anew"
                    ),
                ));
            }
            (None, None) => {
                topics.push(TopicStatus {
                    name: name.clone(),
                    id: None,
                    partitions: wish.partitions,
                    created_by_us: true,
                });
                create.push(wish.clone());
            }
        }
    }
    let intent = topics.clone();
    let mut finding = finding(problems, &notes, wishes.len());
    if !gone.is_empty() {
        finding.message = format!("{}; {}", finding.message, way_out(&gone, pipeline));
    }
    Plan {
        create,
        raise,
        intent,
        outcome: Outcome { topics, finding },
    }
}

/// What makes the operator forget topics, and what is to be done after that.
fn way_out(gone: &[String], pipeline: &str) -> String {
    format!(
        "to go on without what is lost: kubectl annotate --overwrite {pipeline} {FORGET_ANNOTATION}={}, and then reset the sinks that have \
         stopped by {RESET_ANNOTATION}",
        gone.join(",")
    )
}

/// What is to be done about a topic's partitions.
enum Partitions {
    Right,
    Raise(Raise),
    /// Nothing, and why.
    Kept(String),
}

/// More partitions move keys to other partitions. Sinks tell later records by `LogAppendTime`
/// first, so that is harmless where the broker stamps records, and nowhere else. Fewer there can't
/// be.
fn partitions(wish: &TopicWish, found: &Seen, ours: bool) -> Partitions {
    let (name, there, wished) = (&wish.name, found.partitions, wish.partitions);
    let kept = |why: &str| {
        Partitions::Kept(format!(
            "topic {name} keeps its {there} partitions, not {wished}: {why}"
        ))
    };
    if wish.dead_letters || there == wished {
        Partitions::Right
    } else if there > wished {
        kept("a topic can't lose partitions")
    } else if !ours {
        kept(
            "this pipeline did not create it, so raise them yourself (kafka-topics --alter --partitions)",
        )
    } else if found
        .config
        .get(STAMP)
        .is_none_or(|stamped| stamped != STAMPED_BY_BROKER)
    {
        kept(
            "raised they are once the topic's message.timestamp.type is LogAppendTime, by which later records are told from earlier ones",
        )
    } else {
        Partitions::Raise(Raise {
            name: name.clone(),
            partitions: wished,
        })
    }
}

/// What of an existing topic's settings isn't as wished. It is left so.
fn compare(
    wish: &TopicWish,
    found: &Seen,
    problems: &mut Vec<(&'static str, String)>,
    notes: &mut Vec<String>,
) {
    let name = &wish.name;
    let stamped = found
        .config
        .get(STAMP)
        .map_or(STAMPED_BY_BROKER, String::as_str);
    if stamped != STAMPED_BY_BROKER && !wish.dead_letters {
        problems.push((
            reasons::TOPIC_UNSUITABLE,
            format!(
                "topic {name} has message.timestamp.type={stamped}, so later records can't be told from earlier ones: \
                 set it to LogAppendTime (kafka-configs --alter --topic {name})"
            ),
        ));
    }
    if wish.dead_letters {
        return;
    }
    for (key, wished) in wish.config.iter().filter(|(key, _)| key != STAMP) {
        if let Some(value) = found.config.get(key)
            && value != wished
        {
            notes.push(format!(
                "topic {name} keeps its {key}={value}, not {wished}"
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
                "all {topics} topics are there; not all is as wished: {}",
                notes.join("; ")
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(name: &str, partitions: i32) -> TopicWish {
        let config = vec![
            (
                "message.timestamp.type".to_owned(),
                "LogAppendTime".to_owned(),
            ),
            ("retention.ms".to_owned(), "1000".to_owned()),
        ];
        TopicWish {
            name: name.to_owned(),
            partitions,
            replication_factor: -1,
            config,
            dead_letters: false,
        }
    }

    fn seen(id: &str, partitions: i32, config: &[(&str, &str)]) -> Seen {
        let config = config
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        Seen {
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

    fn planned(wishes: &[TopicWish], known: &[TopicStatus], seen: &BTreeMap<String, Seen>) -> Plan {
        plan(wishes, known, seen, "-n data pinterestpipeline pinterest")
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
            let known = without(&[status(Some("a"), true)], &asked(forgotten), &seen);
            let plan = planned(&[wish("t", 3)], &known, &seen);
            assert_eq!(plan.create.len() == 1, created, "{case}");
            let topic = &plan.outcome.topics[0];
            assert_eq!(
                (topic.id.as_deref(), topic.created_by_us),
                (id, ours),
                "{case}"
            );
        }
        // Once: what stands in the status after that isn't what was named.
        let after = [status(Some("b"), true)];
        assert_eq!(without(&after, &asked("a"), &BTreeMap::new()), after);
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
        let said = &plan.outcome.finding.message;
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
            let topic = &plan.outcome.topics[0];
            assert_eq!(
                (topic.id.as_deref(), topic.created_by_us),
                (id, ours),
                "{case}"
            );
            assert_eq!(plan.outcome.finding.reason, reason, "{case}");
            assert_eq!(plan.intent, plan.outcome.topics, "{case}");
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
        assert!(plan.create.is_empty() && plan.raise.is_empty() && plan.outcome.finding.ok);
        assert_eq!(plan.outcome.topics[0].partitions, 3);
        for told in [
            "keeps its 3 partitions, not 6",
            "keeps its retention.ms=2000, not 1000",
        ] {
            assert!(
                plan.outcome.finding.message.contains(told),
                "{:?}",
                plan.outcome.finding
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
                "once the topic's message.timestamp.type is LogAppendTime",
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
                plan.outcome.finding.message.contains(told),
                "{:?}",
                plan.outcome.finding
            );
            assert_eq!(plan.outcome.topics[0].partitions, there);
        }
        let letters = TopicWish {
            dead_letters: true,
            ..wish("t", 1)
        };
        let seen = BTreeMap::from([(
            "t".to_owned(),
            seen("a", 3, &[("message.timestamp.type", "LogAppendTime")]),
        )]);
        let plan = planned(&[letters], &[status(Some("a"), true)], &seen);
        assert!(
            plan.raise.is_empty() && !plan.outcome.finding.message.contains("partitions"),
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
        assert_eq!(plan.outcome.finding.reason, reasons::TOPIC_UNSUITABLE);
    }
}
