//! Topics: described, created, and given more partitions.

use pinpipe_crds::{TopicStatus, reasons};
use pinpipe_plan::{build::DesiredTopic, model::ValidatedPipeline};

use super::Reconciler;
use crate::{
    error::Error,
    finding::Finding,
    kafka::{self, Broker, BrokerError, Plan, TopicsState},
};

impl Reconciler<'_> {
    /// Creates topics that are absent, gives topics more partitions, and tells how they are.
    pub(super) async fn apply_topics(
        &mut self,
        pipeline: &ValidatedPipeline,
        desired: &[DesiredTopic],
    ) -> Result<TopicsState, Error> {
        let forget = &pipeline.requests.forget;
        let request = kafka::request(&pipeline.bootstrap_servers, desired, forget);
        if let Some(state) = self.context.topics.get(&self.uid, request) {
            return Ok(state);
        }
        let known = self
            .resource
            .status
            .as_ref()
            .map(|status| status.topics.clone());
        let known = known.unwrap_or_default();
        let names: Vec<String> = desired.iter().map(|topic| topic.name.clone()).collect();
        let described = self
            .context
            .brokers
            .describe(&pipeline.bootstrap_servers, names.clone())
            .await;
        let state = match described {
            Err(error) => self.broker_failed(known, &error),
            Ok((broker, observed)) => {
                let known = kafka::without_forgotten(&known, forget, &observed);
                let plan = kafka::plan(desired, &known, &observed, &self.target());
                if plan.pending().is_none() {
                    plan.state
                } else {
                    self.carry_out(&broker, desired, plan, names).await?
                }
            }
        };
        self.context.topics.put(&self.uid, request, state.clone());
        Ok(state)
    }

    async fn carry_out(
        &mut self,
        broker: &Broker,
        desired: &[DesiredTopic],
        plan: Plan,
        names: Vec<String>,
    ) -> Result<TopicsState, Error> {
        if !plan.create.is_empty() {
            let status = self.resource.status.clone().unwrap_or_default();
            let topics = plan.intent.clone();
            let status = pinpipe_crds::PinterestPipelineStatus { topics, ..status };
            self.write_and_continue(status).await?;
        }
        let mut changed = Ok(());
        if !plan.create.is_empty() {
            self.context.check_lease()?;
            changed = broker.create(&plan.create).await;
            if changed.is_ok() {
                self.count("create", plan.create.len());
            }
        }
        if changed.is_ok() && !plan.raise.is_empty() {
            self.context.check_lease()?;
            changed = broker.raise(&plan.raise).await;
            if changed.is_ok() {
                self.count("raise", plan.raise.len());
            }
        }
        let described = match changed {
            Ok(()) => broker.describe(names).await,
            Err(error) => Err(error),
        };
        Ok(match described {
            Ok(observed) => {
                let after = kafka::plan(desired, &plan.intent, &observed, &self.target());
                match after.pending() {
                    None => after.state,
                    Some(message) => {
                        let finding = Finding::bad(reasons::TOPICS_PENDING, message);
                        TopicsState {
                            finding,
                            ..after.state
                        }
                    }
                }
            }
            Err(error) => self.broker_failed(plan.intent, &error),
        })
    }

    fn broker_failed(&self, topics: Vec<TopicStatus>, error: &BrokerError) -> TopicsState {
        self.context.metrics.failed("broker");
        TopicsState {
            topics,
            finding: error.finding(),
        }
    }

    /// Arguments of kubectl that name the pipeline.
    fn target(&self) -> String {
        format!("-n {} pinterestpipeline {}", self.namespace, self.name)
    }

    pub(super) fn count(&self, verb: &'static str, topics: usize) {
        for _ in 0..topics {
            self.context.metrics.wrote(verb, "topics");
        }
    }
}
