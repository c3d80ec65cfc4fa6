//! What every pass has at hand.

use std::{collections::HashMap, sync::Mutex, time::Duration};

use kube::{Client, runtime::events::Recorder};

use crate::{MANAGER, metrics::Metrics, topics::TopicsCache, validate::Images};

/// What every pass has at hand.
pub struct Context {
    /// The API server.
    pub client: Client,
    /// Where events are written.
    pub recorder: Recorder,
    /// The workers' pods.
    pub pods: reqwest::Client,
    /// Where workers' images come from unless a pipeline says otherwise.
    pub images: Images,
    /// How long the sinks of a suspended pipeline may take to read the topics to their ends.
    pub drain_deadline: Duration,
    /// What is counted.
    pub metrics: Metrics,
    /// What brokers said a moment ago.
    pub topics: TopicsCache,
    /// How often the pass over a pipeline, by UID, failed in a row.
    pub failures: Mutex<HashMap<String, u32>>,
}

impl Context {
    /// With nothing remembered.
    #[must_use]
    pub fn new(
        client: Client,
        pods: reqwest::Client,
        images: Images,
        drain_deadline: Duration,
        metrics: Metrics,
    ) -> Self {
        let recorder = Recorder::new(client.clone(), MANAGER.into());
        Self {
            client,
            recorder,
            pods,
            images,
            drain_deadline,
            metrics,
            topics: TopicsCache::default(),
            failures: Mutex::default(),
        }
    }
}
