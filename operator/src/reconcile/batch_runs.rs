//! Batch runs: how they are, those that could not start before the pipeline changed, and those that
//! a change of the resource must not end.
//!
//! A Job that can't start holds back the schedule, which starts no second run beside it. Once the
//! pipeline is corrected, the Job is deleted, so that a run starts with the new configuration. A
//! Job that is just starting, or of which a container may have run, is left alone.

use std::collections::BTreeSet;

use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        batch::v1::{CronJob, Job},
        core::v1::ObjectReference,
    },
    jiff::Timestamp,
};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
    runtime::events::EventType,
};
use pinpipe_crds::{BatchStatus, Outcome, condition_types, reasons};
use pinpipe_plan::{
    build::{live_digest, live_sink_of},
    component::Component,
    model::ValidatedPipeline,
    names::{MANAGER, TEMPLATE_ANNOTATION},
};
use serde_json::json;

use super::Reconciler;
use crate::{
    context::Context,
    error::{Error, Trying as _},
    finding::Finding,
    observe::{
        children::{Children, Key},
        runs::{self, Run, has_ended, is_of_run},
    },
    status::{
        batch_runs::{self, Runs},
        schedule,
        sinks::RunLoads,
    },
};

/// Kinds of the batch component's children that its runs need until they end.
const NEEDED_BY_RUNS: [&str; 5] = ["CronJob", "Lease", "Role", "RoleBinding", "ServiceAccount"];

