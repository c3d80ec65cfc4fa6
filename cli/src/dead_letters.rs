//! `deadletters`: counts and shows dead letters, and writes them back.

use pinpipe_config::inspect::{Letter, LetterCount};

use crate::{
    failure::Outcome,
    inspect::{PodOptions, Question, collect, table},
    output::show,
    start::{self, Redrive},
    tail::{LETTER, letter},
    time::time,
};

/// Columns of counts.
const COUNT: &[&str] = &[
    "kind", "outcome", "sink", "reason", "field", "letters", "redriven", "first", "last",
];

/// Arguments of `deadletters`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

// These comments are printed as they are: backticks would be, too.
#[allow(clippy::doc_markdown)]
#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Counts dead letters by kind, outcome, sink, reason and field
    ///
    /// Exit status: 0, 2 if an argument is wrong, 3 if the cluster does not answer or the dead
    /// letters cannot be read.
    ///
    /// Examples:
    ///   kubectl pinpipe deadletters list pinterest
    ///   kubectl pinpipe deadletters list --from 2026-01-31T00:00:00Z --output csv
    #[command(verbatim_doc_comment)]
    List(List),

    /// Prints dead letters with their records, the newest first
    ///
    /// Exit status: 0, 2 if an argument is wrong, 3 if the cluster does not answer or the dead
    /// letters cannot be read.
    ///
    /// Examples:
    ///   kubectl pinpipe deadletters show pinterest --reason too-large --limit 3
    ///   kubectl pinpipe deadletters show --sink live --output json
    #[command(verbatim_doc_comment)]
    Show(Show),

    /// Writes dead letters back to their topics, each once
    ///
    /// Exit status: 0 if the run was created (with --wait: has succeeded), 1 if it failed or was
    /// refused, 3 if the cluster does not answer.
    ///
    /// Examples:
    ///   kubectl pinpipe deadletters redrive pinterest --dry-run --wait
    ///   kubectl pinpipe deadletters redrive pinterest --reason too-large --wait
    #[command(verbatim_doc_comment)]
    Redrive(Redrive),
}

/// Arguments of `deadletters list`.
#[derive(Debug, clap::Args)]
struct List {
    #[command(flatten)]
    filter: Filter,

    #[command(flatten)]
    options: PodOptions,
}

/// Arguments of `deadletters show`.
#[derive(Debug, clap::Args)]
struct Show {
    #[command(flatten)]
    filter: Filter,

    /// At most this many
    #[arg(long, value_name = "NUMBER", default_value_t = 20)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,

    #[command(flatten)]
    options: PodOptions,
}

/// Which dead letters.
#[derive(Debug, clap::Args)]
struct Filter {
    /// Pipeline; by default the only one of the namespace
    #[arg(value_name = "PIPELINE")]
    name: Option<String>,

    /// Only records of this kind; may be repeated
    #[arg(long = "kind", value_name = "KIND", value_parser = ["pin", "geo", "user"])]
    #[arg(ignore_case = true)]
    kinds: Vec<String>,

    /// Only records without a readable key, or only those that a sink refused
    #[arg(long, value_name = "OUTCOME", value_parser = ["rejected", "refused"])]
    #[arg(ignore_case = true)]
    outcome: Option<String>,

    /// Only dead letters with this reason, such as too-large; may be repeated
    #[arg(long = "reason", value_name = "REASON")]
    reasons: Vec<String>,

    /// Only dead letters with a fault in this raw field; may be repeated
    #[arg(long = "field", value_name = "FIELD")]
    fields: Vec<String>,

    /// Only records that this sink refused: live, batch/serving; may be repeated
    #[arg(long = "sink", value_name = "SINK")]
    sinks: Vec<String>,

    /// Only records that came to the broker at or after this time, such as 2026-01-31T00:00:00Z
    #[arg(long, value_name = "TIME", value_parser = time)]
    from: Option<String>,

    /// Only records that came to the broker before this time
    #[arg(long, value_name = "TIME", value_parser = time)]
    to: Option<String>,
}

impl Filter {
    /// The question of a command about the dead letters that are meant.
    fn question(&self, command: &str) -> Question<'_> {
        let mut arguments = vec!["deadletters".to_owned(), command.to_owned()];
        for (option, values) in [
            ("kind", &self.kinds),
            ("reason", &self.reasons),
            ("field", &self.fields),
            ("sink", &self.sinks),
        ] {
            let is_word = option == "kind";
            let values = values.iter().map(|value| {
                let value = if is_word {
                    value.to_lowercase()
                } else {
                    value.clone()
                };
                format!("--{option}={value}")
            });
            arguments.extend(values);
        }
        let outcome = self.outcome.as_ref().map(|outcome| outcome.to_lowercase());
        for (option, value) in [
            ("outcome", outcome.as_ref()),
            ("from", self.from.as_ref()),
            ("to", self.to.as_ref()),
        ] {
            arguments.extend(value.map(|value| format!("--{option}={value}")));
        }
        Question {
            pipeline: self.name.as_deref(),
            command: arguments,
            ..Question::default()
        }
    }
}

/// Runs a command about dead letters.
pub async fn run(arguments: &Arguments) -> Outcome {
    match &arguments.command {
        Command::List(arguments) => list(arguments).await,
        Command::Show(arguments) => print(arguments).await,
        Command::Redrive(arguments) => start::redrive(arguments).await,
    }
}

async fn list(arguments: &List) -> Outcome {
    let question = arguments.filter.question("list");
    let (counts, _) = collect::<LetterCount>(&arguments.options, question).await?;
    let table = table(COUNT, &counts);
    show(arguments.options.output.output, &counts, &table, |paint| {
        if table.is_empty() {
            "no dead letters\n".to_owned()
        } else {
            table.text(paint)
        }
    })?;
    Ok(true)
}

async fn print(arguments: &Show) -> Outcome {
    let mut question = arguments.filter.question("show");
    question
        .command
        .push(format!("--limit={}", arguments.limit));
    let (letters, _) = collect::<Letter>(&arguments.options, question).await?;
    let format = arguments.options.output.output;
    show(format, &letters, &table(LETTER, &letters), |_| {
        if letters.is_empty() {
            return "no dead letters\n".to_owned();
        }
        letters.iter().map(|it| letter(it) + "\n").collect()
    })?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    #[test]
    fn filters_become_the_workers_options() {
        let line = "x list pinterest --kind PIN --kind geo --reason too-large --sink batch/serving \
                    --outcome Refused --from 2026-01-31T01:00:00+01:00";
        let Command::List(list) = Line::parse_from(line.split(' ').filter(|it| !it.is_empty()))
            .arguments
            .command
        else {
            panic!("not a list")
        };
        let question = list.filter.question("list");
        assert_eq!(question.pipeline, Some("pinterest"));
        assert_eq!(
            question.command,
            [
                "deadletters",
                "list",
                "--kind=pin",
                "--kind=geo",
                "--reason=too-large",
                "--sink=batch/serving",
                "--outcome=refused",
                "--from=2026-01-31T00:00:00Z",
            ]
        );
        let wrong = Line::try_parse_from(["x", "list", "--to", "yesterday"]);
        assert!(wrong.is_err_and(|error| error.to_string().contains("RFC 3339")));
    }
}
