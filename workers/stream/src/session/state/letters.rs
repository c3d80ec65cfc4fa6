//! How far the dead letters of rejected records are written: a position of its own, since another
//! sink may have written them before, and may write them next.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

use super::{Action, Key, State};
use crate::{
    dead_letter::Acknowledgement,
    log::{Position, Topic},
    sink::{Batch, Source},
};

/// A partition's dead letters.
#[derive(Debug)]
pub struct Letters<D> {
    /// The topic that the positions are of; none before the first look-up.
    topic: Option<Arc<Topic>>,
    /// The position up to which rejected records have their dead letters, acknowledged or pending.
    /// None where another sink writes them.
    written: Option<Position>,
    /// The position that is known to be committed.
    committed: Option<Position>,
    pending: VecDeque<PendingLetter<D>>,
}

#[derive(Debug)]
struct PendingLetter<D> {
    /// The position behind its record.
    after: Position,
    /// The position up to which everything is written before it; none for a refused record, which
    /// only this sink's position waits for, and for one of another topic that had the name.
    before: Option<Position>,
    letter: D,
}

impl<D: Acknowledgement> Letters<D> {
    /// Dead letters of a partition that another sink writes.
    pub const fn new() -> Self {
        Self {
            topic: None,
            written: None,
            committed: None,
            pending: VecDeque::new(),
        }
    }

    /// Goes on where the look-up has found that they are written up to `found` in this topic.
    pub fn resume(&mut self, topic: &Arc<Topic>, found: Option<Position>) {
        if self.topic.as_ref() != Some(topic) {
            self.topic = Some(topic.clone());
            (self.written, self.committed) = (None, None);
            for pending in &mut self.pending {
                pending.before = None;
            }
        }
        self.written = found.map(|found| self.written.map_or(found, |written| written.max(found)));
    }

    /// Whether the record before `after` gets its dead letter from this worker now.
    pub fn wants(&self, after: Position) -> bool {
        self.written.is_some_and(|written| written < after)
    }

    /// The position to read from, so that no dead letter is left out, in place of `position`.
    pub fn read_from(&self, position: Position) -> Position {
        self.written
            .map_or(position, |written| written.min(position))
    }

    /// Adds the dead letter of the record before `after`, which was rejected.
    pub fn add(&mut self, after: Position, letter: D) {
        let before = self.written;
        self.pending.push_back(PendingLetter {
            after,
            before,
            letter,
        });
    }

    /// Adds the dead letter of the record before `after`, which the sink refuses.
    pub fn add_refused(&mut self, after: Position, letter: D) {
        self.pending.push_back(PendingLetter {
            after,
            before: None,
            letter,
        });
    }

    /// Everything up to `to` is read.
    pub fn pass(&mut self, to: Position) {
        if let Some(written) = &mut self.written {
            *written = to.max(*written);
        }
    }

    /// The dead letters that a position behind `to` waits for.
    pub fn before(&mut self, to: Position) -> Vec<D> {
        self.forget_acknowledged();
        let letters = self.pending.iter().filter(|pending| pending.after <= to);
        letters.map(|pending| pending.letter.clone()).collect()
    }

    fn forget_acknowledged(&mut self) {
        self.pending
            .retain(|pending| !pending.letter.is_acknowledged());
    }

    /// The topic and the position to commit, unless it is committed: the dead letters before it are
    /// acknowledged.
    pub fn uncommitted(&mut self) -> Option<(Arc<Topic>, Position)> {
        self.forget_acknowledged();
        let first = self.pending.iter().find_map(|pending| pending.before);
        let position = first.or(self.written)?;
        let topic = self.topic.clone()?;
        (self.committed != Some(position)).then_some((topic, position))
    }

    /// Notes what is committed for this topic.
    pub fn set_committed(&mut self, topic: &Arc<Topic>, position: Option<Position>) {
        if self.topic.as_ref() == Some(topic) {
            self.committed = position;
        }
    }

    /// Commits the position again.
    pub const fn renew(&mut self) {
        self.committed = None;
    }
}

/// The commit of positions to the group of the dead letters.
#[derive(Debug, Default)]
pub(super) struct CommitOfLetters {
    in_flight: bool,
    /// Partitions for which the last one failed: they wait for the next.
    failed: BTreeSet<Key>,
}

impl<B: Batch, D: Acknowledgement> State<B, D> {
    /// Commits how far dead letters are written, unless a commit is under way. Returns whether that
    /// is committed.
    pub fn commit_letters(&mut self) -> bool {
        self.commit_letters_of(|_| true)
    }

    pub(super) fn commit_letters_of(&mut self, is_wanted: impl Fn(Key) -> bool) -> bool {
        let mut positions = Vec::new();
        for (key, partition) in &mut self.partitions {
            // A release does not wait where the broker refuses the commit.
            if is_wanted(*key)
                && !self.letters.failed.contains(key)
                && let Some((topic, position)) = partition.letters.uncommitted()
            {
                let partition = key.1;
                positions.push((Source { topic, partition }, position));
            }
        }
        if positions.is_empty() {
            return true;
        }
        if !self.letters.in_flight {
            self.letters.in_flight = true;
            self.actions.push_back(Action::CommitLetters(positions));
        }
        false
    }

