//! A worker of the model: the real session, whose turns the world's steps make.

use std::{
    collections::{BTreeMap, VecDeque},
    pin::pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use tokio::{
    runtime::{Builder, Runtime},
    sync::mpsc::{UnboundedSender, unbounded_channel},
    task::yield_now,
};
use tokio_util::sync::CancellationToken;

use super::{
    log::{Broker, Like, topic},
    reader::{Asked, Connection, Membership},
    reference::{Letters, Reference},
};
use crate::{
    clock::Clock,
    log::{Event, Position, TopicPartition},
    session::{
        Worker,
        bridge::Bridge,
        driver::{COMMIT_INTERVAL, Session},
        state::{DRAIN_TIMEOUT, Health},
    },
};

/// The turns of a session in one step. More show that it spins.
const MAX_TURNS: usize = 1000;

/// The time of a run.
#[derive(Clone)]
pub struct Time(pub Arc<Mutex<Instant>>);

impl Time {
    /// Lets time pass.
    pub fn pass(&self, time: Duration) {
        *self.0.lock().unwrap() += time;
    }
}

impl Clock for Time {
    fn now(&self) -> Instant {
        *self.0.lock().unwrap()
    }

    async fn sleep_until(&self, at: Instant) {
        std::future::poll_fn(|_| {
            if self.now() < at {
                Poll::Pending
            } else {
                Poll::Ready(())
            }
        })
        .await;
    }

    /// The time between two attempts is random, so it is left out.
    async fn sleep(&self, _: Duration) {
        yield_now().await;
    }
}

/// How a step ended for a member.
#[derive(Debug, PartialEq, Eq)]
pub enum Stepped {
    /// It waits.
    Waits,
    /// It has stored everything and left the group.
    Left,
    /// The session must be restarted.
    Restarts,
}

/// A member of the group.
pub struct Member {
    session: Session<Reference, Letters, Connection, Time>,
    worker: Arc<Worker<Reference, Letters>>,
    log: Connection,
    time: Time,
    events: UnboundedSender<Event>,
    stop: CancellationToken,
    /// The bridge that it is, or that it goes on after.
    bridge: Option<Bridge>,
    /// The partitions that the group wants back, and when it asked.
    revoked: Option<(Vec<i32>, Instant)>,
    stopped_at: Option<Instant>,
    undrained: Vec<i32>,
    /// Runs the session's tasks. A member that makes no step is frozen with all of them.
    runtime: Runtime,
}

impl Member {
    pub fn new(worker: Worker<Reference, Letters>, time: Time) -> Self {
        Self::until(CancellationToken::new(), worker, time)
    }

    /// A member that goes on where a bridge ends.
    pub fn after(bridge: Bridge, worker: Worker<Reference, Letters>, time: Time) -> Self {
        let mut member = Self::new(worker, time);
        member.session = member.session.after(bridge.clone());
        member.bridge = Some(bridge);
        member
    }

    /// A bridge over partitions that the group does not assign to it.
    pub fn bridging(
        bridge: Bridge,
        partitions: &[i32],
        worker: Worker<Reference, Letters>,
        time: Time,
    ) -> Self {
        let mut member = Self::until(bridge.stop().clone(), worker, time);
        member.log.membership().is_bridge = true;
        member.session.assign(named(partitions));
        member.bridge = Some(bridge);
        member
    }

    fn until(stop: CancellationToken, worker: Worker<Reference, Letters>, time: Time) -> Self {
        let log = worker.dead_letters.log.clone();
        let worker = Arc::new(worker);
        let (events, received) = unbounded_channel();
        let session = Session::new(
            worker.clone(),
            log.clone(),
            received,
            time.clone(),
            stop.clone(),
        );
        Self {
            session,
            worker,
            log,
            time,
            events,
            stop,
            bridge: None,
            revoked: None,
            stopped_at: None,
            undrained: Vec::new(),
            runtime: Builder::new_current_thread().build().unwrap(),
        }
    }

    /// Whether the coordinator may send it another request: it answers one at a time.
    pub fn is_free(&self) -> bool {
        !self.is_stopping() && self.in_group() && self.log.membership().asked == Asked::Nothing
    }

    pub fn in_group(&self) -> bool {
        let membership = self.log.membership();
        !membership.expelled && !membership.is_bridge
    }

    pub fn is_bridge(&self) -> bool {
        self.log.membership().is_bridge
    }

    /// It has ended: a bridge is over, and that of a member has nobody to wait for it.
    pub fn end(&self) {
        match &self.bridge {
            Some(bridge) if self.is_bridge() => bridge.ended(),
            Some(bridge) => bridge.stop().cancel(),
            None => {}
        }
    }

    pub fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    pub fn assign(&self, partitions: &[i32]) {
        self.log.membership().asked = Asked::Assign;
        let _ = self.events.send(Event::Assign(named(partitions)));
    }

    pub fn revoke(&mut self, partitions: &[i32]) {
        self.log.membership().asked = Asked::Revoke;
        self.revoked = Some((partitions.to_vec(), self.time.now()));
        self.send_revoke(partitions, false);
    }

    fn send_revoke(&self, partitions: &[i32], lost: bool) {
        let partitions = named(partitions);
        let _ = self.events.send(Event::Revoke { partitions, lost });
    }

    /// The partitions it has released since the last call.
    pub fn released(&self) -> Vec<i32> {
        std::mem::take(&mut self.log.membership().released)
    }

    /// The group expels it, which it does not notice.
    pub fn expel(&self) {
        self.log.membership().expelled = true;
    }

    /// Tells it that it was expelled, so that it joins again. The group tells after its last
    /// revocation was answered.
    pub fn notice(&self) -> bool {
        let mut membership = self.log.membership();
        let tells =
            membership.expelled && matches!(membership.asked, Asked::Nothing | Asked::Assign);
        if tells {
            membership.asked = Asked::Lose;
            let partitions = membership.partitions();
            drop(membership);
            self.send_revoke(&partitions, true);
        }
        tells
    }

    /// Whether it writes the dead letters of rejected records.
    pub fn writes_letters(&self) -> bool {
        self.worker.config.writes_dead_letters
    }

    /// Has it store everything buffered at once.
    pub fn flush(&self) {
        self.worker.flush.notify_one();
    }

    /// Stops it: it leaves once everything is stored.
    pub fn stop(&mut self) {
        self.stop.cancel();
        self.stopped_at.get_or_insert(self.time.now());
    }

    /// Whether everything up to the ends of the logs, but for `except`, is stored and committed to
    /// the group, and no request is unanswered.
    pub fn is_settled(&self, except: &[i32]) -> bool {
        let broker = self.log.broker.lock().unwrap();
        let settled = |partition: &i32| {
            let mut buffers = self.session.state.buffers();
            buffers.any(|((_, number), buffer)| {
                number == *partition
                    && buffer.is_empty()
                    && buffer.position_to_commit().is_none()
                    && buffer.done() == broker.log(*partition).extent().high
                    && (broker.like == Like::Kinesis
                        || [&broker.letters, &broker.committed]
                            .iter()
                            .all(|group| group.get(partition) == Some(&buffer.done())))
            })
        };
        let mut partitions = self.partitions().into_iter();
        self.is_free()
            && partitions.all(|partition| except.contains(&partition) || settled(&partition))
    }

    /// Whether it is looking up where to resume.
    pub fn is_resuming(&self) -> bool {
        !self.session.look_ups.is_empty()
    }

    pub fn health(&self) -> Health {
        self.session.state.health(self.time.now())
    }

    /// The partitions assigned to its reader.
    pub fn partitions(&self) -> Vec<i32> {
        self.log.membership().partitions()
    }

    /// The position it reads next in a partition.
    pub fn position(&self, partition: i32) -> Option<Position> {
        self.log.membership().position(partition)
    }

    /// Makes a step, in which it may read the next records of `arrived`: turns until it waits.
    /// Before the turn `stalls_before` its thread stalls, so that all that it does at intervals is
    /// due. Fails where the session doesn't do what it must.
    pub fn step(
        &mut self,
        arrived: impl Into<VecDeque<i32>>,
        stalls_before: Option<usize>,
    ) -> Result<Stepped, String> {
        self.log.membership().arrived = arrived.into();
        if self.is_stopping() {
            // Its bridge is stopped by the look-up.
            self.stop();
        }
        for turn in 0..MAX_TURNS {
            if stalls_before == Some(turn) {
                self.time.pass(COMMIT_INTERVAL);
            }
            self.runtime.block_on(yield_now());
            self.note_undrained();
            let uncommitted = self.uncommitted();
            let _runtime = self.runtime.enter();
            let turn = poll(pin!(self.session.turn()));
            let mut membership = self.log.membership();
            if let Some(bridge) = &self.bridge
                && !membership.is_bridge
                && !bridge.is_over()
                && !membership.partitions().is_empty()
            {
                return Err("it reads before its bridge has ended".into());
            }
            let is_late = self.is_late();
            if membership.asked != Asked::Revoke
                && let Some((revoked, _)) = self.revoked.take()
            {
                let undrained = std::mem::take(&mut self.undrained);
                if is_late {
                    membership.sent.clear();
                } else if undrained.is_empty() {
                    let broker = self.log.broker.lock().unwrap();
                    check_release(&membership, &broker, &revoked, &uncommitted)?;
                } else {
                    return Err(format!(
                        "{undrained:?} are released before they are drained"
                    ));
                }
            }
            match turn {
                Poll::Ready(Ok(true)) => {}
                Poll::Ready(Ok(false)) if self.is_over(self.stopped_at) => {
                    return Ok(Stepped::Left);
                }
                Poll::Ready(Ok(false)) if self.session.state.is_drained() => {
                    let (all, broker) = (membership.partitions(), self.log.broker.lock().unwrap());
                    check_release(&membership, &broker, &all, &BTreeMap::new())?;
                    return Ok(Stepped::Left);
                }
                Poll::Ready(Ok(false)) => return Err("it leaves before it is drained".into()),
                Poll::Ready(Err(_)) if membership.is_out_of_range => return Ok(Stepped::Restarts),
                Poll::Ready(Err(error)) => return Err(format!("{error:#}")),
                Poll::Pending => {
                    membership.arrived.clear();
                    return Ok(Stepped::Waits);
                }
            }
        }
        Err(format!("a session made {MAX_TURNS} turns without waiting"))
    }

    /// Whether the time to drain since then is over.
    fn is_over(&self, since: Option<Instant>) -> bool {
        since.is_some_and(|since| self.time.now() >= since + DRAIN_TIMEOUT)
    }

    /// Whether the time to give partitions back is over.
    fn is_late(&self) -> bool {
        self.is_over(self.revoked.as_ref().map(|(_, since)| *since))
    }

    /// The positions of the partitions that the group wants back, where it does not have them.
    fn uncommitted(&self) -> BTreeMap<i32, Position> {
        let (Some((revoked, _)), Like::Kafka) =
            (&self.revoked, self.log.broker.lock().unwrap().like)
        else {
            return BTreeMap::new();
        };
        let buffers = self.session.state.buffers();
        buffers
            .filter(|((_, partition), _)| revoked.contains(partition))
            .filter_map(|((_, partition), buffer)| Some((partition, buffer.position_to_commit()?)))
            .collect()
    }

    /// Notes which partitions that the group wants back are not drained, also those that it has
    /// dropped so.
    fn note_undrained(&mut self) {
        let state = &self.session.state;
        let was = std::mem::take(&mut self.undrained);
        let Some((revoked, _)) = &self.revoked else {
            return;
        };
        let is_undrained = |partition: &&i32| {
            let key = (topic().kind, **partition);
            let mut buffers = state.buffers();
            buffers.any(|(other, buffer)| other == key && !buffer.is_empty())
                || was.contains(partition) && !state.is_assigned(key)
        };
        self.undrained = revoked.iter().filter(is_undrained).copied().collect();
    }
}

/// Checks that the group has what a member knows of partitions that it gives back: their positions,
/// and how far their dead letters are written.
fn check_release(
    membership: &Membership,
    broker: &Broker,
    released: &[i32],
    uncommitted: &BTreeMap<i32, Position>,
) -> Result<(), String> {
    if membership.expelled || broker.like == Like::Kinesis {
        return Ok(());
    }
    let is_committed = |(partition, position)| broker.committed.get(partition) == Some(position);
    if !uncommitted.iter().all(is_committed) {
        return Err(format!(
            "{uncommitted:?} are released before they are committed"
        ));
    }
    let is_left_out = |(partition, offset): &&(i32, i64)| {
        let written = broker.letters.get(partition).copied().unwrap_or_default();
        let mut sent = membership.sent.iter();
        released.contains(partition)
            && written.next_offset() <= *offset
            && sent.all(|one| one.0 != *partition || membership.acknowledged.contains(one))
    };
    match membership.sent.iter().find(is_left_out) {
        Some(letter) if !broker.letters_went_back => Err(format!(
            "the dead letter {letter:?} is written, and the group does not know it"
        )),
        _ => Ok(()),
    }
}

fn named(partitions: &[i32]) -> Vec<TopicPartition> {
    partitions
        .iter()
        .map(|partition| (topic().name, *partition))
        .collect()
}

fn poll<T>(future: std::pin::Pin<&mut impl Future<Output = T>>) -> Poll<T> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}
