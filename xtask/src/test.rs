//! `cargo xtask test`: everything CI runs. A failed check doesn't stop the others; the last line
//! counts them all.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;

use anyhow::{Context as _, Result, bail, ensure};

use crate::compile::Executable;
use crate::context::Context;
use crate::step::{Log, step};
use crate::{bench, compile, crates, images, manifests, operator, stack, workers};

/// The folder of the crate whose tests need the cluster.
const END_TO_END: &str = "e2e";
/// The operator's proofs, which start servers of their own: an API server, a broker.
const PROOFS: &str = "proofs";
/// End-to-end test programs that mostly wait, each beside the others.
const WAITS: [&str; 5] = [
    "control_plane",
    "kills",
    "lifecycle",
    "schedules",
    "upgrades",
];
/// End-to-end test programs that take servers, a node, or the operator, away which all others need.
const ALONE: [&str; 4] = ["operators", "outages", "nodes", "release"];
/// How much of a failed test program's output is shown.
const LINES_OF_FAILURES: usize = 300;

/// Checks and tests so far.
#[derive(Default)]
struct Tally {
    passed: usize,
    failed: usize,
}

impl Tally {
    fn check(
        &mut self,
        context: &Context,
        title: &str,
        hint: &str,
        work: impl FnOnce(&Log) -> Result<()>,
    ) -> bool {
        let passed = step(context, title, hint, work).is_ok();
        self.passed += usize::from(passed);
        self.failed += usize::from(!passed);
        passed
    }

    fn add(&mut self, other: &Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }

    fn not_started(&mut self, what: &str, why: &anyhow::Error) {
        eprintln!("FAILED {what}: they could not be started: {why:#}");
        self.failed += 1;
    }

    /// Says how it went.
    fn finish(&self) -> Result<()> {
        println!("{} passed, {} failed", self.passed, self.failed);
        ensure!(self.failed == 0, "not everything passed: see above");
        Ok(())
    }
}

pub fn run(context: &Context) -> Result<()> {
    let mut tally = Tally::default();
    let (servers, built) = thread::scope(|scope| {
        // Mostly waiting, so it goes on beside the compiler.
        let servers = scope.spawn(|| stack::servers(context));
        static_checks(context, &mut tally);
        let built = compile::workspace(context);
        let alone = |program: &&Executable| {
            program.is_test && !is_end_to_end(program) && program.name != PROOFS
        };
        for program in built.iter().flatten().filter(alone) {
            run_program(context, program, &[], &mut tally);
        }
        (
            servers
                .join()
                .unwrap_or_else(|_| bail!("the thread that brought up the servers panicked")),
            built,
        )
    });
    match built {
        Ok(built) => match servers.and_then(|()| install(context, &built, &mut tally)) {
            Ok(()) => run_with_cluster(context, &built, &mut tally),
            Err(error) => {
                tally.not_started("end-to-end tests", &error);
                run_proofs(context, &built, &mut tally);
            }
        },
        Err(error) => tally.not_started("tests", &error),
    }
    tally.finish()
}

/// Checks the charts, and installs the operator.
fn install(context: &Context, built: &[Executable], tally: &mut Tally) -> Result<()> {
    check_charts(context, tally);
    let images = workers::build(context, built)?;
    images::load_workers(context, &images)?;
    operator::install(context, &images)
}

/// Runs the end-to-end test programs of these names on the cluster, which is brought up with the
/// operator, with `settings` in their environment.
pub fn end_to_end(context: &Context, names: &[&str], settings: &[(&str, String)]) -> Result<()> {
    let images = stack::up(context)?;
    operator::install(context, &images)?;
    let mut tally = Tally::default();
    let built = compile::workspace(context)?;
    for name in names {
        let program = built
            .iter()
            .find(|program| program.is_test && is_end_to_end(program) && program.name == *name);
        let program = program.with_context(|| format!("no end-to-end test program {name}"))?;
        run_program(context, program, settings, &mut tally);
    }
    tally.finish()
}

/// Runs the operator's proofs, on servers of their own.
pub fn proofs(context: &Context) -> Result<()> {
    let mut tally = Tally::default();
    run_proofs(context, &compile::workspace(context)?, &mut tally);
    tally.finish()
}

fn run_proofs(context: &Context, built: &[Executable], tally: &mut Tally) {
    let proofs = built
        .iter()
        .find(|program| program.is_test && program.name == PROOFS);
    match bench::servers::programs(context)
        .and_then(|()| proofs.context("cargo built no such program"))
    {
        Ok(proofs) => run_program(context, proofs, &[], tally),
        Err(error) => tally.not_started("the operator's proofs", &error),
    }
}

