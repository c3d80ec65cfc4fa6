//! Status of a `PinterestRun`. Pure.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        batch::v1::Job,
        core::v1::{ConfigMap, Pod},
    },
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::Timestamp,
};
use kube::ResourceExt as _;
use pinpipe_crds::{
    LastRun, Outcome, PinterestRun, PinterestRunStatus, RunCounts, RunKindCounts, RunPhase,
    RunProgress, RunReport, run_condition_types,
};
use pinpipe_plan::{
    queue::{Ending, State},
    run::{action, has_job, id, is_record},
};
use serde::Deserialize;

use super::{batch_runs, conditions, shorten};
use crate::finding::Finding;

/// Longest name of a step, and longest URI, in the definition.
const MAX_STEP: usize = 32;
const MAX_URI: usize = 1024;

/// Status of a run in this state.
#[must_use]
pub fn status(run: &PinterestRun, state: &State, now: Timestamp) -> PinterestRunStatus {
    let before = run.status.clone().unwrap_or_default();
    let finding = |ok| Finding {
        ok,
        reason: state.reason,
        message: state.message.clone(),
    };
    let mut findings = vec![(
        run_condition_types::COMPLETE,
        finding(state.phase == RunPhase::Succeeded),
    )];
    match state.phase {
        RunPhase::Succeeded => {}
        RunPhase::Queued | RunPhase::Running => {
            findings.push((run_condition_types::RECONCILING, finding(true)));
        }
        RunPhase::Failed | RunPhase::Refused => {
            findings.push((run_condition_types::STALLED, finding(true)));
        }
    }
    let generation = run.metadata.generation;
    // Without a Job nothing else says when.
    let ends_now = state.phase.is_final() && state.started.is_some() && !has_job(&run.spec);
    PinterestRunStatus {
        observed_generation: generation,
        phase: Some(state.phase),
        action: Some(action(&run.spec)),
        id: Some(if is_record(run) {
            run.name_any()
        } else {
            id(run)
        }),
        job: state.job.clone(),
        store: state.store.clone(),
        start_time: state.started.clone(),
        completion_time: state
            .ended
            .clone()
            .or_else(|| ends_now.then_some(Time(now))),
        message: Some(shorten(&state.message)),
        progress: state.progress.clone(),
        total: state.total,
        counts: state.counts.clone(),
        report: report(run, state),
        conditions: conditions(&before.conditions, findings, generation, now),
    }
}

/// Where a run's report is, once it has ended.
fn report(run: &PinterestRun, state: &State) -> Option<RunReport> {
    let report = RunReport {
        // A Job of the schedule has none.
        config_map: state.job.clone().filter(|_| !is_record(run)),
        uri: state.report.clone(),
    };
    (state.ended.is_some() && report != RunReport::default()).then_some(report)
}

/// Progress as a run has written it into its `ConfigMap`.
#[must_use]
pub fn progress(config_map: &ConfigMap) -> Option<RunProgress> {
    let written = config_map.data.as_ref()?.get("progress")?;
    let progress: RunProgress = serde_json::from_str(written).ok()?;
    (progress.step.len() <= MAX_STEP).then_some(progress)
}

/// The part of a termination message that every run has.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Said {
    counts: Vec<RunKindCounts>,
    report: Option<String>,
}

/// How a Job of a run ended. `pods` are those that are left.
#[must_use]
pub fn ending(job: &Job, outcome: Outcome, pods: &[Pod]) -> Ending {
    let (run, loads) = batch_runs::last_run(job, outcome, pods);
    let message = batch_runs::termination_message(pods).unwrap_or_default();
    let Said { counts, report } = serde_json::from_str(&message).unwrap_or_default();
    let is_repeated = |at: usize| {
        counts[..at]
            .iter()
            .any(|first| first.kind == counts[at].kind)
    };
    let is_valid = !(0..counts.len()).any(is_repeated);
    let counts = if is_valid { counts } else { Vec::new() };
    let report = report.filter(|report| report.len() <= MAX_URI);
    let (total, sentence) = if let Some(redrive) = Redrive::read(&message) {
        (Some(redrive.total()), Some(redrive.sentence()))
    } else {
        let total = total(&run);
        (total, total.and_then(sentence))
    };
    Ending {
        total,
        counts,
        report,
        message: loads.failure.or(sentence),
    }
}

fn sentence(total: RunCounts) -> Option<String> {
    let (read, clean) = (total.read?, total.clean?);
    Some(format!("read {read} records, of which {clean} are clean"))
}

fn total(run: &LastRun) -> Option<RunCounts> {
    let counts = RunCounts {
        read: run.read,
        clean: run.clean,
        repaired: run.repaired,
        rejected: run.rejected,
    };
    (counts != RunCounts::default()).then_some(counts)
}

/// The part of a re-drive's report that a run's status has.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Redrive {
    dry_run: bool,
    topics: BTreeMap<String, LetterCounts>,
}

/// Counts of the dead letters of one kind.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct LetterCounts {
    matching: i64,
    redriven: i64,
    still_rejected: BTreeMap<String, i64>,
}

impl Redrive {
    /// None: the message isn't that of a re-drive.
    fn read(termination_message: &str) -> Option<Self> {
        serde_json::from_str(termination_message).ok()
    }

    fn sum(&self, of: impl Fn(&LetterCounts) -> i64) -> i64 {
        self.topics.values().map(of).fold(0, i64::saturating_add)
    }

    fn total(&self) -> RunCounts {
        let rejected = |topic: &LetterCounts| topic.still_rejected.values().sum();
        RunCounts {
            read: Some(self.sum(|topic| topic.matching)),
            clean: Some(self.sum(|topic| topic.redriven)),
            repaired: None,
            rejected: Some(self.sum(rejected)),
        }
    }