impl Reconciler<'_> {
    /// The batch runs; none without a batch section.
    pub(super) async fn runs(&self, pipeline: &ValidatedPipeline) -> Result<Vec<Run>, Error> {
        if pipeline.batch.is_none() {
            return Ok(Vec::new());
        }
        let jobs = self.jobs_of_runs().await?;
        let runs = runs::with_pods(&self.context.client, &self.namespace, jobs).await;
        runs.trying("listing the pods of batch runs")
    }

    pub(super) async fn jobs_of_runs(&self) -> Result<Vec<Job>, Error> {
        let Context {
            client,
            children,
            pipelines,
            ..
        } = self.context;
        let jobs = children.runs(client, self.of(), pipelines.count());
        jobs.await.trying("listing Jobs")
    }

    /// Status and finding of batch runs, and what a run that has just ended did with the sinks.
    pub(super) async fn batch(
        &self,
        pipeline: &ValidatedPipeline,
        children: &Children,
        runs: &[Run],
    ) -> Result<(Option<BatchStatus>, Option<Finding>, Option<RunLoads>), Error> {
        let Some(batch) = &pipeline.batch else {
            return Ok((None, None, None));
        };
        let before = self
            .resource
            .status
            .as_ref()
            .and_then(|status| status.batch.as_ref());
        let known = before.and_then(|batch| batch.last_run.as_ref());
        // The sentence a run failed with is read once; from then on the condition keeps it, unless
        // it has another reason meanwhile.
        let told = self
            .condition(condition_types::BATCH_READY)
            .filter(|condition| condition.reason == reasons::RUN_FAILED);
        let has_sentence = told.is_some() || pipeline.suspend || !batch.secrets.missing.is_empty();
        let is_told = |name: &str, outcome| {
            known.is_some_and(|run| run.name == name)
                && (outcome == Outcome::Succeeded || has_sentence)
        };
        let runs: Vec<Run> = runs
            .iter()
            .filter(|run| run.is_batch_run())
            .cloned()
            .collect();
        let runs = runs.as_slice();
        let ended = batch_runs::last_ended(runs, known);
        let ended = ended.filter(|(run, outcome)| !is_told(&run.name(), *outcome));
        let (last_run, loads) = match ended {
            Some((run, outcome)) => {
                let pods = runs::pods_of(&self.context.client, &self.namespace, &run.job).await;
                let pods = pods.trying("listing a run's pods")?;
                let (run, loads) = batch_runs::last_run(&run.job, outcome, &pods);
                (Some(run), Some(loads))
            }
            None => (None, None),
        };
        let is_new = last_run.is_some();
        let now = Timestamp::now();
        let active = runs.iter().find(|run| run.is_active());
        let cron_job = cron_job(pipeline, children);
        let cron_job = cron_job.map(|cron_job| batch_runs::with_last_success(cron_job, runs));
        let overdue = cron_job.as_ref().filter(|_| !pipeline.suspend);
        let overdue =
            overdue.and_then(|cron| schedule::overdue(batch, cron, active.is_some(), now));
        let status = batch_runs::status(cron_job.as_ref(), before, last_run, overdue.is_some());
        if let Some(missing) = batch.secrets.missing.first() {
            let message = format!("{missing} (namespace {})", self.namespace);
            let finding = Finding::bad(reasons::SECRET_MISSING, message);
            return Ok((Some(status), Some(finding), loads));
        }
        let mut problems = runs
            .iter()
            .filter_map(|run| batch_runs::start_problem(run, &self.namespace, now));
        let mut finding = batch_runs::finding(&Runs {
            suspended: pipeline.suspend,
            start_problem: problems.next().as_ref(),
            last: status.last_run.as_ref(),
            failure: loads.as_ref().and_then(|loads| loads.failure.as_deref()),
            overdue: overdue.as_ref(),
            active,
            place: &format!("-n {}", self.namespace),
        });
        if let Some(told) = told.filter(|_| !is_new && finding.reason == reasons::RUN_FAILED) {
            finding.message.clone_from(&told.message);
        }
        Ok((Some(status), Some(finding), loads))
    }

    /// Deletes the Jobs of stuck runs that are started again with another configuration. Returns
    /// the other runs, and the first error.
    pub(super) async fn replace_stuck_runs(
        &self,
        pipeline: &ValidatedPipeline,
        children: &Children,
        runs: Vec<Run>,
    ) -> (Vec<Run>, Result<(), Error>) {
        let Some(cron_job) = cron_job(pipeline, children) else {
            return (runs, Ok(()));
        };
        let live = |sink: &str| children.deployment(pipeline, &Component::stream(sink));
        let now = Timestamp::now();
        let (mut left, mut replaced) = (Vec::new(), Ok(()));
        for mut run in runs {
            if !batch_runs::is_stuck(&run, now) || !starts_again(&run, &cron_job, &live) {
                left.push(run);
                continue;
            }
            match self.replace(&run).await {
                Ok(None) => {}
                Ok(Some(terminating)) => {
                    run.job = terminating;
                    left.push(run);
                }
                Err(error) => {
                    left.push(run);
                    replaced = replaced.and(Err(error));
                }
            }
        }
        (left, replaced)
    }

    /// Deletes the Job of a run that is started again. Returns it while it isn't gone.
    async fn replace(&self, run: &Run) -> Result<Option<Job>, Error> {
        // In this order, no run is lost if the operator stops in between.
        self.queue_again(&run.job).await?;
        self.delete_run(run).await
    }

    /// Deletes a Job that is still as it was observed. Returns it while it isn't gone.
    async fn delete_run(&self, run: &Run) -> Result<Option<Job>, Error> {
        self.context.check_lease()?;
        self.context.children.changes(&self.uid, "Job");
        let name = run.name();
        let params = DeleteParams {
            // A Job whose pod starts changes its status, and so its version.
            preconditions: Some(Preconditions {
                uid: run.job.uid(),
                resource_version: run.job.resource_version(),
            }),
            ..DeleteParams::background()
        };
        let terminating = match self.jobs().delete(&name, &params).await {
            Ok(deleted) => deleted.left(),
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(None),
            Err(kube::Error::Api(status)) if status.code == 409 => {
                return Ok(Some(run.job.clone()));
            }
            Err(error) => return Err(error).trying("deleting a batch run that could not start"),
        };
        self.context.metrics.wrote("delete", "jobs");
        let (namespace, pipeline) = (&self.namespace, &self.name);
        tracing::info!(
            namespace,
            name = pipeline,
            job = name,
            "deleted a stuck run"
        );
        let message = format!(
            "deleted the batch run {name}, which could not start, since the pipeline changed; \
             the next one starts as the pipeline is now"
        );
        let (type_, reason) = (EventType::Normal, reasons::RUN_REPLACED);
        self.event(
            type_,
            reason,
            "Run",
            &message,
            Some(self.job_reference(&name)),
        )
        .await;
        Ok(terminating)
    }

    pub(super) fn job_reference(&self, job: &str) -> ObjectReference {
        ObjectReference {
            api_version: Some("batch/v1".to_owned()),
            kind: Some("Job".to_owned()),
            namespace: Some(self.namespace.clone()),
            name: Some(job.to_owned()),
            ..ObjectReference::default()
        }
    }

    /// Children that active runs still need although the pipeline has no batch section any more.
    /// The schedule is suspended until they end.
    pub(super) async fn needed_by_runs(
        &self,
        pipeline: &ValidatedPipeline,
        children: &Children,
    ) -> Result<BTreeSet<Key>, Error> {
        let cron_job = cron_job(pipeline, children).filter(|_| pipeline.batch.is_none());
        let Some(cron_job) = cron_job else {
            return Ok(BTreeSet::new());
        };
        let jobs = self.jobs_of_runs().await?;
        if jobs.iter().all(|job| has_ended(job).is_some()) {
            return Ok(BTreeSet::new());
        }
        let name = pipeline.child(&Component::Batch);
        if cron_job.spec.and_then(|spec| spec.suspend) != Some(true) {
            self.context.check_lease()?;
            self.context.children.changes(&self.uid, "CronJob");
            let client = self.context.client.clone();
            let cron_jobs: Api<CronJob> = Api::namespaced(client, &self.namespace);
            let suspend = Patch::Merge(json!({"spec": {"suspend": true}}));
            let params = PatchParams {
                field_manager: Some(MANAGER.to_owned()),
                ..PatchParams::default()
            };
            let patched = cron_jobs.patch(&name, &params, &suspend).await;
            patched.trying("suspending batch runs")?;
            self.context.metrics.wrote("patch", "cronjobs");
        }
        Ok(NEEDED_BY_RUNS
            .map(|kind| (kind.to_owned(), name.clone()))
            .into())
    }

    fn jobs(&self) -> Api<Job> {
        Api::namespaced(self.context.client.clone(), &self.namespace)
    }
}

