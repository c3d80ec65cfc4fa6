//! Records sent into a pipeline, and what every store must hold because of them.
//!
//! The topics themselves say in which order records came (`LogAppendTime`, partition, offset); what
//! each record means is known from the sample it was made as.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{
    Kind, Pipeline,
    broken::Broken,
    cassandra, ensure_same, eventually,
    ingest::{self, Ack, Answer, Form},
    kafka::{self, Message},
    objects,
    postgres::{self, Row},
    samples::{Sample, in_milliseconds},
};

/// How long the stream worker and the archive may take until they have everything.
const CAUGHT_UP_WITHIN: Duration = Duration::from_mins(2);

/// The prefix of raw objects when a pipeline names none.
pub const PREFIX: &str = "topics";

/// What was sent into one pipeline.
pub struct Flow {
    /// The pipeline.
    pub pipeline: Pipeline,
    /// Samples by their bytes, white space between JSON's tokens left out: ingest brings a record
    /// to one line.
    sent: HashMap<String, Sample>,
    /// Every acknowledgement and the bytes it was for.
    acknowledged: Vec<(Ack, String)>,
    /// Broken records by topic, partition and offset.
    broken: BTreeMap<(Kind, i32, i64), Broken>,
}

/// A topic as it stands, each record with what was sent.
pub struct Log {
    /// The kind.
    pub kind: Kind,
    /// Well-formed records.
    pub good: Vec<(Message, Sample)>,
    /// Broken ones.
    pub broken: Vec<(Message, Broken)>,
}

impl Flow {
    /// Nothing sent yet.
    #[must_use]
    pub fn new(pipeline: &Pipeline) -> Self {
        Self {
            pipeline: pipeline.clone(),
            sent: HashMap::new(),
            acknowledged: Vec::new(),
            broken: BTreeMap::new(),
        }
    }

    /// Posts samples of a kind in requests of `size`, in all three forms in turn.
    pub async fn send(&mut self, kind: Kind, samples: Vec<Sample>, size: usize) -> Result<()> {
        for (n, chunk) in samples.chunks(size).enumerate() {
            // A record that spans lines can't stand among records of one line each.
            let (spread, flat): (Vec<Sample>, Vec<Sample>) =
                chunk.iter().cloned().partition(|s| s.raw.contains('\n'));
            let form = if n % 2 == 0 { Form::Lines } else { Form::Array };
            self.post(kind, &flat, form).await?;
            match n % 3 {
                0 => self.post(kind, &spread, Form::Array).await?,
                _ => {
                    for sample in spread {
                        self.post(kind, &[sample], Form::Object).await?;
                    }
                }
            }
        }
        Ok(())
    }

    async fn post(&mut self, kind: Kind, samples: &[Sample], form: Form) -> Result<()> {
        if samples.is_empty() {
            return Ok(());
        }
        self.sent.extend(
            samples
                .iter()
                .map(|sample| (squeezed(&sample.raw), sample.clone())),
        );
        let acks = ingest::send(&self.pipeline, kind, samples, form).await?;
        self.acknowledged.extend(
            acks.into_iter()
                .zip(samples.iter().map(|sample| sample.raw.clone())),
        );
        Ok(())
    }

    /// Posts samples of a kind in one request, which may be refused, whole or in part. Gives the
    /// answer.
    pub async fn offer(&mut self, kind: Kind, samples: &[Sample]) -> Result<Answer> {
        self.sent.extend(
            samples
                .iter()
                .map(|sample| (squeezed(&sample.raw), sample.clone())),
        );
        let answer = ingest::offer(&self.pipeline, kind, samples, Form::Array).await?;
        // Whoever answers in ingest's place (a proxy that reaches no pod) acknowledges nothing.
        let records = answer
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
        Ok(answer)
    }

    /// Writes broken records to the topic, past ingest.
    pub async fn send_broken(&mut self, kind: Kind, records: Vec<Broken>) -> Result<()> {
        let written: Vec<_> = records
            .iter()
            .map(|broken| (broken.key.clone(), broken.raw.clone()))
            .collect();
        let places = kafka::write(&self.pipeline.topic(kind), &written).await?;
        self.broken.extend(
            places
                .into_iter()
                .zip(records)
                .map(|((p, offset), broken)| ((kind, p, offset), broken)),
        );
        Ok(())
    }

    /// Reads a topic. Fails where it holds what was never sent, or lacks what was acknowledged.
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
                .get(&squeezed(&raw))
                .filter(|sample| is(&raw, &sample.raw));
            let sample =
                sample.with_context(|| format!("{topic} holds what nobody sent: {raw}"))?;
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
                found.is_some_and(|found| is(found, raw)),
                "{ack:?} is not {raw}, but {found:?}"
            );
        }
        Ok(log)
    }

    /// How many records were acknowledged.
    #[must_use]
    pub fn acknowledged(&self) -> usize {
        self.acknowledged.len()
    }

    /// Waits until the live table of a kind holds the rows it must, and no others.
    pub async fn live_table_is_right(&self, kind: Kind) -> Result<()> {
        let expected = self.log(kind).await?.latest();
        let what = format!("live table {}", kind.live_table());
        eventually(CAUGHT_UP_WITHIN, &what, async || {
            ensure_same(
                &what,
                &expected,
                &postgres::live_table(&self.pipeline.space.schema(), kind).await?,
            )
        })
        .await
    }

    /// Waits until the raw objects of a kind hold every record they must once, and nothing else.
    pub async fn raw_objects_are_right(&self, kind: Kind) -> Result<()> {
        let (expected, what) = (
            self.log(kind).await?.archived(),
            format!("raw objects of {kind}"),
        );
        let (bucket, topic) = (self.pipeline.space.bucket(), self.pipeline.topic(kind));
        eventually(CAUGHT_UP_WITHIN, &what, async || {
            let lines = objects::raw_lines(bucket, PREFIX, &topic).await?;
            let found = lines
                .into_iter()
                .map(|(place, line)| (place, (line.time, text(&line.raw))));
            ensure_same(&what, &expected, &found.collect())
        })
        .await
    }

    /// Checks the batch table of a kind.
    pub async fn batch_table_is_right(&self, kind: Kind) -> Result<()> {
        let expected = self
            .log(kind)
            .await?
            .latest()
            .into_iter()
            .map(|(key, row)| (key, in_milliseconds(kind, row)))
            .collect();
        let found = cassandra::batch_table(&self.pipeline.space.keyspace(), kind).await?;
        ensure_same(kind.batch_table(), &expected, &found)
    }
}

impl Log {
    /// The row each key must have: the latest record's.
    #[must_use]
    pub fn latest(&self) -> BTreeMap<String, Row> {
        let mut latest: BTreeMap<&str, &(Message, Sample)> = BTreeMap::new();
        for entry in &self.good {
            let place = latest.entry(&entry.1.key).or_insert(entry);
            if entry.0.order() > place.0.order() {
                *place = entry;
            }
        }
        latest
            .into_iter()
            .map(|(key, (_, sample))| (key.to_owned(), sample.row.clone()))
            .collect()
    }

    /// What the raw objects must hold, by partition and offset.
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

/// Whether a record is what was sent: to the byte, but for the line breaks of one that spanned
/// lines.
fn is(found: &str, sent: &str) -> bool {
    found == sent
        || (sent.contains('\n') && !found.contains('\n') && squeezed(found) == squeezed(sent))
}

/// JSON without the white space outside its strings.
fn squeezed(json: &str) -> String {
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
