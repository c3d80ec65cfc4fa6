//! `trace`: each place of a record, in the order in which records get there.

use std::fmt::Write as _;

use pinpipe_config::inspect::{Place, PlaceKind, PlaceState};

use crate::{
    failure::Outcome,
    inspect::{PodOptions, Question, collect, table},
    output::{Colour, Paint, shortened, show, visible},
};

/// Columns of places.
const PLACE: &[&str] = &[
    "place",
    "name",
    "state",
    "partition",
    "offset",
    "time",
    "line",
    "note",
    "value",
];
/// Most characters of a record that are shown to people.
const VALUE: usize = 200;

/// Arguments of `trace`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Kind of the record
    #[arg(value_name = "KIND", value_parser = ["pin", "geo", "user"], ignore_case = true)]
    kind: String,

    /// Key of the record: the unique id or index of a pin, the ind of a geo or user record
    #[arg(value_name = "KEY", allow_hyphen_values = true)]
    key: String,

    /// Pipeline; by default the only one of the namespace
    #[arg(value_name = "PIPELINE")]
    name: Option<String>,

    /// Only the live tables of this stream sink
    #[arg(long, value_name = "SINK")]
    sink: Option<String>,

    /// Search at most this many of the newest records of each partition of the topic
    #[arg(long, value_name = "NUMBER")]
    max_records: Option<u32>,

    /// Read at most this many MiB of raw objects if the topic no longer has the record
    #[arg(long, value_name = "MIB")]
    max_mib: Option<u32>,

    #[command(flatten)]
    options: PodOptions,
}

/// Prints the places. The answer is whether the record is anywhere, and nowhere missing.
pub async fn run(arguments: &Arguments) -> Outcome {
    let question = Question {
        pipeline: arguments.name.as_deref(),
        sink: arguments.sink.as_deref(),
        command: command(arguments),
        ..Question::default()
    };
    let (mut places, ended) = collect::<Place>(&arguments.options, question).await?;
    places.sort_by_key(|place| place.place);
    let found = places.iter().any(is_there);
    let format = arguments.options.output.output;
    show(format, &places, &table(PLACE, &places), |paint| {
        let mut text: String = places.iter().map(|place| block(place, paint)).collect();
        if !found {
            let Arguments { kind, key, .. } = arguments;
            let nowhere = format!("no {} with the key {key} was found\n", kind.to_lowercase());
            text.push_str(&nowhere);
        }
        text
    })?;
    Ok(found && ended.problems == 0)
}

fn command(arguments: &Arguments) -> Vec<String> {
    let mut command = vec!["trace".to_owned()];
    for (option, value) in [
        ("--max-records", arguments.max_records),
        ("--max-mib", arguments.max_mib),
    ] {
        command.extend(value.map(|value| format!("{option}={value}")));
    }
    // The key may look like an option.
    let kind = arguments.kind.to_lowercase();
    command.extend(["--".to_owned(), kind, arguments.key.clone()]);
    command
}

const fn is_there(place: &Place) -> bool {
    matches!(place.state, PlaceState::Found | PlaceState::Superseded)
}

/// A place with what is known of the record there.
fn block(place: &Place, paint: Paint) -> String {
    let kind = match place.place {
        PlaceKind::Topic => "topic",
        PlaceKind::DeadLetter => "dead letters",
        PlaceKind::RawObject => "raw object",
        PlaceKind::LiveTable => "live table",
        PlaceKind::State => "state of batch runs",
        PlaceKind::BatchTable => "batch table",
        PlaceKind::Answer => "answer",
    };
    let (state, colour) = match place.state {
        PlaceState::Found => ("found", Colour::Green),
        PlaceState::Superseded => ("superseded", Colour::Green),
        PlaceState::Absent => ("absent", Colour::Yellow),
        PlaceState::Pending => ("pending", Colour::Yellow),
        PlaceState::Missing => ("MISSING", Colour::Red),
        PlaceState::Unknown => ("unknown", Colour::Yellow),
    };
    let known = [
        place
            .partition
            .map(|partition| format!("partition {partition}")),
        place.offset.map(|offset| format!("offset {offset}")),
        place.line.map(|line| format!("line {line}")),
        place.time.clone(),
    ];
    let known: Vec<String> = known.into_iter().flatten().collect();
    let value = place.value.as_deref().map(|value| shortened(value, VALUE));
    let lines = [
        known.join(", "),
        visible(&place.note),
        value.unwrap_or_default(),
    ];
    let (state, name) = (paint.text(state, colour), visible(&place.name));
    let mut text = format!("{kind} {name}: {state}\n");
    for line in lines.iter().filter(|line| !line.is_empty()) {
        let _ = writeln!(text, "  {line}");
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn place(place: &serde_json::Value) -> Place {
        serde_json::from_value(place.clone()).unwrap()
    }

    #[test]
    fn a_place_has_what_is_known_of_the_record_there() {
        let found = place(
            &json!({"place": "rawObject", "name": "s3://raw/o", "state": "found",
            "partition": 0, "offset": 42, "line": 3, "value": "{\"index\": 7}"}),
        );
        let missing = place(&json!({"place": "liveTable", "name": "live: public.pin",
            "state": "missing", "note": "its sink is past offset 42"}));
        let text: String = [&found, &missing]
            .map(|it| block(it, Paint::PLAIN))
            .concat();
        assert_eq!(
            text,
            "\
raw object s3://raw/o: found
  partition 0, offset 42, line 3
  {\"index\": 7}
live table live: public.pin: MISSING
  its sink is past offset 42
"
        );
        assert!(is_there(&found) && !is_there(&missing));
    }
}
