//! `runs`: the batch runs of a pipeline that the cluster still knows, newest first.

use k8s_openapi::{
    api::{batch::v1::Job, core::v1::Pod},
    jiff::Timestamp,
};
use kube::ResourceExt as _;
use pinpipe_crds::{LastRun, Outcome as Ended, PinterestPipeline, parse_run_report};
use pinpipe_plan::names;
use serde::Serialize;

use crate::{
    cluster::{self, Cluster},
    failure::{Failure, Outcome},
    output::{Cell, Colour, Options, Table, show},
    pods,
    time::{age, length, now, seconds_between},
};

/// Arguments of `runs`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Pipeline; by default the only one of the namespace
    #[arg(value_name = "PIPELINE")]
    name: Option<String>,

    #[command(flatten)]
    cluster: cluster::Access,

    #[command(flatten)]
    options: Options,
}

/// A batch run.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    /// Name of the run and of its Job.
    pub name: String,
    /// `Waiting`, `Running`, `Succeeded` or `Failed`.
    pub outcome: &'static str,
    /// Why it failed.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// When it started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started: Option<Timestamp>,
    /// How long it has taken, seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u64>,
    /// Records read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read: Option<i64>,
    /// Clean records.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clean: Option<i64>,
    /// Clean records with a value that was made null.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repaired: Option<i64>,
    /// Rejected records.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rejected: Option<i64>,
}

/// Prints the runs. The answer is whether the last one that ended succeeded.
pub async fn run(arguments: &Arguments) -> Outcome {
    let cluster = arguments.cluster.cluster().await?;
    let pipeline = cluster.the_pipeline(arguments.name.as_deref()).await?;
    let (jobs, pods) = jobs_and_pods(&cluster, &pipeline.name_any()).await?;
    let runs = runs(&pipeline, &jobs, &pods, now());
    let table = table(&runs, now());
    let format = arguments.options.output;
    show(format, &runs, &table, |paint| {
        if table.is_empty() {
            "no run: the schedule hasn't started one yet, or its Jobs were deleted\n".to_owned()
        } else {
            table.text(paint)
        }
    })?;
    let ended = runs
        .iter()
        .find(|run| ["Succeeded", "Failed"].contains(&run.outcome));
    Ok(ended.is_none_or(|run| run.outcome == "Succeeded"))
}

/// Jobs of a pipeline's runs, and their pods.
async fn jobs_and_pods(cluster: &Cluster, name: &str) -> Result<(Vec<Job>, Vec<Pod>), Failure> {
    let selector = names::runs_selector(name);
    futures::try_join!(
        cluster.list::<Job>("list jobs.batch", &selector),
        cluster.list::<Pod>("list pods", &selector),
    )
}

/// The runs, newest first, with the counts that the pods or the pipeline's status still have.
#[must_use]
pub fn runs(pipeline: &PinterestPipeline, jobs: &[Job], pods: &[Pod], now: Timestamp) -> Vec<Run> {
    let batch = pipeline
        .status
        .as_ref()
        .and_then(|status| status.batch.as_ref());
    let last = batch.and_then(|batch| batch.last_run.as_ref());
    let mut runs: Vec<Run> = jobs
        .iter()
        .map(|job| {
            let name = job.name_any();
            let counts = last.filter(|last| last.name == name).cloned();
            let counts = counts.or_else(|| report(&name, pods));
            of_job(job, counts, now)
        })
        .collect();
    runs.sort_by(|one, other| (other.started, &other.name).cmp(&(one.started, &one.name)));
    if let Some(last) = last.filter(|last| !runs.iter().any(|run| run.name == last.name)) {
        runs.push(of_last(last));
    }
    runs
}

fn of_job(job: &Job, counts: Option<LastRun>, now: Timestamp) -> Run {
    let status = job.status.clone().unwrap_or_default();
    let conditions = status.conditions.unwrap_or_default();
    let met = |kind: &str| {
        let mut conditions = conditions.iter();
        conditions.find(|condition| condition.type_ == kind && condition.status == "True")
    };
    let failed = met("Failed");
    let outcome = match (met("Complete"), failed, status.start_time.is_some()) {
        (Some(_), ..) => "Succeeded",
        (None, Some(_), _) => "Failed",
        (None, None, true) => "Running",
        (None, None, false) => "Waiting",
    };
    let started = status.start_time.map(|time| time.0);
    let ended = status
        .completion_time
        .map(|time| time.0)
        .or_else(|| failed?.last_transition_time.as_ref().map(|time| time.0));
    let message = failed.and_then(|condition| condition.message.clone());
    Run {
        name: job.name_any(),
        outcome,
        message: message.unwrap_or_default(),
        started,
        seconds: started.map(|started| seconds_between(started, ended.unwrap_or(now))),
        read: counts.as_ref().and_then(|counts| counts.read),
        clean: counts.as_ref().and_then(|counts| counts.clean),
        repaired: counts.as_ref().and_then(|counts| counts.repaired),
        rejected: counts.as_ref().and_then(|counts| counts.rejected),
    }
}

