//! `spec.suspend`: ingest and the emulator stop at once; sinks read on to the topics' ends, or
//! until the deadline.
//!
//! The condition `Suspended` is the memory of it: it is there while `spec.suspend` is, False while
//! sinks read on, so that its transition time is when they began, whichever operator looks. A sink
//! is asked for nothing but its consumer group's committed offsets, and one that doesn't run is not
//! started for it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use k8s_openapi::{
    api::{apps::v1::Deployment, core::v1::Pod},
    apimachinery::pkg::apis::meta::v1::Condition,
    jiff::Timestamp,
};
use pinpipe_crds::condition_types;
use pinpipe_runtime::kafka::{Behind, list};

use super::{Error, Pass, components::typed, has_ended};
use crate::{
    apply::Live,
    build, said,
    status::{Finding, reasons},
    topics,
    validate::ValidatedPipeline,
};

/// What stops first: what brings records in.
const SOURCES: [&str; 2] = ["ingest", "emulator"];
/// The archive, which gathers records for minutes unless asked to write them.
const ARCHIVE: &str = "archive";

/// How far a suspension has come.
#[derive(Debug, Default)]
pub(super) struct Drain {
    /// The components that read on.
    pub(super) components: BTreeSet<String>,
    /// The condition. None: `spec.suspend` isn't set.
    pub(super) finding: Option<Finding>,
    /// Whether that has to be in the status before anything is stopped: it could not be told
    /// afterwards.
    pub(super) tell_first: bool,
}

impl Drain {
    fn done(finding: Finding) -> Self {
        Self {
            finding: Some(finding),
            ..Self::default()
        }
    }

    fn going(components: BTreeSet<String>, message: &str) -> Self {
        Self {
            components,
            finding: Some(Finding::bad(reasons::DRAINING, message)),
            tell_first: false,
        }
    }
}

impl Pass<'_> {
    /// Which components of a suspended pipeline read on.
    pub(super) async fn drain(
        &self,
        pipeline: &ValidatedPipeline,
        live: &Live,
    ) -> Result<Drain, Error> {
        if !pipeline.suspend {
            return Ok(Drain::default());
        }
        let before = self.condition(condition_types::SUSPENDED);
        if let Some(finding) = before.and_then(ended) {
            return Ok(Drain::done(finding));
        }
        let running = running(pipeline, live);
        if running.is_empty() {
            return Ok(Drain::done(suspended()));
        }
        let (now, deadline) = (Timestamp::now(), self.context.settings.drain_deadline);
        let late = before
            .is_some_and(|condition| passed(condition.last_transition_time.0, now) >= deadline);
        let left = if self.sources_are_gone(pipeline, live).await? {
            self.left(pipeline, &running).await
        } else if late {
            Err("ingest has not stopped".to_owned())
        } else {
            return Ok(Drain::going(
                running,
                "ingest stops; sinks read the topics to their ends after that",
            ));
        };
        Ok(decide(running, left, late.then_some(deadline)))
    }

    /// A condition of the status as it was read.
    pub(super) fn condition(&self, type_: &str) -> Option<&Condition> {
        self.resource
            .status
            .as_ref()?
            .conditions
            .iter()
            .find(|condition| condition.type_ == type_)
    }

    /// Whether nothing brings records in any more, pods that are still stopping among them.
    async fn sources_are_gone(
        &self,
        pipeline: &ValidatedPipeline,
        live: &Live,
    ) -> Result<bool, Error> {
        let stopped = SOURCES.iter().all(|component| {
            let deployment = typed::<Deployment>(live, "Deployment", &pipeline.child(component));
            deployment
                .is_none_or(|deployment| deployment.spec.and_then(|spec| spec.replicas) == Some(0))
        });
        if !stopped {
            return Ok(false);
        }
        let is_source =
            |pod: &Pod| said::component(pod).is_some_and(|component| SOURCES.contains(&component));
        Ok(!self
            .pods()
            .await?
            .iter()
            .any(|pod| is_source(pod) && !has_ended(pod)))
    }

    /// What these components have not read. The archive is asked to write what it has gathered.
    async fn left(
        &self,
        pipeline: &ValidatedPipeline,
        running: &BTreeSet<String>,
    ) -> Result<BTreeMap<String, Vec<Behind>>, String> {
        let names: Vec<String> = pipeline
            .topics
            .iter()
            .map(|topic| topic.name.clone())
            .collect();
        let groups = build::groups(pipeline)
            .into_iter()
            .filter(|(component, _)| running.contains(component))
            .collect();
        let left = topics::left(&pipeline.bootstrap_servers, &names, groups).await?;
        if left.get(ARCHIVE).is_some_and(|left| !left.is_empty())
            && let Ok(pods) = self.pods().await
        {
            said::flush(&self.context.pods, &pods, ARCHIVE).await;
        }
        Ok(left)
    }
}