/// Whether a batch section says nothing. It is left out then: where an object loses its last field
/// by server-side apply, the API server makes it null, which it then refuses.
pub(super) fn is_empty(batch: &BatchStatus) -> bool {
    *batch == BatchStatus::default()
}

/// Whether a run is started again, with another configuration. `live` has the Deployments of stream
/// sinks by their names.
fn starts_again(run: &Run, cron_job: &CronJob, live: &impl Fn(&str) -> Option<Deployment>) -> bool {
    let digest = run.job.annotations().get(TEMPLATE_ANNOTATION);
    let template = cron_job.spec.as_ref().map(|spec| &spec.job_template);
    let wanted = template
        .and_then(|template| template.metadata.as_ref()?.annotations.as_ref())
        .and_then(|annotations| annotations.get(TEMPLATE_ANNOTATION).cloned());
    let wanted = match live_sink_of(&run.job) {
        Some(sink) => wanted
            .zip(live(sink))
            .map(|(template, live)| live_digest(&template, &live)),
        None => wanted,
    };
    let is_changed = digest.is_some() && wanted.is_some() && digest != wanted.as_ref();
    let mut owners = run.job.owner_references().iter();
    let is_owned = owners.any(|owner| {
        owner.controller == Some(true) && Some(&owner.uid) == cron_job.metadata.uid.as_ref()
    });
    // One that somebody made by hand holds nothing back, and would not be made again.
    is_changed && (is_owned && run.is_scheduled() || is_of_run(&run.job))
}

