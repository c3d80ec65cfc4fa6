//! Several workers in one pod: each one's configuration in a folder of its own, and their Secrets
//! where each of them expects them.

use k8s_openapi::api::core::v1::{PodSpec, Volume, VolumeMount};

/// Name of the volume with a worker's configuration.
const CONFIG: &str = "config";

/// Adds the volumes of a worker's pod to another pod, with their mounts. The configuration becomes
/// the volume `config`, mounted at `folder`; scratch volumes are left out. The error is the name of
/// a volume that both have with another content; nothing is added then.
pub(super) fn add_volumes(
    pod: &mut PodSpec,
    worker: &PodSpec,
    config: &str,
    folder: &str,
) -> Result<(), String> {
    let mounts = worker.containers.first();
    let mounts = mounts.and_then(|container| container.volume_mounts.as_deref());
    let mounts = mounts.unwrap_or_default();
    let (mut volumes, mut added) = (Vec::new(), Vec::new());
    let worker = worker.volumes.iter().flatten();
    for volume in worker.filter(|volume| volume.empty_dir.is_none()) {
        let of_volume = |mount: &&VolumeMount| mount.name == volume.name;
        let Some(mut mount) = mounts.iter().find(of_volume).cloned() else {
            continue;
        };
        let mut volume = volume.clone();
        if volume.name == CONFIG {
            config.clone_into(&mut volume.name);
            config.clone_into(&mut mount.name);
            folder.clone_into(&mut mount.mount_path);
        }
        let mut others = pod.volumes.iter().flatten();
        match others.find(|other| other.name == volume.name) {
            None => {
                volumes.push(volume);
                added.push(mount);
            }
            Some(other) if is_same(other, &volume) => {}
            Some(_) => return Err(volume.name),
        }
    }
    if let Some(container) = pod.containers.first_mut() {
        pod.volumes.get_or_insert_default().extend(volumes);
        container
            .volume_mounts
            .get_or_insert_default()
            .extend(added);
    }
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