/// The sinks that have pods, or are to have some.
fn running(pipeline: &ValidatedPipeline, live: &Live) -> BTreeSet<String> {
    let groups = build::groups(pipeline).into_keys();
    groups
        .filter(|component| {
            let deployment = typed::<Deployment>(live, "Deployment", &pipeline.child(component));
            deployment
                .is_some_and(|deployment| deployment.spec.and_then(|spec| spec.replicas) != Some(0))
        })
        .collect()
}

/// What is to be done, by what sinks have left, and once the deadline has passed, by that.
fn decide(
    running: BTreeSet<String>,
    left: Result<BTreeMap<String, Vec<Behind>>, String>,
    late: Option<Duration>,
) -> Drain {
    let behind: BTreeSet<String> = match &left {
        Ok(left) => running
            .into_iter()
            .filter(|c| left.get(c).is_some_and(|left| !left.is_empty()))
            .collect(),
        Err(_) => running,
    };
    if behind.is_empty() {
        return Drain::done(suspended());
    }
    let Some(deadline) = late else {
        return Drain::going(
            behind,
            "sinks read the topics to their ends before they stop",
        );
    };
    let why = match left {
        Ok(left) => {
            let sinks = behind
                .iter()
                .filter_map(|c| Some(format!("{c}: {}", list(left.get(c)?))));
            sinks.collect::<Vec<_>>().join("; ")
        }
        Err(error) => format!(
            "{} ({error})",
            behind.into_iter().collect::<Vec<_>>().join(", ")
        ),
    };
    let message = format!(
        "suspended, though not every sink had read its topics to their ends within {} s: {why}; they go on from there once spec.suspend \
         is false",
        deadline.as_secs()
    );
    Drain {
        tell_first: true,
        ..Drain::done(Finding::good(reasons::DRAIN_DEADLINE_EXCEEDED, message))
    }
}

fn suspended() -> Finding {
    Finding::good(
        reasons::SUSPENDED,
        "suspended: set spec.suspend to false to resume",
    )
}

/// The condition of a suspension that has come to its end, which it keeps.
fn ended(condition: &Condition) -> Option<Finding> {
    let known = [reasons::SUSPENDED, reasons::DRAIN_DEADLINE_EXCEEDED];
    let reason = known
        .into_iter()
        .find(|reason| *reason == condition.reason)
        .filter(|_| condition.status == "True")?;
    Some(Finding::good(reason, condition.message.clone()))
}

