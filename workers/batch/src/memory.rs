//! How the pod's memory is shared out among the steps of a run, which come one after the other.

use std::fs;

use pinpipe_runtime::memory;

/// Without a limit to go by.
const DEFAULT: usize = 1 << 30;

/// Bytes for each step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Rows that wait to be written to disk: while reading, and again while buckets are merged.
    pub waiting: usize,
    /// Buckets being merged.
    pub merging: usize,
    /// What a query may hold before it goes to disk.
    pub questions: usize,
}

impl Memory {
    /// For this container's limit.
    pub fn here() -> Self {
        Self::of(memory::limit().unwrap_or(DEFAULT))
    }

    /// The rest is for what is on its way in and out, and for the process.
    const fn of(limit: usize) -> Self {
        Self {
            waiting: limit / 8,
            merging: limit / 4,
            questions: limit / 4,
        }
    }
}

/// The most memory this process has had so far, bytes; none where the kernel doesn't say.
pub fn peak() -> Option<u64> {
    high_water(&fs::read_to_string("/proc/self/status").ok()?)
}

fn high_water(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_high_water_mark_is_found() {
        assert_eq!(
            high_water("VmPeak:\t 9 kB\nVmHWM:\t   1024 kB\nVmRSS:\t  10 kB\n"),
            Some(1 << 20)
        );
        assert_eq!(high_water("VmRSS:\t  10 kB\n"), None);
    }

    #[test]
    fn steps_that_overlap_leave_half_of_the_limit() {
        let memory = Memory::of(512 << 20);
        assert!(
            memory.waiting + memory.merging <= 256 << 20 && memory.questions <= 256 << 20,
            "{memory:?}"
        );
    }
}
