//! Selects the dead letters to re-drive.

use anyhow::{Result, bail};
use pinpipe_runtime::dead_letter::{DeadLetter, Outcome};
use serde::Serialize;

use super::args::Args;
use crate::failure::Permanent;

/// Conditions on a dead letter. An empty list matches everything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Filter {
    /// Reasons.
    pub reasons: Vec<String>,
    /// Fields with a fault, by raw name.
    pub fields: Vec<String>,
    /// Sinks that refused the record.
    pub sinks: Vec<String>,
    /// Earliest Kafka timestamp of the record, milliseconds since the epoch, inclusive.
    pub since: i64,
    /// Latest Kafka timestamp of the record, milliseconds since the epoch, exclusive.
    pub until: i64,
    /// Outcomes, by name.
    pub outcomes: Vec<&'static str>,
}

impl Filter {
    /// The filter of the command line. Sinks have refused a record; a reason is one of rejected or
    /// of refused records. Without any of these, rejected ones are meant.
    pub fn new(args: &Args) -> Result<Self> {
        let non_empty = |names: &[String]| -> Vec<String> {
            let names = names.iter().filter(|name| !name.is_empty());
            names.cloned().collect()
        };
        let (reasons, sinks) = (non_empty(&args.reason), non_empty(&args.sink));
        let outcomes = match args.outcome {
            Some(Outcome::Rejected) if !sinks.is_empty() => bail!(Permanent(format!(
                "outcome is rejected, but sinks ({}) names sinks, which only refuse records: leave \
                 one of the two out",
                sinks.join(", ")
            ))),
            Some(outcome) => vec![outcome],
            None if !sinks.is_empty() => vec![Outcome::Refused],
            None if !reasons.is_empty() => vec![Outcome::Rejected, Outcome::Refused],
            None => vec![Outcome::Rejected],
        };
        Ok(Self {
            reasons,
            fields: non_empty(&args.field),
            sinks,
            since: args.since.map_or(i64::MIN, |time| time.timestamp_millis()),
            until: args.until.map_or(i64::MAX, |time| time.timestamp_millis()),
            outcomes: outcomes.into_iter().map(Outcome::as_str).collect(),
        })
    }

    /// Whether a dead letter matches.
    pub fn matches(&self, letter: &DeadLetter) -> bool {
        let among = |names: &[String], name: Option<&str>| {
            names.is_empty() || name.is_some_and(|name| names.iter().any(|listed| listed == name))
        };
        self.outcomes.contains(&letter.verdict.outcome.as_str())
            && (self.since..self.until).contains(&letter.time)
            && among(&self.reasons, Some(&letter.verdict.reason))
            && among(&self.sinks, letter.id.sink.as_deref())
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
        filter(options).unwrap().matches(&letter(raw))
    }

    fn filter(options: &[&str]) -> Result<Filter> {
        Filter::new(&Cli::parse_from([&["redrive"][..], options].concat()).args)
    }

    /// Whether a dead letter of a sink is selected.
    fn matches_refused(options: &[&str], sink: &str) -> bool {
        let mut letter = letter("{}");
        letter.id.sink = Some(sink.to_owned());
        letter.verdict.outcome = Outcome::Refused;
        letter.verdict.reason = "23514".into();
        filter(options).unwrap().matches(&letter)
    }

    #[test]
    fn refused_records_are_selected_by_sink_or_reason_or_outcome() {
        for (options, expected) in [
            (&[][..], false),
            (&["--outcome", "refused"], true),
            (&["--outcome", "rejected"], false),
            (&["--sink", "live,lake"], true),
            (&["--sink", "lake"], false),
            (&["--sink", "batch/live"], false),
            (&["--sink", "live", "--outcome", "refused"], true),
            (&["--sink", "live", "--reason", "23505"], false),
            (&["--reason", "not-json,23514"], true),
            (&["--reason", "23514", "--outcome", "rejected"], false),
        ] {
            assert_eq!(matches_refused(options, "live"), expected, "{options:?}");
        }
        let rejected = matches(&["--sink", "live"], "{}");
        assert!(!rejected, "no sink has refused that");
        let error = filter(&["--sink", "live", "--outcome", "rejected"]).unwrap_err();
        assert!(error.is::<Permanent>(), "{error}");
        assert!(error.to_string().contains("live"), "{error}");
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
