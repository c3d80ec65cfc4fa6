//! Topics: claimed, described, created, and given more partitions.

use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use pinpipe_crds::{PinterestPipeline, TopicStatus, reasons};
use pinpipe_plan::{
    build::DesiredTopic,
    ownership::{self, Claim, Entries},
    requests::TopicRequest,
};

use super::Reconciler;
use crate::{
    error::{Error, Trying as _},
    finding::Finding,
    kafka::{self, Broker, BrokerError, Cluster, Plan, Raise, Suitability, TopicsState},
    records::Written,
};

/// What the record has about the topics of a cluster.
struct Record<'a> {
    cluster: &'a Cluster,
    entries: Entries,
}

impl Record<'_> {
    /// The record after the entries of these topics were written.
    fn with(&self, claim: &Claim, topics: &[TopicStatus]) -> Self {
        let mut entries = self.entries.clone();
        entries.extend(claim.entries(topics));
        Self {
            cluster: self.cluster,
            entries,
        }
    }
}

impl Reconciler<'_> {
    /// Claims the topics, creates those that are absent, gives them more partitions, and reports
    /// how they are.
    pub(super) async fn apply_topics(
        &self,
        desired: &[DesiredTopic],
        requests: &[TopicRequest],
    ) -> Result<TopicsState, Error> {
        let access = match self.kafka_access().await? {
            Ok(access) => access,
            Err(error) => {
                let finding = error.finding();
                return Ok(self.unclaimed(finding.reason, finding.message));
            }
        };
        let request = kafka::request(&access, desired, requests);
        if let Some(state) = self.context.topics.get(&self.uid, request) {
            return Ok(state);
        }
        let names: Vec<String> = desired.iter().map(|topic| topic.name.clone()).collect();
        let brokers = &self.context.brokers;
        let described = brokers.describe(&access, names);
        let state = match self.permit.released(described).await {
            Err(error) => {
                let finding = self.broker_finding(&error);
                self.unclaimed(finding.reason, finding.message)
            }
            Ok((broker, cluster)) => self.apply_to(&broker, &cluster, desired, requests).await?,
        };
        self.context.topics.put(&self.uid, request, state.clone());
        Ok(state)
    }

    async fn apply_to(
        &self,
        broker: &Broker,
        cluster: &Cluster,
        desired: &[DesiredTopic],
        requests: &[TopicRequest],
    ) -> Result<TopicsState, Error> {
        let names: Vec<String> = desired.iter().map(|topic| topic.name.clone()).collect();
        let entries = self.context.records.read(&cluster.id, &names).await?;
        if let Some(conflict) = self.conflict(&names, &entries).await? {
            return Ok(self.unclaimed(reasons::TOPIC_CONFLICT, conflict));
        }
        let claim = Claim::of(&self.resource);
        let status = self.known_topics();
        let known = names.iter().filter_map(|name| {
            let status = status.iter().find(|topic| topic.name == *name);
            claim.known(name, entries.get(name), status, cluster.topic_id(name))
        });
        let known: Vec<_> = known.collect();
        let known = kafka::settled(&known, requests, &cluster.topics);
        let plan = kafka::plan(desired, &known, &cluster.topics);
        let record = Record { cluster, entries };
        if let Some(problem) = self.write_record(&record, &plan.intent).await? {
            // Without topics that would have been created now.
            let mut topics = plan.state.topics;
            topics.retain(|topic| topic.id.is_some());
            return Ok(TopicsState { topics, ..problem });
        }
        if plan.pending().is_none() {
            return Ok(plan.state);
        }
        self.carry_out(broker, desired, plan, record).await
    }

    /// Creates topics, gives them more partitions, and records what came of it. The record `before`
    /// is without the entries that were just written.
    async fn carry_out(
        &self,
        broker: &Broker,
        desired: &[DesiredTopic],
        plan: Plan,
        before: Record<'_>,
    ) -> Result<TopicsState, Error> {
        let claim = Claim::of(&self.resource);
        let mut topics = plan.intent;
        let record = before.with(&claim, &topics);
        let is_new = |name: &str| before.entries.get(name) != record.entries.get(name);
        self.context.check_lease()?;
        let created = self.create(broker, plan.create, &mut topics, is_new).await;
        // Before anything else can fail: it is the only proof of what was just created.
        if let Some(problem) = self.write_record(&record, &topics).await? {
            return Ok(TopicsState { topics, ..problem });
        }
        let record = record.with(&claim, &topics);
        let changed = match created {
            Ok(()) => {
                self.context.check_lease()?;
                self.raise(broker, plan.raise).await
            }
            failed => failed,
        };
        // Also after a failure: the ids of topics that were created are needed to delete them.
        let names = desired.iter().map(|topic| topic.name.clone());
        let described = broker.describe(names.collect());
        let cluster = match self.permit.released(described).await {
            Ok(cluster) => cluster,
            Err(error) => {
                let finding = self.broker_finding(&changed.err().unwrap_or(error));
                return Ok(TopicsState {
                    topics,
                    finding,
                    ..plan.state
                });
            }
        };
        let after = kafka::plan(desired, &topics, &cluster.topics);
        let pending = after.pending();
        let mut state = after.state;
        if let Some(problem) = self.write_record(&record, &state.topics).await? {
            // The status has the new topics' ids until the record can have them.
            let topics = state.topics;
            return Ok(TopicsState { topics, ..problem });
        }
        if let Err(error) = changed {
            state.finding = self.broker_finding(&error);
        } else if let Some(message) = pending {
            state.finding = Finding::bad(reasons::TOPICS_PENDING, message);
        }
        Ok(state)
    }

    async fn raise(&self, broker: &Broker, topics: Vec<Raise>) -> Result<(), BrokerError> {
        if !topics.is_empty() {
            let raised = topics.len();
            self.permit.released(broker.raise(topics)).await?;
            self.count("raise", raised);
        }
        Ok(())
    }

    fn broker_finding(&self, error: &BrokerError) -> Finding {
        self.context.metrics.failed("broker");
        error.finding()
    }

    /// Creates topics, and notes in `topics` who created each. `is_new` tells whether a topic's
    /// entry was written just before.
    async fn create(
        &self,
        broker: &Broker,
        desired: Vec<DesiredTopic>,
        topics: &mut [TopicStatus],
        is_new: impl Fn(&str) -> bool,
    ) -> Result<(), BrokerError> {
        if desired.is_empty() {
            return Ok(());
        }
        let mut failure = Ok(());
        for (name, result) in self.permit.released(broker.create(desired)).await? {
            match result {
                Ok(creation) => {
                    let topic = topics.iter_mut().find(|topic| topic.name == name);
                    if let Some(topic) = topic {
                        topic.created = ownership::created(creation, topic.created, is_new(&name));
                    }
                    self.count("create", 1);
                }
                Err(error) => failure = failure.and(Err(error)),
            }
        }
        failure
    }

    /// Writes the entries of these topics. Returns the state of the topics if that isn't possible.
    async fn write_record(
        &self,
        record: &Record<'_>,
        topics: &[TopicStatus],
    ) -> Result<Option<TopicsState>, Error> {
        let entries = Claim::of(&self.resource).entries(topics).into_iter();
        let changes = entries.map(|(name, entry)| (name, Some(entry))).collect();
        let (cluster, known) = (&record.cluster.id, &record.entries);
        let written = self.context.records.write(cluster, known, &changes).await?;
        Ok(match written {
            Written::Done => None,
            Written::Changed => Some(self.unclaimed(
                reasons::TOPIC_CONFLICT,
                "another pipeline has just claimed a topic of this one".to_owned(),
            )),
            Written::Refused(message) => Some(self.unclaimed(
                reasons::TOPIC_REFUSED,
                format!(
                    "the API server refuses the operator's record of topics in the namespace {}: \
                     {message}",
                    self.context.settings.namespace
                ),
            )),
        })
    }

    /// Sentence about a topic that belongs to another pipeline. None: this one holds its topics, or
    /// may claim them.
    async fn conflict(&self, names: &[String], entries: &Entries) -> Result<Option<String>, Error> {
        let claim = Claim::of(&self.resource);
        let holds = |name: &str| entries.get(name).is_some_and(|entry| claim.holds(entry));
        if names.iter().all(|name| holds(name)) {
            return Ok(None);
        }
        for (name, entry) in entries.iter().filter(|(_, entry)| !claim.holds(entry)) {
            if self.is_held(name, &entry.pipeline).await? {
                let owner = format!("{}, which holds it", entry.pipeline);
                return Ok(Some(ownership::conflict(name, &owner)));
            }
        }
        let unclaimed = claim.clone().without(holds);
        let others = self.claims_of_others(&unclaimed).await?;
        if let Some(conflict) = unclaimed.conflict(&others) {
            return Ok(Some(conflict));
        }
        for (topic, namespace) in unclaimed.foreign_namespaces() {
            if self.is_namespace(namespace).await? {
                return Ok(Some(format!(
                    "topic {topic} has a name as pipelines in the namespace {namespace} have them, \
                     so it can't be claimed from the namespace {}: choose another name \
                     (spec.broker.kafka.topics.overrides; it can't be changed, so delete the \
                     pipeline and create it again)",
                    self.namespace
                )));
            }
        }
        Ok(None)
    }

    /// Claims of other pipelines that share a topic name with this claim. A watch may lag behind,
    /// so whichever pipeline would win a topic is looked up first.
    async fn claims_of_others(&self, claim: &Claim) -> Result<Vec<Claim>, Error> {
        let mut others = self.context.pipelines.meeting(claim);
        while let Some((_, rival)) = claim.rival(&others) {
            let client = self.context.client.clone();
            let api: Api<PinterestPipeline> = Api::namespaced(client, &rival.namespace);
            let found = api.get_metadata_opt(&rival.name).await;
            let found = found.trying("reading the pipeline that a topic belongs to")?;
            let uid = rival.uid.clone();
            if found.is_some_and(|found| found.metadata.uid.as_ref() == Some(&uid)) {
                break;
            }
            others.retain(|other| other.uid != uid);
        }
        Ok(others)
    }

    /// Whether the pipeline `<namespace>/<name>` still exists and names the topic. Only a definite
    /// no lets another pipeline have the topic.
    async fn is_held(&self, topic: &str, pipeline: &str) -> Result<bool, Error> {
        let (namespace, name) = pipeline.split_once('/').unwrap_or_default();
        let api: Api<PinterestPipeline> = Api::namespaced(self.context.client.clone(), namespace);
        match api.get_opt(name).await {
            Ok(found) => Ok(found.is_some_and(|found| Claim::of(&found).names(topic))),
            // It can't be read, or the operator doesn't watch its namespace any more.
            Err(kube::Error::SerdeError(_)) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 403 => Ok(true),
            Err(error) => Err(error).trying("reading the pipeline that a topic belongs to"),
        }
    }

    /// Whether a namespace exists. False, too, where the operator may not read namespaces.
    async fn is_namespace(&self, name: &str) -> Result<bool, Error> {
        let api: Api<Namespace> = Api::all(self.context.client.clone());
        match api.get_metadata_opt(name).await {
            Ok(found) => Ok(found.is_some()),
            Err(kube::Error::Api(status)) if status.code == 403 => Ok(false),
            Err(error) => Err(error).trying("reading a namespace"),
        }
    }

    /// Topics as the status lists them.
    fn known_topics(&self) -> Vec<TopicStatus> {
        let status = self.resource.status.iter();
        status.flat_map(|status| status.topics.clone()).collect()
    }

    fn unclaimed(&self, reason: &'static str, message: String) -> TopicsState {
        TopicsState {
            topics: self.known_topics(),
            finding: Finding::bad(reason, message),
            claimed: false,
            suitability: Suitability::Unknown,
        }
    }

    pub(super) fn count(&self, verb: &'static str, topics: usize) {
        for _ in 0..topics {
            self.context.metrics.wrote(verb, "topics");
        }
    }
}
