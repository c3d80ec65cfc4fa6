//! Topics: those that are absent are created, once, and those that the operator created are given
//! more partitions when more are desired.
//!
//! With `topics.management: Existing`, topics are only described.
//!
//! No other property of an existing topic is changed, and no topic is created again. The operator's
//! record has an entry before a topic is created; a topic that has an id there and is gone from the
//! broker was deleted by somebody, which is reported until a run requests to forget it.

mod admin;
mod plan;

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use pinpipe_crds::{TopicStatus, reasons};
use pinpipe_plan::{build::DesiredTopic, requests::TopicRequest};
use pinpipe_runtime::kafka::Access;

use crate::finding::Finding;

pub use admin::{Broker, BrokerError, Brokers, Cluster};
pub use plan::{ObservedTopic, Plan, Raise, plan, settled};

/// State of a pipeline's topics.
#[derive(Clone, Debug, PartialEq)]
pub struct TopicsState {
    /// Topics as the status lists them.
    pub topics: Vec<TopicStatus>,
    /// Finding for the condition.
    pub finding: Finding,
    /// Whether the record has all of them as this pipeline's.
    pub claimed: bool,
    /// Whether sinks may read the topics.
    pub suitability: Suitability,
}

/// Whether sinks may read a pipeline's topics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suitability {
    /// They may.
    Suitable,
    /// Records can't be ordered, so they must not.
    Unsuitable,
    /// It can't be told: no broker answered, one answered with an error, or the topics aren't
    /// claimed.
    Unknown,
}

impl TopicsState {
    /// Sentence about a topic that belongs to another pipeline. None: all are this pipeline's, or
    /// it isn't known.
    #[must_use]
    pub fn conflict(&self) -> Option<&str> {
        let finding = Some(&self.finding);
        let conflict = finding.filter(|finding| finding.reason == reasons::TOPIC_CONFLICT);
        conflict.map(|finding| finding.message.as_str())
    }
}

/// How long a good answer of a broker is used again. Every event of a child starts a reconcile, and
/// not each of them has to ask the broker.
const GOOD_FOR: Duration = Duration::from_secs(45);
/// How long a bad answer, or none, is used again.
const BAD_FOR: Duration = Duration::from_secs(8);

/// Recent states of topics, by the pipeline's UID.
#[derive(Default)]
pub struct TopicsCache(Mutex<HashMap<String, (u64, Instant, TopicsState)>>);

impl TopicsCache {
    /// The state found for the same request, if it is recent.
    #[must_use]
    pub fn get(&self, uid: &str, request: u64) -> Option<TopicsState> {
        let states = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (requested, at, state) = states.get(uid)?;
        let good_for = if state.finding.ok { GOOD_FOR } else { BAD_FOR };
        (*requested == request && at.elapsed() < good_for).then(|| state.clone())
    }

    /// Stores a state, and drops those that are too old; their pipelines may be gone.
    pub fn put(&self, uid: &str, request: u64, state: TopicsState) {
        let mut states = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        states.retain(|_, (_, at, _)| at.elapsed() < GOOD_FOR);
        states.insert(uid.to_owned(), (request, Instant::now(), state));
    }
}

/// Hash of everything a broker is asked for.
#[must_use]
pub fn request(access: &Access, desired: &[DesiredTopic], requests: &[TopicRequest]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (access, desired, requests).hash(&mut hasher);
    hasher.finish()
}
