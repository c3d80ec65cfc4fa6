//! All binaries and test programs of the workspace, by one cargo command.
//!
//! One, because cargo unifies features over what a command builds: binaries built without the tests
//! would compile most dependencies a second time, with other features.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::Value;

use crate::context::Context;
use crate::step::step;

/// An executable that cargo built.
pub struct Executable {
    /// Of the binary, or of the test's file.
    pub name: String,
    /// The name of its crate's folder, from the checkout: `workers/core`.
    pub folder: PathBuf,
    pub path: PathBuf,
    pub is_test: bool,
}

pub fn workspace(context: &Context) -> Result<Vec<Executable>> {
    step(
        context,
        "cargo build",
        "mend what the compiler found",
        |log| {
            let mut cargo = context.cargo();
            cargo.args([
                "build",
                "--workspace",
                "--bins",
                "--tests",
                "--message-format",
                "json-render-diagnostics",
            ]);
            let messages = log.output(&mut cargo)?;
            Ok(messages
                .lines()
                .filter_map(|line| executable(&context.root, &serde_json::from_str(line).ok()?))
                .collect())
        },
    )
}

/// The executable that a message of cargo tells of, if it does.
fn executable(root: &Path, message: &Value) -> Option<Executable> {
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
