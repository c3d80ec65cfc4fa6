//! The rows that a server refuses for good, with little memory for each: they may be a hundredth
//! of a large table.

use std::{collections::HashSet, sync::Arc};

use pinpipe_runtime::failure::Refusal;
use serde::{Serialize, Serializer};

use crate::rows::Origin;

/// Most refused rows that are kept with their keys, for the report.
pub const LISTED: usize = 100;
/// Most different refusals whose sentences are kept. Most servers repeat a few; a trigger may say
/// another one for each row.
const SENTENCES: usize = 1000;
/// Stands for any other sentence.
const OTHER: &str = "the sentence is in the worker's log";

/// A row that the server refuses for good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// The table.
    pub table: String,
    /// The row's key, shortened.
    pub key: String,
    /// Why the server refuses it.
    #[serde(serialize_with = "as_text")]
    pub reason: Refusal,
    /// Where its record came from; `None` for an answer.
    #[serde(skip)]
    pub origin: Option<Origin>,
}

fn as_text<S: Serializer>(refusal: &Refusal, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(refusal)
}

/// The refused rows of a table.
#[derive(Debug, Default)]
pub struct RefusedRows {
    first: Vec<Refused>,
    number: u64,
    /// Where the records of all came from, and why they are refused; answers have none.
    records: Vec<(Origin, Arc<Refusal>)>,
    reasons: HashSet<Arc<Refusal>>,
}

impl RefusedRows {
    /// The number of rows.
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// The first rows, [`LISTED`] at most.
    pub fn first(&self) -> &[Refused] {
        &self.first
    }

    /// Where the records of all rows came from, except answers, and why they are refused.
    pub fn records(&self) -> impl Iterator<Item = (Origin, &Refusal)> {
        let records = self.records.iter();
        records.map(|(origin, reason)| (*origin, &**reason))
    }

    /// Adds a row.
    pub fn push(&mut self, row: Refused) {
        if let Some(origin) = row.origin {
            let reason = self.shared(&row.reason);
            self.records.push((origin, reason));
        }
        self.number += 1;
        if self.first.len() < LISTED {
            self.first.push(row);
        }
    }

    /// Adds other rows.
    pub fn append(&mut self, other: Self) {
        for (origin, reason) in other.records {
            let reason = self.shared(&reason);
            self.records.push((origin, reason));
        }
        self.number += other.number;
        let free = LISTED.saturating_sub(self.first.len());
        self.first.extend(other.first.into_iter().take(free));
    }

    fn shared(&mut self, reason: &Refusal) -> Arc<Refusal> {
        if let Some(known) = self.reasons.get(reason) {
            return known.clone();
        }
        let new = if self.reasons.len() < SENTENCES {
            reason.clone()
        } else {
            let other = Refusal::new(&reason.code, OTHER);
            if let Some(known) = self.reasons.get(&other) {
                return known.clone();
            }
            other
        };
        let new = Arc::new(new);
        self.reasons.insert(new.clone());
        new
    }
}

#[cfg(test)]
mod tests {
    use pinpipe_core::Order;

    use super::*;

    fn row(number: usize, sentence: &str) -> Refused {
        Refused {
            table: "t".into(),
            key: number.to_string(),
            reason: Refusal::new("P0001", sentence),
            origin: Some(Origin {
                order: Order {
                    time: 1,
                    partition: 0,
                    offset: i64::try_from(number).unwrap(),
                },
                position: None,
            }),
        }
    }

    #[test]
    fn any_number_of_rows_needs_little_memory_for_each() {
        let mut all = RefusedRows::default();
        for number in 0..10_000 {
            let mut part = RefusedRows::default();
            part.push(row(number, &format!("no {}", number / 2)));
            part.push(row(number, "never"));
            all.append(part);
        }
        assert_eq!((all.number(), all.first().len()), (20_000, LISTED));
        assert_eq!(all.reasons.len(), SENTENCES + 1);
        let records: Vec<_> = all.records().collect();
        assert_eq!(records.len(), 20_000);
        for (number, sentence) in [
            (0, "no 0"),
            (1, "never"),
            (19_998, OTHER),
            (19_999, "never"),
        ] {
            let (origin, reason) = records[number];
            let offset = usize::try_from(origin.order.offset).unwrap();
            assert_eq!((offset, &*reason.sentence), (number / 2, sentence));
            assert_eq!(reason.code, "P0001");
        }
        assert_eq!(all.first()[99].key, "49");
    }
}