pub(super) fn cron_job(pipeline: &ValidatedPipeline, children: &Children) -> Option<CronJob> {
    children.typed("CronJob", &pipeline.child(&Component::Batch))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cron_job(digest: &str) -> CronJob {
        let annotations = json!({TEMPLATE_ANNOTATION: digest});
        let template = json!({"metadata": {"annotations": annotations},
            "spec": {"template": {"spec": {"containers": []}}}});
        serde_json::from_value(json!({"metadata": {"name": "p-batch", "uid": "7"},
            "spec": {"schedule": "@daily", "jobTemplate": template}}))
        .unwrap()
    }

    fn run(annotations: &[(&str, &str)], owner: &str) -> Run {
        let annotations: std::collections::BTreeMap<_, _> = annotations.iter().copied().collect();
        let owner = json!({"apiVersion": "batch/v1", "kind": "CronJob", "name": "p-batch",
            "uid": owner, "controller": true});
        let job = json!({"metadata": {"name": "r", "annotations": annotations,
            "ownerReferences": [owner]}, "status": {"active": 1}});
        Run {
            job: serde_json::from_value(job).unwrap(),
            pods: Vec::new(),
        }
    }

    #[test]
    fn a_run_is_replaced_only_if_it_is_another_now_and_starts_again() {
        let now = cron_job("new");
        let manual = ("cronjob.kubernetes.io/instantiate", "manual");
        let (old, new) = ((TEMPLATE_ANNOTATION, "old"), (TEMPLATE_ANNOTATION, "new"));
        let none = |_: &str| None;
        let replaced = |run: &Run| starts_again(run, &now, &none);
        assert!(replaced(&run(&[old], "7")));
        let mut of_run = run(&[old, manual], "8");
        let owners = of_run.job.metadata.owner_references.as_mut().unwrap();
        "PinterestRun".clone_into(&mut owners[0].kind);
        assert!(replaced(&of_run));
        for (kept, why) in [
            (run(&[new], "7"), "it is as it should be"),
            (run(&[], "7"), "it was made by an operator that set no hash"),
            (run(&[old], "8"), "it belongs to something else"),
            (run(&[old, manual], "7"), "it was made by hand"),
        ] {
            assert!(!replaced(&kept), "{why}");
        }
        assert!(!starts_again(&run(&[old], "7"), &CronJob::default(), &none));
    }

    #[test]
    fn a_backfill_of_a_live_sink_is_another_once_the_sink_is() {
        let deployment = |secret: &str| -> Deployment {
            let volume = json!({"name": "postgres", "secret": {"secretName": secret}});
            let pod = json!({"containers": [], "volumes": [volume]});
            serde_json::from_value(json!({"spec": {"selector": {}, "template": {"spec": pod}}}))
                .unwrap()
        };
        let digest = live_digest("template", &deployment("wrong"));
        let mut backfill = run(&[(TEMPLATE_ANNOTATION, &digest)], "8");
        let owners = backfill.job.metadata.owner_references.as_mut().unwrap();
        "PinterestRun".clone_into(&mut owners[0].kind);
        let sink = json!({"name": "PINPIPE_BACKFILL_SINK", "value": "live"});
        let pod = json!({"containers": [{"name": "batch", "env": [sink]}]});
        let spec = json!({"template": {"spec": pod}});
        backfill.job.spec = serde_json::from_value(spec).unwrap();
        let is_another = |secret: &str| {
            let live = |_: &str| Some(deployment(secret));
            starts_again(&backfill, &cron_job("template"), &live)
        };
        assert!(!is_another("wrong"));
        assert!(is_another("right"));
        assert!(!starts_again(
            &backfill,
            &cron_job("template"),
            &|_: &str| None
        ));
    }
}
