//! `spec.suspend`: ingest and the emulator stop at once; sinks read their topics to the end, or
//! until `spec.drainDeadline`.
//!
//! The condition `Suspended` records the progress: it exists while `spec.suspend` is set and is
//! False while sinks drain, so its transition time is when draining began, whichever replica
//! reconciles. Only the committed offsets of a sink's consumer group are read, and a sink that
//! doesn't run isn't started to drain.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use k8s_openapi::{
    api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Condition, jiff::Timestamp,
};
use pinpipe_crds::{condition_types, reasons};
use pinpipe_plan::{component::Component, model::ValidatedPipeline};
use pinpipe_runtime::kafka::{Behind, list};

use super::Reconciler;
use crate::{
    error::Error,
    finding::Finding,
    observe::{children::Children, consumer_lag, pods, worker_health},
};

/// Progress of a suspension.
#[derive(Debug, Default)]
pub(super) struct Suspension {
    /// Components that read on.
    pub(super) draining: BTreeSet<Component>,
    /// The condition. None: `spec.suspend` isn't set.
    pub(super) finding: Option<Finding>,
    /// Whether it must be in the status before anything is stopped.
    pub(super) report_first: bool,
}

impl Suspension {
    fn done(finding: Finding) -> Self {
        Self {
            finding: Some(finding),
            ..Self::default()
        }
    }

    fn draining(draining: BTreeSet<Component>, message: &str) -> Self {
        let finding = Some(Finding::bad(reasons::DRAINING, message));
        Self {
            draining,
            finding,
            report_first: false,
        }
    }
}

impl Reconciler<'_> {
    /// Observes which components of a suspended pipeline still have records to read.
    pub(super) async fn suspension(
        &self,
        pipeline: &ValidatedPipeline,
        children: &Children,
    ) -> Result<Suspension, Error> {
        if !pipeline.suspend {
            return Ok(Suspension::default());
        }
        let before = self.condition(condition_types::SUSPENDED);
        if let Some(finding) = before.and_then(ended) {
            return Ok(Suspension::done(finding));
        }
        let running = running(pipeline, children);
        if running.is_empty() {
            return Ok(Suspension::done(suspended()));
        }
        let (now, deadline) = (
            Timestamp::now(),
            Duration::from_secs(pipeline.drain_seconds),
        );
        let is_late = before
            .is_some_and(|condition| elapsed(condition.last_transition_time.0, now) >= deadline);
        let lag = if self.sources_stopped(pipeline, children).await? {
            self.lag(pipeline, &running).await
        } else if is_late {
            Err("ingest has not stopped".to_owned())
        } else {
            let message = "ingest stops; after that sinks read their topics to the end";
            return Ok(Suspension::draining(running, message));
        };
        Ok(decide(running, lag, is_late.then_some(deadline)))
    }

    /// A condition of the status as it was read.
    pub(super) fn condition(&self, type_: &str) -> Option<&Condition> {
        let conditions = &self.resource.status.as_ref()?.conditions;
        conditions.iter().find(|condition| condition.type_ == type_)
    }

    /// Whether nothing brings in records any more, pods that are still stopping included.
    async fn sources_stopped(
        &self,
        pipeline: &ValidatedPipeline,
        children: &Children,
    ) -> Result<bool, Error> {
        let sources = [Component::Ingest, Component::Emulator];
        let at_zero = |source| {
            children
                .replicas(pipeline, source)
                .is_none_or(|pods| pods == 0)
        };
        if !sources.iter().all(at_zero) {
            return Ok(false);
        }
        let is_source =
            |pod: &Pod| pods::component(pod).is_some_and(|component| component.is_source());
        Ok(!self
            .pods()
            .await?
            .iter()
            .any(|pod| is_source(pod) && !pods::has_ended(pod)))
    }

    /// Partitions that these components have not read to the end. The archive, which buffers
    /// records for minutes, is requested to flush.
    async fn lag(
        &self,
        pipeline: &ValidatedPipeline,
        running: &BTreeSet<Component>,
    ) -> Result<BTreeMap<Component, Vec<Behind>>, String> {
        let topics: Vec<String> = pipeline
            .topics
            .iter()
            .map(|topic| topic.name.clone())
            .collect();
        let mut groups = pipeline.groups();
        groups.retain(|component, _| running.contains(component));
        let access = self.kafka_access().await;
        let access = access.map_err(|error| error.to_string())?;
        let access = access.map_err(|error| error.to_string())?;
        let lag = consumer_lag::lag(&access, &topics, groups);
        let lag = self.permit.released(lag).await?;
        if lag
            .get(&Component::Archive)
            .is_some_and(|behind| !behind.is_empty())
            && let Ok(pods) = self.pods().await
        {
            let client = &self.context.pod_client;
            let flush = worker_health::flush(client, &pods, &Component::Archive);
            self.permit.released(flush).await;
        }
        Ok(lag)
    }
}

