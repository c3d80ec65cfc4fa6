//! Runs that record the Jobs of the `CronJob`, and how long runs are kept.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::batch::v1::{CronJob, Job},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::ResourceExt;
use pinpipe_crds::{PinterestRun, PinterestRunSpec, PipelineRef, RunBatch, RunPhase};

use super::decide::{has_ended, job_of};
use crate::{
    build,
    model::ValidatedPipeline,
    run::{BY_PLUGIN, BY_SCHEDULE, STARTED_BY_LABEL, is_final, is_record, label_of, phase},
};

/// Ended runs of each action and outcome that are kept of those the operator or a tool made: as
/// many as the `CronJob` keeps of its Jobs.
const KEPT: usize = 3;
/// Variable of a Job that reads everything again.
const FULL: &str = "PINPIPE_FULL";
/// Variables of Jobs that the schedule doesn't start.
const OTHER_WORK: [&str; 4] = [
    "PINPIPE_FROM",
    "PINPIPE_TO",
    "PINPIPE_IMPORT",
    "PINPIPE_IMPORT_EVENTS",
];

/// Jobs of the `CronJob` that need a record: those under way, and those that ended last.
#[must_use]
pub fn missing<'a>(cron_job: &CronJob, runs: &[PinterestRun], jobs: &'a [Job]) -> Vec<&'a Job> {
    let owner = cron_job.uid();
    let mut own: Vec<&Job> = jobs
        .iter()
        .filter(|job| {
            let mut owners = job.owner_references().iter();
            owners.any(|by| by.controller == Some(true) && Some(&by.uid) == owner.as_ref())
                && job.metadata.deletion_timestamp.is_none()
        })
        .collect();
    own.sort_by_key(|job| std::cmp::Reverse((ended(job), job.name_any())));
    let (mut complete, mut failed) = (0, 0);
    own.retain(|job| {
        let count = match outcome(job) {
            Some("Complete") => &mut complete,
            Some(_) => &mut failed,
            None => return true,
        };
        *count += 1;
        *count <= KEPT
    });
    let is_recorded = |job: &Job| runs.iter().any(|run| run.name_any() == job.name_any());
    own.retain(|job| !is_recorded(job) && !job.name_any().contains('.') && is_batch(job));
    own
}

/// The record of a Job.
#[must_use]
pub fn record(pipeline: &ValidatedPipeline, job: &Job) -> PinterestRun {
    let full = has_variable(job, FULL).then_some(true);
    let spec = PinterestRunSpec {
        pipeline_ref: PipelineRef {
            name: pipeline.name.clone(),
        },
        batch: Some(RunBatch { full }),
        backfill: None,
        import: None,
        redrive: None,
        reset: None,
        topic: None,
    };
    let mut run = PinterestRun::new(&job.name_any(), spec);
    let ObjectMeta {
        mut labels,
        owner_references,
        namespace,
        ..
    } = build::metadata_of_batch(pipeline);
    let started_by = (STARTED_BY_LABEL.to_owned(), BY_SCHEDULE.to_owned());
    labels.get_or_insert_default().extend([started_by]);
    run.metadata = ObjectMeta {
        name: Some(job.name_any()),
        labels,
        owner_references,
        namespace,
        ..ObjectMeta::default()
    };
    run
}

/// Runs that are no longer kept: of those with the same label and action, those that ended before
/// the last few. A record whose Job is there would be made again.
#[must_use]
pub fn expired<'a>(runs: &'a [PinterestRun], jobs: &[Job]) -> Vec<&'a PinterestRun> {
    let has_job = |run: &PinterestRun| is_record(run) && job_of(run, jobs).is_some();
    let mut expired = Vec::new();
    for by in [BY_SCHEDULE, BY_PLUGIN] {
        for succeeded in [true, false] {
            let mut ended: Vec<&PinterestRun> = runs
                .iter()
                .filter(|run| {
                    run.labels().get(STARTED_BY_LABEL).map(String::as_str) == Some(by)
                        && is_final(run)
                        && (phase(run) == Some(RunPhase::Succeeded)) == succeeded
                        && run.metadata.deletion_timestamp.is_none()
                })
                .collect();
            // One that was never started has ended when it was created.
            let time = |run: &PinterestRun| {
                let status = run.status.as_ref();
                let ended = status.and_then(|status| status.completion_time.clone());
                ended.or_else(|| run.creation_timestamp())
            };
            ended.sort_by_key(|run| std::cmp::Reverse((time(run), run.name_any())));
            // By action, so that resets don't displace the last answers.
            let mut counts = BTreeMap::new();
            let old = ended.into_iter().filter(|run| {
                let count = counts.entry(label_of(&run.spec)).or_insert(0);
                *count += 1;
                *count > KEPT
            });
            expired.extend(old.filter(|run| !has_job(run)));
        }
    }
    expired
}

