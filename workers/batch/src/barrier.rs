//! The barrier: everything in the topics now is in the raw objects before the run begins.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use pinpipe_config::Batch;
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
};
use tracing::{info, warn};

use crate::manifest::Positions;

/// How long one question to the broker may take.
const BROKER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an archive pod may take to answer.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the archive is asked to flush: records may have come into its buffers after the first request.
const FLUSH_EVERY: Duration = Duration::from_secs(3);
/// How often the archive's committed offsets are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// How often the log says how far the archive is.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// A partition the archive has not finished.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Behind {
    topic: String,
    partition: i32,
    /// None: the archive has never committed an offset here.
    committed: Option<i64>,
    end: i64,
}

/// The topics' ends at the time of the call, once the archive has reached them.
pub async fn wait(config: &Batch) -> Result<Positions> {
    let deadline = Instant::now() + Duration::from_secs(config.barrier_timeout_seconds);
    let broker = Arc::new(Broker::new(config)?);
    let ends = until(deadline, "the topics' end offsets can't be had", || Broker::ask(&broker, Broker::ends)).await?;
    let records: i64 = ends.values().flat_map(BTreeMap::values).sum();
    info!(offsets = records, "the topics' ends are taken, waiting for the archive to reach them");

    let http = reqwest::Client::builder().timeout(FLUSH_TIMEOUT).build()?;
    let (mut flushed, mut told) = (None::<Instant>, Instant::now());
    let mut flush_problem = None;
    loop {
        let wanted = ends.clone();
        let behind = until(deadline, "the archive's committed offsets can't be had", || {
            let wanted = wanted.clone();
            Broker::ask(&broker, move |broker| Ok(behind(&wanted, &broker.committed(&wanted)?)))
        })
        .await?;
        if behind.is_empty() {
            return Ok(ends);
        }
        if Instant::now() >= deadline {
            bail!(failure(config, &behind, flush_problem.as_deref()));
        }
        if flushed.is_none_or(|at| at.elapsed() >= FLUSH_EVERY) {
            flush_problem = flush(&http, &config.archive_admin).await.err().map(|error| format!("{error:#}"));
            if let Some(problem) = &flush_problem {
                warn!(problem, "the archive could not be asked to flush");
            }
            flushed = Some(Instant::now());
        }
        if told.elapsed() >= TELL_EVERY {
            info!(behind = list(&behind), "waiting for the archive");
            told = Instant::now();
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Asks again until there is an answer or `deadline` has passed.
async fn until<T, F: Future<Output = Result<T>>>(deadline: Instant, problem: &str, ask: impl Fn() -> F) -> Result<T> {
    loop {
        match ask().await {
            Ok(answer) => return Ok(answer),
            Err(error) if Instant::now() >= deadline => return Err(error.context(problem.to_owned())),
            Err(error) => warn!(error = format!("{error:#}"), "{problem}, trying again"),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// A client in the name of the archive's group, which it only asks after and never joins.
struct Broker {
    consumer: BaseConsumer,
    topics: Vec<String>,
    bootstrap: String,
}

impl Broker {
    fn new(config: &Batch) -> Result<Self> {
        let mut settings = pinpipe_runtime::kafka::client_config(&config.kafka, "pinpipe-batch");
        settings.set("group.id", &config.archive_group).set("enable.auto.commit", "false");
        // The ends a reader of committed records sees: an open transaction is not in the archive yet.
        settings.set("isolation.level", "read_committed");
        let consumer = settings.create().context("the Kafka client can't be made")?;
        let topics = &config.topics;
        let topics = [&topics.pin, &topics.geo, &topics.user].map(|topic| topic.name.clone()).to_vec();
        Ok(Self { consumer, topics, bootstrap: config.kafka.bootstrap_servers.clone() })
    }

    /// Runs a question where blocking is allowed.
    async fn ask<T: Send + 'static>(
        broker: &Arc<Self>,
        question: impl FnOnce(&Self) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let broker = Arc::clone(broker);
        tokio::task::spawn_blocking(move || question(&broker)).await?
    }

    fn ends(&self) -> Result<Positions> {
        let mut ends = Positions::new();
        for topic in &self.topics {
            let metadata = self
                .consumer
                .fetch_metadata(Some(topic), BROKER_TIMEOUT)
                .with_context(|| format!("Kafka at {} does not answer", self.bootstrap))?;
            let found = metadata.topics().iter().find(|found| found.name() == topic);
            let partitions = found.filter(|found| found.error().is_none()).map_or(&[][..], |found| found.partitions());
            if partitions.is_empty() {
                return Err(anyhow!(
                    "the topic {topic} is not there: the operator makes it, see the pipeline's status"
                ));
            }
            for partition in partitions {
                let id = partition.id();
                let (_, end) = self
                    .consumer
                    .fetch_watermarks(topic, id, BROKER_TIMEOUT)
                    .with_context(|| format!("the end of {topic}[{id}]"))?;
                ends.entry(topic.clone()).or_default().insert(id, end);
            }
        }
        Ok(ends)
    }

    /// Committed offsets of the archive's group where it has committed any.
    fn committed(&self, wanted: &Positions) -> Result<Positions> {
        let mut list = TopicPartitionList::new();
        for (topic, partitions) in wanted {
            for partition in partitions.keys() {
                list.add_partition(topic, *partition);
            }
        }
        let answer = self.consumer.committed_offsets(list, BROKER_TIMEOUT).context("the archive's group")?;
        let mut committed = Positions::new();
        for element in answer.elements() {
            element.error().with_context(|| format!("{}[{}]", element.topic(), element.partition()))?;
            if let Offset::Offset(offset) = element.offset() {
                committed.entry(element.topic().to_owned()).or_default().insert(element.partition(), offset);
            }
        }
        Ok(committed)
    }
}

/// The partitions whose committed offset has not reached the wanted one. An empty partition wants nothing.
fn behind(wanted: &Positions, committed: &Positions) -> Vec<Behind> {
    let mut behind = Vec::new();
    for (topic, partitions) in wanted {
        for (&partition, &end) in partitions {
            let committed = committed.get(topic).and_then(|partitions| partitions.get(&partition)).copied();
            if committed.unwrap_or(0) < end {
                behind.push(Behind { topic: topic.clone(), partition, committed, end });
            }
        }
    }
    behind
}

/// Asks every pod of the archive to write what it holds.
async fn flush(http: &reqwest::Client, admin: &str) -> Result<()> {
    let addresses: Vec<_> = tokio::net::lookup_host(admin)
        .await
        .with_context(|| format!("{admin} has no address: the archive has no ready pod"))?
        .collect();
    let mut asked = 0;
    let mut problem = None;
    for address in addresses {
        match http.post(format!("http://{address}/flush")).send().await.and_then(reqwest::Response::error_for_status) {
            Ok(_) => asked += 1,
            Err(error) => problem = Some(error),
        }
    }
    match problem {
        Some(error) if asked == 0 => Err(error).with_context(|| format!("no pod of the archive answers at {admin}")),
        _ => Ok(()),
    }
}

fn list(behind: &[Behind]) -> String {
    const SHOWN: usize = 6;
    let mut text = String::new();
    for Behind { topic, partition, committed, end } in behind.iter().take(SHOWN) {
        let separator = if text.is_empty() { "" } else { ", " };
        let at = committed.map_or_else(|| "nothing".to_owned(), |offset| offset.to_string());
        let _ = write!(text, "{separator}{topic}[{partition}] at {at} of {end}");
    }
    if behind.len() > SHOWN {
        let _ = write!(text, " and {} more", behind.len() - SHOWN);
    }
    text
}

/// What to say when the deadline has passed.
fn failure(config: &Batch, behind: &[Behind], flush_problem: Option<&str>) -> String {
    let pipeline = &config.pipeline;
    let mut text = format!(
        "the archive has not reached the topics' ends within {} s: {}. Check that its pod runs (kubectl -n {} get pods -l \
         app.kubernetes.io/instance={},app.kubernetes.io/component=archive) and that its log tells of no trouble with the object store",
        config.barrier_timeout_seconds,
        list(behind),
        pipeline.namespace,
        pipeline.name
    );
    if let Some(problem) = flush_problem {
        let _ = write!(text, "; the last request to flush failed: {problem}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn positions(offsets: &[(&str, i32, i64)]) -> Positions {
        let mut positions = Positions::new();
        for (topic, partition, offset) in offsets {
            positions.entry((*topic).to_owned()).or_default().insert(*partition, *offset);
        }
        positions
    }

    #[test]
    fn a_partition_is_behind_until_its_end_is_committed() {
        let wanted = positions(&[("a", 0, 10), ("a", 1, 0), ("b", 0, 5), ("b", 1, 3)]);
        let committed = positions(&[("a", 0, 9), ("b", 0, 5), ("c", 0, 1)]);
        let expected = [
            Behind { topic: "a".into(), partition: 0, committed: Some(9), end: 10 },
            Behind { topic: "b".into(), partition: 1, committed: None, end: 3 },
        ];
        assert_eq!(behind(&wanted, &committed), expected);
        assert_eq!(list(&expected), "a[0] at 9 of 10, b[1] at nothing of 3");
    }

    #[test]
    fn a_committed_offset_past_the_end_is_enough() {
        assert_eq!(behind(&positions(&[("a", 0, 10)]), &positions(&[("a", 0, 12)])), []);
    }

    #[test]
    fn a_long_list_is_cut() {
        let wanted: Vec<_> = (0..9).map(|partition| ("t", partition, 1)).collect();
        let text = list(&behind(&positions(&wanted), &Positions::new()));
        assert!(text.ends_with("t[5] at nothing of 1 and 3 more"), "{text}");
    }
}
