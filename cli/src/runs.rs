//! `runs`: the runs of a pipeline, newest first.

use std::cmp::Reverse;

use k8s_openapi::jiff::Timestamp;
use kube::{
    Api, ResourceExt as _,
    api::{ApiResource, DynamicObject, ListParams},
};
use pinpipe_crds::PinterestRun;
use serde::{Deserialize, Serialize};

use crate::{
    cluster::{self, Cluster},
    failure::{Failure, Outcome},
    output::{Cell, Colour, Options, Table, show},
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

/// A run, for people and programs.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    /// Name.
    pub name: String,
    /// What it does, such as `Batch`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub action: String,
    /// How far it is, such as `Running`; `Created` while no operator has seen it.
    pub phase: String,
    /// What it waits for or does, or how it ended.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// When it was created.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<Timestamp>,
    /// The Job that does its work.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// Where its report is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub report: Option<Report>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended: Option<Timestamp>,
    /// When its Job was started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started: Option<Timestamp>,
    /// How long it has taken, seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u64>,
    /// Numbers of records.
    #[serde(flatten)]
    counts: Counts,
}

/// Where the report of a run is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// `ConfigMap` with the answers, too. A run of the schedule has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_map: Option<String>,
    /// The report with all answers in the object store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uri: Option<String>,
}

/// Numbers of records of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
struct Counts {
    #[serde(skip_serializing_if = "Option::is_none")]
    read: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    clean: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    repaired: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rejected: Option<i64>,
}

/// What is shown of a run's status. Not the operator's own type: the operator may be of another
/// release.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    phase: Option<String>,
    action: String,
    message: String,
    start_time: Option<Timestamp>,
    completion_time: Option<Timestamp>,
    job: Option<String>,
    report: Option<Report>,
    total: Counts,
    progress: Option<Progress>,
}

/// How far a run is.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Progress {
    step: String,
    read: Option<i64>,
    of: Option<i64>,
}

/// Prints the runs. The answer is whether the last one that ended has succeeded.
pub async fn run(arguments: &Arguments) -> Outcome {
    let cluster = arguments.cluster.cluster().await?;
    let pipeline = cluster.the_pipeline(arguments.name.as_deref()).await?;
    let runs = list(&cluster, &pipeline.name_any()).await?;
    let runs: Vec<Run> = runs.iter().map(|run| Run::of(run, now())).collect();
    let table = table(&runs, now());
    show(arguments.options.output, &runs, &table, |paint| {
        if table.is_empty() {
            let name = pipeline.name_any();
            format!("no run: start one by kubectl pinpipe run {name}\n")
        } else {
            table.text(paint)
        }
    })?;
    let ended = last(&runs);
    Ok(ended.is_none_or(Run::has_succeeded))
}

/// The API of runs in the namespace.
#[must_use]
pub fn api(cluster: &Cluster) -> Api<DynamicObject> {
    let resource = ApiResource::erase::<PinterestRun>(&());
    Api::namespaced_with(cluster.client.clone(), &cluster.namespace, &resource)
}

/// The runs of a pipeline, newest first.
pub async fn list(cluster: &Cluster, pipeline: &str) -> Result<Vec<DynamicObject>, Failure> {
    let params = ListParams::default().fields(&format!("spec.pipelineRef.name={pipeline}"));
    let listed = api(cluster).list(&params).await;
    let listed = listed.map_err(|error| cluster.failure("list pinterestruns.pinpipe.dev", &error));
    let mut runs = listed?.items;
    runs.sort_by_key(|run| {
        let created = run.creation_timestamp().map(|time| time.0);
        Reverse((created, run.name_any()))
    });
    Ok(runs)
}

/// Actions that read no raw objects: what became of such a run tells nothing of the answers.
const WITHOUT_ANSWERS: [&str; 4] = ["Redrive", "Reset", "ForgetTopic", "AdoptTopic"];

/// The last run that ended and reads raw objects, of runs that are sorted newest first.
#[must_use]
pub fn last(runs: &[Run]) -> Option<&Run> {
    let mut runs = runs.iter().filter(|run| run.has_answers());
    runs.find(|run| run.has_ended())
}

