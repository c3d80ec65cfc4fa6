//! The re-drive: writes dead letters back to their topics, each once, with their original order.
//!
//! A dead-letter topic is read twice, up to its end at the start of the re-drive: first the markers
//! of dead letters that were re-driven before, then the dead letters themselves. Markers name their
//! re-drive, so that one that is started again counts what it has done. A dead letter's
//! record and its marker are written in one transaction, so a re-drive that dies can be started
//! again. It needs no Lease: the transactional id lets only one re-drive of a pipeline write.

mod args;
mod filter;
mod report;
mod transaction;

use std::{
    collections::BTreeSet,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use pinpipe_config::{Batch, Topic};
use pinpipe_core::{Kind, clean};
use pinpipe_runtime::{cli::WorkerArgs, dead_letter::Entry, shutdown};
use rdkafka::{Message, message::BorrowedMessage};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

pub use self::{
    args::{Args, outcome, time},
    filter::Filter,
    report::Report,
};
use self::{
    report::TopicReport,
    transaction::{Item, Transactions},
};
use crate::{
    dead_letters::{self, Ends, LetterIdSet, TopicReader},
    failure::{self, Permanent},
    load_config,
    output::Output,
    read,
    runs::{self, Runs},
    store::Store,
    termination,
};

/// Most dead letters of one transaction.
const TRANSACTION_LETTERS: usize = 500;
/// Bytes of records after which a transaction is written. Memory use is bounded by this plus the
/// size limit of a record.
const TRANSACTION_BYTES: usize = 4 << 20;
/// Interval of progress log lines.
const LOG_EVERY: Duration = Duration::from_secs(5);

/// Executes a re-drive. The report goes to standard output, to the termination message and to the
/// `ConfigMap` that the operator reads.
pub fn run(worker: &WorkerArgs, args: &Args) -> ExitCode {
    let mut report = Report::new(args.run(), args.dry_run);
    let result = execute(worker, args, &mut report);
    println!("{}", report.to_json());
    termination::write(&args.termination_log, &report.termination_message());
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{error:#}");
            failure::exit_code(&error).into()
        }
    }
}

fn execute(worker: &WorkerArgs, args: &Args, report: &mut Report) -> Result<()> {
    let started = Instant::now();
    let executed = || {
        let config = load_config(&worker.config)?;
        let runtime = tokio::runtime::Runtime::new()?;
        anyhow::Ok((config, runtime))
    };
    let (config, runtime) = executed().inspect_err(|error| report.failed(started, error))?;
    runtime.block_on(async {
        let stop = shutdown::on_signal();
        let result = redrive_once(&config, args, report, &stop).await;
        if let Err(error) = &result {
            report.failed(started, error);
        }
        if let (Some(output), Some(run)) = (args.output(), args.run()) {
            write_output(&config, output, &run, report).await;
        }
        result
    })
}

async fn write_output(config: &Batch, output: &str, run: &str, report: &Report) {
    match kube::Client::try_default().await {
        Ok(client) => {
            let output = Output::new(client, &config.pipeline.namespace, output, run);
            output.end(json!(report.shown())).await;
        }
        Err(error) => {
            warn!("the report isn't shown: no Kubernetes API client: {error}");
        }
    }
}

/// The document of a re-drive that has ended well.
#[derive(Deserialize, Serialize)]
struct Done {
    /// What was asked for, as JSON.
    asked: String,
    #[serde(flatten)]
    report: Report,
}

/// Re-drives what `args` select, unless a re-drive of this name has ended well: then its report is
/// that one's.
pub async fn redrive_once(
    config: &Batch,
    args: &Args,
    report: &mut Report,
    stop: &CancellationToken,
) -> Result<()> {
    let started = Instant::now();
    let Some(run) = args.run() else {
        redrive(config, args, report, stop).await?;
        report.succeeded(started);
        return Ok(());
    };
    runs::check_name(&run)?;
    let store = Store::open(&config.zone).await?;
    let (key, asked) = (Runs::new(&config.pipeline).redrive(&run), asked(args)?);
    let mut done: Option<Done> = store.find_json(&key).await?;
    if done.is_none() {
        redrive(config, args, report, stop).await?;
        report.succeeded(started);
        let own = Done {
            asked: asked.clone(),
            report: report.clone(),
        };
        if store.create_json(&key, &own).await? {
            return Ok(());
        }
        // Ours, if the reply to a first attempt was lost.
        done = store.find_json(&key).await?;
    }
    if let Some(done) = done {
        ensure!(
            done.asked == asked,
            Permanent(format!(
                "nothing was re-driven: there is a re-drive {run} with other values; choose \
                 another name"
            ))
        );
        info!(run, "the re-drive has already finished");
        *report = done.report;
    }
    Ok(())
}

