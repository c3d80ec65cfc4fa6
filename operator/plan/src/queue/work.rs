//! How work is that takes no Job: resets, which a sink's worker carries out, and what is settled
//! about topics.

use std::collections::BTreeSet;

use pinpipe_config::ResetState;
use pinpipe_crds::{Created, PinterestRun, TopicAction, TopicStatus, condition_types, reasons};

use crate::{
    component::Component,
    model::ValidatedPipeline,
    requests::{TopicRequest, reset, store_at_start},
};

/// How work is, with a sentence about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// It is under way.
    Going(String),
    /// It is done.
    Done(String),
    /// It failed.
    Failed(String),
    /// It can't be done, and nothing was.
    Refused(String),
}

/// How a reset is. `states` are the answers of the sink's workers, and `problem` is what they
/// report besides. None: the run is no reset.
#[must_use]
pub fn of_reset(
    pipeline: &ValidatedPipeline,
    run: &PinterestRun,
    states: &[ResetState],
    problem: Option<&str>,
) -> Option<Work> {
    let wanted = match reset(pipeline, run)? {
        Ok(wanted) => wanted,
        Err(gone) => {
            return Some(Work::Failed(format!(
                "{gone}. Whether its positions were moved before isn't known"
            )));
        }
    };
    let sink = wanted.component.sink().unwrap_or_default();
    let before = store_at_start(run).map_or("", String::as_str);
    if wanted.store != before {
        return Some(Work::Failed(format!(
            "the sink {sink} has another store now ({}) than when the reset was started \
             ({before}), and nothing is reset in that: create another run",
            wanted.store
        )));
    }
    let own = states.iter().filter(|state| state.id == wanted.reset.id);
    let own: Vec<&ResetState> = own.collect();
    let topics = pipeline.topics.iter().map(|topic| &topic.name);
    let topics: Vec<_> = topics
        .filter(|name| wanted.reset.applies_to(name))
        .collect();
    let is_done = |name: &&&String| own.iter().any(|state| state.done.contains(**name));
    let done: Vec<&str> = topics
        .iter()
        .filter(is_done)
        .map(|name| name.as_str())
        .collect();
    if done.len() == topics.len() {
        let moved = own.iter().flat_map(|state| &state.moved);
        let moved: BTreeSet<String> = moved.map(|(at, to)| format!("{at} to {to}")).collect();
        let moved: Vec<String> = moved.into_iter().collect();
        return Some(Work::Done(match moved.join(", ") {
            none if none.is_empty() => format!("the sink {sink} has had this reset already"),
            moved => format!("the sink {sink} was reset: {moved}"),
        }));
    }
    if let Some(problem) = own.iter().find_map(|state| state.problem.as_ref()) {
        let before = match done.join(", ") {
            none if none.is_empty() => none,
            done => format!("; these topics were reset before: {done}"),
        };
        return Some(Work::Failed(format!("{problem}{before}")));
    }
    let (done, count) = (done.len(), topics.len());
    // It halted after another reset.
    let problem = problem.filter(|problem| !problem.starts_with(reasons::RESET_IMPOSSIBLE));
    Some(Work::Going(match problem {
        _ if pipeline.suspend => {
            "it waits until spec.suspend of the pipeline is false: a worker carries it out"
                .to_owned()
        }
        Some(problem) => format!("it waits for the worker of the sink {sink}: {problem}"),
        None if states.is_empty() => {
            let condition = match wanted.component {
                Component::Archive => condition_types::ARCHIVE_READY,
                _ => condition_types::STREAM_READY,
            };
            format!("no worker of the sink {sink} answers: see the pipeline's {condition}")
        }
        None => format!("the worker of the sink {sink} has reset {done} of {count} topics"),
    }))
}

