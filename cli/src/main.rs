//! `kubectl pinpipe`: a kubectl plug-in for people who write and run pipelines.

mod answers;
mod clean;
mod cluster;
mod completion;
mod dead_letters;
mod failure;
mod input;
mod inspect;
mod logs;
mod metrics;
mod output;
mod plan;
mod pods;
mod report;
mod reset;
mod runs;
mod start;
mod status;
mod tail;
mod time;
mod trace;
mod validate;
mod verify;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio::runtime::Runtime;

use failure::{Failure, Outcome};

/// Writes, checks and runs Pinterest pipelines
///
/// Exit status: 0 for yes (valid, clean, ready, no change, found), 1 for no, 2 if an argument is
/// wrong or a file cannot be read, 3 if the cluster cannot be reached, lacks the object or refuses.
#[derive(Debug, Parser)]
#[command(name = "kubectl-pinpipe", bin_name = "kubectl pinpipe", version)]
#[command(verbatim_doc_comment)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

// These comments are printed as they are: backticks would be, too.
#[allow(clippy::doc_markdown)]
#[derive(Debug, Subcommand)]
enum Command {
    /// Checks pipelines in YAML files as the API server and the operator would
    ///
    /// Prints each problem with its file, line and field. It uses no cluster, so it does not check
    /// whether Secrets exist, whether a pipeline outside the file owns a topic, or what the broker
    /// allows.
    ///
    /// Exit status: 0 if every pipeline is valid; 1 if one is not, or if no file has a pipeline;
    /// 2 if the arguments are wrong or a file cannot be read.
    ///
    /// Examples:
    ///   kubectl pinpipe validate pinterest.yaml
    ///   kubectl pinpipe validate --before /tmp/before/pipelines pipelines
    #[command(verbatim_doc_comment)]
    Validate(validate::command::Arguments),

    /// Cleans raw records as the workers do, and shows each field
    ///
    /// Shows raw and clean value of each column, what was made null and why, or why the record is
    /// rejected. It uses no cluster.
    ///
    /// Exit status: 0 if no record is rejected, 1 if one is, 2 if a file cannot be read or a
    /// record's kind cannot be told.
    ///
    /// Examples:
    ///   kubectl pinpipe clean < record.json
    ///   kubectl pinpipe clean --kind user --output json users.ndjson
    #[command(verbatim_doc_comment)]
    Clean(clean::Arguments),

    /// Shows what applying a file would change, and changes nothing
    ///
    /// Validates the file as `validate` does, with the pipeline in the cluster as what was before.
    /// Then prints objects that are created, changed and deleted, topics that are created or get
    /// partitions, pods that restart and why, how batch runs change, and what cannot be changed.
    ///
    /// Exit status: 0 if nothing changes, 1 if something does, 2 if the file is invalid or asks
    /// for a change that cannot be made, 3 if the cluster does not answer.
    ///
    /// Examples:
    ///   kubectl pinpipe plan -f pinterest.yaml
    ///   kubectl pinpipe plan -f pipelines --output json
    #[command(verbatim_doc_comment)]
    Plan(plan::Arguments),

    /// Shows a pipeline on one screen, or lists the pipelines of a namespace
    ///
    /// Conditions with reason and message, pods, records a second, lag, the share of rejected
    /// records, the last batch run, the age of the answers, and the next step. Rates and lag come
    /// from the workers' metrics through the API server.
    ///
    /// Exit status: 0 if condition Ready of each pipeline shown is True, 1 if not, 3 if the cluster
    /// does not answer. Ready tells of the workers; of batch runs, `runs` does.
    ///
    /// Examples:
    ///   kubectl pinpipe status
    ///   kubectl pinpipe status -n data pinterest --watch
    #[command(verbatim_doc_comment)]
    Status(status::Arguments),

    /// Starts a batch run or a backfill, as a PinterestRun
    ///
    /// Exit status: 0 if the run was created (with --wait: has succeeded), 1 if it failed or was
    /// refused, 3 if the cluster does not answer.
    ///
    /// Examples:
    ///   kubectl pinpipe run pinterest --wait
    ///   kubectl pinpipe run pinterest --full
    ///   kubectl pinpipe run pinterest --from 2026-01-31T00:00:00Z
    #[command(verbatim_doc_comment)]
    Run(start::Arguments),

    /// Lists the runs of a pipeline, newest first
    ///
    /// Exit status: 0 if the last run that ended has succeeded or none has ended, 1 if it failed, 3
    /// if the cluster does not answer.
    ///
    /// Examples:
    ///   kubectl pinpipe runs pinterest
    ///   kubectl pinpipe runs --output csv
    #[command(verbatim_doc_comment)]
    Runs(runs::Arguments),

    /// Prints the answers of the last batch run
    ///
    /// From the ConfigMap that the run wrote them to, or from the log of its pod.
    ///
    /// Exit status: 0, or 3 if the cluster has no answers or does not answer.
    ///
    /// Examples:
    ///   kubectl pinpipe answers
    ///   kubectl pinpipe answers pinterest --question popular_category_by_year --output csv
    #[command(verbatim_doc_comment)]
    Answers(answers::Arguments),

    /// Prints the logs of all pods of a pipeline or of one component
    ///
    /// Exit status: 0, 1 if a pod's log could not be read, 3 if the cluster does not answer.
    ///
    /// Examples:
    ///   kubectl pinpipe logs pinterest stream-live --follow
    ///   kubectl pinpipe logs pinterest batch
    ///   kubectl pinpipe logs pinterest --since 10m
    #[command(verbatim_doc_comment)]
    Logs(logs::Arguments),

