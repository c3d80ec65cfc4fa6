//! Runs ([`PinterestRun`]): what identifies one, and what is wrong with one.
//!
//! A run is done once. Its Job is named by its [`id`], which is also the name under which the batch
//! worker keeps what it has done in the store, so that a run that is started again does nothing.

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use pinpipe_crds::{PinterestRun, PinterestRunSpec, RunAction, RunPhase, TopicAction, WriteMode};

use crate::{model::ValidatedPipeline, names::hash, validate::Problem};

/// Label of a run: what made it. A run without the label was made by a user.
pub const STARTED_BY_LABEL: &str = "pinpipe.dev/started-by";
/// Value of [`STARTED_BY_LABEL`] of the record of a Job of the `CronJob`, which starts nothing.
pub const BY_SCHEDULE: &str = "schedule";
/// Value of [`STARTED_BY_LABEL`] of a run of `kubectl pinpipe`.
pub const BY_PLUGIN: &str = "plugin";
/// Label of a Job: what it does, as [`label`] has it.
pub const ACTION_LABEL: &str = "pinpipe.dev/action";

/// Longest part of a run's name in its id: the id is a label's value, of at most 63 bytes.
const NAME_BYTES: usize = 52;
/// Digits of the hash in a run's id.
const HASH_DIGITS: usize = 10;

/// Identity of a run's work, and name of its Job: its name and a hash of its namespace, name and
/// spec.
#[must_use]
pub fn id(run: &PinterestRun) -> String {
    let (namespace, name) = (run.namespace().unwrap_or_default(), run.name_any());
    let spec = serde_json::to_value(&run.spec).unwrap_or_default();
    let digest = hash(&format!("{namespace}/{name}/{spec}"));
    let name = &name[..name.floor_char_boundary(NAME_BYTES)];
    format!("{name}-{}", &digest[..HASH_DIGITS])
}

/// What a run does.
#[must_use]
pub fn action(spec: &PinterestRunSpec) -> RunAction {
    if let Some(topic) = &spec.topic {
        match topic.action {
            TopicAction::Forget => RunAction::ForgetTopic,
            TopicAction::Adopt => RunAction::AdoptTopic,
        }
    } else if spec.reset.is_some() {
        RunAction::Reset
    } else if spec.redrive.is_some() {
        RunAction::Redrive
    } else if spec.import.is_some() {
        RunAction::Import
    } else if spec.backfill.is_some() {
        RunAction::Backfill
    } else if spec.batch.as_ref().and_then(|batch| batch.full) == Some(true) {
        RunAction::FullBatch
    } else {
        RunAction::Batch
    }
}

/// Whether a Job does the work of a run. Resets are done by the sink's worker, and what is settled
/// about topics by the operator.
#[must_use]
pub const fn has_job(spec: &PinterestRunSpec) -> bool {
    spec.reset.is_none() && spec.topic.is_none()
}

/// The stream sink that a backfill writes to.
#[must_use]
pub fn live_sink(spec: &PinterestRunSpec) -> Option<&str> {
    spec.backfill.as_ref()?.target.as_ref()?.sink.as_deref()
}

/// Value of [`ACTION_LABEL`] of a backfill of a live sink, which is no batch run.
pub const LIVE_BACKFILL: &str = "live-backfill";

/// Value of [`ACTION_LABEL`] of a run.
#[must_use]
pub fn label_of(spec: &PinterestRunSpec) -> &'static str {
    match live_sink(spec) {
        Some(_) => LIVE_BACKFILL,
        None => label(action(spec)),
    }
}

/// Value of [`ACTION_LABEL`] of a run that is no backfill of a live sink.
#[must_use]
pub const fn label(action: RunAction) -> &'static str {
    match action {
        RunAction::Batch => "batch",
        RunAction::FullBatch => "full-batch",
        RunAction::Backfill => "backfill",
        RunAction::Import => "import",
        RunAction::Redrive => "redrive",
        RunAction::Reset => "reset",
        RunAction::ForgetTopic => "forget-topic",
        RunAction::AdoptTopic => "adopt-topic",
    }
}

/// Whether a run is the record of a Job of the `CronJob`.
#[must_use]
pub fn is_record(run: &PinterestRun) -> bool {
    run.labels().get(STARTED_BY_LABEL).map(String::as_str) == Some(BY_SCHEDULE)
}

/// How far a run is, as its status has it.
#[must_use]
pub fn phase(run: &PinterestRun) -> Option<RunPhase> {
    run.status.as_ref()?.phase
}

