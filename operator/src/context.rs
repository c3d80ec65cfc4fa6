//! What every pass has at hand.

use std::{collections::HashMap, sync::Mutex};

use kube::{Client, runtime::events::Recorder};

use crate::{MANAGER, claims::Watched, metrics::Metrics, topics::TopicsCache, validate::Images};

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
    /// What is counted.
    pub metrics: Metrics,
    /// All pipelines, for the topics they claim.
    pub watched: Watched,
    /// What brokers said a moment ago.
    pub topics: TopicsCache,
    /// How often the pass over a pipeline, by UID, failed in a row.
    pub failures: Mutex<HashMap<String, u32>>,
}

impl Context {
    /// With nothing remembered.
    #[must_use]
    pub fn new(client: Client, pods: reqwest::Client, images: Images, metrics: Metrics) -> Self {
        let recorder = Recorder::new(client.clone(), MANAGER.into());
        Self {
            client,
            recorder,
            pods,
            images,
            metrics,
            watched: Watched::default(),
            topics: TopicsCache::default(),
            failures: Mutex::default(),
        }
    }
}