/// From one time to another; nothing, if that lies before.
pub(super) fn passed(since: Timestamp, now: Timestamp) -> Duration {
    now.duration_since(since).try_into().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        build::objects,
        validate::tests::{validated, whole},
    };

    fn behind(topic: &str) -> Vec<Behind> {
        vec![Behind {
            topic: topic.to_owned(),
            partition: 0,
            committed: Some(5),
            end: 9,
        }]
    }

    fn all() -> BTreeSet<String> {
        ["archive", "stream-live"].map(str::to_owned).into()
    }

    /// What is left → which read on, and the condition.
    #[test]
    fn a_sink_reads_on_until_nothing_is_left_or_the_deadline_has_passed() {
        let answer = |archive: &str, live: &str| {
            let left = |topic: &str| {
                if topic.is_empty() {
                    Vec::new()
                } else {
                    behind(topic)
                }
            };
            Ok([
                ("archive".to_owned(), left(archive)),
                ("stream-live".to_owned(), left(live)),
            ]
            .into())
        };
        let late = Some(Duration::from_mins(5));
        for (left, late, components, ok, reason, said) in [
            (
                answer("", ""),
                None,
                vec![],
                true,
                reasons::SUSPENDED,
                "resume",
            ),
            (
                answer("t", ""),
                None,
                vec!["archive"],
                false,
                reasons::DRAINING,
                "to their ends",
            ),
            (
                answer("t", "u"),
                None,
                vec!["archive", "stream-live"],
                false,
                reasons::DRAINING,
                "",
            ),
            (
                Err("no broker".to_owned()),
                None,
                vec!["archive", "stream-live"],
                false,
                reasons::DRAINING,
                "",
            ),
            (answer("", ""), late, vec![], true, reasons::SUSPENDED, ""),
            (
                answer("t", ""),
                late,
                vec![],
                true,
                reasons::DRAIN_DEADLINE_EXCEEDED,
                "archive: t[0] at 5 of 9",
            ),
            (
                Err("no broker".to_owned()),
                late,
                vec![],
                true,
                reasons::DRAIN_DEADLINE_EXCEEDED,
                "archive, stream-live (no broker)",
            ),
        ] {
            let drain = decide(all(), left, late);
            let finding = drain.finding.unwrap();
            assert_eq!(
                drain
                    .components
                    .iter()
                    .map(String::as_str)
                    .collect::<Vec<_>>(),
                components,
                "{finding:?}"
            );
            assert_eq!((finding.ok, finding.reason), (ok, reason), "{finding:?}");
            assert!(finding.message.contains(said), "{finding:?}");
            assert_eq!(drain.tell_first, reason == reasons::DRAIN_DEADLINE_EXCEEDED);
        }
    }

    #[test]
    fn a_sink_without_pods_is_not_started_to_read_on() {
        let pipeline = validated(whole());
        let live = |pipeline: &ValidatedPipeline| {
            Live::of(
                objects(pipeline)
                    .into_iter()
                    .map(|object| (object.resource.kind, object.body)),
            )
        };
        assert_eq!(running(&pipeline, &live(&pipeline)), all());
        assert_eq!(running(&pipeline, &Live::default()), BTreeSet::new());
        let mut stopped = pipeline.clone();
        stopped.suspend = true;
        stopped.draining = ["archive".to_owned()].into();
        assert_eq!(
            running(&pipeline, &live(&stopped)),
            ["archive".to_owned()].into()
        );
    }

    #[test]
    fn a_suspension_that_ended_stays_as_it_ended() {
        let condition = |status: &str, reason: &str| {
            let finding = serde_json::json!({"type": "Suspended", "status": status, "reason": reason, "message": "m",
                "lastTransitionTime": "2026-01-01T00:00:00Z"});
            ended(&serde_json::from_value(finding).unwrap())
        };
        assert_eq!(
            condition("True", "Suspended"),
            Some(Finding::good(reasons::SUSPENDED, "m"))
        );
        assert_eq!(
            condition("True", "DrainDeadlineExceeded"),
            Some(Finding::good(reasons::DRAIN_DEADLINE_EXCEEDED, "m"))
        );
        assert_eq!(condition("False", "Draining"), None);
    }

    #[test]
    fn a_clock_that_goes_back_makes_nothing_late() {
        let at = |second| Timestamp::from_second(second).unwrap();
        assert_eq!(passed(at(10), at(70)), Duration::from_mins(1));
        assert_eq!(passed(at(70), at(10)), Duration::ZERO);
    }
}
