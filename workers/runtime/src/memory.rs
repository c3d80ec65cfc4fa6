//! The container's memory limit.

use std::fs;

/// The limit's files, of cgroup version 2 and 1, as a container sees them.
const LIMITS: [&str; 2] = [
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
];

/// The memory limit of this container, bytes; none: there is no limit.
#[must_use]
pub fn limit() -> Option<usize> {
    bounded(
        LIMITS
            .iter()
            .find_map(|file| fs::read_to_string(file).ok()?.trim().parse().ok())?,
    )
}

/// Version 1 says "no limit" by a number beyond any machine's memory.
fn bounded(limit: u64) -> Option<usize> {
    usize::try_from(limit)
        .ok()
        .filter(|limit| *limit < usize::MAX / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_beyond_any_memory_is_no_limit() {
        assert_eq!(bounded(512 << 20), Some(512 << 20));
        assert_eq!(bounded(9_223_372_036_854_771_712), None);
    }
}
