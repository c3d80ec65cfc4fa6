//! `reset`: gives a sink other positions, as a run.

use serde_json::{Value, json};

use crate::{
    failure::Outcome,
    start::{Started, set, start, word},
};

/// Arguments of `reset`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Pipeline
    #[arg(value_name = "PIPELINE")]
    pipeline: String,

    /// Stream sink, or archive, which moves forward only
    #[arg(value_name = "SINK")]
    sink: String,

    /// Where it goes on: earliest, latest, or the first record at or after a time, such as
    /// 2026-01-31T00:00:00Z
    #[arg(long, value_name = "WHERE", required_unless_present = "offsets")]
    to: Option<String>,

    /// Only the topic of this kind of record; may be repeated
    #[arg(long = "kind", value_name = "KIND", value_parser = word(["Pin", "Geo", "User"]))]
    #[arg(ignore_case = true)]
    kinds: Vec<String>,

    /// Where one partition goes on, such as Pin/2=1042; may be repeated
    #[arg(
        long = "offset",
        value_name = "KIND/PARTITION=OFFSET",
        value_parser = offset,
        conflicts_with_all = ["to", "kinds"]
    )]
    offsets: Vec<Value>,

    #[command(flatten)]
    started: Started,
}

/// Creates the run.
pub async fn run(arguments: &Arguments) -> Outcome {
    let work = work(arguments);
    start(
        &arguments.started,
        &arguments.pipeline,
        "reset",
        "reset",
        &work,
    )
    .await
}

fn work(arguments: &Arguments) -> Value {
    let to = match arguments.to.as_deref() {
        None => json!({"offsets": arguments.offsets}),
        Some(end @ ("earliest" | "latest")) => json!({end: {}}),
        Some(time) => json!({"time": time}),
    };
    set([
        ("sink", json!(arguments.sink)),
        ("kinds", json!(arguments.kinds)),
        ("to", to),
    ])
}

fn offset(text: &str) -> Result<Value, String> {
    let form = "it must be KIND/PARTITION=OFFSET, such as Pin/2=1042";
    let (at, offset) = text.split_once('=').ok_or(form)?;
    let (kind, partition) = at.split_once('/').ok_or(form)?;
    if !["Pin", "Geo", "User"].contains(&kind) {
        return Err(format!("{kind} is none of Pin, Geo and User; {form}"));
    }
    let partition: u32 = partition
        .parse()
        .map_err(|error| format!("{partition} is no partition ({error}); {form}"))?;
    offset
        .parse::<u64>()
        .map_err(|error| format!("{offset} is no offset ({error}); {form}"))?;
    Ok(json!({"kind": kind, "partition": partition, "offset": offset}))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Command {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn parsed(options: &[&str]) -> Result<Value, String> {
        let all = ["reset", "pinterest", "live"].iter().chain(options);
        let command = Command::try_parse_from(all).map_err(|error| error.to_string())?;
        Ok(work(&command.arguments))
    }

    #[test]
    fn each_form_is_a_field_of_the_run() {
        for (options, expected) in [
            (
                &["--to", "earliest"][..],
                json!({"sink": "live", "to": {"earliest": {}}}),
            ),
            (
                &["--to", "2026-01-31T00:00:00Z", "--kind", "pin"],
                json!({"sink": "live", "kinds": ["Pin"],
                    "to": {"time": "2026-01-31T00:00:00Z"}}),
            ),
            (
                &["--offset", "Pin/2=1042"],
                json!({"sink": "live",
                    "to": {"offsets": [{"kind": "Pin", "partition": 2, "offset": "1042"}]}}),
            ),
        ] {
            assert_eq!(parsed(options), Ok(expected));
        }
    }

    #[test]
    fn what_cant_be_understood_is_refused_with_the_form() {
        for (options, sentence) in [
            (&[][..], "--to <WHERE>"),
            (&["--offset", "Pin=5"], "such as Pin/2=1042"),
            (&["--offset", "Pins/0=5"], "none of Pin, Geo and User"),
            (&["--offset", "Pin/-1=5"], "-1 is no partition"),
            (&["--offset", "Pin/0=five"], "five is no offset"),
            (&["--to", "latest", "--offset", "Pin/0=5"], "cannot be used"),
        ] {
            let error = parsed(options).unwrap_err();
            assert!(error.contains(sentence), "{options:?}: {error}");
        }
    }
}
