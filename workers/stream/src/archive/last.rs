//! The search for the last raw object of a partition. Pure.
//!
//! A folder can hold years of objects. So they are not listed: the search jumps ahead in steps that
//! double, then halves what is left, and reads a page of keys at each place.

use pinpipe_runtime::raw_zone::RawObject;

/// Positions from here on have more than the ten digits that keys are padded to, so that the
/// store's order of keys is no longer the log's.
pub const LONG_KEYS: i64 = 10_000_000_000;

/// Some raw objects in the store's order of keys.
pub struct Page {
    pub objects: Vec<RawObject>,
    /// Whether no object follows.
    pub is_last: bool,
}

/// What the search found.
pub enum Found {
    Last(Option<RawObject>),
    /// Keys of more than ten digits: all must be listed.
    LongKeys,
}

/// The state of a search.
pub struct Search {
    best: Option<RawObject>,
    /// No object is at this position or behind it.
    end: i64,
    step: i64,
}

impl Search {
    /// A search that has seen nothing.
    pub const fn new() -> Self {
        Self {
            best: None,
            end: LONG_KEYS,
            step: 0,
        }
    }

    /// The position at which the next page is to begin; none where nothing is left to search.
    pub fn next(&self) -> Option<i64> {
        let at = match &self.best {
            None => 0,
            Some(best) if self.step > 0 && best.first + self.step < self.end => {
                best.first + self.step
            }
            Some(best) => best.first + 1 + (self.end - best.first - 1) / 2,
        };
        (at < self.end).then_some(at)
    }

    /// Takes the page that begins at `at`; returns the result once it is known.
    pub fn take(&mut self, at: i64, page: Page) -> Option<Found> {
        if page.objects.iter().any(|object| object.first >= LONG_KEYS) {
            return Some(Found::LongKeys);
        }
        let Some(found) = page.objects.into_iter().next_back() else {
            (self.end, self.step) = (at, 0);
            return None;
        };
        if page.is_last {
            return Some(Found::Last(Some(found)));
        }
        if self.end == LONG_KEYS {
            let begun = self.best.as_ref().map_or(0, |best| best.first);
            self.step = (found.first - begun).max(1) * 2;
        }
        self.best = Some(found);
        None
    }

    /// The result where nothing is left to search.
    pub fn finish(self) -> Found {
        Found::Last(self.best)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The last object of those at `firsts`, and the pages of 1,000 keys that were read.
    fn search(firsts: &[i64]) -> (Option<i64>, usize) {
        let (mut search, mut pages) = (Search::new(), 0);
        let found = loop {
            let Some(at) = search.next() else {
                break search.finish();
            };
            pages += 1;
            let from = firsts.partition_point(|first| *first < at);
            let objects = firsts[from..].iter().take(1000).map(|first| RawObject {
                key: first.to_string(),
                first: *first,
                bytes: 0,
            });
            let page = Page {
                objects: objects.collect(),
                is_last: firsts.len() - from <= 1000,
            };
            if let Some(found) = search.take(at, page) {
                break found;
            }
        };
        match found {
            Found::Last(object) => (object.map(|object| object.first), pages),
            Found::LongKeys => (Some(-1), pages),
        }
    }

    #[test]
    fn the_last_object_of_many_is_found_by_few_pages() {
        let steady = |count: i64, each: i64| (0..count).map(|n| n * each).collect::<Vec<_>>();
        let mut uneven = steady(50_000, 1);
        uneven.extend((1..50_000).map(|n| 50_000 + n * 97_531));
        let mut late = steady(100_000, 90_000);
        for first in &mut late {
            *first += 999_999_999;
        }
        for (firsts, most) in [
            (vec![], 1),
            (vec![5], 1),
            (steady(1000, 7), 1),
            (steady(105_000, 90_000), 25),
            (steady(105_000, 1), 40),
            (uneven, 40),
            (late, 25),
        ] {
            let (found, pages) = search(&firsts);
            assert_eq!(found, firsts.last().copied());
            assert!(pages <= most, "{pages} pages of {} objects", firsts.len());
        }
    }

    #[test]
    fn longer_keys_than_ten_digits_are_left_to_a_whole_list() {
        assert_eq!(search(&[0, LONG_KEYS]).0, Some(-1));
    }
}
