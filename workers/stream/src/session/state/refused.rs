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
    /// The limit was reached, and no record was stored since.
    over: bool,
}

impl Refused {
    /// Counts records that were stored.
    pub const fn stored(&mut self, records: usize) {
        self.stored += records as u64;
        if records > 0 {
            self.over = false;
        }
    }

    /// Whether one more refused record may be set aside; counts it then. Once it may not, it may
    /// not until a record is stored: a person has corrected something.
    pub fn may_set_aside(&mut self, now: Instant) -> bool {
        while !self.over
            && let Some((at, stored)) = self.recent.front()
            && (now.duration_since(*at) > WINDOW_TIME || self.stored - stored >= WINDOW)
        {
            self.recent.pop_front();
        }
        self.over = self.recent.len() >= LIMIT;
        if !self.over {
            self.recent.push_back((now, self.stored));
        }
        !self.over
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
        let later = start + WINDOW_TIME + Duration::from_secs(1);
        assert!(!refused.may_set_aside(later), "nobody has corrected it");
        refused.stored(1);
        assert!(refused.may_set_aside(later), "those are ten minutes ago");
        let mut refused = Refused::default();
        for _ in 0..10 {
            assert!((0..LIMIT).all(|_| refused.may_set_aside(start)));
            refused.stored(10_000);
        }
    }
}
