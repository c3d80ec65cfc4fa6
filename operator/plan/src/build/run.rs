//! The Job of a run: what the schedule would start, with the run's parameters.

use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        batch::v1::{CronJob, Job},
        core::v1::{Container, EnvVar, PodSpec, SecretVolumeSource, Volume, VolumeMount},
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{Resource as _, ResourceExt as _};
use pinpipe_crds::{
    ImportLayout, PinterestRun, RecordKind, RedriveOutcome, RunAction, RunImport, RunRedrive,
};

use super::run_live::{add_live_sink, live_digest};
use crate::{
    component::Component,
    model::ValidatedPipeline,
    names::TEMPLATE_ANNOTATION,
    run::{self, ACTION_LABEL},
};

/// Annotation that `kubectl create job --from` sets on the Jobs it makes.
const INSTANTIATED: (&str, &str) = ("cronjob.kubernetes.io/instantiate", "manual");
/// Folder of the Secrets of an import's bucket. The import's manifest names the folder, so it
/// differs by run: the pod of another import may finish this one, and has Secrets of its own.
const IMPORT_FOLDER: &str = "/etc/pinpipe/import";

/// Why there is no Job of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoJob {
    /// What it is made of doesn't exist yet: this object.
    Missing(String),
    /// The pipeline can't do it, which this sentence says.
    Impossible(String),
}

/// The Job of a run, owned by the run. The same run always gives the same name. `live` is the
/// Deployment of the stream sink that a backfill writes to, where there is one.
pub fn run_job(
    pipeline: &ValidatedPipeline,
    cron_job: Option<&CronJob>,
    live: Option<&Deployment>,
    run: &PinterestRun,
) -> Result<Job, NoJob> {
    let name = pipeline.child(&Component::Batch);
    let missing = || NoJob::Missing(format!("CronJob {name}"));
    let spec = cron_job.and_then(|cron_job| cron_job.spec.as_ref());
    let template = spec.ok_or_else(missing)?.job_template.clone();
    let metadata = template.metadata.unwrap_or_default();
    let mut annotations = metadata.annotations.unwrap_or_default();
    annotations.insert(INSTANTIATED.0.to_owned(), INSTANTIATED.1.to_owned());
    let action = run::action(&run.spec);
    let mut labels = metadata.labels.unwrap_or_default();
    labels.insert(ACTION_LABEL.to_owned(), run::label_of(&run.spec).to_owned());
    let id = run::id(run);
    let mut spec = template.spec.ok_or_else(missing)?;
    if action != RunAction::Batch {
        // It may read far more than a scheduled run.
        spec.active_deadline_seconds = None;
    }
    let pod = spec.template.spec.as_mut().ok_or_else(missing)?;
    parametrize(pod, run, &format!("{IMPORT_FOLDER}/{id}"));
    if let Some(sink) = run::live_sink(&run.spec) {
        let name = pipeline.child(&Component::stream(sink));
        let live = live.ok_or_else(|| NoJob::Missing(format!("Deployment {name}")))?;
        add_live_sink(pod, sink, live).map_err(NoJob::Impossible)?;
        if let Some(digest) = annotations.get_mut(TEMPLATE_ANNOTATION) {
            *digest = live_digest(digest, live);
        }
    }
    Ok(Job {
        metadata: ObjectMeta {
            name: Some(id),
            namespace: Some(pipeline.namespace.clone()),
            labels: Some(labels),
            annotations: Some(annotations),
            owner_references: Some(vec![OwnerReference {
                api_version: PinterestRun::api_version(&()).into_owned(),
                kind: PinterestRun::kind(&()).into_owned(),
                name: run.name_any(),
                uid: run.uid().unwrap_or_default(),
                controller: Some(true),
                block_owner_deletion: None,
            }]),
            ..ObjectMeta::default()
        },
        spec: Some(spec),
        status: None,
    })
}

/// Gives the worker its parameters, and the Secrets of an import's bucket.
fn parametrize(pod: &mut PodSpec, run: &PinterestRun, folder: &str) {
    let Some(container) = pod.containers.first_mut() else {
        return;
    };
    let spec = &run.spec;
    set(container, "PINPIPE_OUTPUT", &run::id(run));
    if run::action(spec) == RunAction::FullBatch {
        set(container, "PINPIPE_FULL", "true");
    }
    if let Some(backfill) = &spec.backfill {
        set_some(container, "PINPIPE_FROM", backfill.from.as_ref());
        set_some(container, "PINPIPE_TO", backfill.to.as_ref());
    }
    if let Some(redrive) = &spec.redrive {
        parametrize_redrive(container, redrive);
    }
    if let Some(import) = &spec.import {
        parametrize_import(container, import);
        let s3 = import.s3.clone().unwrap_or_default();
        if let Some(secret) = s3.credentials_secret_ref {
            let at = format!("{folder}/credentials");
            set(container, "PINPIPE_IMPORT_CREDENTIALS", &at);
            let volume = mount(container, "import-credentials", &secret.name, &at);
            pod.volumes.get_or_insert_default().push(volume);
        }
        if let Some(ca) = s3.ca_secret_ref {
            let at = format!("{folder}/ca");
            set(container, "PINPIPE_IMPORT_CA", &format!("{at}/{}", ca.key));
            let volume = mount(container, "import-ca", &ca.name, &at);
            pod.volumes.get_or_insert_default().push(volume);
        }
    }
}

