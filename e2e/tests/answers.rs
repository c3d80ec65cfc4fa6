//! The way of README.md on a cluster of one's own: the sample of 200 users is posted, and a batch
//! run prints eight answers, without a sink; with one in PostgreSQL, the next run fills it.

use anyhow::{Context as _, Result, ensure};
use pinpipe_e2e::{
    Kind, Pipeline, Spec, answers::QUESTIONS, ingest, objects, scenario::in_sandbox,
};

/// Users in the sample.
const USERS: u64 = 200;

#[test]
fn the_sample_gives_eight_answers_without_a_sink_and_then_in_postgresql() -> Result<()> {
    in_sandbox("sample", async |sandbox| {
        let spec = Spec::new().archive(sandbox, 1000).batch_without_sinks();
        let pipeline = sandbox.apply("flow", &spec).await?;
        pipeline.ready().await?;
        for kind in Kind::ALL {
            post_sample(&pipeline, kind).await?;
        }
        pipeline.start_run("first").await?;
        pipeline.run_completes("first").await?;
        let output = pipeline.run_output("first").await?;
        let tables = answers_printed(&output)?;
        ensure!(!tables.contains("no rows"), "{tables}");

        pipeline.apply(&spec.batch_postgres(sandbox)).await?;
        pipeline.ready().await?;
        pipeline.start_run("second").await?;
        pipeline.run_completes("second").await?;
        let report = objects::last_report(sandbox.bucket(), &pipeline.full_name()).await?;
        let report = report.context("no run was published")?;
        ensure!(
            report["sinks"]["serving"]["loaded"] == "whole",
            "{}",
            report["sinks"]
        );
        for question in &QUESTIONS {
            let reported = question.answer_in_report(&report)?;
            let stored = question.answer_in_postgres(&sandbox.schema()).await?;
            ensure!(!stored.is_empty(), "{} is empty", question.name);
            ensure!(
                reported == stored,
                "{}: reported {reported:?}, stored {stored:?}",
                question.name
            );
        }
        Ok(())
    })
}

/// Posts a file of the sample as one request, as `curl --data-binary @file` does.
async fn post_sample(pipeline: &Pipeline, kind: Kind) -> Result<()> {
    let body = std::fs::read_to_string(format!("../examples/sample/{kind}.json"))?;
    let response = ingest::post(pipeline, kind.name(), "application/json", body).await?;
    let answer = response.json()?;
    ensure!(
        response.status == 202 && answer["accepted"] == USERS && answer["rejected"] == 0,
        "{kind}: {response:?}"
    );
    Ok(())
}

/// What follows the log lines: the answers, in the order of the questions.
fn answers_printed(output: &str) -> Result<&str> {
    let mut rest = output;
    let mut begin = None;
    for question in &QUESTIONS {
        let title = format!("\n{}\n", question.name);
        let at = rest.find(&title);
        let at = at.with_context(|| format!("no {} in {output}", question.name))?;
        rest = &rest[at + title.len() - 1..];
        begin.get_or_insert(output.len() - rest.len());
    }
    Ok(&output[begin.unwrap_or_default()..])
}
