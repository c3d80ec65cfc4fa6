//! The re-drive: dead letters go back into the pipeline, each once, with the order they first had.
//!
//! A topic's letters are read twice, up to where its log ended at the beginning: for the marks of
//! letters that are back already, then for the letters themselves. A letter's record and its mark
//! are written in one transaction, so that a re-drive that dies anywhere can be begun anew. No
//! run's Lease is needed: the transactional id lets only one re-drive of a pipeline write.

mod filter;
mod letters;
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
use pinpipe_core::{Cleaned, Kind, Rejection, clean};
use pinpipe_runtime::{
    cli::WorkerArgs,
    config,
    dead_letter::{Entry, Letter, Outcome},
    shutdown,
};
use rdkafka::{Message, message::BorrowedMessage};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use self::{
    filter::Filter,
    letters::{LetterSet, Letters},
    report::{Report, TopicReport},
    transaction::{Item, Transactions},
};
use crate::read;

/// Letters of one transaction.
const TRANSACTION_LETTERS: usize = 500;
/// Bytes of one transaction: with the size limit of a record on top, what is held in memory.
const TRANSACTION_BYTES: usize = 4 << 20;
/// How often the log says how far the re-drive is.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// What to re-drive, and how.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only letters with one of these reasons, such as too-large or key-unreadable. Unless set:
    /// any.
    #[arg(
        long,
        env = "PINPIPE_REDRIVE_REASON",
        value_name = "REASON,…",
        value_delimiter = ','
    )]
    reason: Vec<String>,

    /// Only letters in which one of these fields is at fault, by their raw names. Unless set: any,
    /// or none.
    #[arg(
        long,
        env = "PINPIPE_REDRIVE_FIELD",
        value_name = "FIELD,…",
        value_delimiter = ','
    )]
    field: Vec<String>,

    /// Only records that came at this time or later, as in 2026-01-31T00:00:00Z.
    #[arg(long, env = "PINPIPE_REDRIVE_SINCE", value_name = "TIME", value_parser = time)]
    since: Option<DateTime<Utc>>,

    /// Only records that came before this time.
    #[arg(long, env = "PINPIPE_REDRIVE_UNTIL", value_name = "TIME", value_parser = time)]
    until: Option<DateTime<Utc>>,

    /// Which letters: rejected records, or copies of repaired ones.
    #[arg(long, env = "PINPIPE_REDRIVE_OUTCOME", value_name = "OUTCOME", default_value = "rejected", value_parser = outcome)]
    outcome: Outcome,

    /// Only records of these kinds: pin, geo, user. Unless set: all three.
    #[arg(
        long,
        env = "PINPIPE_REDRIVE_TOPIC",
        value_name = "KIND,…",
        value_delimiter = ','
    )]
    topic: Vec<Kind>,

    /// Re-drives so many letters at most.
    #[arg(long, env = "PINPIPE_REDRIVE_MAX", value_name = "N")]
    max: Option<u64>,

    /// Also re-drives records that would be rejected, or repaired, again.
    #[arg(long, env = "PINPIPE_REDRIVE_FORCE", value_parser = FalseyValueParser::new())]
    force: bool,

    /// Writes nothing: the report says what would be re-driven.
    #[arg(long, env = "PINPIPE_REDRIVE_DRY_RUN", value_parser = FalseyValueParser::new())]
    dry_run: bool,

    /// Where the report goes, as JSON, when the file is there: Kubernetes makes it for the pod's
    /// status.
    #[arg(long, value_name = "PATH", default_value = "/dev/termination-log")]
    termination_log: PathBuf,
}

fn time(text: &str) -> Result<DateTime<Utc>, String> {
    let parsed = DateTime::parse_from_rfc3339(text);
    parsed
        .map(Into::into)
        .map_err(|_| format!("`{text}` is no time: write it as in 2026-01-31T00:00:00Z"))
}

fn outcome(text: &str) -> Result<Outcome, String> {
    [Outcome::Rejected, Outcome::Repaired]
        .into_iter()
        .find(|outcome| outcome.as_str() == text)
        .ok_or_else(|| format!("`{text}` is no outcome: use rejected or repaired"))
}

/// Re-drives and reports: on standard output, and as the termination message.
pub fn run(worker: &WorkerArgs, args: &Args) -> ExitCode {
    let begun = Instant::now();
    let mut report = Report::new(args.dry_run);
    let result = work(worker, args, &mut report);
    report.end(begun.elapsed(), result.as_ref().err());
    println!("{}", report.to_json());
    if args.termination_log.exists()
        && let Err(problem) = std::fs::write(&args.termination_log, report.to_json())
    {
        warn!(%problem, "the termination message could not be written");
    }
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            error!("{problem:#}");
            ExitCode::FAILURE
        }
    }
}

fn work(worker: &WorkerArgs, args: &Args, report: &mut Report) -> Result<()> {
    let config: Batch = config::load(&worker.config)?;
    tokio::runtime::Runtime::new()?.block_on(async {
        let stop = shutdown::on_signal();
        redrive(&config, args, report, &stop).await
    })
}