/// Runs the programs that need the cluster: those that mostly wait beside the others, and those
/// that take away what others need when nobody else is at work but the operator's proofs, on
/// servers of their own.
fn run_with_cluster(context: &Context, built: &[Executable], tally: &mut Tally) {
    let programs: Vec<_> = built
        .iter()
        .filter(|built| built.is_test && is_end_to_end(built))
        .collect();
    let run = |names: &dyn Fn(&str) -> bool| {
        let mut tally = Tally::default();
        programs
            .iter()
            .filter(|program| names(&program.name))
            .for_each(|program| {
                run_program(context, program, &[], &mut tally);
            });
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
            run_proofs(context, built, &mut tally);
            tally
        });
        tally.add(&run(&alone));
        tally.add(&proofs.join().unwrap_or_else(panicked));
    });
}

/// Whether it needs the cluster.
fn is_end_to_end(executable: &Executable) -> bool {
    executable.folder == Path::new(END_TO_END)
}

fn static_checks(context: &Context, tally: &mut Tally) {
    tally.check(context, "format", "cargo fmt --all", |log| {
        log.run(context.cargo().args(["fmt", "--all", "--check"]))
    });
    tally.check(
        context,
        "clippy",
        "mend what it says; `cargo clippy --workspace --all-targets` shows it all",
        |log| {
            log.run(context.cargo().args([
                "clippy",
                "--workspace",
                "--all-targets",
                "--",
                "--deny",
                "warnings",
            ]))
        },
    );
    let hint =
        "choose another crate, or accept its licence in xtask/src/crates.rs; the log names all";
    tally.check(context, "licences and sources of all crates", hint, |log| {
        crates::check(context, log)
    });
}

/// Runs the tests of one program, one at a time where they share the cluster.
fn run_program(
    context: &Context,
    program: &Executable,
    settings: &[(&str, String)],
    tally: &mut Tally,
) {
    let mut counted = (0, 0);
    let title = format!("tests of {}: {}", program.folder.display(), program.name);
    let result = step(
        context,
        &title,
        "run it again by hand: the command is in the log",
        |log| {
            let folder = context.root.join(&program.folder);
            let mut command = Command::new(&program.path);
            command.envs(context.environment()).current_dir(folder);
            command.envs(settings.iter().map(|(name, value)| (name, value)));
            if is_end_to_end(program) {
                command.arg("--test-threads=1");
            }
            let result = log.run(&mut command);
            let output = log.text()?;
            counted = results(&output);
            if result.is_err() {
                let failures: Vec<&str> = output
                    .lines()
                    .skip_while(|line| *line != "failures:")
                    .collect();
                let shown = failures.len().min(LINES_OF_FAILURES);
                eprintln!("{}", failures[..shown].join("\n"));
            }
            result
        },
    );
    tally.passed += counted.0;
    // A program that ends badly without counting anything has failed all the same.
    tally.failed += counted.1.max(usize::from(result.is_err()));
}

/// Tests passed and failed, by the summaries in the output.
fn results(output: &str) -> (usize, usize) {
    let count = |line: &str, what: &str| -> usize {
        let words: Vec<&str> = line.split([' ', ';']).collect();
        words
            .windows(2)
            .find(|pair| pair[1] == what)
            .and_then(|pair| pair[0].parse().ok())
            .unwrap_or(0)
    };
    let summaries = output
        .lines()
        .filter(|line| line.starts_with("test result:"));
    summaries.fold((0, 0), |sum, line| {
        (sum.0 + count(line, "passed"), sum.1 + count(line, "failed"))
    })
}

/// Values that charts/pinpipe must refuse, by its schema.
const WRONG_VALUES: [&str; 19] = [
    "image.pullPolicy=Sometimes",
    "image.digests.stream=sha256:1",
    "image.repositories.stream=registry.example/stream",
    "imagee.tag=1",
    "fullnameOverride=1st",
    "operator.concurrency=0",
    "operator.replica=2",
    "operator.replicas=-1",
    "operator.namespaces={Data}",
    "operator.drainDeadline=5m",
    "operator.logFormat=xml",
    "operator.resources.limits.memory=1GB",
    "operator.podSecurity=None",
    "operator.extraEnv[0].name=PINPIPE_LEASE",
    "operator.topologySpreadConstraints[0].maxSkew=1",
    "podDisruptionBudget.maxUnavailable=half",
    "networkPolicy.enabled=maybe",
    "networkPolicy.brokerPorts={0}",
    "crd.install=2",
];

