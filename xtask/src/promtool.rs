//! Prometheus and promtool: the machine's own, or finished ones from a Debian package. promtool is
//! built where there is none.
//!
//! The package is not installed: it would start Prometheus as a service, on the port of the
//! workers' metrics. Building promtool takes minutes of both cores, so it is the last resort.

use anyhow::Result;

use crate::context::{Context, on_path};
use crate::go;
use crate::step::step;

const PROMTOOL: &str = "promtool";
/// The server, which the end-to-end test of the dashboards runs.
const SERVER: &str = "prometheus";

/// Ensures that `promtool` is found by [`Context::command`], and `prometheus` if it can be had.
pub fn ensure(context: &Context) -> Result<()> {
    let is_there = |program| on_path(program) || context.bin(program).is_file();
    if is_there(PROMTOOL) && is_there(SERVER) {
        return Ok(());
    }
    let fetched = if on_path("apt-get") {
        fetch(context)
    } else {
        Err(anyhow::anyhow!("not found: apt-get"))
    };
    fetched.or_else(|error| {
        println!("   no Prometheus from a Debian package: {error:#}");
        if is_there(PROMTOOL) {
            return Ok(());
        }
        go::promtool(context)
    })
}

fn fetch(context: &Context) -> Result<()> {
    let hint = "check that apt-get can reach its mirror; without it promtool is built, and \
                Prometheus has to be installed";
    step(context, "Prometheus from a Debian package", hint, |log| {
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
        for program in [PROMTOOL, SERVER] {
            go::replace(&folder.join("usr/bin").join(program), &context.bin(program))?;
        }
        Ok(())
    })
}