/// How a request about a topic is after the topics were reconciled with it. `unclaimed` says why
/// they could not be.
#[must_use]
pub fn of_topic(request: &TopicRequest, topics: &[TopicStatus], unclaimed: Option<&str>) -> Work {
    if let Some(why) = unclaimed {
        return Work::Going(format!("it waits until the topics can be looked at: {why}"));
    }
    let id = &request.id;
    let [name, _] = &request.names;
    let found = topics
        .iter()
        .find(|topic| request.is_about(&topic.name, topic.id.as_deref()));
    let known = topics
        .iter()
        .filter(|topic| request.names.contains(&topic.name));
    let known: Vec<String> = known
        .map(|topic| {
            let id = topic.id.as_deref().unwrap_or("none");
            format!("{} has {id}", topic.name)
        })
        .collect();
    let known = known.join(", ");
    match (request.action, found) {
        (TopicAction::Forget, None) => Work::Done(format!(
            "the operator knows no topic of this kind by the id {id}: {known}"
        )),
        (TopicAction::Forget, Some(topic)) => Work::Refused(format!(
            "spec.topic.id: the broker has the topic {} with this id, so that it isn't lost",
            topic.name
        )),
        (TopicAction::Adopt, Some(topic)) => match topic.created {
            Created::Operator => Work::Done(format!(
                "the topic {} counts as created by the operator",
                topic.name
            )),
            Created::Other => Work::Refused(format!(
                "spec.topic.id: somebody else created the topic {}, before the pipeline used it, \
                 so that the operator neither changes nor deletes it",
                topic.name
            )),
            Created::Unknown => Work::Refused(format!(
                "spec.topic.id: the broker doesn't have the topic {} with this id",
                topic.name
            )),
        },
        (TopicAction::Adopt, None) => Work::Refused(format!(
            "spec.topic.id: the id of {name} and of its dead-letter topic is another one \
                 ({known}): look at the topic, and create another run with its present id"
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, slice};

    use serde_json::json;

    use super::*;
    use crate::{
        run::id,
        samples::{run, validated, whole},
    };

    #[test]
    fn a_reset_is_done_once_the_workers_have_it_in_all_its_topics() {
        let mut pipeline = validated(whole());
        let mut run = run(
            "r",
            json!({"reset": {"sink": "live", "to": {"earliest": {}}}}),
        );
        let store = "Secret warehouse, key uri; schema public";
        let status = json!({"phase": "Running", "store": store});
        run.status = serde_json::from_value(status).unwrap();
        let state = |id: &str, kinds: &[&str], problem: Option<&str>| ResetState {
            id: id.to_owned(),
            done: kinds
                .iter()
                .map(|kind| format!("data.pinterest.{kind}"))
                .collect(),
            moved: kinds
                .iter()
                .map(|kind| (format!("data.pinterest.{kind}[0]"), "7".to_owned()))
                .collect(),
            problem: problem.map(ToOwned::to_owned),
        };
        let own = id(&run);
        let found = |states: &[ResetState]| of_reset(&pipeline, &run, states, None).unwrap();
        let first = state(&own, &["pin", "geo"], None);
        assert!(matches!(found(&[]), Work::Going(text) if text.contains("StreamReady")));
        assert!(
            matches!(found(slice::from_ref(&first)), Work::Going(text) if text.contains("2 of 3"))
        );
        let last = state(&own, &["user"], None);
        let moved = "data.pinterest.geo[0] to 7, data.pinterest.pin[0] to 7, \
            data.pinterest.user[0] to 7";
        let done = Work::Done(format!("the sink live was reset: {moved}"));
        assert_eq!(found(&[first.clone(), last]), done);
        let other = state("another", &["user"], Some("no"));
        assert!(matches!(found(&[first.clone(), other]), Work::Going(_)));
        let halted = state(&own, &[], Some("ResetImpossible: no"));
        let moved = "data.pinterest.pin, data.pinterest.geo";
        let failed = format!("ResetImpossible: no; these topics were reset before: {moved}");
        let failed = Work::Failed(failed);
        assert_eq!(found(&[first.clone(), halted]), failed);
        let waits = of_reset(&pipeline, &run, &[first], Some("SinkUnavailable"));
        assert!(matches!(waits, Some(Work::Going(text)) if text.contains("SinkUnavailable")));

        "other".clone_into(&mut pipeline.sinks[0].schema);
        let done = state(&own, &["pin", "geo", "user"], None);
        let moved = of_reset(&pipeline, &run, &[done], None).unwrap();
        assert!(matches!(moved, Work::Failed(text) if text.contains("schema other")));
        pipeline.sinks.clear();
        let gone = of_reset(&pipeline, &run, &[], None).unwrap();
        assert!(matches!(gone, Work::Failed(text) if text.contains("no sink live")));
    }

    #[test]
    fn a_topic_is_settled_by_its_id() {
        let request = |action| TopicRequest {
            run: "r".to_owned(),
            names: ["t".to_owned(), "t.dlq".to_owned()],
            action,
            id: "a".to_owned(),
        };
        let topic = |id: &str, created| TopicStatus {
            name: "t".to_owned(),
            id: Some(id.to_owned()),
            partitions: 3,
            created,
        };
        let mut kinds = BTreeSet::new();
        for (action, id, created, expected) in [
            (TopicAction::Forget, "b", Created::Other, "Done"),
            (TopicAction::Forget, "a", Created::Operator, "Refused"),
            (TopicAction::Adopt, "a", Created::Operator, "Done"),
            (TopicAction::Adopt, "a", Created::Other, "Refused"),
            (TopicAction::Adopt, "a", Created::Unknown, "Refused"),
            (TopicAction::Adopt, "b", Created::Unknown, "Refused"),
        ] {
            let found = of_topic(&request(action), &[topic(id, created)], None);
            let found = format!("{found:?}");
            assert!(found.starts_with(expected), "{action:?} {id}: {found}");
            kinds.insert(found);
        }
        assert_eq!(kinds.len(), 6, "each has a sentence of its own");
        let waits = of_topic(&request(TopicAction::Adopt), &[], Some("no broker"));
        assert!(matches!(waits, Work::Going(text) if text.ends_with("no broker")));
    }
}
