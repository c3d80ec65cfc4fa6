//! The re-drive: writes dead letters back to their topics, each once, with their original order.
//!
//! A dead-letter topic is read twice, up to its end at the start of the re-drive: first the markers
//! of dead letters that were re-driven before, then the dead letters themselves. A dead letter's
//! record and its marker are written in one transaction, so a re-drive that dies can be started
//! again. It needs no Lease: the transactional id lets only one re-drive of a pipeline write.

mod filter;
mod report;
mod transaction;

use std::{
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use chrono::{DateTime, Utc};
use clap::builder::FalseyValueParser;
use pinpipe_config::{Batch, Topic};
use pinpipe_core::{Kind, clean};
use pinpipe_runtime::{
    cli::WorkerArgs,
    dead_letter::{Entry, Outcome},
    shutdown,
};
use rdkafka::{Message, message::BorrowedMessage};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

pub use self::report::Report;
use self::{
    filter::Filter,
    report::TopicReport,
    transaction::{Item, Transactions},
};
use crate::{
    dead_letters::{self, DeadLetterReader, LetterIdSet},
    failure, load_config, read, write_termination_log,
};

/// Most dead letters of one transaction.
const TRANSACTION_LETTERS: usize = 500;
/// Bytes of records after which a transaction is written. Memory use is bounded by this plus the
/// size limit of a record.
const TRANSACTION_BYTES: usize = 4 << 20;
/// Interval of progress log lines.
const LOG_EVERY: Duration = Duration::from_secs(5);

/// Options of a re-drive.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only dead letters with one of these reasons, such as too-large or key-unreadable. Any reason
    /// unless set.
    #[arg(
        long,
        env = "PINPIPE_REDRIVE_REASON",
        value_name = "REASON,…",
        value_delimiter = ','
    )]
    reason: Vec<String>,

    /// Only dead letters with a fault in one of these fields, by raw name. Any field, or none,
    /// unless set.
    #[arg(
        long,
        env = "PINPIPE_REDRIVE_FIELD",
        value_name = "FIELD,…",
        value_delimiter = ','
    )]
    field: Vec<String>,

    /// Only records whose Kafka timestamp is not before this time, such as 2026-01-31T00:00:00Z.
    #[arg(long, env = "PINPIPE_REDRIVE_SINCE", value_name = "TIME", value_parser = time)]
    since: Option<DateTime<Utc>>,

    /// Only records whose Kafka timestamp is before this time.
    #[arg(long, env = "PINPIPE_REDRIVE_UNTIL", value_name = "TIME", value_parser = time)]
    until: Option<DateTime<Utc>>,

    /// Only dead letters with this outcome: rejected records, or those that a sink refused.
    #[arg(
        long,
        env = "PINPIPE_REDRIVE_OUTCOME",
        value_name = "OUTCOME",
        default_value = "rejected",
        value_parser = outcome
    )]
    outcome: Outcome,

    /// Only records of these kinds: pin, geo, user. All kinds unless set.
    #[arg(
        long,
        env = "PINPIPE_REDRIVE_TOPIC",
        value_name = "KIND,…",
        value_delimiter = ','
    )]
    topic: Vec<Kind>,

    /// Re-drives at most this many dead letters.
    #[arg(long, env = "PINPIPE_REDRIVE_MAX", value_name = "N")]
    max: Option<u64>,

    /// Also re-drives records that would be rejected again.
    #[arg(long, env = "PINPIPE_REDRIVE_FORCE", value_parser = FalseyValueParser::new())]
    force: bool,

    /// Writes nothing; the report counts what would be re-driven.
    #[arg(long, env = "PINPIPE_REDRIVE_DRY_RUN", value_parser = FalseyValueParser::new())]
    dry_run: bool,

    /// File for the report as JSON, written only if it exists: Kubernetes creates it and copies its
    /// content to the pod's status.
    #[arg(long, value_name = "PATH", default_value = "/dev/termination-log")]
    termination_log: PathBuf,
}

fn time(text: &str) -> Result<DateTime<Utc>, String> {
    let parsed = DateTime::parse_from_rfc3339(text);
    parsed
        .map(Into::into)
        .map_err(|error| format!("{error}; write it as 2026-01-31T00:00:00Z (RFC 3339)"))
}

fn outcome(text: &str) -> Result<Outcome, String> {
    [Outcome::Rejected, Outcome::Refused]
        .into_iter()
        .find(|outcome| outcome.as_str() == text)
        .ok_or_else(|| format!("`{text}` isn't an outcome: use rejected or refused"))
}

/// Executes a re-drive. The report goes to standard output and to the termination message.
pub fn run(worker: &WorkerArgs, args: &Args) -> ExitCode {
    let started = Instant::now();
    let mut report = Report::new(args.dry_run);
    let result = execute(worker, args, &mut report);
    report.finish(started.elapsed(), result.as_ref().err());
    println!("{}", report.to_json());
    write_termination_log(&args.termination_log, &report.to_json());
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{error:#}");
            failure::exit_code(&error).into()
        }
    }
}

fn execute(worker: &WorkerArgs, args: &Args, report: &mut Report) -> Result<()> {
    let config = load_config(&worker.config)?;
    tokio::runtime::Runtime::new()?.block_on(async {
        let stop = shutdown::on_signal();
        redrive(&config, args, report, &stop).await
    })
}