fn parametrize_redrive(container: &mut Container, redrive: &RunRedrive) {
    container.args = Some(vec!["redrive".to_owned()]);
    let kinds: Vec<String> = redrive.kinds.iter().copied().map(kind).collect();
    set_list(container, "PINPIPE_REDRIVE_TOPIC", &kinds);
    set_list(container, "PINPIPE_REDRIVE_REASON", &redrive.reasons);
    set_list(container, "PINPIPE_REDRIVE_FIELD", &redrive.fields);
    set_list(container, "PINPIPE_REDRIVE_SINKS", &redrive.sinks);
    set_some(container, "PINPIPE_REDRIVE_SINCE", redrive.from.as_ref());
    set_some(container, "PINPIPE_REDRIVE_UNTIL", redrive.to.as_ref());
    let outcome = redrive.outcome.map(|outcome| match outcome {
        RedriveOutcome::Rejected => "rejected".to_owned(),
        RedriveOutcome::Refused => "refused".to_owned(),
    });
    set_some(container, "PINPIPE_REDRIVE_OUTCOME", outcome.as_ref());
    let max = redrive.max.map(|max| max.to_string());
    set_some(container, "PINPIPE_REDRIVE_MAX", max.as_ref());
    set_flag(container, "PINPIPE_REDRIVE_FORCE", redrive.force);
    set_flag(container, "PINPIPE_REDRIVE_DRY_RUN", redrive.dry_run);
}

fn parametrize_import(container: &mut Container, import: &RunImport) {
    match import.layout {
        ImportLayout::Connector => {
            set(container, "PINPIPE_IMPORT", &import.prefix);
            let topics = import.topics.iter();
            let topics: Vec<_> = topics
                .map(|topic| format!("{}={}", kind(topic.kind), topic.name))
                .collect();
            set_list(container, "PINPIPE_IMPORT_TOPICS", &topics);
        }
        ImportLayout::Objects => {
            let prefix = import
                .kind
                .map(|of| format!("{}={}", kind(of), import.prefix));
            set_some(container, "PINPIPE_IMPORT_EVENTS", prefix.as_ref());
        }
    }
    set_some(container, "PINPIPE_IMPORT_BUCKET", import.bucket.as_ref());
    if let Some(s3) = &import.s3 {
        set_some(container, "PINPIPE_IMPORT_ENDPOINT", s3.endpoint.as_ref());
        set_some(container, "PINPIPE_IMPORT_REGION", s3.region.as_ref());
        set_flag(
            container,
            "PINPIPE_IMPORT_VIRTUAL_HOST",
            s3.virtual_hosted_style,
        );
    }
}

