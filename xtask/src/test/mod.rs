//! `cargo xtask test`: everything CI runs. A failed check doesn't stop the others; the last line
//! counts them all.

mod charts;
mod program;
mod rules;
mod slow;
mod tally;

use std::thread;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use self::program::is_end_to_end;
use self::tally::Tally;
use crate::compile::{self, Executable, Linted};
use crate::context::Context;
use crate::{bench, check, crates, demo, images, operator, stack, times, workers};

/// The operator's proofs, which start servers of their own: an API server, a broker.
const PROOFS: &str = "proofs";
/// Tests that start stores and a broker of their own.
const STORES: [&str; 9] = [
    "sinks",
    "broker",
    "clients",
    "renewal",
    "kafka_access",
    "kafka_rights",
    "postgres_tls",
    "s3_access",
    "pinpipe-batch",
];
/// The program that removes the namespaces of earlier test runs, with what they have in the stores.
const CLEAN_UP: &str = "clean-up";
/// End-to-end test programs that mostly wait: they run side by side.
const WAITS: [&str; 7] = [
    "control_plane",
    "dashboards",
    "kills",
    "lifecycle",
    "moving",
    "schedules",
    "upgrades",
];
/// End-to-end test programs that stop servers, a node or the operator, which all others need: they
/// run one after the other.
const ALONE: [&str; 5] = ["operators", "outages", "nodes", "restore", "release"];

/// How much to run.
#[derive(Args)]
pub struct Options {
    /// Also runs what takes long
    #[arg(long)]
    pub all: bool,
}

pub fn run(context: &Context, options: &Options) -> Result<()> {
    let mut tally = Tally::default();
    let (servers, built) = thread::scope(|scope| {
        // Without images to build it mostly waits, so it runs beside the compiler.
        let servers = scope.spawn(|| stack::servers(context));
        static_checks(context, &mut tally);
        let built = build(context, &mut tally);
        let needs_nothing = |program: &&Executable| {
            program.is_test
                && !is_end_to_end(program)
                && program.name != PROOFS
                && !STORES.contains(&program.name.as_str())
        };
        for program in built.iter().flatten().filter(needs_nothing) {
            program::run(context, program, &slow::settings(options.all), &mut tally);
        }
        rules::check(context, &mut tally);
        run_on_stores(
            context,
            built.as_deref().unwrap_or_default(),
            options.all,
            &mut tally,
        );
        (
            servers
                .join()
                .unwrap_or_else(|_| bail!("the thread that brought up the servers panicked")),
            built,
        )
    });
    match built {
        Ok(built) => match servers.and_then(|()| install(context, &built, &mut tally)) {
            Ok(()) => run_with_cluster(context, &built, options.all, &mut tally),
            Err(error) => {
                tally.not_started("end-to-end tests", &error);
                run_proofs(context, &built, options.all, &mut tally);
            }
        },
        Err(error) => tally.not_started("tests", &error),
    }
    println!(
        "\nHow long it took, minutes and seconds\n{}",
        times::table()
    );
    if !options.all {
        println!("{}", slow::left_out());
    }
    tally.finish()
}

/// Compiles everything; counts the warnings as one failed check.
fn build(context: &Context, tally: &mut Tally) -> Result<Vec<Executable>> {
    let built = compile::linted(context)?;
    let hint = "`cargo clippy --workspace --all-targets` prints the same";
    tally.check(context, "warnings of rustc and clippy", hint, |_| {
        built.check()
    });
    let Linted { executables, .. } = built;
    Ok(executables)
}

/// Checks the charts, installs the operator and removes what earlier runs left.
fn install(context: &Context, built: &[Executable], tally: &mut Tally) -> Result<()> {
    charts::check(context, tally);
    let images = workers::build(context, built)?;
    images::load_workers(context, &images)?;
    operator::install(context, &images)?;
    clean_up(context, built, tally);
    Ok(())
}

/// Removes the pipelines of an earlier demo, and the namespaces of earlier tests: what runs in them
/// would take cores and memory from the tests. The operator has to run, because pipelines have
/// finalizers.
fn clean_up(context: &Context, built: &[Executable], tally: &mut Tally) {
    let hint = "delete the namespaces and pipelines that the log names, or the whole cluster: \
                `cargo xtask cluster down`";
    tally.check(context, "clean up after earlier runs", hint, |log| {
        let program = built
            .iter()
            .find(|program| !program.is_test && program.name == CLEAN_UP)
            .with_context(|| format!("cargo built no binary {CLEAN_UP}"))?;
        let arguments = ["delete", "pinterestpipelines", "--all", "--timeout=180s"];
        log.run(
            context
                .command("kubectl")
                .args(["--namespace", demo::NAMESPACE])
                .args(arguments),
        )?;
        log.run(&mut context.command(&program.path.display().to_string()))
    });
}