    fn sentence(&self) -> String {
        let (matching, redriven) = (
            self.sum(|topic| topic.matching),
            self.sum(|topic| topic.redriven),
        );
        let (done, would) = if self.dry_run {
            ("would be", " (dryRun: nothing was written)")
        } else {
            ("were", "")
        };
        format!("{redriven} of {matching} dead letters that match {done} written back{would}")
    }
}

#[cfg(test)]
mod tests {
    use pinpipe_crds::reasons;
    use pinpipe_plan::samples::run;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_status_is_read_by_kstatus_and_keeps_its_times() {
        let mut run = run("r", json!({"batch": {}}));
        let queued = State::queued(&run, reasons::SUSPENDED, "it waits");
        let first = status(&run, &queued, Timestamp::UNIX_EPOCH);
        let types = |status: &PinterestRunStatus| -> Vec<(String, String)> {
            let conditions = status.conditions.iter();
            conditions
                .map(|condition| (condition.type_.clone(), condition.status.clone()))
                .collect()
        };
        let expect = |list: &[(&str, &str)]| -> Vec<(String, String)> {
            let list = list.iter();
            list.map(|(type_, status)| ((*type_).to_owned(), (*status).to_owned()))
                .collect()
        };
        assert_eq!(
            types(&first),
            expect(&[("Complete", "False"), ("Reconciling", "True")])
        );
        assert_eq!(first.id, Some(id(&run)));
        run.status = Some(first.clone());
        let later = Timestamp::from_second(60).unwrap();
        assert_eq!(status(&run, &queued, later), first, "nothing to write");
        let failed = State {
            phase: RunPhase::Failed,
            ..queued.clone()
        };
        assert_eq!(
            types(&status(&run, &failed, later)),
            expect(&[("Complete", "False"), ("Stalled", "True")])
        );
        let done = State {
            phase: RunPhase::Succeeded,
            ..queued
        };
        assert_eq!(
            types(&status(&run, &done, later)),
            expect(&[("Complete", "True")])
        );
    }

    #[test]
    fn progress_is_read_from_the_config_map() {
        let written = |progress: &str| {
            let data = json!({"data": {"run": "r", "progress": progress}});
            progress_of(data)
        };
        let found = written(r#"{"step":"Clean","read":5,"of":9,"since":"2026-01-01T00:00:00Z"}"#);
        let found = found.unwrap();
        assert_eq!(
            (found.step.as_str(), found.read, found.of),
            ("Clean", Some(5), Some(9))
        );
        assert_eq!(written("?"), None);
        let long = json!({"step": "x".repeat(33)}).to_string();
        assert_eq!(written(&long), None, "the API server would refuse it");
        assert_eq!(progress_of(json!({})), None);
    }

    fn progress_of(config_map: serde_json::Value) -> Option<RunProgress> {
        progress(&serde_json::from_value(config_map).unwrap())
    }

    #[test]
    fn an_ending_has_the_counts_and_the_sentence_of_the_pod() {
        let job: Job = serde_json::from_value(json!({"metadata": {"name": "r"}})).unwrap();
        let pod = |message: &str| -> Pod {
            let state = json!({"terminated": {"exitCode": 1, "message": message}});
            let container = json!({"name": "batch", "image": "", "imageID": "", "ready": false,
                "restartCount": 0, "state": state});
            serde_json::from_value(json!({"status": {"containerStatuses": [container]}})).unwrap()
        };
        let ending = |outcome, message: &str| ending(&job, outcome, &[pod(message)]);
        let batch = r#"{"run":"r","outcome":"Succeeded","read":5,"clean":4,"seconds":2.6,
            "counts":[{"kind":"Pin","read":5,"clean":4,"repaired":0,"rejected":1,"refused":2}],
            "report":"s3://data/runs/data.pinterest/r/report.json"}"#;
        let found = ending(Outcome::Succeeded, batch);
        assert_eq!(found.total.unwrap().read, Some(5));
        assert_eq!(found.counts[0].refused, Some(2));
        assert!(found.report.unwrap().ends_with("report.json"));
        assert_eq!(
            found.message.unwrap(),
            "read 5 records, of which 4 are clean"
        );
        let redrive = r#"{"outcome":"Succeeded","dryRun":true,"seconds":1,"topics":{
            "pin":{"letters":9,"matching":5,"redriven":3,"stillRejected":{"not-json":2}},
            "geo":{"letters":1,"matching":1,"redriven":1}},
            "counts":[{"kind":"Geo","read":1,"redriven":1,"skipped":0}]}"#;
        let found = ending(Outcome::Succeeded, redrive);
        let counts = found.total.unwrap();
        assert_eq!(
            (counts.read, counts.clean, counts.rejected),
            (Some(6), Some(4), Some(2))
        );
        assert_eq!(found.counts[0].redriven, Some(1));
        assert!(found.message.unwrap().starts_with("4 of 6 dead letters"));
        let failed = r#"{"run":"r","read":0,"message":"the archive is dead"}"#;
        let found = ending(Outcome::Failed, failed);
        assert_eq!(found.message.as_deref(), Some("the archive is dead"));
        let twice = r#"{"run":"r","read":1,"counts":[{"kind":"Pin","read":1},{"kind":"Pin"}]}"#;
        assert_eq!(ending(Outcome::Succeeded, twice).counts, []);
        let lost = ending(Outcome::Succeeded, "");
        assert_eq!(lost, Ending::default());
    }
}
