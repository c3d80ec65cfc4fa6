//! Programs of the machine. Missing ones are installed from Debian's packages if this is root on
//! Debian.

use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, bail};

use crate::context::{Context, on_path};
use crate::step::step;

/// A program, or a file by its absolute path, and the Debian package that has it.
pub struct Need {
    pub program: &'static str,
    pub package: &'static str,
}

pub const fn need(program: &'static str, package: &'static str) -> Need {
    Need { program, package }
}

/// Whether this process runs as root.
pub fn is_root() -> bool {
    Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

/// apt-get fails when another one holds its lock.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Ensures that the programs are there.
pub fn ensure(context: &Context, needs: &[Need]) -> Result<()> {
    let _permit = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let missing: Vec<&Need> = needs.iter().filter(|need| !on_path(need.program)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let programs = missing
        .iter()
        .map(|need| need.program)
        .collect::<Vec<_>>()
        .join(", ");
    if !Path::new("/etc/debian_version").exists() || !is_root() {
        bail!(
            "not found: {programs}. Install them, or run this as root on Debian, where it installs \
             them itself"
        );
    }
    let packages: Vec<&str> = missing.iter().map(|need| need.package).collect();
    let hint = format!(
        "install the packages by hand (apt-get install {}), then run this again",
        packages.join(" ")
    );
    step(
        context,
        &format!("Debian packages {}", packages.join(" ")),
        &hint,
        |log| {
            let apt = |arguments: &[&str]| {
                // Wait for another apt-get instead of failing; see apt.conf(5).
                let mut command = context.command("apt-get");
                command
                    .env("DEBIAN_FRONTEND", "noninteractive")
                    .args(["-q", "-o", "DPkg::Lock::Timeout=300"])
                    .args(arguments);
                command
            };
            // A killed apt-get leaves packages unpacked but not configured.
            log.run(
                context
                    .command("dpkg")
                    .env("DEBIAN_FRONTEND", "noninteractive")
                    .args(["--configure", "-a"]),
            )?;
            log.download(|| apt(&["update"]))?;
            let install = [
                &["install", "-y", "--no-install-recommends"],
                packages.as_slice(),
            ]
            .concat();
            log.download(|| apt(&install))
        },
    )
}

/// The Debian mirror that apt on this machine is configured with.
pub fn mirror(context: &Context) -> Result<String> {
    let output = context
        .command("apt-get")
        .args([
            "indextargets",
            "--format",
            "$(REPO_URI)",
            "Created-By: Packages",
            "Origin: Debian",
        ])
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    match text
        .lines()
        .find(|uri| uri.trim_end_matches('/').ends_with("/debian"))
    {
        Some(uri) => Ok(uri.to_owned()),
        None => bail!(
            "apt has no Debian mirror configured (apt-get indextargets lists none ending in \
             /debian)"
        ),
    }
}
