//! Batch runs: the `CronJob`, the Lease that admits one run at a time, and the permission to hold
//! it.

use k8s_openapi::{
    api::{
        batch::v1::{
            CronJob, CronJobSpec, JobSpec, JobTemplateSpec, PodFailurePolicy,
            PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyOnPodConditionsPattern,
            PodFailurePolicyRule,
        },
        coordination::v1::Lease,
        core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, PodTemplateSpec, ServiceAccount},
        rbac::v1::{PolicyRule, Role},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use pinpipe_config::EXIT_PERMANENT_FAILURE;

use super::{Builder, config_map, labels, pod, pod::Worker, role_binding};
use crate::{
    component::Component,
    model::{Archive, Batch},
    names::{TEMPLATE_ANNOTATION, hash},
};

/// A run that could not start within this time is skipped: the next one reads everything anyway.
pub const STARTING_DEADLINE_SECONDS: i32 = 300;
/// Image, and name of the container, of the batch worker.
const WORKER: &str = "batch";
/// Retries of a failed run. A pod that was evicted doesn't count as one.
const RETRIES: i32 = 2;
/// Ended runs of each outcome whose pods and logs are kept.
const HISTORY: i32 = 3;

impl Builder<'_> {
    pub(super) fn batch(&mut self, archive: &Archive, batch: &Batch) {
        let account = self.batch_account(batch);
        self.lease(&account);
        let config = config_map::batch(self.pipeline, archive, batch);
        let config = self.config_map(&Component::Batch, &config);
        if batch.secrets.awaited() {
            return;
        }
        let worker = Worker {
            secrets: Some(&batch.secrets),
            ports: Vec::new(),
            env: vec![run_name()],
            scratch: Some(&batch.scratch_size),
            ..Worker::new(Component::Batch, WORKER, &batch.pods)
        };
        let template = pod::task(self.pipeline, &worker, &config, account);
        self.push(&CronJob {
            metadata: labels::metadata(self.pipeline, &Component::Batch),
            spec: Some(self.cron_job_spec(batch, template)),
            status: None,
        });
    }

    fn cron_job_spec(&self, batch: &Batch, template: PodTemplateSpec) -> CronJobSpec {
        let labels = labels::labels(self.pipeline, &Component::Batch);
        let job = JobSpec {
            active_deadline_seconds: i64::try_from(batch.deadline_seconds).ok(),
            backoff_limit: Some(RETRIES),
            pod_failure_policy: Some(failure_policy()),
            template,
            ..JobSpec::default()
        };
        // The keys of Kubernetes' types are text, so they always serialise.
        let digest = hash(&serde_json::to_string(&job).unwrap_or_default());
        CronJobSpec {
            schedule: batch.schedule.clone(),
            time_zone: Some(batch.time_zone.clone()),
            suspend: Some(self.pipeline.suspend),
            concurrency_policy: Some("Forbid".to_owned()),
            starting_deadline_seconds: Some(STARTING_DEADLINE_SECONDS.into()),
            successful_jobs_history_limit: Some(HISTORY),
            failed_jobs_history_limit: Some(HISTORY),
            job_template: JobTemplateSpec {
                metadata: Some(ObjectMeta {
                    annotations: Some([(TEMPLATE_ANNOTATION.to_owned(), digest)].into()),
                    labels: Some(labels),
                    ..ObjectMeta::default()
                }),
                spec: Some(job),
            },
        }
    }

    /// `ServiceAccount` of the runs: the one that is named, or one of their own.
    fn batch_account(&mut self, batch: &Batch) -> String {
        if let Some(account) = &batch.pods.service_account {
            return account.clone();
        }
        self.push(&ServiceAccount {
            metadata: labels::metadata(self.pipeline, &Component::Batch),
            automount_service_account_token: Some(false),
            ..ServiceAccount::default()
        });
        self.pipeline.child(&Component::Batch)
    }

    /// Adds the Lease, without a spec, which belongs to the runs, and the permission to hold it.
    fn lease(&mut self, account: &str) {
        let metadata = labels::metadata(self.pipeline, &Component::Batch);
        let name = self.pipeline.child(&Component::Batch);
        self.push(&Lease {
            metadata: metadata.clone(),
            spec: None,
        });
        self.push(&Role {
            metadata: metadata.clone(),
            rules: Some(lease_rules(&name)),
        });
        self.push(&role_binding(metadata, account));
    }
}

/// What the end of a pod means for its Job. The first rule that matches counts; an end that none
/// matches is a failed attempt, of which there may be [`RETRIES`].
fn failure_policy() -> PodFailurePolicy {
    // A drained node, preemption, an eviction by the node or by a taint.
    let evicted = PodFailurePolicyRule {
        action: "Ignore".to_owned(),
        on_pod_conditions: Some(vec![PodFailurePolicyOnPodConditionsPattern {
            type_: "DisruptionTarget".to_owned(),
            status: "True".to_owned(),
        }]),
        ..PodFailurePolicyRule::default()
    };
    let permanent = PodFailurePolicyRule {
        action: "FailJob".to_owned(),
        on_exit_codes: Some(PodFailurePolicyOnExitCodesRequirement {
            container_name: Some(WORKER.to_owned()),
            operator: "In".to_owned(),
            values: vec![EXIT_PERMANENT_FAILURE.into()],
        }),
        ..PodFailurePolicyRule::default()
    };
    PodFailurePolicy {
        rules: vec![evicted, permanent],
    }
}

/// A run has the name of its Job, so that a pod that replaces another continues the same run.
fn run_name() -> EnvVar {
    EnvVar {
        name: "PINPIPE_RUN".to_owned(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                field_path: "metadata.labels['batch.kubernetes.io/job-name']".to_owned(),
                api_version: Some("v1".to_owned()),
            }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    }
}

/// Permission to hold one Lease. Kubernetes can't restrict `create` to a name.
fn lease_rules(name: &str) -> Vec<PolicyRule> {
    let rule = |verbs: &[&str], names: Option<Vec<String>>| PolicyRule {
        api_groups: Some(vec!["coordination.k8s.io".to_owned()]),
        resources: Some(vec!["leases".to_owned()]),
        verbs: verbs.iter().map(|verb| (*verb).to_owned()).collect(),
        resource_names: names,
        non_resource_urls: None,
    };
    vec![
        rule(&["get", "update"], Some(vec![name.to_owned()])),
        rule(&["create"], None),
    ]
}
