//! docs/reference/cli-options.md: what `--help` of each command prints.
#![allow(clippy::unwrap_used)]

use std::{env, fmt::Write as _, fs, process::Command};

const DOCUMENT: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../docs/reference/cli-options.md"
);
/// Set to any value, this variable has the test write the document.
const WRITE: &str = "PINPIPE_WRITE_DOCS";
/// The width of the page's lines.
const COLUMNS: usize = 100;
const BEGINNING: &str = "\
# Options of kubectl pinpipe

What `--help` of each command prints, without `-h` itself. Generated: `PINPIPE_WRITE_DOCS=1 cargo
test -p pinpipe-cli --test reference` writes this page. Output, rights and exit statuses are
explained in [kubectl pinpipe](cli.md).
";

/// What `--help` of a command prints, without trailing spaces and the option itself.
fn help(command: &[String]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_kubectl-pinpipe"))
        .args(command)
        .arg("--help")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<_> = text.lines().map(str::trim_end).collect();
    let own = lines
        .iter()
        .position(|line| line.starts_with("  -h, --help"));
    let lines = lines.into_iter().take(own.unwrap_or(usize::MAX));
    lines
        .flat_map(wrapped)
        .collect::<Vec<_>>()
        .join("\n")
        .trim()
        .to_owned()
}

/// The lines of a line that is too wide for the page, with the same indentation.
fn wrapped(line: &str) -> Vec<String> {
    let indentation = line.len() - line.trim_start().len();
    let mut lines = vec![line.to_owned()];
    while let Some(last) = lines.pop() {
        let end = last.char_indices().nth(COLUMNS).map(|(end, _)| end);
        let space = end.and_then(|end| last[..end].rfind(' '));
        let Some(space) = space.filter(|space| *space > indentation) else {
            lines.push(last);
            break;
        };
        lines.push(last[..space].to_owned());
        lines.push(format!("{:indentation$}{}", "", &last[space + 1..]));
    }
    lines
}

/// The names of a command's own commands, as its help has them.
fn commands(help: &str) -> Vec<String> {
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let names = lines.take_while(|line| line.starts_with("  "));
    let names = names.filter_map(|line| line.split_whitespace().next());
    names
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect()
}

/// Adds a section for a command, or for each of its own commands.
fn describe(command: &[String], document: &mut String) {
    let help = help(command);
    let own = commands(&help);
    if own.is_empty() {
        let name = command.join(" ");
        let _ = write!(document, "\n## {name}\n\n```console\n{help}\n```\n");
    }
    for name in own {
        describe(&[command, &[name]].concat(), document);
    }
}

#[test]
fn the_page_of_options_is_what_help_prints() {
    let mut document = BEGINNING.to_owned();
    describe(&[], &mut document);
    assert!(
        document.contains("\n## deadletters redrive\n"),
        "{document}"
    );
    if env::var_os(WRITE).is_some() {
        fs::write(DOCUMENT, &document).unwrap();
    }
    let there = fs::read_to_string(DOCUMENT).unwrap_or_default();
    assert!(
        there == document,
        "run this test with {WRITE}=1, and commit the page"
    );
}
