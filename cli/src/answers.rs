//! `answers`: the answers of the last batch run to the eight questions.

use std::{cmp::Reverse, collections::BTreeMap, fmt::Write as _};

use k8s_openapi::{
    api::core::v1::{ConfigMap, Pod},
    jiff::Timestamp,
};
use kube::{ResourceExt as _, api::LogParams};
use pinpipe_core::questions::QUESTIONS;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    cluster::{self, Cluster},
    failure::{Failure, Outcome},
    output::{Cell, Format, Options, Table, print, show},
    pods,
    runs::{self, Run},
    time::{age, now},
};

/// Arguments of `answers`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Pipeline; by default the only one of the namespace
    #[arg(value_name = "PIPELINE")]
    name: Option<String>,

    /// Only the answer to this question, such as `popular_category_by_year`
    #[arg(short, long, value_name = "NAME", value_parser = QUESTIONS.map(|question| question.name))]
    question: Option<String>,

    #[command(flatten)]
    cluster: cluster::Access,

    #[command(flatten)]
    options: Options,
}

/// An answer, as a run reports it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
struct Answer {
    columns: Vec<String>,
    rows: Vec<Vec<Value>>,
    /// Whether rows were left out, since a `ConfigMap` has no room for all.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    truncated: bool,
}

/// The answers of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Answers {
    /// Name of the run.
    run: String,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<Timestamp>,
    #[serde(rename = "answers")]
    given: BTreeMap<String, Answer>,
}

/// Prints the answers.
pub async fn run(arguments: &Arguments) -> Outcome {
    let cluster = arguments.cluster.cluster().await?;
    let pipeline = cluster.the_pipeline(arguments.name.as_deref()).await?;
    let format = arguments.options.output;
    if format == Format::Csv && arguments.question.is_none() {
        return Err(Failure::Usage(
            "CSV has room for one answer: choose it by --question".to_owned(),
        ));
    }
    let name = pipeline.name_any();
    let runs = runs::list(&cluster, &name).await?;
    let runs = succeeded(runs.iter().map(|run| Run::of(run, now())));
    for run in &runs {
        let report = run.report.clone().unwrap_or_default();
        let Some(output) = report.config_map else {
            return from_log(&cluster, run, arguments).await;
        };
        let read = cluster.api::<ConfigMap>().get_opt(&output).await;
        let read = read.map_err(|error| cluster.failure("get configmaps", &error))?;
        // A backfill of a live sink answers nothing.
        let Some(mut found) = read.and_then(|output| answers(run, &output)) else {
            continue;
        };
        if let Some(question) = &arguments.question {
            found.given.retain(|name, _| name == question);
        }
        let first = found.given.values().next().cloned().unwrap_or_default();
        show(format, &found, &table(&first), |_| text(&found))?;
        return Ok(true);
    }
    let namespace = &cluster.namespace;
    Err(Failure::Cluster(format!(
        "no answers of pipeline {name} are in the cluster: no run that answers has succeeded, or \
         it was deleted; see kubectl pinpipe runs -n {namespace} {name}. The answers of earlier \
         runs are in the archive's bucket: docs/reference/batch-runs.md"
    )))
}

/// The runs that may have answers, the last that ended first.
fn succeeded(runs: impl Iterator<Item = Run>) -> Vec<Run> {
    let runs = runs.filter(|run| run.has_succeeded() && run.has_answers());
    let mut runs: Vec<Run> = runs.collect();
    runs.sort_by_key(|run| Reverse(run.ended));
    runs
}

/// The answers in a run's `ConfigMap`. None: there are none, or they are those of the time when the
/// run was done first: one that is created again finds them.
fn answers(run: &Run, output: &ConfigMap) -> Option<Answers> {
    let data = output.data.as_ref()?;
    let report: Option<Value> = data
        .get("report")
        .and_then(|report| serde_json::from_str(report).ok());
    let planned = report.and_then(|report| report["runTime"].as_str()?.parse::<Timestamp>().ok());
    if planned.is_some() && planned < run.created {
        return None;
    }
    Some(Answers {
        run: run.name.clone(),
        since: run.ended,
        given: serde_json::from_str(data.get("answers")?).ok()?,
    })
}

fn table(answer: &Answer) -> Table {
    let mut table = Table::new(&answer.columns);
    for row in &answer.rows {
        table.row(row.iter().map(|value| match value {
            Value::String(text) => Cell::from(text),
            value => Cell::from(value),
        }));
    }
    table
}

/// All answers in the order of the questions, each under its name.
fn text(found: &Answers) -> String {
    let mut text = format!("answers of {}", found.run);
    if let Some(since) = found.since {
        let _ = write!(text, ", {} old", age(since, now()));
    }
    text.push('\n');
    for question in QUESTIONS {
        let Some(answer) = found.given.get(question.name) else {
            continue;
        };
        let _ = write!(text, "\n{}\n", question.name);
        if answer.rows.is_empty() {
            text.push_str("no rows\n");
        } else {
            text.push_str(&table(answer).text(crate::output::Paint::of_standard_output()));
        }
        if answer.truncated {
            text.push_str("… more rows are in report.json of the run\n");
        }
    }
    text
}