fn outcome(job: &Job) -> Option<&str> {
    Some(&has_ended(job)?.type_)
}

fn ended(job: &Job) -> Option<Time> {
    has_ended(job)?.last_transition_time.clone()
}

fn is_batch(job: &Job) -> bool {
    !OTHER_WORK.iter().any(|name| has_variable(job, name))
}

fn has_variable(job: &Job, name: &str) -> bool {
    let pod = job
        .spec
        .as_ref()
        .and_then(|spec| spec.template.spec.as_ref());
    let mut containers = pod.into_iter().flat_map(|pod| &pod.containers);
    containers.any(|container| {
        let mut env = container.env.iter().flatten();
        env.any(|variable| variable.name == name)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::samples::{run, validated, whole};

    fn job(name: &str, end: Option<(&str, u8)>) -> Job {
        let conditions = end.map(|(type_, hour)| {
            json!([{"type": type_, "status": "True",
                "lastTransitionTime": format!("2026-01-01T{hour:02}:00:00Z")}])
        });
        let owner = json!({"apiVersion": "batch/v1", "kind": "CronJob", "name": "pinterest-batch",
            "uid": "7", "controller": true});
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "data", "ownerReferences": [owner]},
            "status": {"conditions": conditions},
        }))
        .unwrap()
    }

    fn cron_job() -> CronJob {
        serde_json::from_value(json!({"metadata": {"name": "pinterest-batch", "uid": "7"}}))
            .unwrap()
    }

    #[test]
    fn jobs_under_way_and_the_last_that_ended_are_recorded_once() {
        let mut jobs = vec![job("now", None)];
        for hour in 1..6 {
            jobs.push(job(&format!("a{hour}"), Some(("Complete", hour))));
        }
        jobs.push(job("b1", Some(("Failed", 1))));
        let mut other = job("other", None);
        other.metadata.owner_references = None;
        jobs.push(other);
        let pipeline = validated(whole());
        let names = |runs: &[PinterestRun]| {
            let missing = missing(&cron_job(), runs, &jobs);
            let mut names: Vec<_> = missing.iter().map(|job| job.name_any()).collect();
            names.sort();
            names
        };
        assert_eq!(names(&[]), ["a3", "a4", "a5", "b1", "now"]);
        let recorded: Vec<_> = missing(&cron_job(), &[], &jobs)
            .into_iter()
            .map(|job| record(&pipeline, job))
            .collect();
        assert_eq!(names(&recorded), [""; 0]);
        let first = &recorded[0];
        assert_eq!(first.spec.pipeline_ref.name, "pinterest");
        assert_eq!(first.labels()[STARTED_BY_LABEL], BY_SCHEDULE);
        assert_eq!(first.owner_references()[0].kind, "PinterestPipeline");
    }

    #[test]
    fn only_runs_of_the_schedule_and_of_tools_are_deleted() {
        let mut runs = Vec::new();
        for by in ["", BY_SCHEDULE, BY_PLUGIN] {
            for hour in 0..5 {
                let mut run = run(&format!("r{by}{hour}"), json!({"batch": {}}));
                if !by.is_empty() {
                    run.labels_mut().insert(STARTED_BY_LABEL.into(), by.into());
                }
                let time = format!("2026-01-01T{hour:02}:00:00Z");
                let status = json!({"phase": "Succeeded", "completionTime": time});
                run.status = serde_json::from_value(status).unwrap();
                runs.push(run);
            }
        }
        // Of another action, which are counted for themselves.
        for hour in 6..9 {
            let to = json!({"sink": "live", "to": {"earliest": {}}});
            let mut run = run(&format!("reset{hour}"), json!({"reset": to}));
            run.labels_mut()
                .insert(STARTED_BY_LABEL.into(), BY_PLUGIN.into());
            let time = format!("2026-01-01T{hour:02}:00:00Z");
            let status = json!({"phase": "Succeeded", "completionTime": time});
            run.status = serde_json::from_value(status).unwrap();
            runs.push(run);
        }
        let names = |jobs: &[Job]| -> Vec<String> {
            let expired = expired(&runs, jobs).into_iter();
            expired.map(ResourceExt::name_any).collect()
        };
        let all = ["rschedule1", "rschedule0", "rplugin1", "rplugin0"];
        assert_eq!(names(&[]), all);
        // Somebody deleted Jobs that ended later.
        let left = job("rschedule1", Some(("Complete", 1)));
        assert_eq!(names(&[left]), all[1..]);
    }
}
