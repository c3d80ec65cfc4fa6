//! The Job of a batch run that an annotation requests.

use k8s_openapi::{
    api::batch::v1::{CronJob, Job},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::ResourceExt as _;

use crate::{
    component::Component,
    model::ValidatedPipeline,
    names::{RUN_ANNOTATION, hash},
};

/// Annotation that `kubectl create job --from` sets on the Jobs it makes.
const INSTANTIATED: (&str, &str) = ("cronjob.kubernetes.io/instantiate", "manual");

/// The Job that a request asks for: what the schedule would start, owned by the `CronJob`. The same
/// request always gives the same name. None: the `CronJob` doesn't exist yet.
#[must_use]
pub fn requested_run(
    pipeline: &ValidatedPipeline,
    cron_job: &CronJob,
    request: &str,
) -> Option<Job> {
    let template = cron_job.spec.as_ref()?.job_template.clone();
    let metadata = template.metadata.unwrap_or_default();
    let mut annotations = metadata.annotations.unwrap_or_default();
    let own = [INSTANTIATED, (RUN_ANNOTATION, request)];
    annotations.extend(own.map(|(key, value)| (key.to_owned(), value.to_owned())));
    let digest = hash(&format!("{}/{request}", pipeline.uid));
    let batch = pipeline.child(&Component::Batch);
    Some(Job {
        metadata: ObjectMeta {
            // The schedule's runs have a number in place of the `r`.
            name: Some(format!("{batch}-r{}", &digest[..10])),
            namespace: Some(pipeline.namespace.clone()),
            labels: metadata.labels,
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
        build::{Observed, build},
        samples::{validated, whole},
    };

    #[test]
    fn a_requested_run_is_what_the_schedule_would_start_and_has_one_name() {
        let pipeline = validated(whole());
        let objects = build(&pipeline, &Observed::default()).objects;
        let body = objects
            .into_iter()
            .find(|object| object.resource.kind == "CronJob");
        let mut cron_job: CronJob = serde_json::from_value(body.unwrap().body).unwrap();
        assert_eq!(
            requested_run(&pipeline, &cron_job, "1"),
            None,
            "not created yet"
        );
        cron_job.metadata.uid = Some("42".to_owned());
        let run = requested_run(&pipeline, &cron_job, "1").unwrap();
        assert_eq!(
            Some(&run),
            requested_run(&pipeline, &cron_job, "1").as_ref()
        );
        let name = run.name_any();
        assert_ne!(
            name,
            requested_run(&pipeline, &cron_job, "2").unwrap().name_any()
        );
        assert!(
            name.starts_with("pinterest-batch-r") && name.len() <= 63,
            "{name}"
        );

        let template = cron_job.spec.unwrap().job_template;
        let labels = template.metadata.unwrap().labels;
        assert_eq!((run.spec, run.metadata.labels), (template.spec, labels));
        assert_eq!(run.metadata.owner_references.unwrap()[0].uid, "42");
        assert_eq!(run.metadata.annotations.unwrap()[RUN_ANNOTATION], "1");
    }
}
