//! Decides what to do about topics, and what to report. Pure.

use std::collections::BTreeMap;

use pinpipe_crds::{Created, RecordKind, TopicAction, TopicStatus, reasons};
use pinpipe_plan::{build::DesiredTopic, requests::TopicRequest};

use super::{Suitability, TopicsState};
use crate::finding::Finding;

/// Setting that decides whose clock a record's timestamp comes from.
const TIMESTAMP_TYPE: &str = "message.timestamp.type";
const LOG_APPEND_TIME: &str = "LogAppendTime";
/// Setting that limits the size of a topic's records.
const MAX_MESSAGE_BYTES: &str = "max.message.bytes";

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
    /// Topics as the record must list them before that.
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

/// The known topics after what runs settle about them. A topic that still exists with its id isn't
/// forgotten, and only such a one is adopted.
#[must_use]
pub fn settled(
    known: &[TopicStatus],
    requests: &[TopicRequest],
    observed: &BTreeMap<String, ObservedTopic>,
) -> Vec<TopicStatus> {
    let mut left = Vec::new();
    for topic in known {
        let id = topic.id.as_ref();
        let is_there = id.is_some() && id == observed.get(&topic.name).map(|found| &found.id);
        let is_asked = |action| {
            let mut asked = requests.iter().filter(|request| request.action == action);
            asked.any(|request| request.is_about(&topic.name, topic.id.as_deref()))
        };
        let mut topic = topic.clone();
        if is_there && topic.created == Created::Unknown && is_asked(TopicAction::Adopt) {
            topic.created = Created::Operator;
        }
        if is_there || !is_asked(TopicAction::Forget) {
            left.push(topic);
        }
    }
    left
}

/// Decides what to do. `known` are the topics as record and status have them, `observed` those that
/// the broker has.
#[must_use]
pub fn plan(
    desired_topics: &[DesiredTopic],
    known: &[TopicStatus],
    observed: &BTreeMap<String, ObservedTopic>,
) -> Plan {
    let (mut create, mut raise, mut topics) = (Vec::new(), Vec::new(), Vec::new());
    let (mut problems, mut notes, mut gone) = (Vec::new(), Vec::new(), Vec::new());
    let mut absent = Vec::new();
    for desired in desired_topics {
        let name = &desired.name;
        let before = known.iter().find(|topic| topic.name == *name);
        let created = before.map_or(Created::Other, |topic| topic.created);
        let known_id = before.and_then(|topic| topic.id.as_deref());
        match (observed.get(name), known_id) {
            (Some(found), _) if known_id.is_none_or(|id| id == found.id) => {
                topics.push(TopicStatus {
                    name: name.clone(),
                    id: Some(found.id.clone()),
                    partitions: found.partitions,
                    created,
                });
                compare(desired, found, &mut problems, &mut notes);
                match partitions(desired, found, created) {
                    Partitions::Right => {}
                    Partitions::Raise(raised) => raise.push(raised),
                    Partitions::Kept(note) => notes.push(note),
                }
            }
            (Some(_), _) => {
                topics.extend(before.cloned());
                gone.extend(known_id.map(|id| (desired.kind, id)));
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
                gone.push((desired.kind, id));
                let new = if desired.managed {
                    "have a new one created"
                } else {
                    "create a new one"
                };
                problems.push((
                    reasons::TOPIC_MISSING,
                    format!(
                        "topic {name} was deleted by somebody else. The operator doesn't create it \
                         again, since sinks have positions in it: restore it, or {new}"
                    ),
                ));
            }
            (None, None) if !desired.managed => {
                topics.push(TopicStatus {
                    name: name.clone(),
                    id: None,
                    partitions: 0,
                    created,
                });
                absent.push(name.as_str());
            }
            (None, None) => {
                topics.push(TopicStatus {
                    name: name.clone(),
                    id: None,
                    partitions: desired.partitions,
                    created: before.map_or(Created::Unknown, |topic| topic.created),
                });
                create.push(desired.clone());
            }
        }
    }
    if !absent.is_empty() {
        problems.push((reasons::TOPIC_MISSING, to_be_created(&absent)));
    }
    let intent = topics.clone();
    let has = |reason| problems.iter().any(|(found, _)| *found == reason);
    let suitability = if has(reasons::TOPIC_UNSUITABLE) {
        Suitability::Unsuitable
    } else if has(reasons::BROKER_FAILED) {
        Suitability::Unknown
    } else {
        Suitability::Suitable
    };
    let mut finding = finding(problems, &notes, desired_topics.len());
    if !gone.is_empty() {
        finding.message = format!("{}; {}", finding.message, way_out(&gone));
    }
    Plan {
        create,
        raise,
        intent,
        state: TopicsState {
            topics,
            finding,
            claimed: true,
            suitability,
        },
    }
}

