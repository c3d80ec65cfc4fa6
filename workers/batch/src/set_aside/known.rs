//! What a dead-letter topic holds of the records that a sink refuses.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use pinpipe_config::Batch;
use pinpipe_core::Order;
use pinpipe_runtime::dead_letter::{DeadLetterId, Entry};
use rdkafka::Message as _;

use crate::dead_letters::{LetterIdSet, TopicReader, ends};

/// The dead letters of some records.
#[derive(Debug, Default)]
pub struct Known {
    /// Those of the sink, with the order of their records.
    letters: BTreeMap<Order, Vec<DeadLetterId>>,
    /// The ids of these.
    ids: LetterIdSet,
    /// Those that were re-driven.
    redriven: LetterIdSet,
    /// The latest attempt of each record, whatever the sink.
    attempts: BTreeMap<Order, u32>,
}

impl Known {
    /// Reads the topic's dead letters of the records with these orders.
    pub async fn read(
        config: &Batch,
        topic: &str,
        sink: &str,
        orders: &BTreeSet<Order>,
    ) -> Result<Self> {
        let mut known = Self::default();
        let mut reader = TopicReader::new(config, topic, &ends(config, topic)?)?;
        let reading = || format!("reading the topic {topic}");
        while let Some(message) = reader.next().await.with_context(reading)? {
            if let Some(Ok(entry)) = message.headers().map(Entry::read) {
                known.add(entry, sink, orders);
            }
        }
        Ok(known)
    }

    fn add(&mut self, entry: Entry, sink: &str, orders: &BTreeSet<Order>) {
        let is_sinks = |id: &DeadLetterId| id.sink.as_deref() == Some(sink);
        match entry {
            Entry::Mark { id, .. } if is_sinks(&id) => {
                self.redriven.insert(&id);
            }
            Entry::DeadLetter(letter) if orders.contains(&letter.order()) => {
                let order = letter.order();
                let attempt = self.attempts.entry(order).or_default();
                *attempt = letter.attempt().max(*attempt);
                if is_sinks(&letter.id) {
                    self.ids.insert(&letter.id);
                    self.letters.entry(order).or_default().push(letter.id);
                }
            }
            _ => {}
        }
    }

    /// Whether the record with this order can be re-driven for the sink.
    pub fn is_open(&self, order: Order) -> bool {
        let mut letters = self.letters.get(&order).into_iter().flatten();
        letters.any(|id| !self.redriven.contains(id))
    }

    /// Whether a dead letter is there or was re-driven: readers would drop a repeat. Of one that
    /// was, retention may have left the mark alone.
    pub fn has(&self, id: &DeadLetterId) -> bool {
        self.ids.contains(id) || self.redriven.contains(id)
    }

    /// The attempt that a record has as a re-driven one.
    pub fn attempt(&self, order: Order) -> u32 {
        self.attempts.get(&order).copied().unwrap_or(1)
    }
}

#[cfg(test)]
mod tests {
    use pinpipe_runtime::{
        dead_letter::{DeadLetter, Redriven},
        failure::Refusal,
    };

    use super::*;

    fn at(offset: i64) -> Order {
        Order {
            time: 1000 + offset,
            partition: 0,
            offset,
        }
    }

    fn letter(offset: i64, sink: &str, redriven: Option<Redriven>) -> DeadLetter {
        DeadLetter {
            id: DeadLetterId {
                topic_id: "t".into(),
                partition: 0,
                offset,
                sink: Some(sink.into()),
            },
            cluster_id: String::new(),
            topic: String::new(),
            time: at(offset).time,
            verdict: (&Refusal::new("23514", "no")).into(),
            redriven,
        }
    }

    fn mark(id: &DeadLetterId) -> Entry {
        Entry::Mark {
            id: id.clone(),
            run: None,
        }
    }

    #[test]
    fn a_record_is_open_until_the_last_of_its_dead_letters_is_redriven() {
        let first = letter(1, "warehouse", None);
        let copy = Redriven {
            order: at(1),
            attempt: 1,
        };
        let second = letter(9, "warehouse", Some(copy));
        let mut known = Known::default();
        for (entry, open, attempt) in [
            (Entry::DeadLetter(letter(1, "live", None)), false, 1),
            (Entry::DeadLetter(letter(2, "warehouse", None)), false, 1),
            (Entry::DeadLetter(first.clone()), true, 1),
            (mark(&first.id), false, 1),
            (Entry::DeadLetter(second.clone()), true, 2),
            (mark(&letter(9, "live", None).id), true, 2),
            (mark(&second.id), false, 2),
        ] {
            known.add(entry.clone(), "warehouse", &[at(1)].into());
            let found = (known.is_open(at(1)), known.attempt(at(1)));
            assert_eq!(found, (open, attempt), "{entry:?}");
        }
        assert!(known.has(&first.id) && known.has(&second.id));
        assert!(
            !known.has(&letter(2, "warehouse", None).id),
            "not asked for"
        );
        let gone = letter(3, "warehouse", None).id;
        known.add(mark(&gone), "warehouse", &[at(3)].into());
        assert!(known.has(&gone), "its mark is there");
    }
}
