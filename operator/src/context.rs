//! What every pass has at hand.

use std::{collections::HashMap, sync::Mutex, time::Duration};

use kube::{Client, runtime::events::Recorder};
use pinpipe_lease::{LeaseError, Proof};
use tokio::sync::Semaphore;

use crate::{
    MANAGER,
    metrics::Metrics,
    topics::{Brokers, TopicsCache},
    validate::Images,
    watched::Watched,
};

/// What passes go by.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where workers' images come from unless a pipeline says otherwise.
    pub images: Images,
    /// How many pipelines are worked on at once.
    pub concurrency: u16,
    /// How long the sinks of a suspended pipeline may take to read the topics to their ends.
    pub drain_deadline: Duration,
    /// After how long the topics of a deleted pipeline that can't be deleted are left where they
    /// are.
    pub deletion_deadline: Duration,
}

/// What every pass has at hand.
pub struct Context {
    /// The API server.
    pub client: Client,
    /// Where events are written.
    pub recorder: Recorder,
    /// The workers' pods.
    pub pods: reqwest::Client,
    /// What passes go by.
    pub settings: Settings,
    /// What is counted.
    pub metrics: Metrics,
    /// All pipelines of the operator's namespaces, for the topics they claim.
    pub watched: Watched,
    /// The brokers asked a moment ago.
    pub brokers: Brokers,
    /// What brokers said a moment ago.
    pub topics: TopicsCache,
    /// How often the pass over a pipeline, by UID, failed in a row.
    pub failures: Mutex<HashMap<String, u32>>,
    /// Room for as many passes as may run at once.
    pub room: Semaphore,
    /// That no other operator works meanwhile. None: there is none.
    lease: Option<Proof>,
}

impl Context {
    /// With nothing remembered.
    #[must_use]
    pub fn new(
        client: Client,
        pods: reqwest::Client,
        settings: Settings,
        metrics: Metrics,
        lease: Option<Proof>,
    ) -> Self {
        Self {
            recorder: Recorder::new(client.clone(), MANAGER.into()),
            room: Semaphore::new(settings.concurrency.into()),
            client,
            pods,
            settings,
            metrics,
            watched: Watched::default(),
            brokers: Brokers::default(),
            topics: TopicsCache::default(),
            failures: Mutex::default(),
            lease,
        }
    }

    /// Whether this operator is the one that works: to be asked before anything is written.
    pub fn may_write(&self) -> Result<(), LeaseError> {
        self.lease.as_ref().map_or(Ok(()), Proof::check)
    }
}
