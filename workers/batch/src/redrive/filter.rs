//! Selects the dead letters to re-drive.

use pinpipe_runtime::dead_letter::{DeadLetter, Outcome};

use super::Args;

/// Conditions on a dead letter. An empty list matches everything.
#[derive(Clone, Debug)]
pub struct Filter {
    reasons: Vec<String>,
    fields: Vec<String>,
    /// Earliest Kafka timestamp of the record, milliseconds since the epoch, inclusive.
    since: i64,
    /// Latest Kafka timestamp of the record, milliseconds since the epoch, exclusive.
    until: i64,
    outcome: Outcome,
}

impl Filter {
    /// The filter of the command line.
    pub fn new(args: &Args) -> Self {
        let non_empty = |names: &[String]| {
            names
                .iter()
                .filter(|name| !name.is_empty())
                .cloned()
                .collect()
        };
        Self {
            reasons: non_empty(&args.reason),
            fields: non_empty(&args.field),
            since: args.since.map_or(i64::MIN, |time| time.timestamp_millis()),
            until: args.until.map_or(i64::MAX, |time| time.timestamp_millis()),
            outcome: args.outcome,
        }
    }

    /// Whether a dead letter matches.
    pub fn matches(&self, letter: &DeadLetter) -> bool {
        let among = |names: &[String], name: Option<&str>| {
            names.is_empty() || name.is_some_and(|name| names.iter().any(|listed| listed == name))
        };
        letter.verdict.outcome == self.outcome
            && (self.since..self.until).contains(&letter.time)
            && among(&self.reasons, Some(&letter.verdict.reason))
            && among(&self.fields, letter.verdict.field.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use pinpipe_core::{Kind, clean};
    use pinpipe_runtime::dead_letter::DeadLetterId;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn letter(raw: &str) -> DeadLetter {
        let verdict = (&clean(Kind::User, raw.as_bytes(), 100).unwrap_err()).into();
        let id = DeadLetterId {
            topic_id: "t".into(),
            partition: 0,
            offset: 0,
            sink: None,
        };
        let time = 1_767_225_600_000; // 2026-01-01T00:00:00Z
        DeadLetter {
            id,
            cluster_id: String::new(),
            topic: String::new(),
            time,
            verdict,
            redriven: None,
        }
    }

    fn matches(options: &[&str], raw: &str) -> bool {
        let cli = Cli::parse_from([&["redrive"][..], options].concat());
        Filter::new(&cli.args).matches(&letter(raw))
    }

    #[test]
    fn dead_letters_are_selected_by_reason_field_time_and_outcome() {
        let (no_key, no_json) = ("{}", "x");
        for (options, raw, expected) in [
            (&[][..], no_key, true),
            (&["--reason", "not-json,key-missing"], no_key, true),
            (&["--reason", "not-json"], no_key, false),
            (&["--field", "ind"], no_key, true),
            (&["--field", "ind"], no_json, false),
            (&["--since", "2026-01-01T00:00:00Z"], no_key, true),
            (&["--until", "2026-01-01T00:00:00Z"], no_key, false),
            (&["--until", "2026-01-01T01:00:00.001+01:00"], no_key, true),
            (&["--outcome", "rejected"], no_key, true),
            (&["--outcome", "refused"], no_key, false),
            (&["--reason", "key-missing", "--field", "ind"], no_key, true),
            (&["--reason", "not-json", "--field", "ind"], no_key, false),
        ] {
            assert_eq!(matches(options, raw), expected, "{options:?} {raw}");
        }
    }

    #[test]
    fn an_invalid_time_kind_or_outcome_is_refused_with_a_valid_example() {
        for (option, value, example) in [
            ("--since", "yesterday", "2026-01-31"),
            ("--outcome", "lost", "refused"),
            ("--topic", "Pin", "Pin"),
        ] {
            let message = Cli::try_parse_from(["redrive", option, value])
                .unwrap_err()
                .to_string();
            assert!(message.contains(example), "{message}");
        }
    }
}