/// What a re-drive is asked for, as JSON.
fn asked(args: &Args) -> Result<String> {
    let filter = Filter::new(args)?;
    let topics = args.topic.iter().map(|kind| kind.as_str());
    let asked = json!({
        "filter": filter,
        "topics": topics.collect::<BTreeSet<_>>(),
        "max": args.max,
        "force": args.force,
        "dryRun": args.dry_run,
    });
    Ok(asked.to_string())
}

/// Re-drives the dead letters that `args` select, and counts them in `report`.
pub async fn redrive(
    config: &Batch,
    args: &Args,
    report: &mut Report,
    stop: &CancellationToken,
) -> Result<()> {
    let filter = Filter::new(args)?;
    // Fences earlier re-drives before any end offset is read, so that they write nothing later.
    let transactions = if args.dry_run {
        None
    } else {
        Some(Transactions::new(config, args.run())?)
    };
    let mut topics = Vec::new();
    for kind in Kind::ALL
        .into_iter()
        .filter(|kind| args.topic.is_empty() || args.topic.contains(kind))
    {
        let topic = read::topic(&config.topics, kind);
        let marks = Marks::read(config, topic, args.run().as_deref(), stop).await;
        let marks = marks.with_context(|| re_driving(topic))?;
        topics.push((kind, topic, marks));
    }
    let own = topics.iter().map(|(.., marks)| marks.own.len() as u64);
    let mut remaining = args.max.unwrap_or(u64::MAX).saturating_sub(own.sum());
    for (kind, topic, marks) in topics {
        let mut topic_redrive = TopicRedrive {
            kind,
            topic,
            max_bytes: usize::try_from(config.max_record_bytes)?,
            force: args.force,
            filter: &filter,
            transactions: transactions.as_ref(),
            stop,
            remaining,
            marks,
            seen: LetterIdSet::default(),
            pending: Vec::new(),
            pending_bytes: 0,
            report: report.topic(kind),
        };
        topic_redrive
            .redrive_all(config)
            .await
            .with_context(|| re_driving(topic))?;
        remaining = topic_redrive.remaining;
    }
    Ok(())
}

fn re_driving(topic: &Topic) -> String {
    format!("re-driving the topic {}", topic.dead_letter)
}

/// Stops only between transactions: an open one is always committed or aborted.
async fn unless_stopped<T>(
    stop: &CancellationToken,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    tokio::select! {
        biased;
        () = stop.cancelled() => bail!(
            "stopped by a signal; start the re-drive again to continue with the dead letters \
             that were not re-driven"
        ),
        result = work => result,
    }
}

/// The markers of a dead-letter topic.
struct Marks {
    /// Where the topic ended when they were read.
    ends: Ends,
    /// Dead letters that this re-drive has re-driven, in a process that died.
    own: LetterIdSet,
    /// Dead letters that others have re-driven.
    others: LetterIdSet,
}

impl Marks {
    async fn read(
        config: &Batch,
        topic: &Topic,
        run: Option<&str>,
        stop: &CancellationToken,
    ) -> Result<Self> {
        let mut marks = Self {
            ends: dead_letters::ends(config, &topic.dead_letter)?,
            own: LetterIdSet::default(),
            others: LetterIdSet::default(),
        };
        let mut reader = TopicReader::new(config, &topic.dead_letter, &marks.ends)?;
        while let Some(message) = unless_stopped(stop, reader.next()).await? {
            if let Some(Ok(Entry::Mark { id, run: by })) = message.headers().map(Entry::read) {
                if by.is_some() && by.as_deref() == run {
                    marks.own.insert(&id);
                } else {
                    marks.others.insert(&id);
                }
            }
        }
        Ok(marks)
    }
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
    marks: Marks,
    seen: LetterIdSet,
    /// Dead letters of the next transaction.
    pending: Vec<Item>,
    pending_bytes: usize,
    report: &'a mut TopicReport,
}

impl TopicRedrive<'_> {
    async fn redrive_all(&mut self, config: &Batch) -> Result<()> {
        let mut last_logged = Instant::now();
        let mut letters = TopicReader::new(config, &self.topic.dead_letter, &self.marks.ends)?;
        while let Some(message) = unless_stopped(self.stop, letters.next()).await? {
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

    /// Counts a dead letter, and adds it to the next transaction if it is to be re-driven.
    fn process(&mut self, message: &BorrowedMessage<'_>) {
        let entry = message.headers().map(Entry::read);
        let letter = match entry {
            Some(Ok(Entry::DeadLetter(letter))) => letter,
            Some(Ok(Entry::Mark { .. })) => return,
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
        if self.marks.others.contains(&letter.id) {
            self.report.done_before += 1;
            return;
        }
        self.report.open(&letter.verdict);
        if self.marks.own.contains(&letter.id) {
            self.report.matching += 1;
            self.report.redriven += 1;
            return;
        }
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
            *rejected.entry(rejection.reason().to_owned()).or_default() += 1;
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
