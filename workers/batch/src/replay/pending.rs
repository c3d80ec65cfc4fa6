//! Records that wait to be written to a live table.

use pinpipe_config::WriteMode;
use pinpipe_core::{Kind, Order, clean};
use pinpipe_runtime::failure::Refusal;
use pinpipe_stream::{
    log::Position,
    postgres::rows::Rows,
    sink::{Batch as _, Consumed},
};

use crate::{counts::Counts, decode::Records, refused::Refused, rows::Origin, sink::short_key};

/// Most records of a batch.
const BATCH_RECORDS: usize = 10_000;
/// Bytes of a batch after which it is written.
const BATCH_BYTES: usize = 8 << 20;

/// Cleans raw records into batches, and counts them.
pub struct Pending {
    max_bytes: usize,
    batch: Batch,
    /// Counts of all records.
    pub counts: Counts,
}

/// Clean records of one kind.
pub struct Batch {
    kind: Kind,
    /// The records as rows of the live table.
    pub rows: Rows,
    /// The same, in the same order: key, order and position.
    records: Vec<(String, Order, Order)>,
}

impl Batch {
    fn new(kind: Kind) -> Self {
        Self {
            kind,
            rows: Rows::new(kind, WriteMode::Upsert),
            records: Vec::new(),
        }
    }

    /// The number of records.
    pub const fn records(&self) -> usize {
        self.records.len()
    }

    /// Two halves; `None` of fewer than two records.
    pub fn split(&self) -> Option<(Self, Self)> {
        let (first, second) = self.rows.split()?;
        let (before, behind) = self.records.split_at(first.records());
        let half = |rows, records: &[(String, Order, Order)]| Self {
            kind: self.kind,
            rows,
            records: records.to_vec(),
        };
        Some((half(first, before), half(second, behind)))
    }

    /// The records as rows that the server refuses.
    pub fn refused(self, reason: &Refusal) -> impl Iterator<Item = Refused> {
        let refused = move |(key, order, position)| Refused {
            table: self.kind.to_string(),
            key,
            reason: reason.clone(),
            origin: Some(Origin {
                order,
                position: Some(position),
            }),
        };
        self.records.into_iter().map(refused)
    }
}

impl Pending {
    /// Nothing yet; records over `max_bytes` are rejected.
    pub fn new(kind: Kind, max_bytes: usize) -> Self {
        Self {
            max_bytes,
            batch: Batch::new(kind),
            counts: Counts::default(),
        }
    }

    /// Whether the batch is to be written before more records are read.
    pub fn is_full(&self) -> bool {
        self.batch.records() >= BATCH_RECORDS || self.batch.rows.bytes() >= BATCH_BYTES
    }

    /// Removes and returns the batch.
    pub fn take(&mut self) -> Batch {
        let next = Batch::new(self.batch.kind);
        let mut batch = std::mem::replace(&mut self.batch, next);
        batch.rows.close();
        batch
    }
}

impl Records for Pending {
    fn record(&mut self, raw: &[u8], order: Order, position: Order) -> anyhow::Result<()> {
        let cleaned = clean(self.batch.kind, raw, self.max_bytes);
        match &cleaned {
            Ok(clean) => {
                self.counts.clean(&clean.repairs);
                let key = short_key(&clean.record.key());
                self.batch.records.push((key, order, position));
            }
            Err(rejection) => self.counts.rejected(rejection),
        }
        self.batch.rows.push(Consumed {
            raw,
            position,
            after: Position::offset(position.offset.saturating_add(1)),
            order,
            cleaned: &cleaned,
        });
        Ok(())
    }

    fn max_bytes(&self) -> usize {
        self.max_bytes
    }
}
