//! The records sent into a pipeline, and what every store must hold because of them.
//!
//! The order of records is read from the topics (`LogAppendTime`, partition, offset); the clean row
//! of a record is that of the sample it was made from.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{
    Kind, Pipeline,
    broken::Broken,
    cassandra, ensure_same, eventually,
    ingest::{self, Ack, BodyFormat, Response},
    kafka::{self, Message},
    objects,
    postgres::{self, Row},
    samples::{Sample, in_milliseconds},
};

/// How long the stream worker and the archive may take to store everything.
const CAUGHT_UP_WITHIN: Duration = Duration::from_mins(2);

/// The default prefix of raw objects.
pub const PREFIX: &str = "topics";

/// The records sent into one pipeline.
pub struct Ledger {
    /// The pipeline.
    pub pipeline: Pipeline,
    /// Samples by their JSON without white space between tokens, since ingest removes line breaks.
    sent: HashMap<String, Sample>,
    /// Every acknowledgement, with the record it is for.
    acknowledged: Vec<(Ack, String)>,
    /// Broken records by topic, partition and offset.
    broken: BTreeMap<(Kind, i32, i64), Broken>,
}

/// The content of a topic, each record with what was sent.
pub struct Log {
    /// The kind.
    pub kind: Kind,
    /// Well-formed records.
    pub good: Vec<(Message, Sample)>,
    /// Records that can't be keyed.
    pub broken: Vec<(Message, Broken)>,
}

impl Ledger {
    /// An empty ledger.
    #[must_use]
    pub fn new(pipeline: &Pipeline) -> Self {
        Self {
            pipeline: pipeline.clone(),
            sent: HashMap::new(),
            acknowledged: Vec::new(),
            broken: BTreeMap::new(),
        }
    }

    /// Posts samples of a kind in requests of up to `size` records, in all three formats.
    pub async fn send(&mut self, kind: Kind, samples: Vec<Sample>, size: usize) -> Result<()> {
        for (n, chunk) in samples.chunks(size).enumerate() {
            // A record that spans lines can't be posted as NDJSON.
            let (spread, flat): (Vec<Sample>, Vec<Sample>) =
                chunk.iter().cloned().partition(|s| s.raw.contains('\n'));
            let format = if n % 2 == 0 {
                BodyFormat::Lines
            } else {
                BodyFormat::Array
            };
            self.post(kind, &flat, format).await?;
            match n % 3 {
                0 => self.post(kind, &spread, BodyFormat::Array).await?,
                _ => {
                    for sample in spread {
                        self.post(kind, &[sample], BodyFormat::Object).await?;
                    }
                }
            }
        }
        Ok(())
    }

    async fn post(&mut self, kind: Kind, samples: &[Sample], format: BodyFormat) -> Result<()> {
        if samples.is_empty() {
            return Ok(());
        }
        self.sent.extend(
            samples
                .iter()
                .map(|sample| (compact(&sample.raw), sample.clone())),
        );
        let acks = ingest::send(&self.pipeline, kind, samples, format).await?;
        self.acknowledged.extend(
            acks.into_iter()
                .zip(samples.iter().map(|sample| sample.raw.clone())),
        );
        Ok(())
    }

    /// Posts samples of a kind in one request and returns the response, even if some or all are
    /// refused.
    pub async fn try_send(&mut self, kind: Kind, samples: &[Sample]) -> Result<Response> {
        self.sent.extend(
            samples
                .iter()
                .map(|sample| (compact(&sample.raw), sample.clone())),
        );
        let response = ingest::try_send(&self.pipeline, kind, samples, BodyFormat::Array).await?;
        // If the API server's proxy reaches no pod, its own response acknowledges nothing.
        let records = response
            .json()
            .ok()
            .and_then(|mut body| body.get_mut("records").map(serde_json::Value::take));
        for (record, sample) in records
            .as_ref()
            .and_then(serde_json::Value::as_array)
            .into_iter()
            .flatten()
            .zip(samples)
        {
            if let Ok(ack) = serde_json::from_value(record.clone()) {
                self.acknowledged.push((ack, sample.raw.clone()));
            }
        }
        Ok(response)
    }

    /// Writes broken records directly to the topic.
    pub async fn send_broken(&mut self, kind: Kind, records: Vec<Broken>) -> Result<()> {
        let written: Vec<_> = records
            .iter()
            .map(|broken| (broken.key.clone(), broken.raw.clone()))
            .collect();
        let positions = kafka::write(&self.pipeline.topic(kind), &written).await?;
        self.broken.extend(
            positions
                .into_iter()
                .zip(records)
                .map(|((p, offset), broken)| ((kind, p, offset), broken)),
        );
        Ok(())
    }

