//! How the pod's memory is divided among the steps of a run.

use std::fs;

use pinpipe_runtime::memory;

/// Memory limit of a container without one.
const DEFAULT_LIMIT: usize = 1 << 30;

/// Memory of each step, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Rows to be written to disk, while raw objects are read and while buckets are merged.
    pub buffers: usize,
    /// Buckets that are merged concurrently.
    pub merging: usize,
    /// Queries; they spill what exceeds this.
    pub queries: usize,
}

impl Memory {
    /// The division of this container's memory limit.
    pub fn of_container() -> Self {
        Self::of(memory::limit().unwrap_or(DEFAULT_LIMIT))
    }

    /// Leaves the rest to requests in progress and the process itself.
    pub const fn of(limit: usize) -> Self {
        Self {
            buffers: limit / 8,
            merging: limit / 4,
            queries: limit / 4,
        }
    }
}

/// Peak resident memory of this process, bytes; `None` if the kernel doesn't report it.
pub fn peak() -> Option<u64> {
    high_water_mark(&fs::read_to_string("/proc/self/status").ok()?)
}

fn high_water_mark(status: &str) -> Option<u64> {
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
    fn the_high_water_mark_is_parsed() {
        assert_eq!(
            high_water_mark("VmPeak:\t 9 kB\nVmHWM:\t   1024 kB\nVmRSS:\t  10 kB\n"),
            Some(1 << 20)
        );
        assert_eq!(high_water_mark("VmRSS:\t  10 kB\n"), None);
    }

    #[test]
    fn concurrent_steps_leave_half_of_the_limit() {
        let memory = Memory::of(512 << 20);
        assert!(
            memory.buffers + memory.merging <= 256 << 20 && memory.queries <= 256 << 20,
            "{memory:?}"
        );
    }
}
