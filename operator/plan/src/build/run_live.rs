//! What the Job of a backfill of a live sink has besides: the configuration of the sink's worker,
//! and its Secrets in the same folders.

use k8s_openapi::api::{
    apps::v1::Deployment,
    batch::v1::Job,
    core::v1::{EnvVar, PodSpec},
};
use pinpipe_config::CONFIG_KEY;

use super::merge::add_volumes;
use crate::names::hash;

/// Volume of the sink's configuration.
const LIVE_CONFIG: &str = "live-config";
/// Folder of the sink's configuration.
const LIVE_FOLDER: &str = "/etc/pinpipe/live";

/// Variable that names the sink.
const SINK: &str = "PINPIPE_BACKFILL_SINK";

/// The stream sink that a run's Job writes to.
#[must_use]
pub fn live_sink_of(job: &Job) -> Option<&str> {
    let pod = job.spec.as_ref()?.template.spec.as_ref()?;
    let env = pod.containers.first()?.env.as_ref()?;
    let variable = env.iter().find(|variable| variable.name == SINK)?;
    variable.value.as_deref()
}

/// Hash of a run's Job that writes to a live sink, given that of a batch run's. It differs where
/// the sink's configuration or its Secrets do.
#[must_use]
pub fn live_digest(template: &str, deployment: &Deployment) -> String {
    let worker = deployment.spec.as_ref().map(|spec| &spec.template);
    let pod = worker.and_then(|template| template.spec.as_ref());
    let volumes = pod.map(|pod| &pod.volumes);
    // The keys of these types are text, so they always serialise.
    let volumes = serde_json::to_string(&volumes).unwrap_or_default();
    hash(&format!("{template}/{volumes}"))
}

/// Adds what the worker of a live sink has to a run's pod. The error is a sentence: a Secret of the
/// sink and one of the run have the same folder.
pub(super) fn add_live_sink(
    pod: &mut PodSpec,
    sink: &str,
    deployment: &Deployment,
) -> Result<(), String> {
    let template = deployment.spec.as_ref().map(|spec| &spec.template);
    let worker = template.and_then(|template| template.spec.clone());
    let worker = worker.unwrap_or_default();
    add_volumes(pod, &worker, LIVE_CONFIG, LIVE_FOLDER).map_err(|volume| {
        format!(
            "the sink {sink} and the batch use different Secrets as {volume}, so that no pod can \
             have both: give both the same"
        )
    })?;
    let Some(container) = pod.containers.first_mut() else {
        return Ok(());
    };
    let config = format!("{LIVE_FOLDER}/{CONFIG_KEY}");
    let env = [(SINK, sink), ("PINPIPE_LIVE_CONFIG", &config)];
    let env = env.map(|(name, value)| EnvVar {
        name: name.to_owned(),
        value: Some(value.to_owned()),
        ..EnvVar::default()
    });
    container.env.get_or_insert_default().extend(env);
    Ok(())
}
