//! How far a run is.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, SubsecRound as _, Utc};
use serde::Serialize;

/// What a run is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum Step {
    /// Waits for the archive and finds out what to read.
    #[default]
    Read,
    /// Reads and cleans the records.
    Clean,
    /// Keeps the latest row of each key.
    Merge,
    /// Answers the questions.
    Query,
    /// Writes to the sinks.
    Load,
    /// Writes the report and the pointer to it.
    Publish,
}

/// How far a run is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct State {
    /// What it is doing.
    pub step: Step,
    /// Raw records read so far.
    pub read: u64,
    /// Records to be read, at most; absent where that isn't known beforehand.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub of: Option<u64>,
    /// When the step began.
    pub since: DateTime<Utc>,
}

/// How far the run of this process is. Clones are about the same run.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<Mutex<State>>);

impl Progress {
    /// The run begins a step.
    pub fn step(&self, step: Step) {
        let mut state = self.lock();
        if state.step != step {
            state.step = step;
            state.since = Utc::now().trunc_subsecs(0);
        }
    }

    /// A run begins, perhaps after another one of this process.
    pub fn begin(&self) {
        *self.lock() = State {
            since: Utc::now().trunc_subsecs(0),
            ..State::default()
        };
    }

    /// The run has to read so many records.
    pub fn to_read(&self, records: Option<u64>) {
        self.lock().of = records;
    }

    /// The run has read so many more records.
    pub fn read(&self, records: u64) {
        self.lock().read += records;
    }

    /// How far the run is now.
    pub fn now(&self) -> State {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_written_as_the_operator_reads_it() {
        let progress = Progress::default();
        progress.step(Step::Clean);
        progress.to_read(Some(400));
        progress.read(100);
        progress.read(20);
        let since = DateTime::from_timestamp_secs(1_790_000_000).unwrap();
        let state = State {
            since,
            ..progress.now()
        };
        assert_eq!(
            serde_json::to_string(&state).unwrap(),
            r#"{"step":"Clean","read":120,"of":400,"since":"2026-09-21T14:13:20Z"}"#
        );
        progress.begin();
        let state = progress.now();
        assert_eq!((state.step, state.read, state.of), (Step::Read, 0, None));
    }
}