/// Sinks that have pods, or should have.
fn running(pipeline: &ValidatedPipeline, children: &Children) -> BTreeSet<Component> {
    let consumers = pipeline.groups().into_keys();
    let has_pods = |component: &Component| {
        children
            .replicas(pipeline, component)
            .is_some_and(|replicas| replicas != 0)
    };
    consumers.filter(has_pods).collect()
}

/// Decides what goes on draining. `late` is the deadline, if it has passed.
fn decide(
    running: BTreeSet<Component>,
    lag: Result<BTreeMap<Component, Vec<Behind>>, String>,
    late: Option<Duration>,
) -> Suspension {
    let behind: BTreeSet<Component> = match &lag {
        Ok(lag) => {
            let is_behind = |c: &Component| lag.get(c).is_some_and(|behind| !behind.is_empty());
            running.into_iter().filter(is_behind).collect()
        }
        Err(_) => running,
    };
    if behind.is_empty() {
        return Suspension::done(suspended());
    }
    let Some(deadline) = late else {
        return Suspension::draining(
            behind,
            "sinks read their topics to the end before they stop",
        );
    };
    let why = match lag {
        Ok(lag) => {
            let sinks = behind
                .iter()
                .filter_map(|c| Some(format!("{c}: {}", list(lag.get(c)?))));
            sinks.collect::<Vec<_>>().join("; ")
        }
        Err(error) => {
            let names: Vec<_> = behind.iter().map(ToString::to_string).collect();
            format!("{} ({error})", names.join(", "))
        }
    };
    let message = format!(
        "suspended, although not every sink read its topics to the end within {} s: {why}; they \
         continue from there once spec.suspend is false",
        deadline.as_secs()
    );
    let finding = Finding::good(reasons::DRAIN_DEADLINE_EXCEEDED, message);
    Suspension {
        report_first: true,
        ..Suspension::done(finding)
    }
}

fn suspended() -> Finding {
    Finding::good(
        reasons::SUSPENDED,
        "suspended: set spec.suspend to false to resume",
    )
}

/// Finding of a suspension that has ended, which it keeps. None: it hasn't ended.
fn ended(condition: &Condition) -> Option<Finding> {
    let known = [reasons::SUSPENDED, reasons::DRAIN_DEADLINE_EXCEEDED];
    let mut known = known.into_iter().filter(|_| condition.status == "True");
    let reason = known.find(|reason| *reason == condition.reason)?;
    Some(Finding::good(reason, condition.message.clone()))
}

