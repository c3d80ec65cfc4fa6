//! `cargo xtask …`: the one entry point for people and CI.
//!
//! What it builds is kept under `~/.cache/pinpipe` (`PINPIPE_CACHE`), keyed by a hash of its
//! inputs, and built again when it is not there. Nothing found there decides a result.

mod base;
mod bench;
mod check;
mod cluster;
mod compile;
mod context;
mod crates;
mod debian;
mod demo;
mod devstack;
mod engine;
mod fingerprint;
mod go;
mod helm;
mod host_network;
mod images;
mod manifests;
mod node_image;
mod operator;
mod process;
mod promtool;
mod soak;
mod stack;
mod step;
mod test;
mod times;
mod workers;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::context::Context;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Builds, tries and tests pinpipe")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Shows the main job end to end on a kind cluster
    Demo,
    /// Runs the checks and tests, including the end-to-end tests on a kind cluster
    Test(test::Options),
    /// Runs the static checks of words, line widths, module graphs and dependencies
    Check,
    /// Kills and freezes workers and stops servers, many times, while records flow; then compares
    /// every store row by row
    Soak(soak::Options),
    /// Runs all proofs of the operator, on servers of their own; `PINPIPE_PROOFS` names some
    Proofs,
    /// The kind cluster that demo and test use
    Cluster {
        #[command(subcommand)]
        action: cluster::Action,
    },
    /// Measures the workers and their alternatives on this machine
    Bench(bench::Options),
    /// Renders manifests/ from the operator's chart
    Manifests,
    /// Writes a bill of materials (`CycloneDX`): every crate, its version and licence
    Sbom {
        /// The file to write
        file: PathBuf,
    },
    /// Builds the images of the workers and of the dev servers, and prints their names
    Images,
    /// Brings up the cluster with the workers' images in it and the dev servers running
    Stack,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    let context = Context::new()?;
    let _alone = match &arguments.task {
        // These change nothing, so they may run beside another task.
        Task::Check
        | Task::Cluster {
            action: cluster::Action::Status,
        } => None,
        _ => Some(context.run_alone()?),
    };
    match arguments.task {
        Task::Demo => demo::run(&context),
        Task::Test(options) => test::run(&context, &options),
        Task::Check => check::run(&context),
        Task::Bench(options) => bench::run(&context, &options),
        Task::Soak(options) => soak::run(&context, &options),
        Task::Proofs => test::proofs(&context),
        Task::Manifests => manifests::write(&context),
        Task::Sbom { file } => crates::write_bill(&context, &file),
        Task::Images => images::build_and_print(&context),
        Task::Stack => stack::up(&context, || compile::demo(&context)).map(drop),
        Task::Cluster { action } => cluster::run(&context, &action),
    }
}