/// Mounts a Secret. One that isn't there doesn't hold the pod back: the worker says so.
fn mount(container: &mut Container, name: &str, secret: &str, at: &str) -> Volume {
    container
        .volume_mounts
        .get_or_insert_default()
        .push(VolumeMount {
            name: name.to_owned(),
            mount_path: at.to_owned(),
            read_only: Some(true),
            ..VolumeMount::default()
        });
    Volume {
        name: name.to_owned(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(secret.to_owned()),
            optional: Some(true),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    }
}

fn kind(kind: RecordKind) -> String {
    format!("{kind:?}").to_lowercase()
}

fn set(container: &mut Container, name: &str, value: &str) {
    container.env.get_or_insert_default().push(EnvVar {
        name: name.to_owned(),
        value: Some(value.to_owned()),
        ..EnvVar::default()
    });
}

fn set_some(container: &mut Container, name: &str, value: Option<&String>) {
    if let Some(value) = value {
        set(container, name, value);
    }
}

fn set_list(container: &mut Container, name: &str, values: &[String]) {
    if !values.is_empty() {
        set(container, name, &values.join(","));
    }
}

fn set_flag(container: &mut Container, name: &str, value: Option<bool>) {
    if value == Some(true) {
        set(container, name, "true");
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::*;
    use crate::{
        build::{Observed, build, live_sink_of},
        samples::{run, validated, whole},
    };

    fn job(action: Value) -> (Job, CronJob) {
        let pipeline = validated(whole());
        let objects = build(&pipeline, &Observed::default()).objects;
        let body = objects
            .into_iter()
            .find(|object| object.resource.kind == "CronJob");
        let cron_job: CronJob = serde_json::from_value(body.unwrap().body).unwrap();
        (
            run_job(&pipeline, Some(&cron_job), None, &run("r", action)).unwrap(),
            cron_job,
        )
    }

    fn container(job: &Job) -> &Container {
        let pod = job.spec.as_ref().unwrap().template.spec.as_ref().unwrap();
        &pod.containers[0]
    }

    /// Variables that the run adds.
    fn added(job: &Job, cron_job: &CronJob) -> BTreeMap<String, String> {
        let template = cron_job.spec.as_ref().unwrap().job_template.spec.clone();
        let before = template.unwrap().template.spec.unwrap().containers[0]
            .env
            .clone()
            .unwrap_or_default();
        let env = container(job).env.iter().flatten();
        env.filter(|variable| !before.contains(variable))
            .map(|variable| (variable.name.clone(), variable.value.clone().unwrap()))
            .collect()
    }

    #[test]
    fn a_batch_run_is_what_the_schedule_would_start() {
        let (job, cron_job) = job(json!({"batch": {}}));
        let run = run("r", json!({"batch": {}}));
        let mut expected = cron_job.spec.unwrap().job_template.spec.unwrap();
        let pod = expected.template.spec.as_mut().unwrap();
        set(
            &mut pod.containers[0],
            "PINPIPE_OUTPUT",
            &crate::run::id(&run),
        );
        assert_eq!(job.spec, Some(expected));
        assert_eq!(job.name_any(), crate::run::id(&run));
        assert_eq!(job.labels()[ACTION_LABEL], "batch");
        let owner = &job.owner_references()[0];
        assert_eq!(
            (owner.kind.as_str(), &owner.uid, owner.controller),
            ("PinterestRun", &run.uid().unwrap(), Some(true))
        );
    }

    #[test]
    fn each_field_is_a_variable_of_the_worker() {
        for (action, expected) in [
            (
                json!({"batch": {"full": true}}),
                json!({"PINPIPE_FULL": "true"}),
            ),
            (json!({"batch": {"full": false}}), json!({})),
            (
                json!({"backfill": {"from": "2026-01-01T00:00:00Z"}}),
                json!({"PINPIPE_FROM": "2026-01-01T00:00:00Z"}),
            ),
            (
                json!({"import": {"layout": "Objects", "prefix": "/", "kind": "Geo"}}),
                json!({"PINPIPE_IMPORT_EVENTS": "geo=/"}),
            ),
            (
                json!({"import": {"layout": "Connector", "prefix": "topics", "bucket": "old",
                    "topics": [{"name": "a.pin", "kind": "Pin"}, {"name": "b", "kind": "User"}],
                    "s3": {"region": "eu-west-1", "virtualHostedStyle": true}}}),
                json!({"PINPIPE_IMPORT": "topics", "PINPIPE_IMPORT_TOPICS": "pin=a.pin,user=b",
                    "PINPIPE_IMPORT_BUCKET": "old", "PINPIPE_IMPORT_REGION": "eu-west-1",
                    "PINPIPE_IMPORT_VIRTUAL_HOST": "true"}),
            ),
            (
                json!({"redrive": {"kinds": ["Pin", "Geo"], "reasons": ["too-large"],
                    "outcome": "Refused", "sinks": ["live", "batch/serving"],
                    "to": "2026-01-01T00:00:00Z", "max": 5, "force": true, "dryRun": true}}),
                json!({"PINPIPE_REDRIVE_TOPIC": "pin,geo", "PINPIPE_REDRIVE_REASON": "too-large",
                    "PINPIPE_REDRIVE_OUTCOME": "refused", "PINPIPE_REDRIVE_MAX": "5",
                    "PINPIPE_REDRIVE_SINKS": "live,batch/serving",
                    "PINPIPE_REDRIVE_UNTIL": "2026-01-01T00:00:00Z",
                    "PINPIPE_REDRIVE_FORCE": "true", "PINPIPE_REDRIVE_DRY_RUN": "true"}),
            ),
        ] {
            let is_redrive = action["redrive"].is_object();
            let (job, cron_job) = job(action);
            let mut added = added(&job, &cron_job);
            assert_eq!(added.remove("PINPIPE_OUTPUT"), Some(job.name_any()));
            assert_eq!(json!(added), expected);
            let args = is_redrive.then(|| vec!["redrive".to_owned()]);
            assert_eq!(container(&job).args, args);
        }
    }

    #[test]
    fn a_backfill_of_a_live_sink_has_its_configuration_and_secrets() {
        let pipeline = validated(whole());
        let objects = build(&pipeline, &Observed::default()).objects;
        let of = |kind: &str, name: &str| {
            let mut objects = objects.iter();
            let found = objects.find(|o| o.resource.kind == kind && o.name == name);
            found.unwrap().body.clone()
        };
        let cron_job = serde_json::from_value(of("CronJob", "pinterest-batch")).unwrap();
        let mut live: Deployment =
            serde_json::from_value(of("Deployment", "pinterest-stream-live")).unwrap();
        let backfill = json!({"backfill": {"from": "2026-01-01T00:00:00Z",
            "target": {"sink": "live"}}});
        let run = run("r", backfill);
        let waits = run_job(&pipeline, Some(&cron_job), None, &run);
        let missing = NoJob::Missing("Deployment pinterest-stream-live".to_owned());
        assert_eq!(waits, Err(missing));

        let job = run_job(&pipeline, Some(&cron_job), Some(&live), &run).unwrap();
        let added = added(&job, &cron_job);
        assert_eq!(added["PINPIPE_BACKFILL_SINK"], "live");
        assert_eq!(live_sink_of(&job), Some("live"));
        let template = cron_job.spec.as_ref().unwrap().job_template.clone();
        let template = template.metadata.unwrap().annotations.unwrap();
        let digest = live_digest(&template[TEMPLATE_ANNOTATION], &live);
        assert_eq!(job.annotations()[TEMPLATE_ANNOTATION], digest);
        assert_eq!(job.labels()[ACTION_LABEL], run::LIVE_BACKFILL);
        let config = &added["PINPIPE_LIVE_CONFIG"];
        let mounts = container(&job).volume_mounts.clone().unwrap_or_default();
        let folder = |name: &str| {
            let mut mounts = mounts.iter().filter(|mount| mount.name == name);
            let found = mounts.next().map(|mount| mount.mount_path.clone());
            assert_eq!(mounts.next(), None, "{name}");
            found.unwrap_or_default()
        };
        assert!(config.starts_with(&folder("live-config")), "{config}");
        assert!(folder("secret-postgres").ends_with("postgres"));
        assert_eq!(folder("config"), pinpipe_config::CONFIG_DIR);

        let pod = live.spec.as_mut().unwrap().template.spec.as_mut().unwrap();
        let tmp = json!({"name": "tmp", "secret": {"secretName": "other"}});
        let mount = json!({"name": "tmp", "mountPath": "/tmp"});
        pod.volumes
            .as_mut()
            .unwrap()
            .push(serde_json::from_value(tmp).unwrap());
        let mounts = pod.containers[0].volume_mounts.as_mut().unwrap();
        mounts.push(serde_json::from_value(mount).unwrap());
        let conflict = run_job(&pipeline, Some(&cron_job), Some(&live), &run);
        assert!(
            matches!(conflict, Err(NoJob::Impossible(_))),
            "{conflict:?}"
        );
    }

    #[test]
    fn secrets_of_a_bucket_are_mounted_in_a_folder_of_the_run() {
        let (job, cron_job) = job(json!({"import": {"layout": "Connector", "prefix": "topics",
            "bucket": "old", "s3": {"credentialsSecretRef": {"name": "keys"},
                "caSecretRef": {"name": "ca", "key": "root.pem"}}}}));
        let folder = format!("/etc/pinpipe/import/{}", job.name_any());
        let added = added(&job, &cron_job);
        assert_eq!(
            added["PINPIPE_IMPORT_CREDENTIALS"],
            format!("{folder}/credentials")
        );
        assert_eq!(added["PINPIPE_IMPORT_CA"], format!("{folder}/ca/root.pem"));
        let mounts = container(&job).volume_mounts.iter().flatten();
        let mounts: Vec<_> = mounts.map(|mount| mount.mount_path.clone()).collect();
        assert!(
            mounts.contains(&format!("{folder}/credentials")),
            "{mounts:?}"
        );
        let pod = job.spec.unwrap().template.spec.unwrap();
        let secrets = pod.volumes.into_iter().flatten();
        let optional = secrets.filter_map(|volume| volume.secret).filter(|secret| {
            secret.optional == Some(true)
                && ["keys", "ca"].contains(&secret.secret_name.as_deref().unwrap_or_default())
        });
        assert_eq!(optional.count(), 2);
    }
}
