//! promtool: the machine's own, or a finished one from a Debian package, or built.
//!
//! The package is not installed: it would start Prometheus as a service, on the port of the
//! workers' metrics. Building promtool takes minutes of both cores, so it is the last resort.

use anyhow::Result;

use crate::context::{Context, on_path};
use crate::go;
use crate::step::step;

const PROMTOOL: &str = "promtool";

/// Ensures that `promtool` is found by [`Context::command`].
pub fn ensure(context: &Context) -> Result<()> {
    if on_path(PROMTOOL) || context.bin(PROMTOOL).is_file() {
        return Ok(());
    }
    let fetched = if on_path("apt-get") {
        fetch(context)
    } else {
        Err(anyhow::anyhow!("not found: apt-get"))
    };
    fetched.or_else(|error| {
        println!("   promtool is built instead: {error:#}");
        go::promtool(context)
    })
}

fn fetch(context: &Context) -> Result<()> {
    let hint = "check that apt-get can reach its mirror; without it promtool is built";
    step(context, "promtool from a Debian package", hint, |log| {
        let folder = context.temporary_folder(PROMTOOL)?;
        let apt = |arguments: &[&str]| {
            let mut command = context.command("apt-get");
            // As root apt-get would download as a user that can't write here.
            command
                .current_dir(&folder)
                .args(["-q", "-o", "APT::Sandbox::User=root"])
                .args(arguments);
            command
        };
        let download = || apt(&["download", "prometheus"]);
        if log.run(&mut download()).is_err() {
            // There are no lists of packages yet.
            log.download(|| apt(&["update"]))?;
            log.download(download)?;
        }
        let unpack = "dpkg-deb --extract prometheus_*.deb .";
        let mut shell = context.command("sh");
        log.run(shell.args(["-c", unpack]).current_dir(&folder))?;
        go::replace(&folder.join("usr/bin/promtool"), &context.bin(PROMTOOL))
    })
}