    /// Takes the answer for each partition whose position was to be committed to the group of the
    /// dead letters: what is committed, or none if that failed.
    pub fn on_letters_committed(&mut self, answers: Vec<(Source, Option<Position>)>) {
        self.letters = CommitOfLetters::default();
        for (source, committed) in answers {
            let key = (source.topic.kind, source.partition);
            if committed.is_none() {
                self.letters.failed.insert(key);
            } else if let Some(partition) = self.partitions.get_mut(&key) {
                partition.letters.set_committed(&source.topic, committed);
            }
        }
    }

    /// Commits again what could not be committed.
    pub fn retry_letters(&mut self) {
        self.letters.failed.clear();
        self.commit_letters();
    }

    /// Commits all positions again: brokers forget those of a group without members in time.
    pub fn renew_letters(&mut self) {
        for partition in self.partitions.values_mut() {
            partition.letters.renew();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    };

    use pinpipe_core::Kind;

    use super::*;

    #[derive(Clone, Default)]
    struct Letter(Arc<AtomicBool>);

    impl Acknowledgement for Letter {
        fn is_acknowledged(&self) -> bool {
            self.0.load(Ordering::SeqCst)
        }

        async fn acknowledged(&mut self) {}
    }

    const fn at(offset: i64) -> Position {
        Position::offset(offset)
    }

    fn topic(id: &str) -> Arc<Topic> {
        Arc::new(Topic {
            kind: Kind::Pin,
            name: "t".into(),
            cluster_id: "c".into(),
            id: id.into(),
        })
    }

    fn letters(written: i64) -> Letters<Letter> {
        let mut letters = Letters::new();
        letters.resume(&topic("t"), Some(at(written)));
        letters
    }

    fn uncommitted(letters: &mut Letters<Letter>) -> Option<Position> {
        letters.uncommitted().map(|(_, position)| position)
    }

    #[test]
    fn the_position_stays_before_the_first_dead_letter_that_is_not_acknowledged() {
        let (mut letters, first, second) = (letters(5), Letter::default(), Letter::default());
        assert_eq!(uncommitted(&mut letters), Some(at(5)));
        letters.pass(at(6));
        letters.add(at(7), first.clone());
        letters.pass(at(7));
        letters.add(at(8), second.clone());
        letters.pass(at(9));
        assert_eq!(letters.before(at(7)).len(), 1);
        assert_eq!(letters.before(at(8)).len(), 2);
        second.0.store(true, Ordering::SeqCst);
        assert_eq!(uncommitted(&mut letters), Some(at(6)));
        first.0.store(true, Ordering::SeqCst);
        assert_eq!(uncommitted(&mut letters), Some(at(9)));
        letters.set_committed(&topic("t"), Some(at(9)));
        assert_eq!(uncommitted(&mut letters), None);
    }

    #[test]
    fn a_record_that_is_read_again_gets_no_second_dead_letter() {
        let mut letters = letters(5);
        letters.pass(at(9));
        assert!(!letters.wants(at(9)) && letters.wants(at(10)));
        assert_eq!(letters.read_from(at(12)), at(9));
        assert_eq!(letters.read_from(at(7)), at(7));
        letters.resume(&topic("t"), Some(at(6)));
        assert!(!letters.wants(at(9)), "it knows more than the group");
        let others: Letters<Letter> = Letters::new();
        assert!(!others.wants(at(10)));
        assert_eq!(others.read_from(at(12)), at(12));
    }

    #[test]
    fn a_refused_record_s_dead_letter_holds_up_the_sink_alone() {
        let mut letters = letters(5);
        letters.pass(at(9));
        letters.add_refused(at(8), Letter::default());
        assert_eq!(uncommitted(&mut letters), Some(at(9)));
        assert_eq!(letters.before(at(8)).len(), 1);
        assert!(letters.before(at(7)).is_empty());
    }

    #[test]
    fn a_topic_created_again_begins_where_its_own_look_up_says() {
        let (mut letters, of_old) = (letters(5), Letter::default());
        letters.pass(at(8));
        letters.add(at(9), of_old.clone());
        letters.pass(at(9));
        let new = topic("new");
        letters.resume(&new, Some(at(2)));
        assert!(letters.wants(at(3)));
        assert_eq!(letters.uncommitted(), Some((new, at(2))));
        letters.set_committed(&topic("t"), Some(at(2)));
        assert_eq!(
            uncommitted(&mut letters),
            Some(at(2)),
            "that was another topic's"
        );
        assert_eq!(letters.before(at(9)).len(), 1, "it is still sent");
    }
}
