//! `answers`: the answers of the last batch run to the eight questions.

use std::{collections::BTreeMap, fmt::Write as _};

use k8s_openapi::{
    api::core::v1::{ConfigMap, Pod},
    jiff::Timestamp,
};
use kube::{ResourceExt as _, api::LogParams};
use pinpipe_core::questions::QUESTIONS;
use pinpipe_crds::PinterestPipeline;
use pinpipe_plan::{component::Component, names};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    cluster::{self, Cluster},
    failure::{Failure, Outcome},
    output::{Cell, Format, Options, Table, print, show},
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
    /// When a run last succeeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<Timestamp>,
    answers: BTreeMap<String, Answer>,
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
    let output = output_name(&name);
    let read = cluster.api::<ConfigMap>().get_opt(&output).await;
    let read = read.map_err(|error| cluster.failure("get configmaps", &error))?;
    let Some(mut found) = read.and_then(|output| answers(&output, since(&pipeline))) else {
        return from_log(&cluster, &pipeline, arguments).await;
    };
    if let Some(question) = &arguments.question {
        found.answers.retain(|name, _| name == question);
    }
    let first = found.answers.values().next().cloned().unwrap_or_default();
    show(format, &found, &table(&first), |_| text(&found))?;
    Ok(true)
}

/// Name of the `ConfigMap` that a pipeline's runs write their results into.
fn output_name(pipeline: &str) -> String {
    format!("{}-output", names::child(pipeline, &Component::Batch))
}

fn since(pipeline: &PinterestPipeline) -> Option<Timestamp> {
    let batch = pipeline.status.as_ref()?.batch.as_ref()?;
    Some(batch.last_successful_time.as_ref()?.0)
}

/// The answers in the `ConfigMap`. None: the last run left none there.
fn answers(output: &ConfigMap, since: Option<Timestamp>) -> Option<Answers> {
    let data = output.data.as_ref()?;
    Some(Answers {
        run: data.get("run")?.clone(),
        since,
        answers: serde_json::from_str(data.get("answers")?).ok()?,
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
        let Some(answer) = found.answers.get(question.name) else {
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

/// Prints the answers that the last successful run's pod has in its log.
async fn from_log(
    cluster: &Cluster,
    pipeline: &PinterestPipeline,
    arguments: &Arguments,
) -> Outcome {
    let name = pipeline.name_any();
    let none = || {
        let namespace = &cluster.namespace;
        Failure::Cluster(format!(
            "no answers of pipeline {name} are in the cluster: no run has succeeded, or its pod \
             is gone; see kubectl pinpipe runs -n {namespace} {name}. The answers of earlier runs \
             are in the archive's bucket: docs/reference/batch-runs.md"
        ))
    };
    if arguments.options.output != Format::Table || arguments.question.is_some() {
        return Err(Failure::Cluster(format!(
            "the last run left no answers as data in ConfigMap {}: use --output table without \
             --question, which reads its log",
            output_name(&name)
        )));
    }
    let pods: Vec<Pod> = cluster
        .list("list pods", &names::runs_selector(&name))
        .await?;
    let succeeded = pods.into_iter().filter(|pod| {
        let phase = pod
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref());
        phase == Some("Succeeded")
    });
    let last = succeeded.max_by_key(|pod| pod.creation_timestamp().map(|time| time.0));
    let last = last.ok_or_else(none)?.name_any();
    let log = cluster
        .api::<Pod>()
        .logs(&last, &LogParams::default())
        .await;
    let log = log.map_err(|error| cluster.failure("get pods/log", &error))?;
    let printed = printed(&log).ok_or_else(none)?;
    print(&format!("answers in the log of {last}\n\n{printed}"))?;
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

    #[test]
    fn answers_are_shown_in_the_order_of_the_questions() {
        let [first, second] = [QUESTIONS[0].name, QUESTIONS[1].name];
        let answers_of_both = json!({
            second: {"columns": ["country", "n"], "rows": [["Chad", 3], ["Côte d'Ivoire", 12]],
                "truncated": true},
            first: {"columns": ["a"], "rows": []},
        });
        let data = json!({"run": "nightly", "answers": answers_of_both.to_string()});
        let found = answers(&output(&data), None).unwrap();
        let expected = format!(
            "answers of nightly\n\n{first}\nno rows\n\n{second}\nCOUNTRY        N\n\
             Chad           3\nCôte d'Ivoire  12\n… more rows are in report.json of the run\n"
        );
        assert_eq!(text(&found), expected);
        let csv = table(&found.answers[second]).csv();
        assert_eq!(csv, "country,n\nChad,3\nCôte d'Ivoire,12\n");
    }

    #[test]
    fn a_run_that_left_no_answers_is_none() {
        for data in [json!({"run": "x"}), json!({"answers": "{}"}), json!({})] {
            assert_eq!(answers(&output(&data), None), None);
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
