//! Batch runs that an annotation starts, and those that a change of the resource must not end.
//!
//! A run is a Job of the `CronJob`'s template, as the schedule would make it, and the `CronJob`
//! owns it. Which word asked for the last one stands in the status, since the Job itself goes after
//! some time.

use std::collections::BTreeSet;

use k8s_openapi::{
    api::{
        batch::v1::{CronJob, Job},
        core::v1::ObjectReference,
    },
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, ObjectMeta, Patch, PatchParams, PostParams},
    runtime::events::EventType,
};
use pinpipe_crds::BatchStatus;
use serde_json::json;

use super::{Error, Pass, Trying as _, components::typed};
use crate::{
    MANAGER,
    apply::{Key, Live},
    build,
    status::{Finding, batch::has_ended, reasons},
    validate::{RUN_ANNOTATION, ValidatedPipeline},
};

/// What `kubectl create job --from` sets on a Job of a `CronJob`'s template.
const INSTANTIATED: (&str, &str) = ("cronjob.kubernetes.io/instantiate", "manual");
/// As many words are remembered, besides the last one.
const REMEMBERED: usize = 32;
/// What goes with a `CronJob`, and what its runs need to the end.
const NEEDED_BY_RUNS: [&str; 5] = ["CronJob", "Lease", "Role", "RoleBinding", "ServiceAccount"];

/// The words that asked for runs which were started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Words {
    pub(super) last: Option<String>,
    /// Those before it, the latest first.
    pub(super) before: Vec<String>,
}

impl Words {
    fn of(status: Option<&BatchStatus>) -> Self {
        let batch = status.cloned().unwrap_or_default();
        Self {
            last: batch.last_requested,
            before: batch.requested_before,
        }
    }

    /// Whether a run was started for this word.
    fn has(&self, word: &str) -> bool {
        self.last
            .iter()
            .chain(&self.before)
            .any(|known| known == word)
    }

    fn and(mut self, word: &str) -> Self {
        self.before.splice(0..0, self.last.replace(word.to_owned()));
        self.before.truncate(REMEMBERED);
        self
    }
}

impl Pass<'_> {
    /// Starts the run that is asked for, unless it was started before. Gives the words that asked
    /// for those started, or why it can't be done.
    pub(super) async fn start_run(
        &self,
        pipeline: &ValidatedPipeline,
        live: &Live,
    ) -> Result<Result<Words, Finding>, Error> {
        let last = Words::of(
            self.resource
                .status
                .as_ref()
                .and_then(|status| status.batch.as_ref()),
        );
        let Some(nonce) = pipeline
            .requests
            .run
            .as_ref()
            .filter(|nonce| !last.has(nonce))
        else {
            return Ok(Ok(last));
        };
        // Whatever keeps it from being there is said in the condition; the run starts once it is.
        let cron_job = typed::<CronJob>(live, "CronJob", &pipeline.child("batch"));
        let Some(job) = cron_job
            .filter(|_| !pipeline.suspend)
            .as_ref()
            .and_then(|cron| job(pipeline, cron, nonce))
        else {
            return Ok(Ok(last));
        };
        let name = job.name_any();
        self.context.may_write()?;
        let jobs: Api<Job> = Api::namespaced(self.context.client.clone(), &self.namespace);
        let params = PostParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PostParams::default()
        };
        match jobs.create(&params, &job).await {
            Ok(_) => {
                self.context.metrics.wrote("create", "jobs");
                tracing::info!(
                    namespace = self.namespace,
                    name = self.name,
                    job = name,
                    nonce,
                    "a batch run is started"
                );
                let started = ObjectReference {
                    api_version: Some("batch/v1".to_owned()),
                    kind: Some("Job".to_owned()),
                    namespace: Some(self.namespace.clone()),
                    name: Some(name.clone()),
                    ..ObjectReference::default()
                };
                let note =
                    format!("the batch run {name} is started, as {RUN_ANNOTATION}={nonce} asks");
                self.event(
                    EventType::Normal,
                    reasons::RUN_STARTED,
                    "Run",
                    &note,
                    Some(started),
                )
                .await;
            }
            // We died after that, and before the status said so.
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(kube::Error::Api(status)) if matches!(status.code, 400 | 403 | 422) => {
                let message = format!("the API server refuses Job {name}: {}", status.message);
                return Ok(Err(Finding::bad(reasons::CHILD_REFUSED, message)));
            }
            Err(error) => return Err(error).trying("starting a batch run"),
        }
        Ok(Ok(last.and(nonce)))
    }

    /// The children that runs under way still need, though the pipeline has no batch runs any more.
    /// Their schedule is suspended.
    pub(super) async fn needed_by_runs(
        &self,
        pipeline: &ValidatedPipeline,
        live: &Live,
    ) -> Result<BTreeSet<Key>, Error> {
        let name = pipeline.child("batch");
        let cron_job =
            typed::<CronJob>(live, "CronJob", &name).filter(|_| pipeline.batch.is_none());
        let Some(cron_job) = cron_job else {
            return Ok(BTreeSet::new());
        };
        let client = &self.context.client;
        let jobs: Api<Job> = Api::namespaced(client.clone(), &self.namespace);
        let params = ListParams::default().labels(&build::runs_selector(&self.name));
        let runs = jobs.list(&params).await.trying("listing Jobs")?.items;
        if runs.iter().all(|run| has_ended(run).is_some()) {
            return Ok(BTreeSet::new());
        }
        if cron_job.spec.and_then(|spec| spec.suspend) != Some(true) {
            self.context.may_write()?;
            let cron_jobs: Api<CronJob> = Api::namespaced(client.clone(), &self.namespace);
            let suspend = Patch::Merge(json!({"spec": {"suspend": true}}));
            let params = PatchParams {
                field_manager: Some(MANAGER.to_owned()),
                ..PatchParams::default()
            };
            cron_jobs
                .patch(&name, &params, &suspend)
                .await
                .trying("suspending batch runs")?;
            self.context.metrics.wrote("patch", "cronjobs");
        }
        Ok(NEEDED_BY_RUNS
            .map(|kind| (kind.to_owned(), name.clone()))
            .into())
    }
}