/// A run whose Job was deleted.
fn of_last(last: &LastRun) -> Run {
    Run {
        name: last.name.clone(),
        outcome: match last.outcome {
            Ended::Succeeded => "Succeeded",
            Ended::Failed => "Failed",
        },
        message: String::new(),
        started: None,
        seconds: last.seconds.and_then(|seconds| seconds.try_into().ok()),
        read: last.read,
        clean: last.clean,
        repaired: last.repaired,
        rejected: last.rejected,
    }
}

/// The counts in the termination message of a run's last pod.
fn report(job: &str, all: &[Pod]) -> Option<LastRun> {
    let of_job = |pod: &&Pod| pods::job(pod) == Some(job);
    let last = all
        .iter()
        .filter(of_job)
        .max_by_key(|pod| pod.creation_timestamp().map(|time| time.0))?;
    let statuses = last.status.as_ref()?.container_statuses.as_ref()?;
    let ended = statuses.first()?.state.as_ref()?.terminated.as_ref()?;
    let outcome = if ended.exit_code == 0 {
        Ended::Succeeded
    } else {
        Ended::Failed
    };
    Some(parse_run_report(
        job,
        outcome,
        ended.message.as_deref().unwrap_or_default(),
    ))
}

/// The counts that are known, each with its word.
pub fn counts(run: &Run) -> impl Iterator<Item = (i64, &'static str)> {
    let counts = [
        (run.read, "read"),
        (run.clean, "clean"),
        (run.repaired, "repaired"),
        (run.rejected, "rejected"),
    ];
    counts
        .into_iter()
        .filter_map(|(count, word)| Some((count?, word)))
}

/// Outcome of a run, in its colour.
fn outcome(run: &Run) -> Cell {
    let colour = match run.outcome {
        "Succeeded" => Colour::Green,
        "Failed" => Colour::Red,
        _ => Colour::Yellow,
    };
    Cell::coloured(run.outcome, colour)
}

fn table(runs: &[Run], now: Timestamp) -> Table {
    let mut table = Table::new([
        "name", "outcome", "started", "took", "read", "clean", "repaired", "rejected", "message",
    ]);
    for run in runs {
        let count = |count: Option<i64>| count.map_or_else(|| "-".into(), Cell::from);
        table.row([
            (&run.name).into(),
            outcome(run),
            run.started
                .map_or_else(|| "-".into(), |started| (age(started, now) + " ago").into()),
            run.seconds
                .map_or_else(|| "-".into(), |seconds| length(seconds).into()),
            count(run.read),
            count(run.clean),
            count(run.repaired),
            count(run.rejected),
            (&run.message).into(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{output::Paint, pods::JOB_LABEL};

    fn job(name: &str, status: Value) -> Job {
        let job = json!({"metadata": {"name": name}, "status": status});
        serde_json::from_value(job).unwrap()
    }

    #[test]
    fn runs_are_told_by_jobs_pods_and_status_newest_first() {
        let mut pipeline = pinpipe_plan::samples::pipeline(json!({}));
        let last = json!({"batch": {"lastRun": {"name": "gone", "outcome": "Succeeded",
            "seconds": 9, "read": 1}}});
        pipeline.status = serde_json::from_value(last).unwrap();
        let jobs = [
            job(
                "a",
                json!({"startTime": "2026-01-01T00:00:00Z", "conditions": [{"type": "Failed",
                    "status": "True", "message": "deadline",
                    "lastTransitionTime": "2026-01-01T00:01:05Z"}]}),
            ),
            job(
                "b",
                json!({"startTime": "2026-01-02T00:00:00Z", "active": 1}),
            ),
            job("c", json!({})),
        ];
        let pod = json!({
            "metadata": {"name": "a-1", "labels": {JOB_LABEL: "a"}},
            "status": {"containerStatuses": [{"name": "batch", "image": "", "imageID": "",
                "ready": false, "restartCount": 0, "state": {"terminated": {"exitCode": 1,
                "message": "{\"read\": 10, \"clean\": 8, \"repaired\": 3, \"rejected\": 2}"}}}]},
        });
        let pods = [serde_json::from_value(pod).unwrap()];
        let now = "2026-01-02T00:02:00Z".parse().unwrap();
        let text = table(&runs(&pipeline, &jobs, &pods, now), now).text(Paint::PLAIN);
        assert_eq!(
            text,
            "\
NAME  OUTCOME    STARTED   TOOK  READ  CLEAN  REPAIRED  REJECTED  MESSAGE
b     Running    2m0s ago  2m0s  -     -      -         -
a     Failed     1d0h ago  1m5s  10    8      3         2         deadline
c     Waiting    -         -     -     -      -         -
gone  Succeeded  -         9s    1     -      -         -
"
        );
    }
}