/// Runs the end-to-end test programs of these names on the cluster, which is brought up with the
/// operator, with `settings` in their environment.
pub fn end_to_end(context: &Context, names: &[&str], settings: &[(&str, String)]) -> Result<()> {
    let compile = || Ok(compile::linted(context)?.executables);
    let (images, built) = stack::up(context, compile)?;
    operator::install(context, &images)?;
    let mut tally = Tally::default();
    clean_up(context, &built, &mut tally);
    for name in names {
        let program = built
            .iter()
            .find(|program| program.is_test && is_end_to_end(program) && program.name == *name);
        let program = program.with_context(|| format!("no end-to-end test program {name}"))?;
        program::run(context, program, settings, &mut tally);
    }
    tally.finish()
}

/// Runs the operator's proofs, on servers of their own.
pub fn proofs(context: &Context) -> Result<()> {
    let mut tally = Tally::default();
    let built = compile::linted(context)?.executables;
    run_proofs(context, &built, false, &mut tally);
    tally.finish()
}

/// Runs the programs that start stores of their own.
fn run_on_stores(context: &Context, built: &[Executable], all: bool, tally: &mut Tally) {
    let programs = built
        .iter()
        .filter(|program| program.is_test && STORES.contains(&program.name.as_str()));
    match bench::servers::stores(context) {
        Ok(()) => {
            programs.for_each(|program| {
                program::run(context, program, &slow::settings(all), tally);
            });
        }
        Err(error) => tally.not_started("the tests on stores", &error),
    }
}

fn run_proofs(context: &Context, built: &[Executable], all: bool, tally: &mut Tally) {
    let proofs = built
        .iter()
        .find(|program| program.is_test && program.name == PROOFS);
    match bench::servers::programs(context)
        .and_then(|()| proofs.context("cargo built no such program"))
    {
        Ok(proofs) => program::run(context, proofs, &slow::settings(all), tally),
        Err(error) => tally.not_started("the operator's proofs", &error),
    }
}

/// Runs the programs that need the cluster: first those that may run side by side, then those that
/// stop what others need, beside the operator's proofs, which have servers of their own.
fn run_with_cluster(context: &Context, built: &[Executable], all: bool, tally: &mut Tally) {
    let programs: Vec<_> = built
        .iter()
        .filter(|built| built.is_test && is_end_to_end(built))
        .filter(|built| all || !slow::is_slow(&built.name))
        .collect();
    let run = |names: &dyn Fn(&str) -> bool| {
        let mut tally = Tally::default();
        programs
            .iter()
            .filter(|program| names(&program.name))
            .for_each(|program| program::run(context, program, &[], &mut tally));
        tally
    };
    let (waits, alone) = (
        |name: &str| WAITS.contains(&name),
        |name: &str| ALONE.contains(&name),
    );
    let (waited, worked) = thread::scope(|scope| {
        let waited = WAITS.map(|one| {
            let run = &run;
            scope.spawn(move || run(&|name| name == one))
        });
        let worked = run(&|name| !waits(name) && !alone(name));
        (waited.map(thread::ScopedJoinHandle::join), worked)
    });
    let panicked = |_| Tally {
        passed: 0,
        failed: 1,
    };
    for waited in waited {
        tally.add(&waited.unwrap_or_else(panicked));
    }
    tally.add(&worked);
    thread::scope(|scope| {
        let proofs = scope.spawn(|| {
            let mut tally = Tally::default();
            run_proofs(context, built, all, &mut tally);
            tally
        });
        tally.add(&run(&alone));
        tally.add(&proofs.join().unwrap_or_else(panicked));
    });
}

fn static_checks(context: &Context, tally: &mut Tally) {
    tally.check(context, "format", "cargo fmt --all", |log| {
        log.run(context.cargo().args(["fmt", "--all", "--check"]))
    });
    for check in check::ALL {
        tally.check(context, check.title, check.hint, |log| {
            (check.run)(context, log)
        });
    }
    let hint = "choose another crate, or accept its licence in xtask/src/crates.rs; the log names \
                all";
    tally.check(context, "licences and sources of all crates", hint, |log| {
        crates::check(context, log)
    });
}