    /// Prints the newest records of the topics, or the newest dead letters
    ///
    /// A pod of the batch image reads them, and is deleted at the end.
    ///
    /// Exit status: 0, 2 if an argument is wrong, 3 if the cluster does not answer, the pod does
    /// not start, or the topics cannot be read.
    ///
    /// Examples:
    ///   kubectl pinpipe tail pinterest --kind pin --last 3
    ///   kubectl pinpipe tail pinterest --rejected --follow
    #[command(verbatim_doc_comment)]
    Tail(tail::Arguments),

    /// Shows each place of a record, from its topic to the answers, or why it is not there
    ///
    /// Topic, dead letters, raw object and line, live tables, the state of batch runs, their
    /// tables, the answers it takes part in. A pod of the batch image looks, and is deleted at the
    /// end.
    ///
    /// Exit status: 0 if the record was found and is missing nowhere, 1 if not, 2 if an argument is
    /// wrong, 3 if the cluster does not answer, the pod does not start, or it cannot look.
    ///
    /// Examples:
    ///   kubectl pinpipe trace pin 7528
    ///   kubectl pinpipe trace user 7528 pinterest -n data --output json
    #[command(verbatim_doc_comment)]
    Trace(trace::Arguments),

    /// Checks that raw objects and live rows are all there, each once
    ///
    /// Raw objects by the chain of their offsets, rows of live tables by counting them. It changes
    /// nothing. A pod of the batch image looks, and is deleted at the end.
    ///
    /// Exit status: 0 if nothing is wrong, 1 if something is missing or doubled, 2 if an argument
    /// is wrong, 3 if the cluster does not answer, the pod does not start, or it cannot look.
    ///
    /// Examples:
    ///   kubectl pinpipe verify pinterest
    ///   kubectl pinpipe verify pinterest --sink live --timeout 30m --output csv
    #[command(verbatim_doc_comment)]
    Verify(verify::Arguments),

    /// Counts, prints and writes back dead letters
    ///
    /// Examples:
    ///   kubectl pinpipe deadletters list pinterest
    ///   kubectl pinpipe deadletters show pinterest --reason too-large
    ///   kubectl pinpipe deadletters redrive pinterest --dry-run --wait
    #[command(name = "deadletters", verbatim_doc_comment)]
    DeadLetters(dead_letters::Arguments),

    /// Gives a sink other positions, as a PinterestRun
    ///
    /// It is carried out once. See docs/how-to/reset-a-sink.md for what it does to each store.
    ///
    /// Exit status: 0 if the run was created (with --wait: has succeeded), 1 if it failed or was
    /// refused, 2 if an argument cannot be understood, 3 if the cluster does not answer.
    ///
    /// Examples:
    ///   kubectl pinpipe reset pinterest live --to earliest --wait
    ///   kubectl pinpipe reset pinterest live --offset Pin/2=1042
    #[command(verbatim_doc_comment)]
    Reset(reset::Arguments),

    /// Writes a folder for a bug report, with secrets left out
    ///
    /// The pipeline and its objects, events, the ends of logs, metrics and readiness of the pods,
    /// versions. Secrets are not read; values of environment variables, and credentials in URLs,
    /// settings and logs are masked.
    ///
    /// Exit status: 0, 1 if something could not be read, 2 if the folder cannot be written, 3 if
    /// the cluster does not answer.
    ///
    /// Examples:
    ///   kubectl pinpipe report pinterest
    ///   kubectl pinpipe report -n data --folder /tmp/report
    #[command(verbatim_doc_comment)]
    Report(report::Arguments),

    /// Prints a script that completes commands and options
    ///
    /// Examples:
    ///   source <(kubectl pinpipe completion bash)
    ///   kubectl pinpipe completion fish > ~/.config/fish/completions/kubectl-pinpipe.fish
    #[command(verbatim_doc_comment)]
    Completion(completion::Arguments),
}

fn main() -> ExitCode {
    let command = Arguments::parse().command;
    let outcome = match Runtime::new() {
        Ok(runtime) => runtime.block_on(run(&command)),
        Err(error) => Err(Failure::Usage(format!("no thread can be started: {error}"))),
    };
    failure::end(outcome)
}

async fn run(command: &Command) -> Outcome {
    match command {
        Command::Validate(arguments) => validate::command::run(arguments),
        Command::Clean(arguments) => clean::run(arguments),
        Command::Plan(arguments) => plan::run(arguments).await,
        Command::Status(arguments) => status::run(arguments).await,
        Command::Run(arguments) => start::run(arguments).await,
        Command::Tail(arguments) => tail::run(arguments).await,
        Command::Trace(arguments) => trace::run(arguments).await,
        Command::Verify(arguments) => verify::run(arguments).await,
        Command::DeadLetters(arguments) => dead_letters::run(arguments).await,
        Command::Reset(arguments) => reset::run(arguments).await,
        Command::Runs(arguments) => runs::run(arguments).await,
        Command::Answers(arguments) => answers::run(arguments).await,
        Command::Logs(arguments) => logs::run(arguments).await,
        Command::Report(arguments) => report::run(arguments).await,
        Command::Completion(arguments) => completion::run::<Arguments>(arguments),
    }
}