/// Prints the answers that a run of the schedule has in its pod's log.
async fn from_log(cluster: &Cluster, run: &Run, arguments: &Arguments) -> Outcome {
    let Run { name, job, .. } = run;
    let uri = run.report.as_ref().and_then(|report| report.uri.as_deref());
    let elsewhere = uri.map_or_else(String::new, |uri| format!("; all of them are in {uri}"));
    if arguments.options.output != Format::Table || arguments.question.is_some() {
        return Err(Failure::Usage(format!(
            "the last run, {name}, was started by the schedule, which leaves the answers in its \
             log alone: use --output table without --question, or start a run by kubectl pinpipe \
             run{elsewhere}"
        )));
    }
    let gone = || {
        Failure::Cluster(format!(
            "the pod of the last run, {name}, is gone, and the answers in its log with it: start a \
             run by kubectl pinpipe run{elsewhere}"
        ))
    };
    let job = job.as_ref().ok_or_else(gone)?;
    let selector = format!("{}={job}", pods::JOB_LABEL);
    let pods: Vec<Pod> = cluster.list("list pods", &selector).await?;
    let pod = pods.into_iter().find(|pod| {
        let status = pod.status.as_ref();
        status.and_then(|status| status.phase.as_deref()) == Some("Succeeded")
    });
    let pod = pod.ok_or_else(gone)?.name_any();
    let log = cluster.api::<Pod>().logs(&pod, &LogParams::default()).await;
    let log = log.map_err(|error| cluster.failure("get pods/log", &error))?;
    let printed = printed(&log).ok_or_else(gone)?;
    print(&format!(
        "answers of {name}, in the log of {pod}\n\n{printed}"
    ))?;
    Ok(true)
}

/// What a run prints after the last line of its log: from the first question's name on.
fn printed(log: &str) -> Option<&str> {
    let title = format!("\n{}\n", QUESTIONS.first()?.name);
    log.find(&title).map(|at| &log[at + 1..])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn output(data: &Value) -> ConfigMap {
        serde_json::from_value(json!({"metadata": {"name": "x"}, "data": data})).unwrap()
    }

    fn run(name: &str, ended: u8, action: &str) -> Run {
        let run = json!({
            "apiVersion": "pinpipe.dev/v1alpha1",
            "kind": "PinterestRun",
            "metadata": {"name": name},
            "spec": {"pipelineRef": {"name": "pinterest"}},
            "status": {"phase": "Succeeded", "action": action,
                "completionTime": format!("2026-01-0{ended}T00:00:00Z")},
        });
        Run::of(&serde_json::from_value(run).unwrap(), now())
    }

    #[test]
    fn the_run_that_ended_last_comes_first_and_redrives_answer_nothing() {
        let runs = [
            run("a", 1, "Batch"),
            run("b", 3, "FullBatch"),
            run("c", 4, "Redrive"),
            run("d", 2, "Batch"),
        ];
        let sorted = succeeded(runs.into_iter());
        let names: Vec<&str> = sorted.iter().map(|run| run.name.as_str()).collect();
        assert_eq!(names, ["b", "d", "a"]);
    }

    #[test]
    fn answers_are_shown_in_the_order_of_the_questions() {
        let [first, second] = [QUESTIONS[0].name, QUESTIONS[1].name];
        let answers_of_both = json!({
            second: {"columns": ["country", "n"], "rows": [["Chad", 3], ["Côte d'Ivoire", 12]],
                "truncated": true},
            first: {"columns": ["a"], "rows": []},
        });
        let data = json!({"run": "id", "answers": answers_of_both.to_string()});
        let mut nightly = run("nightly", 1, "Batch");
        nightly.ended = None;
        let found = answers(&nightly, &output(&data)).unwrap();
        let expected = format!(
            "answers of nightly\n\n{first}\nno rows\n\n{second}\nCOUNTRY        N\n\
             Chad           3\nCôte d'Ivoire  12\n… more rows are in report.json of the run\n"
        );
        assert_eq!(text(&found), expected);
        let csv = table(&found.given[second]).csv();
        assert_eq!(csv, "country,n\nChad,3\nCôte d'Ivoire,12\n");
    }

    #[test]
    fn answers_of_before_the_run_was_created_are_none() {
        let mut again = run("again", 1, "Batch");
        let data = |time: &str| {
            let report = json!({"runTime": time});
            json!({"report": report.to_string(), "answers": "{}"})
        };
        again.created = "2026-01-02T00:00:00Z".parse().ok();
        let earlier = output(&data("2026-01-01T00:00:00Z"));
        assert_eq!(answers(&again, &earlier), None);
        let own = output(&data("2026-01-02T00:00:05Z"));
        assert!(answers(&again, &own).is_some());
    }

    #[test]
    fn a_run_that_left_no_answers_is_none() {
        for data in [json!({"report": "{}"}), json!({})] {
            assert_eq!(answers(&run("x", 1, "Batch"), &output(&data)), None);
        }
    }

    #[test]
    fn the_log_has_the_answers_after_its_last_line() {
        let first = QUESTIONS[0].name;
        let log = format!("time=… msg=\"question answered\" question={first}\n\n{first}\nrow\n");
        assert_eq!(printed(&log), Some(format!("{first}\nrow\n").as_str()));
        assert_eq!(printed("nothing"), None);
    }
}
