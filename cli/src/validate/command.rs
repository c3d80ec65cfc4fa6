//! `validate`: prints what is wrong with the pipelines in files.

use std::path::PathBuf;

use serde::Serialize;

use super::{Before, Checked, Problem, check, no_pipeline};
use crate::{
    failure::{Failure, Outcome},
    input::{self, Input},
    output::{Cell, Options, Table, show, visible},
};

/// Arguments of `validate`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// File, folder (its .yaml, .yml and .json files), or - for standard input
    ///
    /// A file may have several documents; objects of other kinds are ignored.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,

    /// Namespace of pipelines that name none; default topic names begin with it
    #[arg(short, long, value_name = "NAME", default_value = "default")]
    namespace: String,

    /// File or folder with the pipelines as they were before; may be repeated
    ///
    /// Also takes what `kubectl get pp -o yaml` prints. Each pipeline is compared with the one of
    /// the same namespace and name here; changes that cannot be made are reported.
    #[arg(long, value_name = "FILE", verbatim_doc_comment)]
    before: Vec<PathBuf>,

    #[command(flatten)]
    options: Options,
}

/// What was found in a file.
#[derive(Serialize)]
struct Found {
    file: String,
    /// Valid pipelines and runs.
    valid: Vec<String>,
    problems: Vec<Problem>,
}

/// Prints what is wrong. The answer is whether all pipelines are valid.
pub fn run(arguments: &Arguments) -> Outcome {
    let mut before = Before::default();
    for Input { name, content } in input::documents(&arguments.before)? {
        before
            .add(&content, &arguments.namespace)
            .map_err(|problem| Failure::Usage(format!("--before: {name}:{problem}")))?;
    }
    let found = input::documents(&arguments.files)?.into_iter();
    let found = found.map(|Input { name, content }| {
        let Checked { valid, problems } = check(&content, &before, &arguments.namespace);
        Found {
            file: name,
            valid,
            problems,
        }
    });
    let found: Vec<Found> = found.collect();
    let compared = |name: &str| arguments.before.is_empty() || before.has(name);
    show(arguments.options.output, &found, &table(&found), |_| {
        found.iter().map(|found| text(found, compared)).collect()
    })?;
    let valid: usize = found.iter().map(|found| found.valid.len()).sum();
    let mut problems: usize = found.iter().map(|found| found.problems.len()).sum();
    // A file without pipelines is fine among others; if no file has one, something is misspelt.
    if valid + problems == 0 {
        problems = found.len();
    }
    if problems > 0 {
        let noun = if problems == 1 { "problem" } else { "problems" };
        eprintln!("{problems} {noun}, {valid} valid");
    }
    Ok(problems == 0)
}

/// A line for each problem and each valid pipeline.
fn text(found: &Found, compared: impl Fn(&str) -> bool) -> String {
    let Found {
        file,
        valid,
        problems,
    } = found;
    if valid.is_empty() && problems.is_empty() {
        return format!("{file}: {}\n", no_pipeline());
    }
    let problems = problems.iter();
    let problems = problems.map(|problem| visible(&format!("{file}:{problem}")) + "\n");
    let valid = valid.iter().map(|name| {
        let new = if compared(name) {
            ""
        } else {
            ", and new: no --before file has a pipeline of this namespace and name"
        };
        visible(&format!("{file}: {name} is valid{new}")) + "\n"
    });
    problems.chain(valid).collect()
}

fn table(found: &[Found]) -> Table {
    let mut table = Table::new(["file", "valid", "line", "field", "message"]);
    for Found {
        file,
        valid,
        problems,
    } in found
    {
        for Problem {
            line,
            field,
            message,
        } in problems
        {
            table.row([file, "", &line.to_string(), field, message].map(Cell::from));
        }
        for name in valid {
            table.row([file, name.as_str(), "", "", ""].map(Cell::from));
        }
    }
    table
}
