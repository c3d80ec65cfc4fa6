//! Static checks of the checkout, run by `cargo xtask test` and alone by `cargo xtask check`.

pub mod files;
mod lines;
mod modules;
mod paths;
mod words;

use anyhow::{Result, bail, ensure};

use crate::context::Context;
use crate::step::{Log, step};

/// A check; its log gets a line for each finding.
pub struct Check {
    pub title: &'static str,
    /// What to do when it fails.
    pub hint: &'static str,
    pub run: fn(&Context, &Log) -> Result<()>,
}

pub const ALL: [Check; 4] = [
    Check {
        title: "words",
        hint: "write what the log says instead, or give xtask/words.txt an exception",
        run: |context, log| conclude(log, &words::findings(&context.root)?),
    },
    Check {
        title: "widths of lines and lengths of files",
        hint: "wrap the lines at 100 columns; split the files by idea",
        run: |context, log| conclude(log, &lines::findings(&context.root)?),
    },
    Check {
        title: "modules of a crate import each other in one direction",
        hint: "move what both modules need into a third; the log has each crate's graph",
        run: |context, log| conclude(log, &modules::findings(&context.root, log)?),
    },
    Check {
        title: "the command line is built without librdkafka",
        hint: "`cargo tree --package pinpipe-cli --invert rdkafka` shows what depends on it",
        run: cli_has_no_rdkafka,
    },
];

/// `cargo xtask check`: runs all of them.
pub fn run(context: &Context) -> Result<()> {
    let failed = ALL
        .iter()
        .filter(|check| {
            step(context, check.title, check.hint, |log| {
                (check.run)(context, log)
            })
            .is_err()
        })
        .count();
    ensure!(failed == 0, "{failed} of {} checks failed", ALL.len());
    Ok(())
}

/// Writes the findings to the log and the first of them to the error.
fn conclude(log: &Log, findings: &[String]) -> Result<()> {
    for finding in findings {
        log.line(finding);
    }
    match findings {
        [] => Ok(()),
        [one] => bail!("{one}"),
        [first, ..] => bail!("{} findings, the first: {first}", findings.len()),
    }
}

/// The plug-in of kubectl is meant to be small, and to build without what Kafka's client needs.
fn cli_has_no_rdkafka(context: &Context, log: &Log) -> Result<()> {
    const PACKAGE: &str = "pinpipe-cli";
    if !context.root.join("cli/Cargo.toml").exists() {
        log.line("there is no crate cli");
        return Ok(());
    }
    let mut cargo = context.cargo();
    cargo.args(["tree", "--package", PACKAGE, "--edges", "normal,build"]);
    cargo.args(["--prefix", "none", "--format", "{p}"]);
    let tree = log.output(&mut cargo)?;
    let found = tree.lines().find(|line| line.starts_with("rdkafka"));
    ensure!(
        found.is_none(),
        "{PACKAGE} depends on {}",
        found.unwrap_or_default()
    );
    Ok(())
}
