//! `kubectl pinpipe`: a kubectl plug-in for people who write pipelines.

mod validate;

use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Parser, Subcommand};

use validate::{Before, Checked, check, no_pipeline};

/// Checks pipelines before they are applied
#[derive(Debug, Parser)]
#[command(name = "kubectl-pinpipe", bin_name = "kubectl pinpipe", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Checks pipelines in YAML files as the API server and the operator would
    ///
    /// Prints each problem with its file, line and field. It uses no cluster, so it does not check
    /// whether Secrets exist, whether a pipeline outside the file owns a topic, or what the broker
    /// allows.
    ///
    /// Exit status: 0 if every pipeline is valid; 1 if one is not, or if no file has a pipeline;
    /// 2 if the arguments are wrong or a file cannot be read.
    #[command(verbatim_doc_comment)]
    Validate(Validate),
}

#[derive(Debug, clap::Args)]
struct Validate {
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

/// Prints what is wrong, and returns whether all pipelines are valid.
fn validate(arguments: &Validate) -> Result<bool, String> {
    let mut before = Before::default();
    for Input { name, text } in read_all(&arguments.before)? {
        before
            .add(&text, &arguments.namespace)
            .map_err(|problem| format!("--before: {name}:{problem}"))?;
    }
    let (mut valid, mut problems, mut others) = (0, 0, 0);
    for Input { name: file, text } in read_all(&arguments.files)? {
        let checked = check(&text, &before, &arguments.namespace);
        if checked == Checked::default() {
            println!("{file}: {}", no_pipeline());
            others += 1;
        }
        for problem in &checked.problems {
            println!("{file}:{problem}");
        }
        for name in &checked.valid {
            let compared = if arguments.before.is_empty() || before.has(name) {
                ""
            } else {
                ", and new: no --before file has a pipeline of this namespace and name"
            };
            println!("{file}: {name} is valid{compared}");
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

/// A file's text, and what to call the file in messages.
struct Input {
    name: String,
    text: String,
}

fn read_all(paths: &[PathBuf]) -> Result<Vec<Input>, String> {
    let mut inputs = Vec::new();
    for path in paths {
        if path.as_os_str() == "-" {
            inputs.push(standard_input()?);
        } else if path.is_dir() {
            let files = files_in(path).map_err(|error| format!("{}: {error}", path.display()))?;
            if files.is_empty() {
                return Err(format!(
                    "{}: this folder has no .yaml, .yml or .json file",
                    path.display()
                ));
            }
            for file in files {
                inputs.push(read(&file)?);
            }
        } else {
            inputs.push(read(path)?);
        }
    }
    Ok(inputs)
}

fn standard_input() -> Result<Input, String> {
    let mut text = String::new();
    io::stdin()
        .read_to_string(&mut text)
        .map_err(|error| format!("standard input: {error}"))?;
    Ok(Input {
        name: "<stdin>".to_owned(),
        text,
    })
}

fn read(file: &Path) -> Result<Input, String> {
    let name = file.display().to_string();
    match fs::read_to_string(file) {
        Ok(text) => Ok(Input { name, text }),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Err(format!("{name}: not UTF-8 text"))
        }
        Err(error) => Err(format!("{name}: {error}")),
    }
}

/// The files `kubectl apply -f FOLDER` reads, sorted by name: those of subfolders are not.
fn files_in(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        if matches!(extension, Some("yaml" | "yml" | "json")) && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
