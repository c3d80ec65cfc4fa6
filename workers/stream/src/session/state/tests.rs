use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use pinpipe_core::Kind;

use super::{Action, Group, HALT_RETRY_DELAY, Health, State};
use crate::{
    dead_letter::Acknowledgement,
    log::Position,
    resume::{Found, Start},
    sink::{Answer, Batch, Consumed, Grouping, Halt, Limits, Refusal, Source, Topic},
};

impl Acknowledgement for () {
    fn is_acknowledged(&self) -> bool {
        true
    }

    async fn acknowledged(&mut self) {}
}

/// Records that are numbered.
#[derive(Debug, Default)]
struct Numbers(Vec<i64>);

impl Batch for Numbers {
    fn push(&mut self, _: Consumed<'_>) {}
    fn close(&mut self) {}
    fn records(&self) -> usize {
        self.0.len()
    }
    fn bytes(&self) -> usize {
        self.0.len() * 10
    }
    fn last(&self) -> Option<Position> {
        self.0.last().map(|number| at(number + 1))
    }
    fn split(&self) -> Option<(Self, Self)> {
        let (first, second) = self.0.split_at(self.0.len() / 2);
        (!first.is_empty()).then(|| (Self(first.into()), Self(second.into())))
    }
}

const fn at(offset: i64) -> Position {
    Position::offset(offset)
}

const MS: Duration = Duration::from_millis(1);

fn limits(grouping: Grouping) -> Limits {
    Limits {
        records: 100,
        bytes: 10_000,
        age: 500 * MS,
        grouping,
    }
}

/// A session with so many partitions of one topic, which are read from their starts.
struct Session {
    state: State<Numbers, ()>,
    now: Instant,
}

impl Session {
    fn new(grouping: Grouping, budget: usize, partitions: i32) -> Self {
        let found = (0..partitions).map(|partition| found(partition, 0));
        Self::of(grouping, budget, found.collect())
    }

    /// A session with partitions that resume so.
    fn of(grouping: Grouping, budget: usize, found: Vec<Found>) -> Self {
        let topics = [(Kind::Pin, "t".to_owned())];
        let state = State::new(topics, limits(grouping), budget, |_| Numbers::default());
        let mut session = Self {
            state,
            now: Instant::now(),
        };
        let list = found.iter().map(|found| ("t".to_owned(), found.partition));
        session.state.on_assign(list.collect());
        let Some(Action::LookUp { id, .. }) = session.state.next_action() else {
            panic!("partitions are looked up first");
        };
        session.state.on_found(id, found, session.now);
        assert!(matches!(
            session.state.next_action(),
            Some(Action::Assign(_))
        ));
        session
    }

    fn read(&mut self, partition: i32, numbers: impl IntoIterator<Item = i64>) {
        let key = (Kind::Pin, partition);
        for number in numbers {
            let (buffer, _) = self.state.accept(key, at(number + 1)).unwrap();
            let batch = buffer.batch_for(at(number + 1), self.now, |_| Numbers::default());
            batch.0.push(number);
            self.state.on_pushed(key, self.now);
        }
    }

    /// Lets time pass and returns what is to be done.
    fn after(&mut self, time: Duration) -> Vec<Action<Numbers, ()>> {
        self.now += time;
        self.state.proceed(self.now);
        std::iter::from_fn(|| self.state.next_action()).collect()
    }

    /// The commits that begin.
    fn commits(&mut self, time: Duration) -> Vec<Group<Numbers, ()>> {
        let actions = self.after(time).into_iter();
        let commit = |action| match action {
            Action::Commit(group) => Some(group),
            _ => None,
        };
        actions.filter_map(commit).collect()
    }

    fn answer(&mut self, group: Group<Numbers, ()>, took: Duration, answers: Vec<Answer>) {
        let members = group.members.into_iter().zip(answers).collect();
        self.state.on_committed(group.id, members, took, self.now);
    }