/// Re-drives the dead letters that `args` select, and counts them in `report`.
pub async fn redrive(
    config: &Batch,
    args: &Args,
    report: &mut Report,
    stop: &CancellationToken,
) -> Result<()> {
    // Fences earlier re-drives before any end offset is read, so that they write nothing later.
    let transactions = if args.dry_run {
        None
    } else {
        Some(Transactions::new(config)?)
    };
    let filter = Filter::new(args);
    let mut remaining = args.max.unwrap_or(u64::MAX);
    for kind in Kind::ALL
        .into_iter()
        .filter(|kind| args.topic.is_empty() || args.topic.contains(kind))
    {
        let topic = read::topic(&config.topics, kind);
        let mut topic_redrive = TopicRedrive {
            kind,
            topic,
            max_bytes: usize::try_from(config.max_record_bytes)?,
            force: args.force,
            filter: &filter,
            transactions: transactions.as_ref(),
            stop,
            remaining,
            redriven_before: LetterIdSet::default(),
            seen: LetterIdSet::default(),
            pending: Vec::new(),
            pending_bytes: 0,
            report: report.topic(kind),
        };
        topic_redrive
            .redrive_all(config)
            .await
            .with_context(|| format!("re-driving the topic {}", topic.dead_letter))?;
        remaining = topic_redrive.remaining;
    }
    Ok(())
}

/// The re-drive of one dead-letter topic.
struct TopicRedrive<'a> {
    kind: Kind,
    topic: &'a Topic,
    max_bytes: usize,
    force: bool,
    filter: &'a Filter,
    /// `None` for a dry run.
    transactions: Option<&'a Transactions>,
    stop: &'a CancellationToken,
    /// How many dead letters may still be re-driven.
    remaining: u64,
    /// Dead letters that have a marker.
    redriven_before: LetterIdSet,
    seen: LetterIdSet,
    /// Dead letters of the next transaction.
    pending: Vec<Item>,
    pending_bytes: usize,
    report: &'a mut TopicReport,
}

impl TopicRedrive<'_> {
    async fn redrive_all(&mut self, config: &Batch) -> Result<()> {
        let ends = dead_letters::ends(config, &self.topic.dead_letter)?;
        let mut markers = DeadLetterReader::new(config, &self.topic.dead_letter, &ends)?;
        while let Some(message) = self.unless_stopped(markers.next()).await? {
            if let Some(Ok(Entry::Mark(id))) = message.headers().map(Entry::read) {
                self.redriven_before.insert(&id);
            }
        }
        drop(markers);
        let mut last_logged = Instant::now();
        let mut letters = DeadLetterReader::new(config, &self.topic.dead_letter, &ends)?;
        while let Some(message) = self.unless_stopped(letters.next()).await? {
            self.process(&message);
            if self.pending.len() >= TRANSACTION_LETTERS || self.pending_bytes >= TRANSACTION_BYTES
            {
                self.write_pending().await?;
            }
            if last_logged.elapsed() >= LOG_EVERY {
                info!(
                    topic = self.topic.dead_letter,
                    letters = self.report.letters,
                    redriven = self.report.redriven,
                    "re-driving"
                );
                last_logged = Instant::now();
            }
        }
        self.write_pending().await?;
        info!(
            topic = self.topic.dead_letter,
            letters = self.report.letters,
            redriven = self.report.redriven,
            "all dead letters of the topic are read"
        );
        Ok(())
    }

    /// Stops only between transactions: an open one is always committed or aborted.
    async fn unless_stopped<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => bail!(
                "stopped by a signal; start the re-drive again to continue with the dead letters \
                 that were not re-driven"
            ),
            result = work => result,
        }
    }

    /// Counts a dead letter, and adds it to the next transaction if it is to be re-driven.
    fn process(&mut self, message: &BorrowedMessage<'_>) {
        let entry = message.headers().map(Entry::read);
        let letter = match entry {
            Some(Ok(Entry::DeadLetter(letter))) => letter,
            Some(Ok(Entry::Mark(_))) => return,
            Some(Err(_)) | None => {
                self.report.unreadable += 1;
                return;
            }
        };
        if !self.seen.insert(&letter.id) {
            self.report.repeats += 1;
            return;
        }
        self.report.letters += 1;
        if self.redriven_before.contains(&letter.id) {
            self.report.done_before += 1;
            return;
        }
        self.report.open(&letter.verdict);
        if !self.filter.matches(&letter) {
            return;
        }
        self.report.matching += 1;
        let Some(value) = message.payload() else {
            self.report.without_value += 1;
            return;
        };
        let cleaned = clean(self.kind, value, self.max_bytes);
        if let Err(rejection) = &cleaned
            && !self.force
        {
            let rejected = &mut self.report.still_rejected;
            *rejected.entry(rejection.reason()).or_default() += 1;
            return;
        }
        if self.remaining == 0 {
            self.report.left += 1;
            return;
        }
        self.remaining -= 1;
        self.pending_bytes += value.len();
        let key = match &cleaned {
            Ok(cleaned) => Some(cleaned.record.key().as_bytes().to_vec()),
            Err(_) => message.key().map(<[u8]>::to_vec),
        };
        self.pending.push(Item {
            letter,
            key,
            value: value.to_vec(),
        });
    }

    async fn write_pending(&mut self) -> Result<()> {
        let pending = std::mem::take(&mut self.pending);
        self.pending_bytes = 0;
        if pending.is_empty() {
            return Ok(());
        }
        let Some(transactions) = self.transactions else {
            self.report.redriven += pending.len() as u64;
            return Ok(());
        };
        let too_large = transactions
            .redrive(self.topic, &pending, |count| self.report.redriven += count)
            .await?;
        self.report.too_large += too_large;
        Ok(())
    }
}
