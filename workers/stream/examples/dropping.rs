//! A stream worker whose sink drops all records, for `cargo xtask bench cores`: how fast the
//! session reads, cleans and hands over records. Ends after so many records, and prints the seconds
//! from the first commit to the last.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::Parser;
use pinpipe_config::{StartFrom, Stream};
use pinpipe_runtime::{admin::Admin, config, kafka::Access, outage::Outage};
use pinpipe_stream::{
    budget,
    commit::SinkHealth,
    dead_letter::DeadLetters,
    log::Position,
    metrics::Metrics,
    session::{self, Worker},
    sink::{
        Answer, Batch, Consumed, Grouping, InitialPosition, Limits, Part, Sink, SinkError, Source,
        StoredPosition, Topic,
    },
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Consumes a pipeline's topics and drops the records.
#[derive(Debug, Parser)]
struct Args {
    /// The configuration of a stream worker; its sink is not used.
    config: PathBuf,
    /// The number of records after which it ends.
    records: usize,
}

/// The records of a batch, counted.
#[derive(Debug, Default)]
struct Count {
    records: usize,
    bytes: usize,
}

impl Batch for Count {
    fn push(&mut self, record: Consumed<'_>) {
        self.records += 1;
        self.bytes += record.raw.len();
    }

    fn close(&mut self) {}

    fn records(&self) -> usize {
        self.records
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn last(&self) -> Option<Position> {
        None
    }

    fn split(&self) -> Option<(Self, Self)> {
        None
    }
}

#[derive(Debug, Default)]
struct Progress {
    records: usize,
    first: Option<Instant>,
}

/// A sink that drops records.
struct Dropping {
    progress: Mutex<Progress>,
    records: usize,
    stop: CancellationToken,
}

impl Sink for Dropping {
    type Batch = Count;

    fn limits(&self) -> Limits {
        Limits {
            records: 10_000,
            bytes: 8 << 20,
            age: Duration::from_millis(500),
            grouping: Grouping::Topic,
        }
    }

    fn initial_position(&self) -> InitialPosition {
        InitialPosition::Stored(StartFrom::Earliest)
    }

    fn batch(&self, _: &Source) -> Count {
        Count::default()
    }

    async fn positions(
        &self,
        topic: &Arc<Topic>,
        partitions: &[i32],
    ) -> Result<BTreeMap<i32, StoredPosition>, SinkError> {
        let start = StoredPosition {
            cluster_id: topic.cluster_id.clone(),
            topic_id: topic.id.clone(),
            next: Position::offset(0),
            noted: false,
        };
        let partitions = partitions.iter();
        Ok(partitions.map(|number| (*number, start.clone())).collect())
    }

    async fn reset_pending(
        &self,
        _: &Arc<Topic>,
        _: &str,
        _: &[i32],
    ) -> Result<Vec<i32>, SinkError> {
        Ok(Vec::new())
    }

    async fn reset(
        &self,
        _: &Arc<Topic>,
        _: &str,
        _: &BTreeMap<i32, Position>,
    ) -> Result<(), SinkError> {
        Ok(())
    }

    async fn commit(
        &self,
        _: &Arc<Topic>,
        group: &[Part<'_, Count>],
    ) -> Result<Vec<Answer>, SinkError> {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let first = *progress.first.get_or_insert_with(Instant::now);
        progress.records += group.iter().map(|part| part.batch.records).sum::<usize>();
        if progress.records >= self.records && !self.stop.is_cancelled() {
            println!("{}", first.elapsed().as_secs_f64());
            self.stop.cancel();
        }
        Ok(group.iter().map(|part| Answer::Stored(part.to)).collect())
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let config: Stream = config::load(&args.config)?;
    let stop = CancellationToken::new();
    let mut admin = Admin::new();
    let metrics = Metrics::new(admin.registry(), &config.pipeline, "dropping");
    let readiness = admin.readiness();
    let outage = || Outage::new(readiness.clone(), "Unavailable");
    let (_unchanged, mut access) = watch::channel(Access::read(&config.kafka)?);
    let worker = Worker {
        name: "dropping".to_owned(),
        pod: None,
        sink: Arc::new(Dropping {
            progress: Mutex::default(),
            records: args.records,
            stop: stop.clone(),
        }),
        health: Arc::new(SinkHealth::new(metrics.clone(), outage())),
        reset: None,
        dead_letters: DeadLetters::new(
            access.clone(),
            &config.group,
            metrics.dead_letters_up.clone(),
            outage(),
        ),
        metrics,
        readiness: readiness.clone(),
        budget: budget::bytes(),
        flush: Arc::default(),
        config,
    };
    let ended = session::run(&Arc::new(worker), &mut access, &stop).await;
    ended.context("the session failed")
}