    fn store(&mut self, group: Group<Numbers, ()>, took: Duration) {
        let members = group.members.iter();
        let answers = members.map(|member| Answer::Stored(member.sealed.to));
        let answers = answers.collect();
        self.answer(group, took, answers);
    }
}

fn source(partition: i32) -> Source {
    let topic = Topic {
        kind: Kind::Pin,
        name: "t".into(),
        cluster_id: "c".into(),
        id: "i".into(),
    };
    Source {
        topic: Arc::new(topic),
        partition,
    }
}

fn found(partition: i32, fetch: i64) -> Found {
    Found {
        kind: Kind::Pin,
        partition,
        start: Ok(Start {
            source: source(partition),
            stored: at(fetch),
            fetch: at(fetch),
            committed: None,
            letters: None,
            history: Position::START,
        }),
    }
}

fn numbers(group: &Group<Numbers, ()>) -> Vec<(i32, Vec<i64>)> {
    let members = group.members.iter();
    members
        .map(|member| (member.partition(), member.sealed.batch.0.clone()))
        .collect()
}

#[test]
fn a_table_s_commits_follow_each_other_with_all_that_was_read_meanwhile() {
    let mut session = Session::new(Grouping::Topic, 1000, 2);
    session.read(0, [0]);
    assert!(session.commits(9 * MS).is_empty());
    session.read(1, [0]);
    let mut first = session.commits(MS);
    assert_eq!(numbers(&first[0]), [(0, vec![0]), (1, vec![0])]);
    session.read(0, [1, 2]);
    assert!(session.commits(30 * MS).is_empty(), "one is under way");
    session.store(first.remove(0), 5 * MS);
    let mut second = session.commits(MS);
    assert_eq!(numbers(&second[0]), [(0, vec![1, 2])]);
    session.store(second.remove(0), 40 * MS);
    session.read(0, [3]);
    assert_eq!(session.state.due_at(), Some(session.now + 80 * MS));
    assert!(session.commits(79 * MS).is_empty(), "twice the last time");
    assert_eq!(session.commits(MS).len(), 1);
}

#[test]
fn no_more_than_fifty_commits_of_a_table_begin_in_a_second() {
    let mut session = Session::new(Grouping::Topic, 1000, 1);
    let mut begun = 0;
    for number in 0..1000 {
        session.read(0, [number]);
        for group in session.commits(MS) {
            session.store(group, Duration::ZERO);
            begun += 1;
        }
    }
    assert!((45..=51).contains(&begun), "{begun}");
}

#[test]
fn partitions_that_are_committed_by_themselves_wait_for_their_age() {
    let mut session = Session::new(Grouping::Partition, 10_000, 2);
    session.read(0, [0]);
    session.read(1, 0..100);
    let full = session.commits(MS);
    assert_eq!((full.len(), full[0].members[0].partition()), (1, 1));
    assert!(session.commits(498 * MS).is_empty());
    let aged = session.commits(MS);
    assert_eq!(numbers(&aged[0]), [(0, vec![0])]);
}

#[test]
fn the_biggest_batches_are_committed_one_after_the_other_while_memory_is_used_up() {
    let mut session = Session::new(Grouping::Partition, 200, 3);
    session.read(0, 0..11);
    session.read(1, 0..12);
    session.read(2, 0..13);
    // 360 bytes: what is open is within the budget once the biggest batch is on its way, but that
    // is not enough when it is stored.
    let mut groups = session.commits(MS);
    groups.sort_by_key(|group| group.members[0].partition());
    let begun: Vec<i32> = groups
        .iter()
        .map(|group| group.members[0].partition())
        .collect();
    assert_eq!(begun, [1, 2]);
    assert!(!session.state.reads());
    for group in groups {
        session.store(group, MS);
    }
    assert!(session.commits(MS).is_empty());
    assert!(session.state.reads());
    session.read(1, 12..24);
    let mut next = session.commits(MS);
    assert_eq!(numbers(&next[0])[0].0, 1, "the biggest one");
    session.read(2, 13..33);
    session.store(next.remove(0), MS);
    assert_eq!(session.commits(MS).len(), 1, "it is still used up");
}

#[test]
fn a_stuck_partition_leaves_memory_to_the_others() {
    let mut session = Session::new(Grouping::Partition, 1000, 2);
    session.read(0, 0..30);
    session.state.flush(session.now);
    assert_eq!(session.commits(MS).len(), 1);
    session.read(0, 30..51);
    let actions = session.after(MS);
    assert!(
        matches!(&actions[..], [Action::Pause(partitions)] if partitions[0].1 == 0),
        "it has half of the budget"
    );
    assert!(session.state.reads());
    session.read(1, 0..40);
    session.state.flush(session.now);
    assert_eq!(session.commits(MS).len(), 1, "the other is stored");
}

#[test]
fn a_halted_partition_keeps_no_other_from_being_stored() {
    let mut session = Session::new(Grouping::Topic, 1000, 2);
    session.read(0, [0]);
    session.read(1, [0]);
    let group = session.commits(10 * MS).remove(0);
    let halt = Halt::TableUnsuitable("why".into());
    let answers = vec![Answer::Halt(halt.clone()), Answer::Stored(at(1))];
    session.answer(group, MS, answers);
    let actions = session.after(MS);
    assert!(matches!(&actions[..], [Action::Pause(partitions)] if partitions[0].1 == 0));
    assert_eq!(session.state.health(session.now), Health::Halted(halt));
    session.read(1, [1]);
    let group = session.commits(30 * MS).remove(0);
    assert_eq!(numbers(&group), [(1, vec![1])]);
    session.store(group, MS);
    let actions = session.after(HALT_RETRY_DELAY);
    let Some(Action::LookUp { id, .. }) = actions.into_iter().next() else {
        panic!("it is tried again");
    };
    session.state.on_found(id, vec![found(0, 0)], session.now);
    let actions = session.after(MS);
    assert!(matches!(
        &actions[..],
        [Action::Seek(..), Action::Unpause(_)]
    ));
    session.after(super::PROBATION);
    assert_eq!(session.state.health(session.now), Health::Running);
}

fn refused() -> Answer {
    Answer::Refused(Refusal {
        code: "23514".into(),
        sentence: "no".into(),
    })
}

#[test]
fn the_reader_s_position_from_before_a_seek_skips_no_record() {
    let mut session = Session::new(Grouping::Topic, 1000, 1);
    let position = |offset| [(("t".to_owned(), 0), at(offset))];
    session.read(0, [0]);
    let group = session.commits(20 * MS).remove(0);
    session.read(0, [1]);
    session.answer(group, MS, vec![refused()]);
    // The reader has yet to seek back to the refused record.
    session.state.on_positions(&position(2));
    assert!(matches!(&session.after(MS)[..], [Action::Seek(_, to)] if *to == at(0)));
    session.read(0, [0, 1]);
    session.state.on_positions(&position(5));
    let (_, buffer) = session.state.buffers().next().unwrap();
    assert_eq!(buffer.next(), at(5));
}

#[test]
fn a_refused_batch_is_split_until_the_record_is_found() {
    let mut session = Session::new(Grouping::Topic, 1000, 1);
    session.read(0, 0..4);
    let mut tried = Vec::new();
    // The record 2 is refused.
    while session.state.refusal((Kind::Pin, 0), at(3)).is_none() {
        let group = session.commits(20 * MS).remove(0);
        let batch = numbers(&group).remove(0).1;
        let to = group.members[0].sealed.to;
        let answer = if batch.contains(&2) {
            refused()
        } else {
            Answer::Stored(to)
        };
        session.answer(group, MS, vec![answer]);
        tried.push(batch);
    }
    assert_eq!(tried, [vec![0, 1, 2, 3], vec![0, 1], vec![2, 3], vec![2]]);
    let actions = session.after(MS);
    assert!(
        matches!(&actions[..], [Action::Seek(_, to)] if *to == at(2)),
        "it is read again"
    );
    assert!(session.state.accept((Kind::Pin, 0), at(3)).is_some());
}

/// librdkafka knows a paused partition by its flag, also when it returns.
#[test]
fn a_paused_partition_is_unpaused_before_it_is_released() {
    for lost in [false, true] {
        let mut session = Session::new(Grouping::Topic, 1000, 2);
        let halt = Halt::TableUnsuitable("why".into());
        session.state.halt((Kind::Pin, 0), halt, session.now);
        assert!(matches!(&session.after(MS)[..], [Action::Pause(_)]));
        let partitions = [0, 1].map(|partition| ("t".to_owned(), partition));
        let now = session.now;
        session.state.on_revoke(partitions.to_vec(), lost, now);
        let mut actions = session.after(MS);
        actions.retain(|action| matches!(action, Action::Unpause(_) | Action::Unassign(_)));
        assert!(
            matches!(&actions[..], [Action::Unpause(list), Action::Unassign(_)]
                if list[..] == partitions[..1]),
            "lost: {lost}"
        );
    }
}

#[test]
fn a_partition_s_look_up_is_aborted_when_nobody_waits_for_it() {
    let mut session = Session::new(Grouping::Topic, 1000, 1);
    let ids = |actions: Vec<Action<Numbers, ()>>| -> Vec<(bool, u64)> {
        let id = |action| match action {
            Action::LookUp { id, .. } => Some((true, id)),
            Action::Abort(id) => Some((false, id)),
            _ => None,
        };
        actions.into_iter().filter_map(id).collect()
    };
    session.state.on_stamped_by_producer((Kind::Pin, 0));
    let first = ids(session.after(MS))[0].1;
    session.state.on_stamped_by_producer((Kind::Pin, 0));
    let second = ids(session.after(MS));
    assert_eq!(second, [(false, first), (true, second[1].1)]);
    let now = session.now;
    session
        .state
        .on_revoke(vec![("t".to_owned(), 0)], true, now);
    assert_eq!(ids(session.after(MS)), [(false, second[1].1)]);
}

#[test]
fn the_result_of_a_look_up_is_ignored_once_its_partitions_are_lost() {
    let topics = [(Kind::Pin, "t".to_owned())];
    let limits = limits(Grouping::Topic);
    let mut state: State<Numbers, ()> = State::new(topics, limits, 1000, |_| Numbers::default());
    let (now, partition) = (Instant::now(), vec![("t".to_owned(), 0)]);
    state.on_assign(partition.clone());
    let Some(Action::LookUp { id, .. }) = state.next_action() else {
        panic!("it is looked up");
    };
    state.on_revoke(partition, true, now);
    assert!(matches!(state.next_action(), Some(Action::Abort(aborted)) if aborted == id));
    assert!(matches!(state.next_action(), Some(Action::Unassign(_))));
    state.on_found(id, vec![found(0, 0)], now);
    state.proceed(now);
    assert!(state.next_action().is_none());
    assert!(state.accept((Kind::Pin, 0), at(1)).is_none());
}

/// A sink that stores up to 10, and writes dead letters, which are written up to 5.
fn writer() -> Session {
    let mut found = found(0, 10);
    if let Ok(start) = &mut found.start {
        (start.fetch, start.letters) = (at(5), Some(at(5)));
    }
    Session::of(Grouping::Topic, 10_000, vec![found])
}

#[test]
fn a_new_writer_of_dead_letters_reads_what_is_stored_again_for_them_alone() {
    let (mut session, key) = (writer(), (Kind::Pin, 0));
    for after in 6..=10 {
        let (buffer, letters) = session.state.accept(key, at(after)).unwrap();
        assert!(letters.wants(at(after)));
        assert!(at(after) <= buffer.stored());
        let _ = buffer.batch_for(at(after), session.now, |_| Numbers::default());
        letters.pass(at(after));
    }
    session.read(0, [10, 11]);
    let group = session.commits(500 * MS).remove(0);
    let member = &group.members[0];
    assert_eq!((member.from, member.sealed.to), (at(10), at(12)));
    assert_eq!(numbers(&group), [(0, vec![10, 11])]);
    session.store(group, MS);
    session.state.commit_letters();
    let actions = session.after(MS);
    let committed = [(source(0), at(10))];
    assert!(matches!(&actions[..], [Action::CommitLetters(list)] if list[..] == committed));
}

#[test]
fn a_partition_is_released_once_the_position_of_its_dead_letters_is_committed() {
    let mut session = writer();
    let (partition, now) = (("t".to_owned(), 0), session.now);
    session.state.on_revoke(vec![partition.clone()], false, now);
    let is_commit = |actions: Vec<Action<Numbers, ()>>| {
        matches!(&actions[..], [Action::CommitLetters(list)]
            if list[..] == [(source(0), at(5))])
    };
    assert!(is_commit(session.after(MS)));
    assert!(session.after(MS).is_empty(), "it is under way");
    let committed = vec![(source(0), Some(at(5)))];
    session.state.on_letters_committed(committed);
    let mut actions = session.after(MS);
    assert!(matches!(actions.pop(), Some(Action::Unassign(list)) if list == [partition]));
}

#[test]
fn a_topic_whose_dead_letters_position_is_refused_keeps_no_other_from_waiting_for_its_own() {
    let mut session = writer();
    session.state.commit_letters();
    assert!(matches!(&session.after(MS)[..], [Action::CommitLetters(_)]));
    let refused = vec![(source(0), None)];
    session.state.on_letters_committed(refused);
    assert!(session.state.commit_letters(), "it waits for a retry");
    session.state.retry_letters();
    assert!(
        matches!(&session.after(MS)[..], [Action::CommitLetters(list)]
        if list[..] == [(source(0), at(5))])
    );
    assert!(!session.state.commit_letters(), "a commit is under way");
}
