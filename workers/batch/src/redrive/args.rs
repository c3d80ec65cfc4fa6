//! The options of a re-drive.

use std::path::PathBuf;

use chrono::{DateTime, Utc};
use clap::builder::FalseyValueParser;
use pinpipe_core::Kind;
use pinpipe_runtime::dead_letter::Outcome;

/// Options of a re-drive.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The re-drive's name. One of this name that has ended well is not repeated: its report is
    /// printed again.
    #[arg(long, env = "PINPIPE_RUN", value_name = "NAME")]
    pub run: Option<String>,

    /// The `ConfigMap` in the pipeline's namespace into which the re-drive writes its report.
    #[arg(long, env = "PINPIPE_OUTPUT", value_name = "NAME")]
    pub output: Option<String>,

    /// Only dead letters with one of these reasons, such as too-large or key-unreadable. Any reason
    /// unless set.
    #[arg(
        long,
        env = "PINPIPE_REDRIVE_REASON",
        value_name = "REASON,…",
        value_delimiter = ','
    )]
    pub reason: Vec<String>,

    /// Only records that one of these sinks refused; a sink of batch runs is batch/NAME. Any sink,
    /// or none, unless set.
    #[arg(
        long,
        env = "PINPIPE_REDRIVE_SINKS",
        value_name = "NAME,…",
        value_delimiter = ','
    )]
    pub sink: Vec<String>,

    /// Only dead letters with a fault in one of these fields, by raw name. Any field, or none,
    /// unless set.
    #[arg(
        long,
        env = "PINPIPE_REDRIVE_FIELD",
        value_name = "FIELD,…",
        value_delimiter = ','
    )]
    pub field: Vec<String>,

    /// Only records whose Kafka timestamp is not before this time, such as 2026-01-31T00:00:00Z.
    #[arg(long, env = "PINPIPE_REDRIVE_SINCE", value_name = "TIME", value_parser = time)]
    pub since: Option<DateTime<Utc>>,

    /// Only records whose Kafka timestamp is before this time.
    #[arg(long, env = "PINPIPE_REDRIVE_UNTIL", value_name = "TIME", value_parser = time)]
    pub until: Option<DateTime<Utc>>,

    /// Only dead letters with this outcome: rejected records, or those that a sink refused. Unless
    /// set: refused with a sink, either with a reason, else rejected.
    #[arg(
        long,
        env = "PINPIPE_REDRIVE_OUTCOME",
        value_name = "OUTCOME",
        value_parser = outcome
    )]
    pub outcome: Option<Outcome>,

    /// Only records of these kinds: pin, geo, user. All kinds unless set.
    #[arg(
        long,
        env = "PINPIPE_REDRIVE_TOPIC",
        value_name = "KIND,…",
        value_delimiter = ','
    )]
    pub topic: Vec<Kind>,

    /// Re-drives at most this many dead letters.
    #[arg(long, env = "PINPIPE_REDRIVE_MAX", value_name = "N")]
    pub max: Option<u64>,

    /// Also re-drives records that would be rejected again.
    #[arg(long, env = "PINPIPE_REDRIVE_FORCE", value_parser = FalseyValueParser::new())]
    pub force: bool,

    /// Writes nothing; the report counts what would be re-driven.
    #[arg(long, env = "PINPIPE_REDRIVE_DRY_RUN", value_parser = FalseyValueParser::new())]
    pub dry_run: bool,

    /// File for the report as JSON, written only if it exists: Kubernetes creates it and copies its
    /// content to the pod's status.
    #[arg(long, value_name = "PATH", default_value = "/dev/termination-log")]
    pub termination_log: PathBuf,
}

impl Args {
    /// The re-drive's name, if it has one.
    pub fn run(&self) -> Option<String> {
        self.run.clone().filter(|run| !run.is_empty())
    }

    /// The `ConfigMap` to write to, if any.
    pub fn output(&self) -> Option<&str> {
        self.output.as_deref().filter(|name| !name.is_empty())
    }
}

/// A time as options have it.
pub fn time(text: &str) -> Result<DateTime<Utc>, String> {
    let parsed = DateTime::parse_from_rfc3339(text);
    parsed
        .map(Into::into)
        .map_err(|error| format!("{error}; write it as 2026-01-31T00:00:00Z (RFC 3339)"))
}

/// An outcome as options have it.
pub fn outcome(text: &str) -> Result<Outcome, String> {
    [Outcome::Rejected, Outcome::Refused]
        .into_iter()
        .find(|outcome| outcome.as_str() == text)
        .ok_or_else(|| format!("`{text}` isn't an outcome: use rejected or refused"))
}