/// The run a word asks for: always the same of the same word.
fn job(pipeline: &ValidatedPipeline, cron_job: &CronJob, nonce: &str) -> Option<Job> {
    let template = cron_job.spec.as_ref()?.job_template.clone();
    let of = template.metadata.unwrap_or_default();
    let mut annotations = of.annotations.unwrap_or_default();
    annotations.extend(
        [INSTANTIATED, (RUN_ANNOTATION, nonce)]
            .map(|(key, value)| (key.to_owned(), value.to_owned())),
    );
    let digest = build::hash(&format!("{}/{nonce}", pipeline.uid));
    Some(Job {
        metadata: ObjectMeta {
            // The schedule's runs have a number there.
            name: Some(format!("{}-r{}", pipeline.child("batch"), &digest[..10])),
            namespace: Some(pipeline.namespace.clone()),
            labels: of.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![OwnerReference {
                api_version: "batch/v1".to_owned(),
                kind: "CronJob".to_owned(),
                name: cron_job.name_any(),
                uid: cron_job.uid()?,
                controller: Some(true),
                block_owner_deletion: None,
            }]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        build::objects,
        validate::tests::{validated, whole},
    };

    #[test]
    fn a_word_starts_one_run_though_others_came_after_it() {
        let mut words = Words::default().and("a").and("b");
        assert!(words.has("a") && words.has("b") && !words.has("c"));
        assert_eq!(
            (words.last.as_deref(), words.before.as_slice()),
            (Some("b"), &["a".to_owned()][..])
        );
        for at in 0..REMEMBERED {
            words = words.and(&at.to_string());
        }
        assert_eq!(
            (words.before.len(), words.has("b"), words.has("a")),
            (REMEMBERED, true, false)
        );
        let status = BatchStatus {
            last_requested: words.last.clone(),
            requested_before: words.before.clone(),
            ..BatchStatus::default()
        };
        assert_eq!(Words::of(Some(&status)), words);
    }

    #[test]
    fn a_run_is_what_the_schedule_would_start_and_has_one_name() {
        let pipeline = validated(whole());
        let body = objects(&pipeline)
            .into_iter()
            .find(|object| object.resource.kind == "CronJob")
            .unwrap()
            .body;
        let mut cron_job: CronJob = serde_json::from_value(body).unwrap();
        assert_eq!(job(&pipeline, &cron_job, "1"), None, "not there yet");
        cron_job.metadata.uid = Some("42".to_owned());
        let run = job(&pipeline, &cron_job, "1").unwrap();
        assert_eq!(Some(&run), job(&pipeline, &cron_job, "1").as_ref());
        assert_ne!(
            run.name_any(),
            job(&pipeline, &cron_job, "2").unwrap().name_any()
        );
        assert!(
            run.name_any().starts_with("pinterest-batch-r") && run.name_any().len() <= 63,
            "{}",
            run.name_any()
        );

        let template = cron_job.spec.unwrap().job_template;
        assert_eq!(
            (run.spec, run.metadata.labels),
            (template.spec, template.metadata.unwrap().labels)
        );
        assert_eq!(run.metadata.owner_references.unwrap()[0].uid, "42");
        assert_eq!(run.metadata.annotations.unwrap()[RUN_ANNOTATION], "1");
    }
}
