//! `validate`: prints what is wrong with the pipelines in files.

use std::path::PathBuf;

use super::{Before, Checked, check, no_pipeline};
use crate::{
    failure::{Failure, Outcome},
    input::{self, Input},
    output::print,
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
}

/// Prints what is wrong. The answer is whether all pipelines are valid.
pub fn run(arguments: &Arguments) -> Outcome {
    let mut before = Before::default();
    for Input { name, content } in input::documents(&arguments.before)? {
        before
            .add(&content, &arguments.namespace)
            .map_err(|problem| Failure::Usage(format!("--before: {name}:{problem}")))?;
    }
    let (mut valid, mut problems, mut others) = (0, 0, 0);
    for Input {
        name: file,
        content,
    } in input::documents(&arguments.files)?
    {
        let checked = check(&content, &before, &arguments.namespace);
        if checked == Checked::default() {
            print(&format!("{file}: {}\n", no_pipeline()))?;
            others += 1;
        }
        for problem in &checked.problems {
            print(&format!("{file}:{problem}\n"))?;
        }
        for name in &checked.valid {
            let compared = if arguments.before.is_empty() || before.has(name) {
                ""
            } else {
                ", and new: no --before file has a pipeline of this namespace and name"
            };
            print(&format!("{file}: {name} is valid{compared}\n"))?;
        }
        valid += checked.valid.len();
        problems += checked.problems.len();
    }
    // A file without pipelines is fine among others; if no file has one, something is misspelt.
    if valid + problems == 0 {
        problems = others;
    }
    if problems > 0 {
        let noun = if problems == 1 { "problem" } else { "problems" };
        eprintln!("{problems} {noun}, {valid} valid");
    }
    Ok(problems == 0)
}
