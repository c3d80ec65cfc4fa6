//! Exponential backoff with jitter, so that workers that lost a server together don't return to it
//! together.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};

/// Endless delays: `first`, doubled each time up to `longest`, each lengthened by up to its own
/// length at random.
pub fn backoff(first: Duration, longest: Duration) -> impl Iterator<Item = Duration> + Send {
    ExponentialBuilder::new()
        .with_min_delay(first)
        .with_max_delay(longest)
        .without_max_times()
        .with_jitter()
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_longest_with_jitter_and_never_end() {
        let (first, longest) = (Duration::from_millis(200), Duration::from_secs(5));
        let delays: Vec<_> = backoff(first, longest).take(40).collect();
        for (number, delay) in (0..).zip(&delays) {
            let least = longest.min(first * 2_u32.pow(number.min(10)));
            assert!((least..least * 2).contains(delay), "{number}: {delay:?}");
        }
        let another: Vec<_> = backoff(first, longest).take(40).collect();
        assert_ne!(delays, another);
    }
}
