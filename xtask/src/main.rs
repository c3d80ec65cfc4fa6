//! `cargo xtask …`: the one entry point for people and CI.
//!
//! What it makes is kept under `~/.cache/pinpipe` (`PINPIPE_CACHE`), keyed by a hash of what it was
//! made from, and made again when it is not there. Nothing found there decides a result.

mod base;
mod bench;
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
mod host_network;
mod images;
mod manifests;
mod node_image;
mod operator;
mod process;
mod soak;
mod stack;
mod step;
mod test;
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
    /// Runs every check and test, the end-to-end tests on a kind cluster among them
    Test,
    /// Kills and freezes workers and takes servers away, many times, while records flow; then
    /// compares every store row by row
    Soak(soak::Options),
    /// Runs all proofs of the operator, on servers of their own; `PINPIPE_PROOFS` names some
    Proofs,
    /// The kind cluster that demo and test use
    Cluster {
        #[command(subcommand)]
        action: ClusterAction,
    },
    /// Measures the workers beside what somebody would use in their place, on this machine
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

#[derive(Subcommand)]
enum ClusterAction {
    /// Makes the cluster, and whatever it needs, unless it is there
    Up,
    /// Removes the cluster, and the Docker Engine and network interfaces that were started for it
    Down,
    /// Prints what is there and how to use it
    Status,
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
    match arguments.task {
        Task::Cluster {
            action: ClusterAction::Status,
        } => {
            print!("{}", cluster::status(&context)?);
            Ok(())
        }
        task => {
            let _alone = context.run_alone()?;
            match task {
                Task::Demo => demo::run(&context),
                Task::Test => test::run(&context),
                Task::Bench(options) => bench::run(&context, &options),
                Task::Soak(options) => soak::run(&context, &options),
                Task::Proofs => test::proofs(&context),
                Task::Manifests => manifests::write(&context),
                Task::Sbom { file } => crates::write_bill(&context, &file),
                Task::Images => images::build_and_print(&context),
                Task::Stack => stack::up(&context).map(drop),
                Task::Cluster {
                    action: ClusterAction::Down,
                } => cluster::down(&context),
                Task::Cluster { .. } => {
                    cluster::up(&context)?;
                    print!("{}", cluster::status(&context)?);
                    Ok(())
                }
            }
        }
    }
}
