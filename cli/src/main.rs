//! The command line for those who write pipelines: `pinpipe validate FILE`.

use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Parser, Subcommand};
use pinpipe_operator::offline::{self, Checked};

/// What there is to do with pipelines without a cluster.
#[derive(Debug, Parser)]
#[command(name = "pinpipe", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Checks `PinterestPipelines` in YAML files as the API server and the operator would, and says
    /// line by line what is wrong
    ///
    /// Ends with 0 when all are valid, with 1 when one isn't or there is none, with 2 when a file
    /// can't be read. What only the cluster knows isn't looked at: whether Secrets are there,
    /// whether another pipeline has a topic, what the broker allows.
    Validate(Validate),
}

#[derive(Debug, clap::Args)]
struct Validate {
    /// Files of one or more documents, or - for standard input; objects of other kinds are passed
    /// over
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,

    /// The namespace of pipelines that name none: topics are named after it
    #[arg(short, long, value_name = "NAME", default_value = "default")]
    namespace: String,

    /// The one file as it was before (or as `kubectl get -o yaml` prints it): also tells of changes
    /// that can't be made to what is there
    #[arg(long, value_name = "FILE")]
    before: Option<PathBuf>,
}

fn main() -> ExitCode {
    let Command::Validate(arguments) = Arguments::parse().command;
    match validate(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

/// Whether all is valid.
fn validate(arguments: &Validate) -> Result<bool, String> {
    let before = arguments.before.as_deref().map(read).transpose()?;
    let (mut valid, mut problems, mut others) = (0, 0, 0);
    for file in &arguments.files {
        let text = read(file)?;
        let checked = offline::check(&text, before.as_deref(), &arguments.namespace);
        let file = if file.as_os_str() == "-" {
            "<stdin>".to_owned()
        } else {
            file.display().to_string()
        };
        if checked == Checked::default() {
            println!("{file}: {}", offline::none());
            others += 1;
        }
        for problem in &checked.problems {
            println!("{file}:{problem}");
        }
        for name in &checked.valid {
            println!("{file}: {name} is valid");
        }
        valid += checked.valid.len();
        problems += checked.problems.len();
    }
    // Files of other objects may stand beside those of pipelines, but where there is no pipeline at
    // all something is misspelt.
    if valid + problems == 0 {
        problems = others;
    }
    if problems > 0 {
        eprintln!(
            "{problems} {}, {valid} valid",
            if problems == 1 { "problem" } else { "problems" }
        );
    }
    Ok(problems == 0)
}

fn read(file: &Path) -> Result<String, String> {
    if file.as_os_str() == "-" {
        let mut text = String::new();
        return io::stdin()
            .read_to_string(&mut text)
            .map(|_| text)
            .map_err(|error| format!("standard input: {error}"));
    }
    fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))
}
