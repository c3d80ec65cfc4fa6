//! Dead letters and redriven records, as Kafka headers.
//!
//! The stream worker writes dead letters and reads redriven records; a batch run writes those of
//! rows that its sinks refuse. A redrive reads dead letters and puts their records back into the
//! pipeline. A dead-letter topic contains
//! - dead letters: the record's key and value unchanged, with headers that say where it was and
//!   what was wrong;
//! - markers: a [`DeadLetterId`] as the key, no value, and the header `pinpipe.redriven`: the dead
//!   letter with that id has been redriven.

mod headers;
mod redriven;
#[cfg(test)]
mod tests;
mod verdict;

use std::fmt;

use pinpipe_core::Order;
use rdkafka::message::{Header, Headers, OwnedHeaders};

use headers::{
    ATTEMPT, CLUSTER_ID, FIELD, KEY, MESSAGE, OFFSET, ORDER_TIME, OUTCOME, PARTITION, REASON,
    REDRIVEN, RUN, SINK, TIMESTAMP, TOPIC, TOPIC_ID, WORKER_VERSION, number, put, text,
};
pub use redriven::{Redriven, UnusableOrder};
use redriven::{order, put_order, put_redriven};
pub use verdict::{Outcome, Verdict};

/// Maximum size of a key copied into the header `pinpipe.key`, bytes. A longer key is only the dead
/// letter's own key: without its value, a dead letter must fit any topic's size limit.
const MAX_KEY_BYTES: usize = 4096;

/// Identifies a dead letter. A dead letter written again after a crash has the same id.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DeadLetterId {
    /// The id of the record's topic.
    pub topic_id: String,
    /// The record's partition.
    pub partition: i32,
    /// The record's offset.
    pub offset: i64,
    /// The sink that refused the record, `batch/<name>` for one of batch runs; none for a record
    /// that can't be keyed.
    pub sink: Option<String>,
}

impl fmt::Display for DeadLetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.topic_id, self.partition, self.offset)?;
        match &self.sink {
            Some(sink) => write!(f, ":{sink}"),
            None => Ok(()),
        }
    }
}

/// A dead letter without its record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// The dead letter's id.
    pub id: DeadLetterId,
    /// The id of the Kafka cluster.
    pub cluster_id: String,
    /// The name of the record's topic.
    pub topic: String,
    /// The record's Kafka timestamp, milliseconds since the epoch.
    pub time: i64,
    /// What was wrong with the record.
    pub verdict: Verdict,
    /// Original order and attempt of a record that had been redriven before.
    pub redriven: Option<Redriven>,
}

/// An entry of a dead-letter topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A dead letter.
    DeadLetter(DeadLetter),
    /// The marker that a dead letter has been redriven.
    Mark {
        /// The dead letter's id.
        id: DeadLetterId,
        /// The name of the redrive, if it has one.
        run: Option<String>,
    },
}

