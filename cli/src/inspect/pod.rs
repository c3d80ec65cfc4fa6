//! The pod of an inspection: made, and deleted whatever happens.

use k8s_openapi::api::{apps::v1::Deployment, batch::v1::CronJob, core::v1::Pod};
use kube::{
    ResourceExt as _,
    api::{DeleteParams, PostParams},
};
use pinpipe_crds::PinterestPipeline;
use pinpipe_plan::{
    build::{Inspection, InspectionPod, inspection_pod},
    component::Component,
    names,
};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{PodOptions, Question};
use crate::{cluster::Cluster, failure::Failure};

/// Signals that end the program.
const ENDING: [SignalKind; 3] = [
    SignalKind::interrupt(),
    SignalKind::terminate(),
    SignalKind::hangup(),
];

/// Catches the signals that would end the program and leave the pod.
pub(super) fn interrupts() -> Result<Vec<Signal>, Failure> {
    let caught = ENDING.into_iter().map(signal).collect();
    let caught: std::io::Result<Vec<Signal>> = caught;
    caught.map_err(|error| Failure::Usage(format!("signals can't be caught: {error}")))
}

/// Waits for one of the signals.
pub(super) async fn interrupted(signals: &mut [Signal]) {
    let signals = signals.iter_mut().map(|signal| Box::pin(signal.recv()));
    futures::future::select_all(signals).await;
}

/// Reads the pipeline and its objects, and builds the pod.
pub(super) async fn build(
    cluster: &Cluster,
    options: &PodOptions,
    question: &Question<'_>,
) -> Result<(PinterestPipeline, InspectionPod), Failure> {
    let pipeline = cluster.the_pipeline(question.pipeline).await?;
    let name = pipeline.name_any();
    let children = names::selector(&name, None);
    let deployments = cluster.list::<Deployment>("list deployments.apps", &children);
    let batch = names::child(&name, &Component::Batch);
    let cron_jobs = cluster.api::<CronJob>();
    let (deployments, cron_job) = futures::join!(deployments, cron_jobs.get_opt(&batch));
    let (deployments, cron_job) = (
        deployments?,
        cron_job.map_err(|error| cluster.failure("get cronjobs.batch", &error))?,
    );
    let built = inspection_pod(&Inspection {
        pipeline: &pipeline,
        cron_job: cron_job.as_ref(),
        deployments: &deployments,
        sink: question.sink,
        image: options.image.as_deref(),
        memory: &options.memory,
        command: &question.command,
        deadline_seconds: options.timeout(question),
    });
    Ok((pipeline, built.map_err(Failure::Cluster)?))
}

/// Creates the pod. Returns its name.
pub(super) async fn create(cluster: &Cluster, pod: &Pod) -> Result<String, Failure> {
    let created = cluster
        .api::<Pod>()
        .create(&PostParams::default(), pod)
        .await;
    match created {
        Ok(pod) => Ok(pod.name_any()),
        Err(kube::Error::Api(status)) if refusal(&status.message).is_some() => {
            let remedy = refusal(&status.message).unwrap_or_default();
            Err(Failure::Cluster(format!(
                "the pod that looks into the data can't be created in namespace {}: {}: {remedy}",
                cluster.namespace, status.message
            )))
        }
        Err(error) => Err(cluster.failure("create pods", &error)),
    }
}

/// What to do about a refusal by something other than a missing right.
fn refusal(message: &str) -> Option<&'static str> {
    // The user of a missing right may be a ServiceAccount.
    if message.contains("cannot create resource") {
        return None;
    }
    let remedies = [
        (
            "exceeded quota",
            "raise the ResourceQuota, or delete what it counts",
        ),
        ("failed quota", "ask whoever has set the ResourceQuota"),
        (
            "usage per",
            "set a --memory that the LimitRange of the namespace allows",
        ),
        (
            "serviceaccount",
            "create the ServiceAccount, or correct serviceAccountName in spec.batch.template or \
             spec.template",
        ),
        (
            "violates PodSecurity",
            "the pipeline's own pods are refused, too: change the label \
             pod-security.kubernetes.io/enforce of the namespace, or spec.template.podSecurity",
        ),
        (
            "PriorityClass",
            "create the PriorityClass, or correct priorityClassName in spec.template",
        ),
        (
            "being terminated",
            "the namespace is deleted: choose another one by --namespace",
        ),
        (
            "admission webhook",
            "ask whoever runs the webhook to let pods pass that have the label \
             app.kubernetes.io/component=inspect",
        ),
        (
            "ValidatingAdmissionPolicy",
            "ask whoever has set the policy to let pods pass that have the label \
             app.kubernetes.io/component=inspect",
        ),
        (
            "failed calling webhook",
            "the webhook doesn't answer: no pod can be created until it does",
        ),
    ];
    let found = remedies.iter().find(|(text, _)| message.contains(text));
    found.map(|(_, remedy)| *remedy)
}

/// Deletes the pod. It is none's loss if that fails: the cluster ends it at its deadline, and
/// deletes it with the pipeline.
pub(super) async fn delete(cluster: &Cluster, name: &str) {
    let params = DeleteParams::background();
    match cluster.api::<Pod>().delete(name, &params).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        Err(error) => eprintln!(
            "{}; delete it: kubectl delete pod -n {} {name}",
            cluster.failure("delete pods", &error),
            cluster.namespace
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_have_a_remedy_and_a_missing_right_is_none() {
        for (message, remedy) in [
            (
                "pods \"p\" is forbidden: exceeded quota: q, requested: pods=1, used: pods=1, \
                 limited: pods=1",
                Some("raise the ResourceQuota"),
            ),
            (
                "pods \"p\" is forbidden: error looking up service account data/x: serviceaccount \
                 \"x\" not found",
                Some("create the ServiceAccount"),
            ),
            (
                "pods is forbidden: User \"u\" cannot create resource \"pods\" in API group \"\" \
                 in the namespace \"data\"",
                None,
            ),
        ] {
            let found = refusal(message);
            assert_eq!(found.is_some(), remedy.is_some(), "{message}");
            let begins = found
                .zip(remedy)
                .is_none_or(|(found, remedy)| found.starts_with(remedy));
            assert!(begins, "{found:?}");
        }
    }
}
