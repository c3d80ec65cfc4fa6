//! The broker: topics that are absent are created, once, and those we created are given more
//! partitions when more are wished for.
//!
//! Nothing else of an existing topic is changed, and none is re-created. Before one is created the
//! status says so; a topic of the status that has an id there but is gone from the broker was
//! deleted by somebody, and is reported, until an annotation asks for it to be forgotten.

mod broker;
mod drain;
mod plan;

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use pinpipe_crds::TopicStatus;

use crate::{build::TopicWish, status::Finding, validate::Forgotten};

pub use broker::{Broker, BrokerError, Brokers};
pub use drain::left;
pub use plan::{Plan, Raise, Seen, plan, without};

/// How topics stand.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// For the status.
    pub topics: Vec<TopicStatus>,
    /// For the condition.
    pub finding: Finding,
}

/// How long an answer of a broker is believed. A pass comes with every event of a child, and the
/// broker need not be asked for each.
const GOOD_FOR: Duration = Duration::from_secs(45);
/// The same for an answer that something is wrong, or no answer.
const BAD_FOR: Duration = Duration::from_secs(8);

/// What brokers said a moment ago, by the pipeline's UID.
#[derive(Default)]
pub struct TopicsCache(Mutex<HashMap<String, (u64, Instant, Outcome)>>);

impl TopicsCache {
    /// The answer to the same question, if it is young enough.
    #[must_use]
    pub fn get(&self, uid: &str, question: u64) -> Option<Outcome> {
        let answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (asked, at, outcome) = answers.get(uid)?;
        let good_for = if outcome.finding.ok {
            GOOD_FOR
        } else {
            BAD_FOR
        };
        (*asked == question && at.elapsed() < good_for).then(|| outcome.clone())
    }

    /// Remembers an answer, and forgets those too old to be believed, of pipelines that may be
    /// gone.
    pub fn put(&self, uid: &str, question: u64, outcome: Outcome) {
        let mut answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        answers.retain(|_, (_, at, _)| at.elapsed() < GOOD_FOR);
        answers.insert(uid.to_owned(), (question, Instant::now(), outcome));
    }
}

/// What is asked of a broker: changes with the broker, the wishes and what is to be forgotten.
#[must_use]
pub fn question(bootstrap_servers: &str, wishes: &[TopicWish], forgotten: &[Forgotten]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (bootstrap_servers, wishes, forgotten).hash(&mut hasher);
    hasher.finish()
}
