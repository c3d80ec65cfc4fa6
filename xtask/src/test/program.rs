//! Runs one test program and counts its tests.

use std::path::Path;
use std::process::Command;

use super::tally::Tally;
use crate::compile::Executable;
use crate::context::Context;
use crate::devstack;
use crate::step::step;

/// The folder of the crate whose tests need the cluster.
const END_TO_END: &str = "e2e";
/// How much of a failed test program's output is shown.
const LINES_OF_FAILURES: usize = 300;

/// Whether a program needs the cluster.
pub fn is_end_to_end(executable: &Executable) -> bool {
    executable.folder == Path::new(END_TO_END)
}

/// Runs the tests of one program, one at a time where they share the cluster.
pub fn run(
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
    // A program that crashes prints no summary, which is a failure too.
    tally.failed += counted.1.max(usize::from(result.is_err()));
    if result.is_err() && is_end_to_end(program) {
        devstack::report(context);
    }
}

/// The numbers of tests passed and failed, summed over the summaries in the output.
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
