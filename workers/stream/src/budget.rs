//! How much memory batches may take.

use std::fs;

const MIB: usize = 1 << 20;
/// Without a limit to go by.
const DEFAULT: usize = 256 * MIB;
const LEAST: usize = 16 * MIB;
const MOST: usize = 1024 * MIB;

/// The limit's files, of cgroup version 2 and 1, as a container sees them.
const LIMITS: [&str; 2] = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];

/// The byte budget over all partitions: a third of the container's memory limit. The rest is for librdkafka's own queues, what is
/// on its way to the sink, and the process.
#[must_use]
pub fn bytes() -> usize {
    budget(LIMITS.iter().find_map(|file| fs::read_to_string(file).ok()?.trim().parse().ok()))
}

fn budget(limit: Option<u64>) -> usize {
    // Version 1 says "no limit" by a number beyond any machine's memory.
    let limit = limit.and_then(|limit| usize::try_from(limit).ok()).filter(|limit| *limit < usize::MAX / 4);
    limit.map_or(DEFAULT, |limit| (limit / 3).clamp(LEAST, MOST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_third_of_the_limit_within_bounds() {
        for (limit, expected) in [
            (None, DEFAULT),
            (Some(9_223_372_036_854_771_712), DEFAULT),
            (Some(192 << 20), 64 * MIB),
            (Some(1 << 20), LEAST),
            (Some(64 << 30), MOST),
        ] {
            assert_eq!(budget(limit), expected, "{limit:?}");
        }
    }
}