/// Sentence about topics that the operator may not create.
fn to_be_created(absent: &[&str]) -> String {
    format!(
        "the operator creates no topics (spec.broker.kafka.topics.management: Existing), and these \
         don't exist: {}; create each (kafka-topics --create --topic NAME --config \
         {TIMESTAMP_TYPE}={LOG_APPEND_TIME}), or set management: Managed",
        absent.join(", ")
    )
}

/// Runs that make the operator forget topics, and what to do after that.
fn way_out(gone: &[(RecordKind, &str)]) -> String {
    let runs = gone
        .iter()
        .map(|(kind, id)| format!("topic: {{kind: {kind:?}, action: Forget, id: \"{id}\"}}"));
    let runs: Vec<String> = runs.collect();
    format!(
        "to go on without the lost records, create a PinterestRun for each: {}; and then reset the \
         sinks that stopped (kubectl pinpipe reset, or a PinterestRun with spec.reset)",
        runs.join(", ")
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
fn partitions(desired: &DesiredTopic, found: &ObservedTopic, created: Created) -> Partitions {
    let (name, there, wanted) = (&desired.name, found.partitions, desired.partitions);
    let kept = |why: &str| {
        Partitions::Kept(format!(
            "topic {name} keeps its {there} partitions, not {wanted}: {why}"
        ))
    };
    if desired.dead_letters || !desired.managed || there == wanted {
        Partitions::Right
    } else if there > wanted {
        kept("a topic can't lose partitions")
    } else if created == Created::Other {
        kept(
            "this pipeline did not create it, so raise them yourself (kafka-topics --alter \
             --partitions)",
        )
    } else if created == Created::Unknown {
        kept(
            "it isn't known whether the operator created it, so raise them yourself (kafka-topics \
             --alter --partitions)",
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
    if desired.dead_letters {
        notes.extend(too_small(desired, found));
        return;
    }
    let stamped = found.config.get(TIMESTAMP_TYPE).map(String::as_str);
    match stamped {
        Some(LOG_APPEND_TIME) => {}
        Some(stamped) => problems.push((
            reasons::TOPIC_UNSUITABLE,
            format!(
                "topic {name} has {TIMESTAMP_TYPE}={stamped}, so records can't be ordered, and \
                 nothing reads it: set it to LogAppendTime (kafka-configs --alter --entity-type \
                 topics --entity-name {name} --add-config message.timestamp.type=LogAppendTime)"
            ),
        )),
        None if !desired.managed => notes.push(format!(
            "the operator may not read the settings of topic {name} (DescribeConfigs), of which \
             {TIMESTAMP_TYPE} must be {LOG_APPEND_TIME}, by which records are ordered"
        )),
        None => problems.push((
            reasons::BROKER_FAILED,
            format!(
                "the broker doesn't show {TIMESTAMP_TYPE} of topic {name}: give the operator the \
                 permission to read it in Kafka (DescribeConfigs)"
            ),
        )),
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

/// Remark about a dead-letter topic that doesn't take the largest records.
fn too_small(desired: &DesiredTopic, found: &ObservedTopic) -> Option<String> {
    let is_limit = |(key, _): &&(String, String)| key == MAX_MESSAGE_BYTES;
    let (_, wanted) = desired.config.iter().find(is_limit)?;
    let limit = found.config.get(MAX_MESSAGE_BYTES)?;
    let bytes = |text: &str| text.parse::<u64>().ok();
    (bytes(limit)? < bytes(wanted)?).then(|| {
        let name = &desired.name;
        format!(
            "topic {name} has {MAX_MESSAGE_BYTES}={limit}, so the dead letters of larger records \
             are written without the record: set it to {wanted} (kafka-configs --alter \
             --entity-type topics --entity-name {name} --add-config {MAX_MESSAGE_BYTES}={wanted})"
        )
    })
}

fn finding(mut problems: Vec<(&'static str, String)>, notes: &[String], topics: usize) -> Finding {
    // What keeps sinks from starting comes first.
    problems.sort_by_key(|(reason, _)| *reason != reasons::TOPIC_UNSUITABLE);
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
mod tests;
