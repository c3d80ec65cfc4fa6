//! Work of runs that takes no Job: how resets are, which workers carry out, and what is settled
//! about topics.

use std::collections::BTreeMap;

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use kube::{ResourceExt as _, runtime::events::EventType};
use pinpipe_config::{Reset, ResetState};
use pinpipe_crds::{PinterestRun, RunPhase, reasons};
use pinpipe_plan::{
    component::Component,
    model::ValidatedPipeline,
    queue::{self, State, Work},
    requests::{Requests, requests},
    run::{has_job, phase},
};

use super::Reconciler;
use crate::{error::Error, kafka::TopicsState, observe::worker_health};

/// Why a worker of an earlier release doesn't answer.
const OLD_WORKER: &str = "it is of a release that doesn't tell whether a reset is done: let it \
    be of the operator's release (spec.image.tag); what it has reset is not reset again";

/// What a sink's workers answered about a reset.
#[derive(Default)]
struct Answers {
    states: Vec<ResetState>,
    /// What they report besides.
    problem: Option<String>,
}

impl Reconciler<'_> {
    /// What the runs under way ask for, as the index of runs has them.
    pub(super) fn requests(&self, pipeline: &ValidatedPipeline) -> Requests {
        let runs = self.context.runs.of(&self.namespace, &self.name);
        requests(pipeline, &runs.unwrap_or_default())
    }

    /// How the work of these runs is. `asked` is what this reconcile was made with, and `topics`
    /// are the topics after it.
    pub(super) async fn work(
        &self,
        pipeline: &ValidatedPipeline,
        runs: &[PinterestRun],
        asked: &Requests,
        topics: &TopicsState,
    ) -> Result<BTreeMap<String, Work>, Error> {
        let under_way = runs
            .iter()
            .filter(|run| !has_job(&run.spec) && phase(run) == Some(RunPhase::Running));
        let mut found = BTreeMap::new();
        for run in under_way {
            let name = run.name_any();
            let request = asked.topics.iter().find(|request| request.run == name);
            if let Some(request) = request {
                let unclaimed = (!topics.claimed).then_some(topics.finding.message.as_str());
                let work = queue::of_topic(request, &topics.topics, unclaimed);
                found.insert(name, work);
                continue;
            }
            if run.spec.topic.is_some() {
                continue;
            }
            let answers = match &asked.reset {
                Some((component, reset)) => self.answers(component, reset).await?,
                None => Answers::default(),
            };
            let problem = answers.problem.as_deref();
            let work = queue::of_reset(pipeline, run, &answers.states, problem);
            found.extend(work.map(|work| (name, work)));
        }
        Ok(found)
    }

    /// What the workers of a sink answer about a reset.
    async fn answers(&self, component: &Component, reset: &Reset) -> Result<Answers, Error> {
        let pods = self.pods().await?;
        let client = &self.context.pod_client;
        let asked = async {
            let states = worker_health::resets(client, &pods, component).await;
            let problems = worker_health::problems(client, &pods).await;
            (states, problems)
        };
        let ((states, is_old), mut problems) = self.permit.released(asked).await;
        tracing::debug!(id = reset.id, ?states, "asked workers about a reset");
        let problem = problems.remove(component);
        let problem = problem.map(|found| format!("{}: {}", found.reason, found.message));
        Ok(Answers {
            states,
            problem: problem.or_else(|| is_old.then(|| OLD_WORKER.to_owned())),
        })
    }

    /// Starts a run that takes no Job: the reconcile that its status brings about does the work.
    pub(super) async fn begin(
        &self,
        run: &PinterestRun,
        store: Option<String>,
    ) -> Result<State, Error> {
        self.context.check_lease()?;
        let (namespace, name, run_name) = (&self.namespace, &self.name, run.name_any());
        tracing::info!(namespace, name, run = run_name, ?store, "started a run");
        let (reason, message) = match (&run.spec.reset, &store) {
            (Some(reset), Some(store)) => (
                reasons::SINK_RESET,
                format!(
                    "the sink {} ({store}) is given a reset of its positions by the run {run_name}",
                    reset.sink
                ),
            ),
            _ => (
                reasons::RUN_STARTED,
                format!("the run {run_name} is started"),
            ),
        };
        self.event(EventType::Normal, reason, "Run", &message, None)
            .await;
        Ok(State::begun(run, store, Time(Timestamp::now())))
    }
}
