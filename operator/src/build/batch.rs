//! Batch runs: a `CronJob`, the Lease that lets in one run at a time, and the right to hold it.

use k8s_openapi::{
    api::{
        batch::v1::{CronJob, CronJobSpec, JobSpec, JobTemplateSpec},
        coordination::v1::Lease,
        core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, ServiceAccount},
        rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::{Object, config, meta, object, pod, pod::Worker};
use crate::validate::{Archive, Batch, ValidatedPipeline};

const COMPONENT: &str = "batch";
/// A run that could not start for this long is skipped: the next one reads everything, too.
const STARTING_DEADLINE_SECONDS: i64 = 300;
/// How often a run that failed is tried again.
const RETRIES: i32 = 2;
/// Ended runs whose pods and logs are kept, of each outcome.
const HISTORY: i32 = 3;

pub(super) fn batch(
    pipeline: &ValidatedPipeline,
    archive: &Archive,
    batch: &Batch,
    objects: &mut Vec<Object>,
) {
    let name = pipeline.child(COMPONENT);
    let metadata = || meta::metadata(pipeline, COMPONENT, name.clone());
    let account = batch
        .pods
        .service_account
        .clone()
        .unwrap_or_else(|| name.clone());
    if batch.pods.service_account.is_none() {
        objects.push(object(&ServiceAccount {
            metadata: metadata(),
            automount_service_account_token: Some(false),
            ..ServiceAccount::default()
        }));
    }
    // Only that it is there and goes with the pipeline: what it holds is the runs' to write.
    objects.push(object(&Lease {
        metadata: metadata(),
        spec: None,
    }));
    objects.push(object(&Role {
        metadata: metadata(),
        rules: Some(lease_rules(&name)),
    }));
    objects.push(object(&RoleBinding {
        metadata: metadata(),
        role_ref: RoleRef {
            api_group: "rbac.authorization.k8s.io".to_owned(),
            kind: "Role".to_owned(),
            name: name.clone(),
        },
        subjects: Some(vec![Subject {
            kind: "ServiceAccount".to_owned(),
            name: account.clone(),
            namespace: Some(pipeline.namespace.clone()),
            api_group: None,
        }]),
    }));
    let config = config::config_map(
        pipeline,
        COMPONENT,
        &config::batch(pipeline, archive, batch),
        objects,
    );
    if batch.secrets.digest.is_none() {
        return;
    }
    let template = pod::task(
        pipeline,
        account,
        &Worker {
            component: COMPONENT,
            image: "batch",
            config: &config,
            secrets: Some(&batch.secrets),
            resources: &batch.resources,
            pods: &batch.pods,
            ports: Vec::new(),
            env: vec![run_name()],
            tmp: Some(&batch.scratch_size),
            grace_seconds: 30,
        },
    );
    objects.push(object(&CronJob {
        metadata: metadata(),
        spec: Some(CronJobSpec {
            schedule: batch.schedule.clone(),
            time_zone: Some(batch.time_zone.clone()),
            suspend: Some(pipeline.suspend),
            concurrency_policy: Some("Forbid".to_owned()),
            starting_deadline_seconds: Some(STARTING_DEADLINE_SECONDS),
            successful_jobs_history_limit: Some(HISTORY),
            failed_jobs_history_limit: Some(HISTORY),
            job_template: JobTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(meta::labels(pipeline, COMPONENT)),
                    ..ObjectMeta::default()
                }),
                spec: Some(JobSpec {
                    backoff_limit: Some(RETRIES),
                    template,
                    ..JobSpec::default()
                }),
            },
        }),
        status: None,
    }));
}

/// The run is named by its Job, so that a pod that takes another's place takes up the same run.
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

/// Holding the one Lease. Kubernetes can't bind the right to create to a name.
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
