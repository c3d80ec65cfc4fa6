//! The container's memory limit.

use std::fs;

/// Files with the limit, of cgroup v2 and v1, as seen inside a container.
const LIMITS: [&str; 2] = [
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
];

/// The container's memory limit, bytes. `None` if there is no limit.
#[must_use]
pub fn limit() -> Option<usize> {
    bounded(
        LIMITS
            .iter()
            .find_map(|file| fs::read_to_string(file).ok()?.trim().parse().ok())?,
    )
}

/// `None` for no limit, which cgroup v1 expresses as a number larger than any machine's memory.
fn bounded(limit: u64) -> Option<usize> {
    usize::try_from(limit)
        .ok()
        .filter(|limit| *limit < usize::MAX / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_no_limit_value_of_cgroup_v1_is_recognised() {
        assert_eq!(bounded(512 << 20), Some(512 << 20));
        assert_eq!(bounded(9_223_372_036_854_771_712), None);
    }
}
