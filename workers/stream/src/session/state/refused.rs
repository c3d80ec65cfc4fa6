//! How many records a store refuses.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// The refused records of a window that are set aside.
pub const LIMIT: usize = 100;
/// The records of a window, so that the limit is one percent of them.
pub const WINDOW: u64 = 10_000;
/// The longest time of a window.
const WINDOW_TIME: Duration = Duration::from_mins(10);

/// The refused records of a partition, among its last [`WINDOW`] records or [`WINDOW_TIME`].
#[derive(Debug, Default)]
pub struct Refused {
    /// The records stored so far.
    stored: u64,
    /// When each record was refused, and how many had been stored.
    recent: VecDeque<(Instant, u64)>,
}

impl Refused {
    /// Counts records that were stored.
    pub const fn stored(&mut self, records: usize) {
        self.stored += records as u64;
    }

    /// Whether one more refused record may be set aside; counts it then.
    pub fn may_set_aside(&mut self, now: Instant) -> bool {
        while let Some((at, stored)) = self.recent.front()
            && (now.duration_since(*at) > WINDOW_TIME || self.stored - stored >= WINDOW)
        {
            self.recent.pop_front();
        }
        let may = self.recent.len() < LIMIT;
        if may {
            self.recent.push_back((now, self.stored));
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_records_of_ten_thousand_or_ten_minutes_are_set_aside() {
        let (start, mut refused) = (Instant::now(), Refused::default());
        assert!((0..LIMIT).all(|_| refused.may_set_aside(start)));
        assert!(!refused.may_set_aside(start));
        assert!(!refused.may_set_aside(start + WINDOW_TIME));
        let later = start + WINDOW_TIME + Duration::from_secs(1);
        assert!((0..LIMIT).all(|_| refused.may_set_aside(later)));
        assert!(!refused.may_set_aside(later));
        let mut refused = Refused::default();
        for _ in 0..10 {
            assert!((0..LIMIT).all(|_| refused.may_set_aside(start)));
            refused.stored(10_000);
        }
    }
}