impl Run {
    /// A run as its resource has it.
    #[must_use]
    pub fn of(run: &DynamicObject, now: Timestamp) -> Self {
        let status = Status::deserialize(&run.data["status"]).unwrap_or_default();
        let progress = status.progress.map(|Progress { step, read, of }| {
            let of = of.map_or_else(String::new, |of| format!(" of {of}"));
            let read = read.map_or_else(String::new, |read| format!(" {read}{of}"));
            format!("{step}{read}")
        });
        let started = status.start_time;
        let ended = status.completion_time.unwrap_or(now);
        Self {
            name: run.name_any(),
            action: status.action,
            phase: status.phase.unwrap_or_else(|| "Created".to_owned()),
            message: progress.unwrap_or(status.message),
            created: run.creation_timestamp().map(|time| time.0),
            job: status.job,
            report: status.report,
            ended: status.completion_time,
            started,
            seconds: started.map(|started| seconds_between(started, ended)),
            counts: status.total,
        }
    }

    /// Whether it never changes any more.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        ["Succeeded", "Failed", "Refused"].contains(&self.phase.as_str())
    }

    /// Whether it reads raw objects, so that what became of it tells of the answers.
    #[must_use]
    pub fn has_answers(&self) -> bool {
        !WITHOUT_ANSWERS.contains(&self.action.as_str())
    }

    /// Whether its work is done.
    #[must_use]
    pub fn has_succeeded(&self) -> bool {
        self.phase == "Succeeded"
    }

    /// The counts that are known, each with its word.
    pub fn counts(&self) -> impl Iterator<Item = (i64, &'static str)> {
        let counts = [
            (self.counts.read, "read"),
            (self.counts.clean, "clean"),
            (self.counts.repaired, "repaired"),
            (self.counts.rejected, "rejected"),
        ];
        counts
            .into_iter()
            .filter_map(|(count, word)| Some((count?, word)))
    }
}

fn table(runs: &[Run], now: Timestamp) -> Table {
    let mut table = Table::new([
        "name", "action", "phase", "age", "took", "read", "clean", "repaired", "rejected",
        "message",
    ]);
    for run in runs {
        let count = |count: Option<i64>| count.map_or_else(|| "-".into(), Cell::from);
        let colour = match (run.has_ended(), run.has_succeeded()) {
            (_, true) => Colour::Green,
            (true, false) => Colour::Red,
            (false, false) => Colour::Yellow,
        };
        table.row([
            (&run.name).into(),
            (&run.action).into(),
            Cell::coloured(&run.phase, colour),
            run.created
                .map_or_else(|| "-".into(), |created| age(created, now).into()),
            run.seconds
                .map_or_else(|| "-".into(), |seconds| length(seconds).into()),
            count(run.counts.read),
            count(run.counts.clean),
            count(run.counts.repaired),
            count(run.counts.rejected),
            (&run.message).into(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::output::Paint;

    fn run(name: &str, status: &Value) -> DynamicObject {
        let run = json!({
            "apiVersion": "pinpipe.dev/v1alpha1",
            "kind": "PinterestRun",
            "metadata": {"name": name, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"pipelineRef": {"name": "pinterest"}, "batch": {}},
            "status": status,
        });
        serde_json::from_value(run).unwrap()
    }

    #[test]
    fn runs_have_their_phase_counts_and_progress() {
        let runs = [
            run("a", &json!({})),
            run("r", &json!({"phase": "Succeeded", "action": "Reset"})),
            run(
                "b",
                &json!({"phase": "Running", "action": "Batch", "message": "under way",
                    "startTime": "2026-01-02T00:00:00Z",
                    "progress": {"step": "Clean", "read": 10, "of": 40}}),
            ),
            run(
                "c",
                &json!({"phase": "Failed", "action": "FullBatch", "message": "deadline",
                    "startTime": "2026-01-01T00:00:00Z",
                    "completionTime": "2026-01-01T00:01:05Z",
                    "total": {"read": 10, "clean": 8, "repaired": 3, "rejected": 2}}),
            ),
        ];
        let now = "2026-01-02T00:02:00Z".parse().unwrap();
        let runs = runs.map(|run| Run::of(&run, now));
        assert_eq!(last(&runs).unwrap().name, "c");
        assert_eq!(
            table(&runs, now).text(Paint::PLAIN),
            "\
NAME  ACTION     PHASE      AGE   TOOK  READ  CLEAN  REPAIRED  REJECTED  MESSAGE
a                Created    1d0h  -     -     -      -         -
r     Reset      Succeeded  1d0h  -     -     -      -         -
b     Batch      Running    1d0h  2m0s  -     -      -         -         Clean 10 of 40
c     FullBatch  Failed     1d0h  1m5s  10    8      3         2         deadline
"
        );
    }
}
