//! The memory budget of the batches.

use pinpipe_runtime::memory;

const MIB: usize = 1 << 20;
/// The budget where the container has no memory limit.
const DEFAULT: usize = 256 * MIB;
const MIN: usize = 16 * MIB;
const MAX: usize = 1024 * MIB;

/// The byte budget of all partitions together: a third of the container's memory limit. The rest is
/// for librdkafka's queues, requests to the sink and the process itself.
#[must_use]
pub fn bytes() -> usize {
    budget(memory::limit())
}

fn budget(limit: Option<usize>) -> usize {
    limit.map_or(DEFAULT, |limit| (limit / 3).clamp(MIN, MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_third_of_the_limit_within_bounds() {
        for (limit, expected) in [
            (None, DEFAULT),
            (Some(192 * MIB), 64 * MIB),
            (Some(MIB), MIN),
            (Some(64 << 30), MAX),
        ] {
            assert_eq!(budget(limit), expected, "{limit:?}");
        }
    }
}
