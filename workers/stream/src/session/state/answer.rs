//! The sink's answers.

use std::time::{Duration, Instant};

use super::{Key, Member, State, refused};
use crate::{
    buffer::Sealed,
    dead_letter::Acknowledgement,
    sink::{Answer, Batch, Halt, Refusal},
};

impl<B: Batch, D: Acknowledgement> State<B, D> {
    /// A commit has ended with an answer for each of its batches, after `took`.
    pub fn on_committed(
        &mut self,
        id: u64,
        answers: Vec<(Member<B, D>, Answer)>,
        took: Duration,
        now: Instant,
    ) {
        if !self.finish_commit(id, took) {
            return;
        }
        for (member, answer) in answers {
            self.on_answer(member, answer, now);
        }
    }

    fn on_answer(&mut self, member: Member<B, D>, answer: Answer, now: Instant) {
        let Member {
            key,
            generation,
            sealed,
            ..
        } = member;
        let Some(partition) = self
            .partitions
            .get_mut(&key)
            .filter(|partition| partition.generation == generation)
        else {
            return;
        };
        let Some(buffer) = &mut partition.buffer else {
            return;
        };
        match answer {
            Answer::Stored(stored) | Answer::AlreadyStored(stored) => {
                partition.refused.stored(sealed.batch.records());
                let ahead = buffer.committed(sealed.to, stored);
                let next = partition.letters.read_from(stored);
                if ahead {
                    buffer.restart(next);
                }
                let done = buffer.done();
                partition.set_aside.retain(|after, _| *after > done);
                if ahead {
                    self.seek(key, next);
                }
            }
            Answer::Moved => {
                tracing::warn!(
                    source = %buffer.source(),
                    "another worker has moved the position: continuing from there"
                );
                self.look_up(key, false);
            }
            Answer::Halt(halt) => self.halt(key, halt, now),
            Answer::Refused(refusal) => self.on_refused(key, &sealed, refusal, now),
        }
    }

    /// Splits a refused batch, down to the record that is refused. That one is read again, to be
    /// set aside in the dead letters.
    fn on_refused(&mut self, key: Key, sealed: &Sealed<B>, refusal: Refusal, now: Instant) {
        let Some(partition) = self.partitions.get_mut(&key) else {
            return;
        };
        let Some(buffer) = &mut partition.buffer else {
            return;
        };
        if let Some((first, second)) = sealed.batch.split() {
            buffer.split(sealed, first, second);
            return;
        }
        let source_name = buffer.source().to_string();
        let refused = sealed.batch.last().filter(|_| sealed.batch.records() == 1);
        match refused {
            Some(after) if partition.refused.may_set_aside(now) => {
                tracing::warn!(
                    source = source_name,
                    before = %after,
                    code = refusal.code,
                    why = refusal.sentence,
                    "the sink refuses a record, which is set aside in the dead letters"
                );
                partition.set_aside.insert(after, refusal);
                let done = buffer.done();
                buffer.restart(done);
                self.seek(key, done);
            }
            _ => {
                let halt = Halt::RecordsRefused {
                    source_name,
                    offset: refused.unwrap_or(sealed.to).next_offset() - 1,
                    limit: refused::LIMIT,
                    of: refused::WINDOW,
                    code: refusal.code,
                    sentence: refusal.sentence,
                };
                self.halt(key, halt, now);
            }
        }
    }
}