async fn redrive(
    config: &Batch,
    args: &Args,
    report: &mut Report,
    stop: &CancellationToken,
) -> Result<()> {
    // Before any topic's end is taken: what a predecessor has under way is decided then, and
    // nothing of it follows.
    let transactions = if args.dry_run {
        None
    } else {
        Some(Transactions::begin(config)?)
    };
    let filter = Filter::new(args);
    let mut left = args.max.unwrap_or(u64::MAX);
    for kind in Kind::ALL
        .into_iter()
        .filter(|kind| args.topic.is_empty() || args.topic.contains(kind))
    {
        let topic = read::topic(&config.topics, kind);
        let mut drive = Drive {
            kind,
            topic,
            max_bytes: usize::try_from(config.max_record_bytes)?,
            force: args.force,
            filter: &filter,
            transactions: transactions.as_ref(),
            stop,
            left,
            done: LetterSet::default(),
            seen: LetterSet::default(),
            gathered: Vec::new(),
            bytes: 0,
            report: report.topic(kind),
        };
        drive
            .all(config)
            .await
            .with_context(|| format!("the dead letters in {}", topic.dead_letter))?;
        left = drive.left;
    }
    Ok(())
}

/// One topic's letters on their way back.
struct Drive<'a> {
    kind: Kind,
    topic: &'a Topic,
    max_bytes: usize,
    force: bool,
    filter: &'a Filter,
    /// None: nothing is written.
    transactions: Option<&'a Transactions>,
    stop: &'a CancellationToken,
    /// Letters that may still be re-driven.
    left: u64,
    /// Letters with a mark.
    done: LetterSet,
    seen: LetterSet,
    gathered: Vec<Item>,
    bytes: usize,
    report: &'a mut TopicReport,
}

impl Drive<'_> {
    async fn all(&mut self, config: &Batch) -> Result<()> {
        let ends = letters::ends(config, &self.topic.dead_letter)?;
        let mut marks = Letters::read(config, &self.topic.dead_letter, &ends)?;
        while let Some(message) = self.unless_stopped(marks.next()).await? {
            if let Some(Ok(Entry::Mark(id))) = message.headers().map(Entry::read) {
                self.done.insert(&id);
            }
        }
        drop(marks);
        let mut told = Instant::now();
        let mut letters = Letters::read(config, &self.topic.dead_letter, &ends)?;
        while let Some(message) = self.unless_stopped(letters.next()).await? {
            self.look_at(&message);
            if self.gathered.len() >= TRANSACTION_LETTERS || self.bytes >= TRANSACTION_BYTES {
                self.put_back().await?;
            }
            if told.elapsed() >= TELL_EVERY {
                info!(
                    topic = self.topic.dead_letter,
                    letters = self.report.letters,
                    redriven = self.report.redriven,
                    "re-driving"
                );
                told = Instant::now();
            }
        }
        self.put_back().await?;
        info!(
            topic = self.topic.dead_letter,
            letters = self.report.letters,
            redriven = self.report.redriven,
            "the topic's letters are read"
        );
        Ok(())
    }

    /// Between transactions alone: one that is open is ended before.
    async fn unless_stopped<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => bail!("stopped before the end: what was put back is marked, the next re-drive goes on with the rest"),
            done = work => done,
        }
    }

    /// Counts a letter, and takes it along where it is to go back.
    fn look_at(&mut self, message: &BorrowedMessage<'_>) {
        let entry = message.headers().map(Entry::read);
        let letter = match entry {
            Some(Ok(Entry::Letter(letter))) => letter,
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
        if self.done.contains(&letter.id) {
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
        if !self.force && self.comes_back(&letter, &cleaned) {
            return;
        }
        if self.left == 0 {
            self.report.left += 1;
            return;
        }
        self.left -= 1;
        self.bytes += value.len();
        let key = match &cleaned {
            Ok(cleaned) => Some(cleaned.record.key().as_bytes().to_vec()),
            Err(_) => message.key().map(<[u8]>::to_vec),
        };
        self.gathered.push(Item {
            letter,
            key,
            value: value.to_vec(),
        });
    }

    /// Counts a record that would come to the same end again.
    fn comes_back(&mut self, letter: &Letter, cleaned: &Result<Cleaned<'_>, Rejection>) -> bool {
        match (cleaned, letter.verdict.outcome) {
            (Err(rejection), _) => {
                *self
                    .report
                    .still_rejected
                    .entry(rejection.reason())
                    .or_default() += 1
            }
            (Ok(cleaned), Outcome::Repaired) if !cleaned.repairs.is_empty() => {
                self.report.still_repaired += 1
            }
            (Ok(_), _) => return false,
        }
        true
    }

    async fn put_back(&mut self) -> Result<()> {
        let gathered = std::mem::take(&mut self.gathered);
        self.bytes = 0;
        if gathered.is_empty() {
            return Ok(());
        }
        let Some(transactions) = self.transactions else {
            self.report.redriven += gathered.len() as u64;
            return Ok(());
        };
        let too_large = transactions
            .put_back(self.topic, &gathered, |done| self.report.redriven += done)
            .await?;
        self.report.too_large += too_large;
        Ok(())
    }
}
