//! The workspace's binaries and test programs, each set by one cargo command.
//!
//! Cargo unifies features over what one command builds. Both sets are therefore built with the
//! features of the whole workspace, development dependencies included, so that they share all
//! compiled dependencies.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::context::Context;
use crate::debian::{self, need};
use crate::step::step;
use crate::workers;

/// The binary that prints the demo's counts and answers.
pub const REPORT: &str = "demo-report";
/// The smallest test program of the workspace. Cargo unifies the features of development
/// dependencies only if a command builds some test.
const SMALL_TEST: &str = "definition";

/// An executable that cargo built.
pub struct Executable {
    /// The name of the binary, or of the test's file.
    pub name: String,
    /// The folder of its crate, relative to the checkout: `workers/core`.
    pub folder: PathBuf,
    pub path: PathBuf,
    pub is_test: bool,
}

/// What [`linted`] built and found.
#[derive(Default)]
pub struct Linted {
    pub executables: Vec<Executable>,
    /// Warnings of rustc and clippy, as they print them.
    pub warnings: Vec<String>,
}

impl Linted {
    /// Fails with the text of all warnings in the log if there are any.
    pub fn check(&self) -> Result<()> {
        let shown: String = self.warnings.concat();
        ensure!(
            self.warnings.is_empty(),
            "rustc and clippy warn {} times:\n{}",
            self.warnings.len(),
            shown.trim_end()
        );
        Ok(())
    }
}

/// Ensures that the libraries are there that librdkafka is linked with.
pub fn ensure_libraries(context: &Context) -> Result<()> {
    debian::ensure(context, &[need("/usr/include/openssl/ssl.h", "libssl-dev")])
}

/// Builds the operator, the workers and the demo's report, and nothing else.
pub fn demo(context: &Context) -> Result<Vec<Executable>> {
    ensure_libraries(context)?;
    let hint = "fix the compiler's errors";
    step(context, "cargo build of the demo", hint, |log| {
        let mut cargo = context.cargo();
        cargo.args(["build", "--workspace", "--message-format"]);
        cargo.args(["json-render-diagnostics", "--test", SMALL_TEST]);
        cargo.args(workers::binaries().flat_map(|name| ["--bin".to_owned(), name]));
        cargo.args(["--bin", REPORT]);
        let messages = log.output(&mut cargo)?;
        Ok(parse(&context.root, &messages).executables)
    })
}

/// Builds all binaries, test programs and benchmarks with clippy in the compiler's place, so that
/// the tests and clippy compile the workspace once.
///
/// clippy-driver is rustc with clippy's lints, and what it compiles behaves the same. It lowers the
/// optimisation of MIR to nothing and leaves out the checks of null and misaligned pointers
/// (`ClippyCallbacks` in clippy's src/driver.rs), so its binaries are slower. Neither `bench` nor
/// the images of `demo`, `images` and `stack` use them.
pub fn linted(context: &Context) -> Result<Linted> {
    ensure_libraries(context)?;
    let hint = "fix the compiler's errors";
    step(context, "cargo build with clippy", hint, |log| {
        let mut cargo = context.cargo();
        // What `cargo clippy` sets. Cargo keeps apart what different wrappers compile, and repeats
        // the warnings of what it need not compile again.
        cargo.env("RUSTC_WORKSPACE_WRAPPER", "clippy-driver");
        cargo.args(["build", "--workspace", "--all-targets"]);
        cargo.args(["--keep-going", "--message-format", "json"]);
        let mut built = Linted::default();
        let result = log.lines(&mut cargo, |line| {
            let message = serde_json::from_str(line).unwrap_or_default();
            if let Some(text) = diagnostic(&message) {
                log.line(text);
            }
            built.add(&context.root, &message);
        });
        if let Err(error) = result {
            // Errors stand among the warnings.
            eprintln!("{}", built.warnings.concat());
            return Err(error);
        }
        Ok(built)
    })
}

impl Linted {
    fn add(&mut self, root: &Path, message: &Value) {
        self.executables.extend(executable(root, message));
        // The same warning of a file that several targets contain is repeated.
        if let Some(text) = diagnostic(message)
            && !self.warnings.iter().any(|known| known == text)
        {
            self.warnings.push(text.to_owned());
        }
    }
}

fn parse(root: &Path, messages: &str) -> Linted {
    let mut built = Linted::default();
    for line in messages.lines() {
        built.add(root, &serde_json::from_str(line).unwrap_or_default());
    }
    built
}

/// The text of a compiler's warning or error. Warnings without a place in the code only count the
/// others.
fn diagnostic(message: &Value) -> Option<&str> {
    let is_placed = !message["message"]["spans"].as_array()?.is_empty();
    let is_warning = message["message"]["level"] == "warning";
    let text = message["message"]["rendered"].as_str()?;
    (is_placed || !is_warning).then_some(text)
}

/// The executable that a message of cargo names, except benchmarks, which need arguments.
fn executable(root: &Path, message: &Value) -> Option<Executable> {
    if message["target"]["kind"][0] == "bench" {
        return None;
    }
    Some(Executable {
        name: message["target"]["name"].as_str()?.to_owned(),
        folder: Path::new(message["manifest_path"].as_str()?)
            .parent()?
            .strip_prefix(root)
            .ok()?
            .to_path_buf(),
        path: PathBuf::from(message["executable"].as_str()?),
        is_test: message["profile"]["test"].as_bool()?,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn artifact(kind: &str, name: &str) -> String {
        json!({
            "reason": "compiler-artifact",
            "manifest_path": "/w/workers/core/Cargo.toml",
            "target": {"kind": [kind], "name": name},
            "profile": {"test": kind != "bin"},
            "executable": format!("/t/{name}"),
        })
        .to_string()
    }

    #[test]
    fn executables_are_found_and_benchmarks_left_out() {
        let messages = [("bin", "a"), ("test", "b"), ("bench", "c")]
            .map(|(kind, name)| artifact(kind, name))
            .join("\n");
        let built = parse(Path::new("/w"), &messages).executables;
        let found: Vec<_> = built
            .iter()
            .map(|built| (built.name.as_str(), built.is_test))
            .collect();
        assert_eq!(found, [("a", false), ("b", true)]);
        assert_eq!(built[0].folder, Path::new("workers/core"));
    }

    #[test]
    fn a_warning_fails_the_check_once_and_with_its_text() {
        let warning = |text: &str, spans: Value| {
            json!({
                "reason": "compiler-message",
                "message": {"level": "warning", "rendered": text, "spans": spans},
            })
            .to_string()
        };
        let found = warning("warning: needless borrow\n", json!([{"file_name": "a.rs"}]));
        let summary = warning("warning: 1 warning emitted\n", json!([]));
        let messages = [found.clone(), summary, found].join("\n");
        let error = parse(Path::new("/w"), &messages).check().unwrap_err();
        assert_eq!(
            error.to_string(),
            "rustc and clippy warn 1 times:\nwarning: needless borrow"
        );
        assert!(Linted::default().check().is_ok());
    }
}
