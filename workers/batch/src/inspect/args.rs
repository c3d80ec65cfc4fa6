//! The options of an inspection.

use std::path::PathBuf;

use chrono::{DateTime, Utc};
use pinpipe_config::inspect::INSPECT_DIR;
use pinpipe_core::Kind;
use pinpipe_runtime::dead_letter::Outcome;

use crate::redrive::{Filter, outcome, time};

/// Options of an inspection.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder with the components' configurations: archive/config.yaml, batch/config.yaml and
    /// sinks/NAME/config.yaml of each stream sink, as far as the pipeline has them.
    #[arg(long, value_name = "PATH", default_value = INSPECT_DIR)]
    pub folder: PathBuf,

    /// File for the sentence of a failure, written only if it exists: Kubernetes creates it and
    /// copies its content to the pod's status.
    #[arg(long, value_name = "PATH", default_value = "/dev/termination-log")]
    pub termination_log: PathBuf,

    #[command(subcommand)]
    pub command: Command,
}

/// What to inspect.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Shows each place of the records with a key: the topic, the dead letters, the raw object and
    /// its line, the live tables, the state of batch runs, the tables of their sinks, the answers;
    /// or why they aren't there.
    Trace(TraceArgs),
    /// Looks for raw objects that are missing, and for rows of live tables that are missing or
    /// doubled.
    Verify,
    /// Shows the newest records of the topics, oldest first.
    Tail(TailArgs),
    /// Shows dead letters.
    #[command(subcommand)]
    Deadletters(DeadlettersCommand),
}

/// What to trace.
#[derive(Debug, clap::Args)]
pub struct TraceArgs {
    /// The kind of record: pin, geo, user.
    #[arg(value_name = "KIND")]
    pub kind: Kind,

    /// The record's key: ind of geo records and users; of pins, the unique id or index.
    #[arg(value_name = "KEY", allow_hyphen_values = true)]
    pub key: String,

    /// Searches at most this many of the newest records of each partition of the topic.
    #[arg(long, value_name = "N", default_value_t = 5_000_000)]
    pub max_records: u32,

    /// Reads at most this many MiB of raw objects, the newest first, if the topic no longer has
    /// the record.
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    pub max_mib: u32,
}

/// Which records to show.
#[derive(Debug, clap::Args)]
pub struct TailArgs {
    /// Only records of these kinds: pin, geo, user. All kinds unless set.
    #[arg(long, value_name = "KIND,…", value_delimiter = ',')]
    pub kind: Vec<Kind>,

    /// Shows dead letters instead: the newest of each dead-letter topic.
    #[arg(long)]
    pub rejected: bool,

    /// How many records of each topic.
    #[arg(long, value_name = "N", default_value_t = 10,
        value_parser = clap::value_parser!(u32).range(..=10_000))]
    pub last: u32,

    /// Goes on with the records that are written from now on, until it is stopped.
    #[arg(long)]
    pub follow: bool,
}

/// What to show of the dead letters.
#[derive(Debug, clap::Subcommand)]
pub enum DeadlettersCommand {
    /// Counts dead letters by kind, outcome, sink, reason and field.
    List(LetterFilter),
    /// Shows dead letters with their records, the newest first.
    Show(ShowArgs),
}

/// Which dead letters to show.
#[derive(Debug, clap::Args)]
pub struct ShowArgs {
    #[command(flatten)]
    pub filter: LetterFilter,

    /// Shows at most this many.
    #[arg(long, value_name = "N", default_value_t = 20,
        value_parser = clap::value_parser!(u32).range(..=10_000))]
    pub limit: u32,
}

/// Conditions on dead letters.
#[derive(Debug, Default, clap::Args)]
pub struct LetterFilter {
    /// Only those of records of these kinds: pin, geo, user.
    #[arg(long, value_name = "KIND,…", value_delimiter = ',')]
    pub kind: Vec<Kind>,

    /// Only those with this outcome: rejected records, or those that a sink refused.
    #[arg(long, value_name = "OUTCOME", value_parser = outcome)]
    pub outcome: Option<Outcome>,

    /// Only those with one of these reasons, such as too-large or key-unreadable.
    #[arg(long, value_name = "REASON,…", value_delimiter = ',')]
    pub reason: Vec<String>,

    /// Only records that one of these sinks refused; a sink of batch runs is batch/NAME.
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub sink: Vec<String>,

    /// Only those with a fault in one of these fields, by raw name.
    #[arg(long, value_name = "FIELD,…", value_delimiter = ',')]
    pub field: Vec<String>,

    /// Only records whose Kafka timestamp is not before this time, such as 2026-01-31T00:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub from: Option<DateTime<Utc>>,

    /// Only records whose Kafka timestamp is before this time.
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub to: Option<DateTime<Utc>>,
}

impl LetterFilter {
    /// The filter of the letters themselves.
    pub fn filter(&self) -> Filter {
        let outcomes = self.outcome.map_or_else(
            || vec![Outcome::Rejected, Outcome::Refused],
            |outcome| vec![outcome],
        );
        Filter {
            reasons: self.reason.clone(),
            fields: self.field.clone(),
            sinks: self.sink.clone(),
            since: self.from.map_or(i64::MIN, |time| time.timestamp_millis()),
            until: self.to.map_or(i64::MAX, |time| time.timestamp_millis()),
            outcomes: outcomes.into_iter().map(Outcome::as_str).collect(),
        }
    }
}

/// The kinds that a list of them means.
pub fn kinds(listed: &[Kind]) -> impl Iterator<Item = Kind> + use<'_> {
    let all = Kind::ALL.into_iter();
    all.filter(move |kind| listed.is_empty() || listed.contains(kind))
}