/// Time from one moment to another; zero if the clock went back.
pub(super) fn elapsed(since: Timestamp, now: Timestamp) -> Duration {
    now.duration_since(since).try_into().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use pinpipe_plan::{
        build::{Observed, build},
        samples::{validated, whole},
    };
    use serde_json::json;

    use super::*;

    fn behind(topic: &str) -> Vec<Behind> {
        vec![Behind {
            topic: topic.to_owned(),
            partition: 0,
            committed: Some(5),
            end: 9,
        }]
    }

    fn all() -> BTreeSet<Component> {
        [Component::Archive, Component::stream("live")].into()
    }

    /// Lag and deadline → components that drain, and the condition.
    #[test]
    fn a_sink_drains_until_nothing_is_left_or_the_deadline_has_passed() {
        let lag = |archive: &str, live: &str| {
            let of = |topic: &str| {
                if topic.is_empty() {
                    Vec::new()
                } else {
                    behind(topic)
                }
            };
            let live = (Component::stream("live"), of(live));
            Ok([(Component::Archive, of(archive)), live].into())
        };
        let error = || Err("no broker".to_owned());
        let late = Some(Duration::from_mins(5));
        let exceeded = reasons::DRAIN_DEADLINE_EXCEEDED;
        for (lag, late, draining, ok, reason, phrase) in [
            (
                lag("", ""),
                None,
                vec![],
                true,
                reasons::SUSPENDED,
                "resume",
            ),
            (
                lag("t", ""),
                None,
                vec!["archive"],
                false,
                reasons::DRAINING,
                "to the end",
            ),
            (
                lag("t", "u"),
                None,
                vec!["archive", "stream-live"],
                false,
                reasons::DRAINING,
                "",
            ),
            (
                error(),
                None,
                vec!["archive", "stream-live"],
                false,
                reasons::DRAINING,
                "",
            ),
            (lag("", ""), late, vec![], true, reasons::SUSPENDED, ""),
            (
                lag("t", ""),
                late,
                vec![],
                true,
                exceeded,
                "archive: t[0] at 5 of 9",
            ),
            (
                error(),
                late,
                vec![],
                true,
                exceeded,
                "archive, stream-live (no broker)",
            ),
        ] {
            let suspension = decide(all(), lag, late);
            let finding = suspension.finding.unwrap();
            let found: Vec<_> = suspension
                .draining
                .iter()
                .map(ToString::to_string)
                .collect();
            assert_eq!(found, draining, "{finding:?}");
            assert_eq!((finding.ok, finding.reason), (ok, reason), "{finding:?}");
            assert!(finding.message.contains(phrase), "{finding:?}");
            assert_eq!(suspension.report_first, reason == exceeded);
        }
    }

    #[test]
    fn a_sink_without_pods_is_not_started_to_drain() {
        let mut pipeline = validated(whole());
        let children = |pipeline: &ValidatedPipeline, draining: BTreeSet<Component>| {
            let observed = Observed {
                draining,
                ..Observed::default()
            };
            let objects = build(pipeline, &observed).objects.into_iter();
            Children::of(objects.map(|object| (object.resource.kind, object.body)))
        };
        assert_eq!(
            running(&pipeline, &children(&pipeline, BTreeSet::new())),
            all()
        );
        assert_eq!(running(&pipeline, &Children::default()), BTreeSet::new());
        pipeline.suspend = true;
        let archive = BTreeSet::from([Component::Archive]);
        assert_eq!(
            running(&pipeline, &children(&pipeline, archive.clone())),
            archive
        );
    }

    #[test]
    fn a_suspension_that_ended_keeps_its_finding() {
        let ended = |status: &str, reason: &str| {
            let condition = json!({"type": "Suspended", "status": status, "reason": reason,
                "message": "m", "lastTransitionTime": "2026-01-01T00:00:00Z"});
            ended(&serde_json::from_value(condition).unwrap())
        };
        let good = |reason| Some(Finding::good(reason, "m"));
        assert_eq!(ended("True", "Suspended"), good(reasons::SUSPENDED));
        let exceeded = ended("True", "DrainDeadlineExceeded");
        assert_eq!(exceeded, good(reasons::DRAIN_DEADLINE_EXCEEDED));
        assert_eq!(ended("False", "Draining"), None);
    }

    #[test]
    fn a_clock_that_goes_back_makes_nothing_late() {
        let at = |second| Timestamp::from_second(second).unwrap();
        assert_eq!(elapsed(at(10), at(70)), Duration::from_mins(1));
        assert_eq!(elapsed(at(70), at(10)), Duration::ZERO);
    }
}
