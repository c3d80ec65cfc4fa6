//! The topics' part of a pass.

use pinpipe_crds::TopicStatus;

use super::{Error, Pass};
use crate::{
    build::{self, TopicWish},
    status::{Finding, reasons},
    topics::{self, Broker, BrokerError, Outcome, Plan},
    validate::ValidatedPipeline,
};

impl Pass<'_> {
    /// Creates topics that are absent, gives those of ours the partitions wished for, and says how
    /// they stand.
    pub(super) async fn topics(&mut self, pipeline: &ValidatedPipeline) -> Result<Outcome, Error> {
        let wishes = build::topics(pipeline);
        let question = topics::question(
            &pipeline.bootstrap_servers,
            &wishes,
            &pipeline.requests.forget,
        );
        if let Some(outcome) = self.context.topics.get(&self.uid, question) {
            return Ok(outcome);
        }
        let known = self
            .resource
            .status
            .as_ref()
            .map(|status| status.topics.clone())
            .unwrap_or_default();
        let unchanged = |error: &BrokerError| Outcome {
            topics: known.clone(),
            finding: error.finding(),
        };
        let names: Vec<String> = wishes.iter().map(|wish| wish.name.clone()).collect();
        let outcome = match self
            .context
            .brokers
            .see(&pipeline.bootstrap_servers, names.clone())
            .await
        {
            Err(error) => {
                self.context.metrics.failed("broker");
                unchanged(&error)
            }
            Ok((broker, seen)) => {
                let known = topics::without(&known, &pipeline.requests.forget, &seen);
                let plan = topics::plan(&wishes, &known, &seen, &self.target());
                if plan.pending().is_none() {
                    plan.outcome
                } else {
                    self.carry_out(&broker, &wishes, plan, names).await?
                }
            }
        };
        self.context
            .topics
            .put(&self.uid, question, outcome.clone());
        Ok(outcome)
    }

    async fn carry_out(
        &mut self,
        broker: &Broker,
        wishes: &[TopicWish],
        plan: Plan,
        names: Vec<String>,
    ) -> Result<Outcome, Error> {
        self.context.may_write()?;
        if !plan.create.is_empty() {
            self.write_intent(plan.intent.clone()).await?;
        }
        let done = async {
            if !plan.create.is_empty() {
                broker.create(&plan.create).await?;
                self.count("create", plan.create.len());
            }
            if !plan.raise.is_empty() {
                broker.raise(&plan.raise).await?;
                self.count("raise", plan.raise.len());
            }
            broker.see(names).await
        };
        Ok(match done.await {
            Ok(seen) => {
                let after = topics::plan(wishes, &plan.intent, &seen, &self.target());
                match after.pending() {
                    None => after.outcome,
                    Some(message) => Outcome {
                        finding: Finding::bad(reasons::TOPICS_PENDING, message),
                        ..after.outcome
                    },
                }
            }
            Err(error) => {
                self.context.metrics.failed("broker");
                Outcome {
                    topics: plan.intent,
                    finding: error.finding(),
                }
            }
        })
    }

    /// The pipeline, to `kubectl`.
    fn target(&self) -> String {
        format!("-n {} pinterestpipeline {}", self.namespace, self.name)
    }

    pub(super) fn count(&self, verb: &'static str, topics: usize) {
        for _ in 0..topics {
            self.context.metrics.wrote(verb, "topics");
        }
    }

    /// Writes that topics are about to be created by us.
    async fn write_intent(&mut self, topics: Vec<TopicStatus>) -> Result<(), Error> {
        let mut status = self.resource.status.clone().unwrap_or_default();
        status.topics = topics;
        self.note(status).await
    }
}
