//! The order and timing of requests: rounds of several users, with one request per kind, at a fixed
//! rate.

use std::time::Duration;

use pinpipe_core::Kind;
use tokio::time::Instant;

use crate::{Generator, draw::Draw};

/// Rounds per second, if the rate is high enough to fill them.
const ROUNDS_PER_SECOND: u32 = 20;

/// Maximum number of users in a round.
const MAX_ROUND: u32 = 200;

/// The records of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The records' kind.
    pub kind: Kind,
    /// The records as JSON.
    pub records: Vec<String>,
    /// How many records at the end are duplicates of earlier ones.
    pub repeats: usize,
}

/// An iterator over the rounds of requests.
#[derive(Debug)]
pub struct Source {
    generator: Generator,
    repeats: Repeats,
    /// Remaining users. `None` for an endless source.
    left: Option<u64>,
    next_user: u64,
    round: u32,
}

/// Chooses the records that are sent twice.
struct Repeats {
    ratio: f64,
    draw: Draw,
}

impl std::fmt::Debug for Repeats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Repeats")
            .field("ratio", &self.ratio)
            .finish_non_exhaustive()
    }
}

impl Source {
    /// Creates a source of `count` users, or endless if `None`.
    ///
    /// Rounds are sized for `rate`, records per second of all kinds together; 0 for unlimited.
    /// `repeat_ratio`, 0…1, is the ratio of records that are sent twice.
    #[must_use]
    pub fn new(seed: u64, count: Option<u64>, rate: u32, repeat_ratio: f64) -> Self {
        Self {
            generator: Generator::new(seed),
            // A random stream that no user has.
            repeats: Repeats {
                ratio: repeat_ratio,
                draw: Draw::new(seed, u64::MAX),
            },
            left: count,
            next_user: 0,
            round: if rate == 0 {
                MAX_ROUND
            } else {
                (rate / 3 / ROUNDS_PER_SECOND).clamp(1, MAX_ROUND)
            },
        }
    }
}

impl Iterator for Source {
    type Item = [Batch; 3];

    /// Returns the next round: one batch per kind.
    fn next(&mut self) -> Option<[Batch; 3]> {
        let users = self.left.map_or(u64::from(self.round), |left| {
            left.min(u64::from(self.round))
        });
        if users == 0 {
            return None;
        }
        let mut batches = Kind::ALL.map(|kind| Batch {
            kind,
            records: Vec::new(),
            repeats: 0,
        });
        for number in self.next_user..self.next_user + users {
            let triple = self.generator.user(number);
            for batch in &mut batches {
                batch.records.push(triple.of(batch.kind).to_owned());
            }
        }
        self.next_user += users;
        self.left = self.left.map(|left| left - users);
        for batch in &mut batches {
            for _ in 0..users {
                if self.repeats.draw.chance(self.repeats.ratio) {
                    let again = self.generator.user(self.repeats.draw.below(self.next_user));
                    batch.records.push(again.of(batch.kind).to_owned());
                    batch.repeats += 1;
                }
            }
        }
        Some(batches)
    }
}

/// Limits the rate of rounds.
#[derive(Debug)]
pub struct Pace {
    rate: u32,
    due: Instant,
}

impl Pace {
    /// Limits to `rate` records per second; 0 for unlimited.
    #[must_use]
    pub fn new(rate: u32) -> Self {
        Self {
            rate,
            due: Instant::now(),
        }
    }

    /// Waits until a round with this number of records is due.
    pub async fn wait(&mut self, records: usize) {
        if self.rate > 0 {
            let due = self.next(Instant::now(), records);
            tokio::time::sleep_until(due).await;
        }
    }

    /// When a round with this number of records is due. Catches up a delay of at most one second.
    fn next(&mut self, now: Instant, records: usize) -> Instant {
        let due = self
            .due
            .max(now.checked_sub(Duration::from_secs(1)).unwrap_or(self.due));
        self.due = due + Duration::from_secs_f64(records as f64 / f64::from(self.rate));
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals(source: Source) -> (Vec<usize>, usize) {
        let mut records = vec![0; 3];
        let mut repeats = 0;
        for round in source {
            for (total, batch) in records.iter_mut().zip(round) {
                *total += batch.records.len() - batch.repeats;
                repeats += batch.repeats;
            }
        }
        (records, repeats)
    }

    #[test]
    fn count_is_per_kind_and_excludes_duplicates() {
        assert_eq!(totals(Source::new(1, Some(0), 0, 0.5)), (vec![0, 0, 0], 0));
        assert_eq!(
            totals(Source::new(1, Some(451), 0, 0.0)),
            (vec![451, 451, 451], 0)
        );
        let (records, repeats) = totals(Source::new(1, Some(1000), 600, 0.05));
        assert_eq!(records, [1000, 1000, 1000]);
        assert!((100..200).contains(&repeats), "{repeats}");
    }

    #[test]
    fn rounds_are_sized_for_the_rate() {
        for (rate, users) in [(0, 200), (1, 1), (3000, 50), (1_000_000, 200)] {
            let round = Source::new(1, None, rate, 0.0).next().unwrap();
            assert_eq!(round[0].records.len(), users, "{rate}");
        }
    }

    #[test]
    fn the_rate_is_kept_and_long_delays_are_not_caught_up() {
        let mut pace = Pace::new(100);
        let start = pace.due;
        let ms = |due: Instant| (due - start).as_millis();
        assert_eq!(
            [0, 500, 1000],
            [start, start, start].map(|now| ms(pace.next(now, 50)))
        );
        let later = start + Duration::from_secs(10);
        assert_eq!(
            [9000, 9500, 10_000, 10_500],
            [later; 4].map(|now| ms(pace.next(now, 50)))
        );
    }
}
