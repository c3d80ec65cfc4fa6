//! How much memory batches may take.

use pinpipe_runtime::memory;

const MIB: usize = 1 << 20;
/// Without a limit to go by.
const DEFAULT: usize = 256 * MIB;
const LEAST: usize = 16 * MIB;
const MOST: usize = 1024 * MIB;

/// The byte budget over all partitions: a third of the container's memory limit. The rest is for
/// librdkafka's own queues, what is on its way to the sink, and the process.
#[must_use]
pub fn bytes() -> usize {
    budget(memory::limit())
}

fn budget(limit: Option<usize>) -> usize {
    limit.map_or(DEFAULT, |limit| (limit / 3).clamp(LEAST, MOST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_third_of_the_limit_within_bounds() {
        for (limit, expected) in [
            (None, DEFAULT),
            (Some(192 * MIB), 64 * MIB),
            (Some(MIB), LEAST),
            (Some(64 << 30), MOST),
        ] {
            assert_eq!(budget(limit), expected, "{limit:?}");
        }
    }
}