/// All that charts/pinpipe can render besides its defaults.
const ALL_VALUES: &str = "\
    fullnameOverride=everything,commonLabels.team=data,\
    image.repositories.operator=registry.example/pinpipe-operator,image.digests.operator=sha256:\
    0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef,image.pullSecrets[0].name=pull,\
    operator.replicas=2,operator.namespaces={default},operator.extraEnv[0].name=TZ,\
    operator.extraEnv[0].value=UTC,operator.extraArgs={--admin-port=9090},\
    operator.podSecurity=FromPlatform,operator.podSecurityContext.fsGroup=1000650000,\
    operator.securityContext.privileged=false,operator.podLabels.a=b,operator.podAnnotations.a=b,\
    operator.nodeSelector.a=b,operator.priorityClassName=system-cluster-critical,\
    operator.topologySpreadConstraints[0].maxSkew=1,\
    operator.topologySpreadConstraints[0].topologyKey=topology.kubernetes.io/zone,\
    operator.topologySpreadConstraints[0].whenUnsatisfiable=DoNotSchedule,\
    networkPolicy.enabled=true,serviceAccount.name=operator,serviceAccount.annotations.a=b";

/// The charts, by helm's rules; and those that need nothing of a cluster to be rendered, by the API
/// server's, too.
fn check_charts(context: &Context, tally: &mut Tally) {
    for command in [
        "run",
        "full",
        "backfill,from=2026-01-01T00:00:00Z",
        "import,prefix=topics",
        "redrive,topic=pin",
    ] {
        tally.check(
            context,
            &format!("lint charts/pinpipe-job, command={command}"),
            "mend the chart",
            |log| {
                let values = format!("pipeline=pinterest,command={command}");
                log.run(context.command("helm").args([
                    "lint",
                    "--strict",
                    "charts/pinpipe-job",
                    "--set",
                    &values,
                ]))
            },
        );
    }
    tally.check(
        context,
        "wrong values of charts/pinpipe",
        "mend values.schema.json: it takes what it must refuse",
        |log| {
            for (before, wrong) in WRONG_VALUES.iter().enumerate() {
                let mut helm = context.command("helm");
                let refused =
                    log.run(helm.args(["template", "wrong", "charts/pinpipe", "--set", wrong]));
                let by_schema = log.text()?.matches("specifications of the schema").count();
                ensure!(
                    refused.is_err() && by_schema == before + 1,
                    "{wrong} was not refused by the schema"
                );
            }
            Ok(())
        },
    );
    tally.check(context, "manifests", "cargo xtask manifests", |log| {
        manifests::check(context, log)
    });
    for (what, chart, values) in [
        ("charts/pinpipe", "charts/pinpipe", ""),
        (
            "charts/pinpipe with everything in it",
            "charts/pinpipe",
            ALL_VALUES,
        ),
        ("charts/devstack", "charts/devstack", ""),
    ] {
        tally.check(context, &format!("lint {what}"), "mend the chart", |log| {
            log.run(
                context
                    .command("helm")
                    .args(["lint", "--strict", chart, "--set", values]),
            )
        });
        tally.check(
            context,
            &format!("dry run of {what}"),
            "mend the chart: the log has what the API server said",
            |log| {
                let mut helm = context.command("helm");
                helm.args([
                    "template",
                    "dry-run",
                    chart,
                    "--namespace",
                    "default",
                    "--set",
                    values,
                ]);
                let rendered = log.output(&mut helm)?;
                let file = context.temporary_folder("dry-run")?.join("rendered.yaml");
                fs::write(&file, rendered).context("writing what helm rendered")?;
                // Under a field manager of its own: beside helm's, each field would be a conflict.
                let arguments = [
                    "apply",
                    "--server-side",
                    "--force-conflicts",
                    "--dry-run=server",
                    "--namespace",
                    "default",
                ];
                log.run(
                    context
                        .command("kubectl")
                        .args(arguments)
                        .args(["--field-manager", "xtask", "--filename"])
                        .arg(&file),
                )
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_all_summaries_are_added() {
        let output = "test a ... ok\ntest result: ok. 12 passed; 0 failed; 1 ignored; 0 measured\n\
                      test result: FAILED. 3 passed; 2 failed; 0 ignored\n";
        assert_eq!(results(output), (15, 2));
        assert_eq!(results("thread panicked"), (0, 0));
    }
}
