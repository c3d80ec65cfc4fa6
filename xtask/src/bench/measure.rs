//! What a process took: time, processor time, memory.

use std::collections::BTreeMap;
use std::fs;
use std::process::Child;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::process;

/// How often a process is looked at: what it uses behind the last look is not seen.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Clock ticks a second in /proc/PID/stat, on every Linux there is.
const TICKS: f64 = 100.0;

/// What a process and its descendants took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// On the wall clock.
    pub seconds: f64,
    /// Of processors, user and system.
    pub cpu: f64,
    /// The largest resident sets, added up, bytes.
    pub peak: u64,
}

/// Looks at a process now and then.
pub struct Watch {
    root: u32,
    begun: Instant,
    /// By process, so that what has ended still counts.
    cpu: BTreeMap<u32, u64>,
    peaks: BTreeMap<u32, u64>,
}

impl Watch {
    pub fn new(root: u32) -> Self {
        Self {
            root,
            begun: Instant::now(),
            cpu: BTreeMap::new(),
            peaks: BTreeMap::new(),
        }
    }

    pub fn look(&mut self) {
        for (pid, cpu) in process::cpu_by_process(self.root) {
            self.cpu.insert(pid, cpu);
            if let Some(peak) = peak(pid) {
                self.peaks.insert(pid, peak);
            }
        }
    }

    pub fn usage(&self) -> Usage {
        Usage {
            seconds: self.begun.elapsed().as_secs_f64(),
            cpu: self.cpu.values().sum::<u64>() as f64 / TICKS,
            peak: self.peaks.values().sum(),
        }
    }

    /// Looks until `done`, or until the time is up.
    pub fn until(
        &mut self,
        patience: Duration,
        mut done: impl FnMut() -> Result<bool>,
    ) -> Result<Usage> {
        loop {
            self.look();
            if done()? {
                return Ok(self.usage());
            }
            ensure!(process::is_alive(self.root), "it ended before it was done");
            ensure!(
                self.begun.elapsed() < patience,
                "not done within {} s",
                patience.as_secs()
            );
            sleep(LOOK_EVERY);
        }
    }
}

/// Waits for the end of a program that does one thing.
pub fn to_the_end(child: &mut Child) -> Result<Usage> {
    let mut watch = Watch::new(child.id());
    loop {
        watch.look();
        if let Some(status) = child.try_wait()? {
            ensure!(status.success(), "it ended with {status}");
            return Ok(watch.usage());
        }
        sleep(LOOK_EVERY);
    }
}

/// The largest resident set so far, bytes; see proc(5).
fn peak(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(
        line.trim()
            .strip_suffix(" kB")?
            .trim()
            .parse::<u64>()
            .ok()?
            * 1024,
    )
}

/// The middle value; of an even number, the mean of the two in the middle.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_the_mean_of_two() {
        for (values, middle) in [
            (vec![3.0], 3.0),
            (vec![9.0, 1.0, 2.0], 2.0),
            (vec![4.0, 1.0, 2.0, 9.0], 3.0),
        ] {
            assert!((median(values) - middle).abs() < f64::EPSILON);
        }
    }
}
