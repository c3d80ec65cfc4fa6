//! The images of the operator and the workers, FROM scratch, with binaries of the dev profile.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::compile::Executable;
use crate::context::Context;
use crate::engine;
use crate::fingerprint::Fingerprint;
use crate::step::step;

/// The registry part of the images' names. No such registry exists: the images are loaded into the
/// cluster.
const REGISTRY: &str = "pinpipe.local";
/// The images' names.
const WORKERS: [&str; 5] = ["operator", "ingest", "stream", "batch", "emulator"];
/// The certificate authorities that TLS clients trust; an image FROM scratch has none.
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// The five images, which share registry and tag.
pub struct WorkerImages {
    pub registry: &'static str,
    /// A hash of all five binaries.
    pub tag: String,
    /// The folder where cargo put these and the workspace's other binaries.
    pub folder: PathBuf,
}

impl WorkerImages {
    /// In the order of [`WORKERS`].
    pub fn names(&self) -> Vec<String> {
        WORKERS
            .iter()
            .map(|worker| format!("{}/{worker}:{}", self.registry, self.tag))
            .collect()
    }

    /// Arguments of helm that make charts/pinpipe and the operator use these images.
    pub fn helm_arguments(&self) -> [String; 4] {
        let set = || "--set-string".to_owned();
        [
            set(),
            format!("image.registry={}", self.registry),
            set(),
            format!("image.tag={}", self.tag),
        ]
    }
}

/// Builds images of those binaries that changed.
pub fn build(context: &Context, executables: &[Executable]) -> Result<WorkerImages> {
    let binaries = find(executables)?;
    let recipe = context.root.join("e2e/images/worker");
    let mut key = Fingerprint::default()
        .path(&recipe)?
        .path(Path::new(CERTIFICATES))?;
    for (name, binary) in &binaries {
        key = key.text(name).path(binary)?;
    }
    let folder = binaries
        .first()
        .and_then(|(_, binary)| binary.parent())
        .context("cargo built no binaries")?;
    let images = WorkerImages {
        registry: REGISTRY,
        tag: key.finish(),
        folder: folder.to_path_buf(),
    };
    if images
        .names()
        .iter()
        .all(|image| engine::has_image(context, image))
    {
        return Ok(images);
    }
    step(context, "images of the workers", "read the log", |log| {
        for ((name, binary), image) in binaries.iter().zip(images.names()) {
            let folder = context.temporary_folder(name)?;
            fs::copy(recipe.join("Dockerfile"), folder.join("Dockerfile"))?;
            fs::copy(CERTIFICATES, folder.join("ca-certificates.crt"))?;
            log.run(
                context
                    .command("strip")
                    .arg("--strip-all")
                    .arg("-o")
                    .arg(folder.join("worker"))
                    .arg(binary),
            )?;
            log.run(
                engine::build_command(context)
                    .args(["--tag", image.as_str()])
                    .arg(&folder),
            )?;
            engine::remove_older_images(context, log, &image)?;
        }
        Ok(())
    })?;
    Ok(images)
}

/// The names of the binaries, in the order of [`WORKERS`].
pub fn binaries() -> impl Iterator<Item = String> {
    WORKERS.iter().map(|worker| format!("pinpipe-{worker}"))
}

/// The binaries in the order of [`WORKERS`].
fn find(executables: &[Executable]) -> Result<Vec<(&'static str, &Path)>> {
    let find = |(worker, name): (&&'static str, String)| {
        let binary = executables
            .iter()
            .find(|executable| !executable.is_test && executable.name == name);
        let binary = binary.with_context(|| format!("cargo built no binary {name}"))?;
        Ok((*worker, binary.path.as_path()))
    };
    WORKERS.iter().zip(binaries()).map(find).collect()
}
