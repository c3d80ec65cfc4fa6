//! Lag and reject counts that a stream worker reports to the operator at `GET /worker-metrics` of
//! the admin port.
//!
//! The operator compares them with the thresholds in the resource. `/metrics` has them too, but
//! this small document already covers the time window, so that the operator needs no history.
//! Operator and worker may be one release apart: absent fields are zero, unknown fields are
//! ignored.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

/// The HTTP path.
pub const PATH: &str = "/worker-metrics";
/// The time window in which rejected records are counted.
pub const WINDOW: Duration = Duration::from_mins(10);
/// The interval between stored counts.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(15);

/// A worker's report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkerMetrics {
    /// Records between the end of the log and the stored position, of all assigned partitions.
    pub lag: i64,
    /// Number of partitions whose lag is known.
    pub partitions: u32,
    /// Records read within [`WINDOW`].
    pub read: u64,
    /// Records rejected within [`WINDOW`].
    pub rejected: u64,
}

/// Records read and records rejected.
type Counts = (u64, u64);

/// A sliding window over cumulative counts.
#[derive(Debug)]
pub struct RecentCounts(VecDeque<(Instant, Counts)>);

impl Default for RecentCounts {
    fn default() -> Self {
        Self([(Instant::now(), (0, 0))].into())
    }
}

impl RecentCounts {
    /// Takes the cumulative counts so far and returns the counts within [`WINDOW`]. Call it
    /// periodically.
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
        if self
            .0
            .back()
            .is_none_or(|(at, _)| now - *at >= SAMPLE_INTERVAL)
        {
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
    fn counts_older_than_the_window_are_dropped() {
        let mut recent = RecentCounts::default();
        let mut now = Instant::now();
        assert_eq!(recent.count_at(now, (10, 1)), (10, 1));
        now += SAMPLE_INTERVAL;
        assert_eq!(recent.count_at(now, (20, 2)), (20, 2));
        let steps = WINDOW.as_secs() / SAMPLE_INTERVAL.as_secs();
        for _ in 0..steps {
            now += SAMPLE_INTERVAL;
            recent.count_at(now, (20, 2));
        }
        assert_eq!(
            recent.count_at(now, (20, 2)),
            (0, 0),
            "nothing within the window"
        );
        assert_eq!(recent.count_at(now, (25, 3)), (5, 1));
        assert!(recent.0.len() as u64 <= steps + 2, "{}", recent.0.len());
    }

    #[test]
    fn a_report_of_another_release_is_read() {
        let read = |text: &str| serde_json::from_str::<WorkerMetrics>(text).unwrap();
        assert_eq!(read("{}"), WorkerMetrics::default());
        assert_eq!(
            read(r#"{"lag": 3, "seconds": 1}"#),
            WorkerMetrics {
                lag: 3,
                ..WorkerMetrics::default()
            }
        );
    }
}
