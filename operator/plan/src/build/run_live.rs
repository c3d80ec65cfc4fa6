//! What the Job of a backfill of a live sink has besides: the configuration of the sink's worker,
//! and its Secrets in the same folders.

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{EnvVar, PodSpec, Volume, VolumeMount},
};
use pinpipe_config::CONFIG_KEY;

/// Name of the volume with a worker's configuration.
const CONFIG: &str = "config";
/// The same in a run's pod, whose own configuration has the name.
const LIVE_CONFIG: &str = "live-config";
/// Folder of the sink's configuration.
const LIVE_FOLDER: &str = "/etc/pinpipe/live";

/// Adds what the worker of a live sink has to a run's pod. The error is a sentence: a Secret of the
/// sink and one of the run have the same folder.
pub(super) fn add_live_sink(
    pod: &mut PodSpec,
    sink: &str,
    deployment: &Deployment,
) -> Result<(), String> {
    let template = deployment.spec.as_ref().map(|spec| &spec.template);
    let worker = template
        .and_then(|template| template.spec.clone())
        .unwrap_or_default();
    let mounts = worker.containers.into_iter().next();
    let mounts = mounts
        .and_then(|container| container.volume_mounts)
        .unwrap_or_default();
    let volumes = pod.volumes.get_or_insert_default();
    let mut added = Vec::new();
    for mut volume in worker.volumes.unwrap_or_default() {
        let of_worker = |mount: &&VolumeMount| mount.name == volume.name;
        let Some(mut mount) = mounts.iter().find(of_worker).cloned() else {
            continue;
        };
        if volume.name == CONFIG {
            LIVE_CONFIG.clone_into(&mut volume.name);
            LIVE_CONFIG.clone_into(&mut mount.name);
            LIVE_FOLDER.clone_into(&mut mount.mount_path);
        }
        match volumes.iter().find(|own| own.name == volume.name) {
            None => {
                volumes.push(volume);
                added.push(mount);
            }
            Some(own) if is_same(own, &volume) => {}
            Some(_) => {
                return Err(format!(
                    "the sink {sink} and the batch use different Secrets as {}, so that no pod can \
                     have both: give both the same",
                    volume.name
                ));
            }
        }
    }
    let Some(container) = pod.containers.first_mut() else {
        return Ok(());
    };
    container
        .volume_mounts
        .get_or_insert_default()
        .extend(added);
    let config = format!("{LIVE_FOLDER}/{CONFIG_KEY}");
    let env = [
        ("PINPIPE_BACKFILL_SINK", sink),
        ("PINPIPE_LIVE_CONFIG", &config),
    ];
    let env = env.map(|(name, value)| EnvVar {
        name: name.to_owned(),
        value: Some(value.to_owned()),
        ..EnvVar::default()
    });
    container.env.get_or_insert_default().extend(env);
    Ok(())
}

/// Whether two volumes have the same content. How a file may be read may differ.
fn is_same(a: &Volume, b: &Volume) -> bool {
    let content = |volume: &Volume| {
        let mut volume = volume.clone();
        if let Some(secret) = &mut volume.secret {
            secret.default_mode = None;
        }
        if let Some(projected) = &mut volume.projected {
            projected.default_mode = None;
        }
        volume
    };
    content(a) == content(b)
}
