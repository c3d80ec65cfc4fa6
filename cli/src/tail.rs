//! `tail`: the newest records of a pipeline's topics, or its newest dead letters.

use pinpipe_config::inspect::{Letter, TopicRecord};

use crate::{
    failure::Outcome,
    inspect::{PodOptions, Question, Stream, inspect, kind_text},
    output::visible,
};

/// Columns of records.
const RECORD: &[&str] = &[
    "kind",
    "topic",
    "partition",
    "offset",
    "time",
    "key",
    "value",
];
/// Columns of dead letters.
pub const LETTER: &[&str] = &[
    "kind",
    "outcome",
    "reason",
    "field",
    "sink",
    "message",
    "topic",
    "partition",
    "offset",
    "time",
    "attempt",
    "redriven",
    "letterTopic",
    "letterPartition",
    "letterOffset",
    "key",
    "value",
];

/// Arguments of `tail`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Pipeline; by default the only one of the namespace
    #[arg(value_name = "PIPELINE")]
    name: Option<String>,

    /// Only records of this kind; may be repeated
    #[arg(long = "kind", value_name = "KIND", value_parser = ["pin", "geo", "user"])]
    #[arg(ignore_case = true)]
    kinds: Vec<String>,

    /// The dead letters: records that were rejected, or that a sink refused
    #[arg(long)]
    rejected: bool,

    /// This many of the newest records of each topic
    #[arg(long, value_name = "NUMBER", default_value_t = 10)]
    #[arg(value_parser = clap::value_parser!(u32).range(..=10_000))]
    last: u32,

    /// Go on with new records until interrupted, or until --timeout
    #[arg(short, long)]
    follow: bool,

    #[command(flatten)]
    options: PodOptions,
}

/// Prints the records as they come. The answer is yes.
pub async fn run(arguments: &Arguments) -> Outcome {
    let mut command = vec!["tail".to_owned(), format!("--last={}", arguments.last)];
    let kinds = arguments.kinds.iter();
    command.extend(kinds.map(|kind| format!("--kind={}", kind.to_lowercase())));
    for (flag, is_set) in [
        ("--rejected", arguments.rejected),
        ("--follow", arguments.follow),
    ] {
        command.extend(is_set.then(|| flag.to_owned()));
    }
    let question = Question {
        pipeline: arguments.name.as_deref(),
        command,
        endless: arguments.follow,
        ..Question::default()
    };
    let (options, format) = (&arguments.options, arguments.options.output.output);
    if arguments.rejected {
        let mut stream = Stream::new(format, LETTER);
        inspect(options, question, |it: Letter| stream.print(&it, letter)).await?;
    } else {
        let mut stream = Stream::new(format, RECORD);
        inspect(options, question, |it: TopicRecord| {
            stream.print(&it, record)
        })
        .await?;
    }
    Ok(true)
}

/// A record in a line.
fn record(record: &TopicRecord) -> String {
    let TopicRecord {
        topic,
        partition,
        offset,
        ..
    } = record;
    let (time, key) = (record.time.as_deref(), record.key.as_deref());
    visible(&format!(
        "{} {topic}/{partition}/{offset} {} {}",
        time.unwrap_or("-"),
        key.unwrap_or("-"),
        record.value.as_deref().unwrap_or("(no value)"),
    ))
}

/// A dead letter in a line.
pub fn letter(letter: &Letter) -> String {
    let Letter {
        topic,
        partition,
        offset,
        ..
    } = letter;
    let by = letter.sink.as_ref().map(|sink| format!(" by {sink}"));
    let field = letter
        .field
        .as_ref()
        .map(|field| format!(", field {field}"));
    let again = if letter.redriven { ", re-driven" } else { "" };
    visible(&format!(
        "{} {topic}/{partition}/{offset} {} {}{} ({}{}{again}): {}: {}",
        letter.time,
        kind_text(letter.kind),
        letter.outcome,
        by.unwrap_or_default(),
        letter.reason,
        field.unwrap_or_default(),
        letter.message,
        letter.value.as_deref().unwrap_or("(too large to be kept)"),
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_record_is_a_line_whatever_it_holds() {
        let value = json!({"kind": "pin", "topic": "t", "partition": 1, "offset": 2,
            "time": "2026-01-01T00:00:00.000Z", "value": "{\"a\":\n\u{1b}1}"});
        let read: TopicRecord = serde_json::from_value(value).unwrap();
        let line = "2026-01-01T00:00:00.000Z t/1/2 - {\"a\":\u{fffd}\u{fffd}1}";
        assert_eq!(record(&read), line);
    }

    #[test]
    fn a_dead_letter_says_who_and_why() {
        let value = json!({"kind": "geo", "outcome": "refused", "reason": "23514", "sink": "live",
            "message": "no", "topic": "t", "partition": 0, "offset": 7, "time": "T", "attempt": 1,
            "redriven": true, "letterTopic": "t.dlq", "letterPartition": 0, "letterOffset": 3});
        let read: Letter = serde_json::from_value(value).unwrap();
        assert_eq!(
            letter(&read),
            "T t/0/7 geo refused by live (23514, re-driven): no: (too large to be kept)"
        );
        let fields = serde_json::to_value(Letter {
            field: Some("a".into()),
            key: Some("k".into()),
            value: Some("v".into()),
            ..read
        })
        .unwrap();
        let mut names: Vec<_> = fields
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        let mut columns = LETTER.to_vec();
        names.sort_unstable();
        columns.sort_unstable();
        assert_eq!(names, columns);
    }
}
