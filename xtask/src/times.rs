//! When each step of this run started and how long it took, for a table at the end.

use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;

struct Step {
    title: String,
    start: Instant,
    took: Duration,
    failed: bool,
}

static STEPS: Mutex<Vec<Step>> = Mutex::new(Vec::new());

/// Does some work and records its time under a title.
pub fn of<T>(title: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let result = work();
    let step = Step {
        title: title.to_owned(),
        start,
        took: start.elapsed(),
        failed: result.is_err(),
    };
    STEPS
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(step);
    result
}

/// All steps that ended, in the order of their starts: offset from the first start, duration,
/// title. Steps overlap.
pub fn table() -> String {
    let mut steps = STEPS.lock().unwrap_or_else(PoisonError::into_inner);
    steps.sort_by_key(|step| step.start);
    shown(&steps)
}

fn shown(steps: &[Step]) -> String {
    let mut text = String::from("   start    took  step\n");
    for step in steps {
        let start = step.start.duration_since(steps[0].start);
        let failed = if step.failed { " (FAILED)" } else { "" };
        let (start, took) = (clock(start), clock(step.took));
        let _ = writeln!(text, "{start:>8}{took:>8}  {}{failed}", step.title);
    }
    text
}

/// Minutes and seconds.
fn clock(time: Duration) -> String {
    let seconds = (time.as_millis() + 500) / 1000;
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_counts_from_the_first_start() {
        let begun = Instant::now();
        let step = |title: &str, start, took, failed| Step {
            title: title.to_owned(),
            start: begun + Duration::from_secs(start),
            took: Duration::from_millis(took),
            failed,
        };
        let steps = [step("a", 3, 600, false), step("b", 65, 75_400, true)];
        let expected =
            "   start    took  step\n    0:00    0:01  a\n    1:02    1:15  b (FAILED)\n";
        assert_eq!(shown(&steps), expected);
    }
}