/// A dead letter's header is missing or can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its header {0} is missing or can't be read: it was not written by a worker")]
pub struct InvalidHeader(&'static str);

impl DeadLetter {
    /// The number of attempts so far to process the record: 1 plus the number of redrives.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.redriven
            .map_or(1, |redriven| redriven.attempt.saturating_add(1))
    }

    /// The record's order: the original one if it has been redriven.
    #[must_use]
    pub fn order(&self) -> Order {
        let own = Order {
            time: self.time,
            partition: self.id.partition,
            offset: self.id.offset,
        };
        self.redriven.map_or(own, |redriven| redriven.order)
    }

    /// Headers for the redriven record.
    #[must_use]
    pub fn redrive_headers(&self) -> OwnedHeaders {
        put_redriven(
            OwnedHeaders::new_with_capacity(4),
            Redriven {
                order: self.order(),
                attempt: self.attempt(),
            },
        )
    }

    /// Headers for the marker that this dead letter has been redriven, by a redrive of the name
    /// `run`.
    #[must_use]
    pub fn mark_headers(&self, run: Option<&str>) -> OwnedHeaders {
        let headers = put_id(OwnedHeaders::new_with_capacity(6), &self.id);
        let headers = put(headers, REDRIVEN, &self.attempt().to_string());
        match run {
            Some(run) => put(headers, RUN, run),
            None => headers,
        }
    }

    /// Headers for the dead letter. `key` is the record's key.
    #[must_use]
    pub fn headers(&self, key: Option<&[u8]>) -> OwnedHeaders {
        let Verdict {
            outcome,
            reason,
            field,
            message,
        } = &self.verdict;
        let mut headers = put_id(OwnedHeaders::new_with_capacity(16), &self.id);
        for (name, value) in [
            (TOPIC, self.topic.as_str()),
            (CLUSTER_ID, &self.cluster_id),
            (TIMESTAMP, &self.time.to_string()),
            (OUTCOME, outcome.as_str()),
            (REASON, reason),
            (MESSAGE, message),
            (ATTEMPT, &self.attempt().to_string()),
            (WORKER_VERSION, env!("CARGO_PKG_VERSION")),
        ] {
            headers = put(headers, name, value);
        }
        if let Some(field) = field {
            headers = put(headers, FIELD, field);
        }
        if let Some(key) = key.filter(|key| key.len() <= MAX_KEY_BYTES) {
            headers = headers.insert(Header {
                key: KEY,
                value: Some(key),
            });
        }
        match self.redriven {
            Some(Redriven { order, .. }) => put_order(headers, order),
            None => headers,
        }
    }
}

impl Entry {
    /// Parses the headers of a dead-letter topic's entry. Dead letters without the header
    /// `pinpipe.attempt`, written by earlier releases, count as first attempts.
    pub fn read(headers: &impl Headers) -> Result<Self, InvalidHeader> {
        let text_of = |name| text(headers, name).ok_or(InvalidHeader(name));
        let number_of = |name| number(headers, name).ok_or(InvalidHeader(name));
        let id = DeadLetterId {
            topic_id: text_of(TOPIC_ID)?.to_owned(),
            partition: number(headers, PARTITION).ok_or(InvalidHeader(PARTITION))?,
            offset: number_of(OFFSET)?,
            sink: text(headers, SINK).map(str::to_owned),
        };
        if text(headers, REDRIVEN).is_some() {
            let run = text(headers, RUN).map(str::to_owned);
            return Ok(Self::Mark { id, run });
        }
        let outcome = match text(headers, OUTCOME) {
            None | Some("rejected") => Outcome::Rejected,
            Some("refused") => Outcome::Refused,
            Some(_) => return Err(InvalidHeader(OUTCOME)),
        };
        let attempt: u32 = number(headers, ATTEMPT).unwrap_or(1);
        let order = order(headers).map_err(|_| InvalidHeader(ORDER_TIME))?;
        Ok(Self::DeadLetter(DeadLetter {
            id,
            cluster_id: text(headers, CLUSTER_ID).unwrap_or_default().to_owned(),
            topic: text(headers, TOPIC).unwrap_or_default().to_owned(),
            time: number_of(TIMESTAMP)?,
            verdict: Verdict {
                outcome,
                reason: text_of(REASON)?.to_owned().into(),
                field: text(headers, FIELD).map(|field| field.to_owned().into()),
                message: text(headers, MESSAGE).unwrap_or_default().to_owned(),
            },
            redriven: order.map(|order| Redriven {
                order,
                attempt: attempt.saturating_sub(1).max(1),
            }),
        }))
    }
}

fn put_id(headers: OwnedHeaders, id: &DeadLetterId) -> OwnedHeaders {
    let headers = put(headers, TOPIC_ID, &id.topic_id);
    let headers = put(headers, PARTITION, &id.partition.to_string());
    let headers = put(headers, OFFSET, &id.offset.to_string());
    match &id.sink {
        Some(sink) => put(headers, SINK, sink),
        None => headers,
    }
}
