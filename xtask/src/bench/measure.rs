//! The time, CPU time and memory that a process uses.

use std::collections::BTreeMap;
use std::fs;
use std::process::Child;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::process;

/// How often a process is sampled. Usage after the last sample is missed.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Clock ticks per second in /proc/PID/stat, the same on every Linux.
const TICKS: f64 = 100.0;

/// The usage of a process and its descendants.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Wall-clock time, seconds.
    pub seconds: f64,
    /// CPU time, user and system, seconds.
    pub cpu: f64,
    /// The sum of the processes' largest resident sets, bytes.
    pub peak: u64,
}

/// Samples a process.
pub struct Watch {
    root: u32,
    begun: Instant,
    /// By process, so that processes that ended still count.
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

    /// Samples until `done` or until the time is up.
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

/// Samples a program until it ends.
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

/// The median; for an even number of values the mean of the two in the middle.
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
