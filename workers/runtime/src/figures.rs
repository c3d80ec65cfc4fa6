//! What a stream worker tells the operator of its lag and of the records it rejected, at `GET
//! /figures` of the admin port.
//!
//! The metrics have all of it and much more; this is what thresholds in the resource are held
//! against, in one small answer that needs no history of whoever asks. Either side may be a release
//! older: what is absent is zero, what is new is passed over.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

/// Where it is told.
pub const PATH: &str = "/figures";
/// How far back rejected records are counted.
pub const WINDOW: Duration = Duration::from_mins(10);
/// How far apart the counts are that are remembered.
const STEP: Duration = Duration::from_secs(15);

/// What a worker tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Figures {
    /// Records between the logs' ends and what is stored, of the partitions it has.
    pub lag: i64,
    /// Partitions of which it knows that.
    pub partitions: u32,
    /// Records read within the [`WINDOW`].
    pub read: u64,
    /// Of these, the rejected ones.
    pub rejected: u64,
}

/// Records read, and of these the rejected ones.
type Counts = (u64, u64);

/// Counts as they were, from the window's beginning on.
#[derive(Debug)]
pub struct Recent(VecDeque<(Instant, Counts)>);

impl Default for Recent {
    fn default() -> Self {
        Self([(Instant::now(), (0, 0))].into())
    }
}

impl Recent {
    /// What was counted within the window, of all that was counted so far. To be called now and
    /// then.
    pub fn count(&mut self, counts: Counts) -> Counts {
        self.count_at(Instant::now(), counts)
    }

    fn count_at(&mut self, now: Instant, (read, rejected): Counts) -> Counts {
        let before = |counts: &VecDeque<(Instant, Counts)>| {
            counts.get(1).is_some_and(|(at, _)| now - *at >= WINDOW)
        };
        while before(&self.0) {
            self.0.pop_front();
        }
        let (read_before, rejected_before) = self.0.front().map_or((0, 0), |(_, counts)| *counts);
        if self.0.back().is_none_or(|(at, _)| now - *at >= STEP) {
            self.0.push_back((now, (read, rejected)));
        }
        (
            read.saturating_sub(read_before),
            rejected.saturating_sub(rejected_before),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_longer_ago_than_the_window_is_forgotten() {
        let mut recent = Recent::default();
        let mut now = Instant::now();
        assert_eq!(recent.count_at(now, (10, 1)), (10, 1));
        now += STEP;
        assert_eq!(recent.count_at(now, (20, 2)), (20, 2));
        let steps = WINDOW.as_secs() / STEP.as_secs();
        for _ in 0..steps {
            now += STEP;
            recent.count_at(now, (20, 2));
        }
        assert_eq!(recent.count_at(now, (20, 2)), (0, 0), "nothing since");
        assert_eq!(recent.count_at(now, (25, 3)), (5, 1));
        assert!(recent.0.len() as u64 <= steps + 2, "{}", recent.0.len());
    }

    #[test]
    fn an_answer_of_another_release_is_read() {
        let read = |text: &str| serde_json::from_str::<Figures>(text).unwrap();
        assert_eq!(read("{}"), Figures::default());
        assert_eq!(
            read(r#"{"lag": 3, "seconds": 1}"#),
            Figures {
                lag: 3,
                ..Figures::default()
            }
        );
    }
}
