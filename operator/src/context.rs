//! What every reconcile uses.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use kube::{Client, runtime::events::Recorder};
use pinpipe_lease::{LeaseError, Proof};
use pinpipe_plan::{
    model::{Images, Policy},
    names::MANAGER,
};

use crate::{
    kafka::{Brokers, TopicsCache},
    metrics::Metrics,
    observe::{child_cache::ChildCache, pipeline_index::PipelineIndex, run_index::RunIndex},
    permits::Permits,
    records::Records,
    rollouts::Rollouts,
};

/// Settings of the operator.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The operator's own namespace, which has the record of topics.
    pub namespace: String,
    /// Images of the workers where a pipeline chooses none.
    pub images: Images,
    /// What pipelines may choose.
    pub policy: Policy,
    /// Number of pipelines reconciled at once.
    pub concurrency: u16,
    /// Number of pipelines that roll the operator's images at once.
    pub rollout_concurrency: u16,
    /// How long the deletion of a pipeline's topics is tried.
    pub deletion_deadline: Duration,
}

/// What every reconcile uses.
pub struct Context {
    /// Client of the API server.
    pub client: Client,
    /// Publishes events.
    pub recorder: Recorder,
    /// HTTP client of the workers' pods.
    pub pod_client: reqwest::Client,
    /// Settings of the operator.
    pub settings: Settings,
    /// The operator's metrics.
    pub metrics: Metrics,
    /// All watched pipelines.
    pub pipelines: PipelineIndex,
    /// All watched runs.
    pub runs: RunIndex,
    /// Connected Kafka clusters.
    pub brokers: Brokers,
    /// Recent states of topics.
    pub topics: TopicsCache,
    /// Which pipeline each topic belongs to.
    pub records: Records,
    /// Children of all pipelines.
    pub children: ChildCache,
    /// Consecutive failures by the pipeline's UID.
    pub failures: Mutex<HashMap<String, u32>>,
    /// Consecutive reconciles, by the pipeline's UID, that found the same pipeline not ready, and
    /// what they found.
    pub unready: Mutex<HashMap<String, (u64, u32)>>,
    /// Pipelines that roll the operator's images.
    pub rollouts: Rollouts,
    /// Concurrency permits of reconciles.
    pub permits: Permits,
    /// Proof that this replica holds the Lease; None when leader election is off.
    pub lease: Option<Proof>,
}

impl Context {
    /// A context with empty caches.
    #[must_use]
    pub fn new(
        client: Client,
        pod_client: reqwest::Client,
        settings: Settings,
        metrics: Metrics,
        lease: Option<Proof>,
    ) -> Self {
        let (namespace, proof) = (&settings.namespace, lease.clone());
        Self {
            records: Records::new(client.clone(), namespace, proof, metrics.clone()),
            recorder: Recorder::new(client.clone(), MANAGER.into()),
            rollouts: Rollouts::new(settings.rollout_concurrency),
            permits: Permits::new(settings.concurrency),
            client,
            pod_client,
            settings,
            metrics,
            pipelines: PipelineIndex::default(),
            runs: RunIndex::default(),
            brokers: Brokers::default(),
            topics: TopicsCache::default(),
            children: ChildCache::default(),
            failures: Mutex::default(),
            unready: Mutex::default(),
            lease,
        }
    }

    /// Drops what is kept about pipelines that are gone: no reconcile is started for those.
    pub fn forget_gone(&self) {
        let uids: HashSet<String> = self.pipelines.uids();
        let failures = &mut self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.retain(|uid, _| uids.contains(uid));
        let unready = &mut self.unready.lock().unwrap_or_else(PoisonError::into_inner);
        unready.retain(|uid, _| uids.contains(uid));
        self.children.retain(&uids);
    }

    /// Checks that this replica still holds the Lease. Call it before every write.
    pub fn check_lease(&self) -> Result<(), LeaseError> {
        self.lease.as_ref().map_or(Ok(()), Proof::check)
    }
}