    /// Reads a topic. An error if it holds a record that was never sent, or lacks one that was
    /// acknowledged.
    pub async fn log(&self, kind: Kind) -> Result<Log> {
        let topic = self.pipeline.topic(kind);
        let mut log = Log {
            kind,
            good: Vec::new(),
            broken: Vec::new(),
        };
        let mut bytes = HashMap::new();
        for message in kafka::read(&topic).await? {
            let raw = text(&message.value);
            bytes.insert((message.partition, message.offset), raw.clone());
            if let Some(broken) = self.broken.get(&(kind, message.partition, message.offset)) {
                log.broken.push((message, broken.clone()));
                continue;
            }
            let sample = self
                .sent
                .get(&compact(&raw))
                .filter(|sample| is_same(&raw, &sample.raw));
            let sample = sample
                .with_context(|| format!("{topic} holds a record that was never sent: {raw}"))?;
            ensure!(
                message.key.as_deref() == Some(sample.key.as_bytes()),
                "{topic}: key {:?} of {sample:?}",
                message.key
            );
            log.good.push((message, sample.clone()));
        }
        for (ack, raw) in self
            .acknowledged
            .iter()
            .filter(|(ack, _)| ack.topic == topic)
        {
            let found = bytes.get(&(ack.partition, ack.offset));
            ensure!(
                found.is_some_and(|found| is_same(found, raw)),
                "{ack:?} is not {raw}, but {found:?}"
            );
        }
        Ok(log)
    }

    /// The number of acknowledged records.
    #[must_use]
    pub fn acknowledged(&self) -> usize {
        self.acknowledged.len()
    }

    /// Waits until the live table of a kind holds exactly the latest row of each key.
    pub async fn live_table_is_right(&self, kind: Kind) -> Result<()> {
        let expected = self.log(kind).await?.latest();
        let what = format!("live table {}", kind.live_table());
        eventually(CAUGHT_UP_WITHIN, &what, async || {
            ensure_same(
                &what,
                &expected,
                &postgres::live_table(&self.pipeline.sandbox.schema(), kind).await?,
            )
        })
        .await
    }

    /// Waits until the raw objects of a kind hold exactly the records to be archived, each once.
    pub async fn raw_objects_are_right(&self, kind: Kind) -> Result<()> {
        let (expected, what) = (
            self.log(kind).await?.archived(),
            format!("raw objects of {kind}"),
        );
        let (bucket, topic) = (self.pipeline.sandbox.bucket(), self.pipeline.topic(kind));
        eventually(CAUGHT_UP_WITHIN, &what, async || {
            let lines = objects::raw_lines(bucket, PREFIX, &topic).await?;
            let found = lines
                .into_iter()
                .map(|(position, line)| (position, (line.time, text(&line.raw))));
            ensure_same(&what, &expected, &found.collect())
        })
        .await
    }

    /// Checks that the batch table of a kind holds exactly the latest row of each key.
    pub async fn batch_table_is_right(&self, kind: Kind) -> Result<()> {
        let expected = self
            .log(kind)
            .await?
            .latest()
            .into_iter()
            .map(|(key, row)| (key, in_milliseconds(kind, row)))
            .collect();
        let found = cassandra::batch_table(&self.pipeline.sandbox.keyspace(), kind).await?;
        ensure_same(kind.batch_table(), &expected, &found)
    }
}

impl Log {
    /// The row of the latest record of each key.
    #[must_use]
    pub fn latest(&self) -> BTreeMap<String, Row> {
        let mut latest: BTreeMap<&str, &(Message, Sample)> = BTreeMap::new();
        for entry in &self.good {
            let newest = latest.entry(&entry.1.key).or_insert(entry);
            if entry.0.order() > newest.0.order() {
                *newest = entry;
            }
        }
        latest
            .into_iter()
            .map(|(key, (_, sample))| (key.to_owned(), sample.row.clone()))
            .collect()
    }

    /// Time and content of the records to be archived, by partition and offset.
    fn archived(&self) -> BTreeMap<(i32, i64), (i64, String)> {
        let good = self.good.iter().map(|(message, _)| message);
        let broken = self
            .broken
            .iter()
            .filter(|(_, broken)| broken.is_archived())
            .map(|(message, _)| message);
        good.chain(broken)
            .map(|m| ((m.partition, m.offset), (m.time, text(&m.value))))
            .collect()
    }
}

/// Whether a record is the one that was sent, except for the line breaks that ingest removes.
fn is_same(found: &str, sent: &str) -> bool {
    found == sent
        || (sent.contains('\n') && !found.contains('\n') && compact(found) == compact(sent))
}

/// JSON without the white space outside its strings.
fn compact(json: &str) -> String {
    let (mut quoted, mut escaped) = (false, false);
    json.chars()
        .filter(|c| {
            let kept = quoted || !c.is_ascii_whitespace();
            quoted ^= *c == '"' && !escaped;
            escaped = *c == '\\' && !escaped;
            kept
        })
        .collect()
}

fn text(raw: &[u8]) -> String {
    String::from_utf8_lossy(raw).into_owned()
}
