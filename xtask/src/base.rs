//! The Debian image that other images are based on: pulled, or built from Debian's packages.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use std::sync::{Mutex, PoisonError};

use anyhow::Result;

use crate::context::Context;
use crate::debian::{self, need};
use crate::engine;
use crate::step::step;

const PUBLISHED: &str = "debian:bookworm-slim";
const OWN: &str = "pinpipe.local/debian:bookworm";

/// Two threads may need the image at once.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Ensures that the image is there; returns its name.
pub fn ensure(context: &Context) -> Result<&'static str> {
    let _permit = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    if engine::has_image(context, PUBLISHED) {
        return Ok(PUBLISHED);
    }
    if engine::has_image(context, OWN) {
        return Ok(OWN);
    }
    if engine::pull(context, PUBLISHED)? {
        return Ok(PUBLISHED);
    }
    debian::ensure(context, &[need("debootstrap", "debootstrap")])?;
    let hint = "check that the Debian mirror of apt's configuration can be reached";
    step(context, "Debian base image", hint, |log| {
        let mirror = debian::mirror(context)?;
        let folder = context.temporary_folder("debian")?;
        let root = folder.join("root");
        log.download(|| {
            // A second attempt reuses what the first one downloaded.
            let mut command = context.command("debootstrap");
            command
                .args(["--variant=minbase", "--include=ca-certificates", "bookworm"])
                .arg(&root)
                .arg(&mirror);
            command
        })?;
        // Packages installed later must not start their servers; see invoke-rc.d(8).
        let policy = root.join("usr/sbin/policy-rc.d");
        fs::write(&policy, "#!/bin/sh\nexit 101\n")?;
        fs::set_permissions(&policy, fs::Permissions::from_mode(0o755))?;
        let archive = folder.join("root.tar");
        let skipped = [
            "./var/lib/apt/lists/*",
            "./var/cache/apt/archives/*",
            "./dev/*",
        ]
        .map(|path| format!("--exclude={path}"));
        log.run(
            context
                .command("tar")
                .args(["--numeric-owner", "--create", "--file"])
                .arg(&archive)
                .args(skipped)
                .arg("-C")
                .arg(&root)
                .arg("."),
        )?;
        log.run(
            context
                .command("docker")
                .arg("import")
                .arg(&archive)
                .arg(OWN),
        )?;
        Ok(fs::remove_dir_all(&folder)?)
    })?;
    Ok(OWN)
}