/// Whether a run never changes any more.
#[must_use]
pub fn is_final(run: &PinterestRun) -> bool {
    phase(run).is_some_and(RunPhase::is_final)
}

/// Problems of a run that its schema and rules can't find.
#[must_use]
pub fn problems(spec: &PinterestRunSpec, pipeline: &ValidatedPipeline) -> Vec<Problem> {
    let mut problems = Vec::new();
    let is_batch = action(spec) == RunAction::Batch;
    if is_batch && spec.batch.is_none() {
        problems.push(Problem {
            field: "spec",
            message: "it asks for nothing that this release of the operator knows".to_owned(),
        });
    }
    if let Some(name) = live_sink(spec) {
        let sinks = &pipeline.sinks;
        let message = match sinks.iter().find(|sink| sink.name == name) {
            Some(sink) if sink.write_mode == WriteMode::Upsert => None,
            Some(_) => Some(format!(
                "the sink {name} has writeMode Append, where each record is a row of its own that \
                 none replaces: add a sink with writeMode Upsert, which gets all records"
            )),
            None => {
                let names: Vec<&str> = sinks.iter().map(|sink| sink.name.as_str()).collect();
                let there = names.join(", ");
                Some(format!(
                    "the pipeline has no stream sink {name}; there are: {there}"
                ))
            }
        };
        let field = "spec.backfill.target.sink";
        problems.extend(message.map(|message| Problem { field, message }));
    }
    if let Some(backfill) = &spec.backfill {
        let (from, to) = (backfill.from.as_deref(), backfill.to.as_deref());
        period("spec.backfill", from, to, &mut problems);
    }
    if let Some(redrive) = &spec.redrive {
        let (from, to) = (redrive.from.as_deref(), redrive.to.as_deref());
        period("spec.redrive", from, to, &mut problems);
    }
    problems
}

fn period(field: &'static str, from: Option<&str>, to: Option<&str>, problems: &mut Vec<Problem>) {
    let mut time = |name: &str, text: Option<&str>| {
        let time = text?.parse::<Timestamp>();
        time.inspect_err(|error| {
            let message = format!("{name} isn't a time ({error}): write it as {EXAMPLE}");
            problems.push(Problem { field, message });
        })
        .ok()
    };
    let (Some(from), Some(to)) = (time("from", from), time("to", to)) else {
        return;
    };
    if from >= to {
        let message = format!("from ({from}) must be before to ({to})");
        problems.push(Problem { field, message });
    }
}

const EXAMPLE: &str = "2026-01-31T00:00:00Z";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::{run, validated, whole};
    use serde_json::json;

    #[test]
    fn an_id_is_that_of_name_and_spec() {
        let first = run("rebuild", json!({"batch": {"full": true}}));
        assert_eq!(id(&first), id(&first.clone()));
        assert!(id(&first).starts_with("rebuild-") && id(&first).len() == 18);
        let mut elsewhere = first.clone();
        elsewhere.metadata.namespace = Some("other".to_owned());
        for other in [
            run("rebuild", json!({"batch": {}})),
            run("rebuild-2", json!({"batch": {"full": true}})),
            elsewhere,
        ] {
            assert_ne!(id(&first), id(&other));
        }
        let long = run(&"a".repeat(63), json!({"batch": {}}));
        assert_eq!(id(&long).len(), 63);
    }

    #[test]
    fn a_period_must_begin_before_it_ends_and_a_sink_exist() {
        let pipeline = validated(whole());
        let day = |day: u8| format!("2026-01-{day:02}T00:00:00Z");
        for (action, expected) in [
            (json!({"backfill": {"from": day(1), "to": day(2)}}), ""),
            (json!({"backfill": {"to": day(2)}}), ""),
            (
                json!({"backfill": {"from": day(2), "to": day(2)}}),
                "spec.backfill: from (",
            ),
            (
                json!({"redrive": {"from": "2026-02-30T00:00:00Z"}}),
                "spec.redrive: from isn't a time",
            ),
            (
                json!({"backfill": {"to": day(2), "target": {"sink": "live"}}}),
                "",
            ),
            (
                json!({"backfill": {"to": day(2), "target": {"sink": "lake"}}}),
                "spec.backfill.target.sink: the pipeline has no stream sink lake; there are: live",
            ),
        ] {
            let problems = problems(&run("r", action).spec, &pipeline);
            let text = problems.first().map(ToString::to_string);
            let text = text.unwrap_or_default();
            assert!(text.starts_with(expected), "{text}");
            assert_eq!(text.is_empty(), expected.is_empty(), "{text}");
        }
    }
}
