//! The kind cluster of the demo and of the end-to-end tests.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::context::{CLUSTER, Context, NODE};
use crate::engine;
use crate::fingerprint::Fingerprint;
use crate::node_image;
use crate::step::{Log, step};

/// How long a cluster that is there may take to answer before it is made anew.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// kubectl is supported within one minor version of the API server.
const MINOR_SKEW: u32 = 1;

/// Makes the cluster unless the one that is there is healthy and was made from the same configuration.
pub fn up(context: &Context) -> Result<()> {
    engine::ensure(context)?;
    let image = node_image::ensure_with_tools(context)?;
    let key = Fingerprint::default()
        .path(&context.root.join("kind-config.yaml"))?
        .path(&context.root.join("e2e/kind/audit-policy.yaml"))?
        .text(&image)
        .finish();
    let key_file = context.cache.join("run/cluster.key");
    let same = fs::read_to_string(&key_file).is_ok_and(|made| Some(made) == keyed_start(context, &key));
    if same && ensure_kubectl(context).is_ok() && answers_within(context, ANSWER_WITHIN) {
        println!("ok the cluster is there");
        return Ok(());
    }
    let hint =
        "`cargo xtask cluster down`, then try again; a port that is taken (kind-config.yaml) is named in the log";
    step(context, "kind cluster", hint, |log| {
        delete(context, log)?;
        let _ = fs::remove_file(&key_file);
        engine::make_kind_network(context, log)?;
        let mut kind = context.command("kind");
        kind.args([
            "create",
            "cluster",
            "--config",
            "kind-config.yaml",
            "--image",
            &image,
            "--wait",
            "180s",
            "--kubeconfig",
        ]);
        log.run(kind.arg(context.kubeconfig()))?;
        ensure_kubectl(context)?;
        Ok(fs::write(&key_file, keyed_start(context, &key).context("the node stopped at once")?)?)
    })
}

/// Removes the cluster, and the engine that was started for it.
pub fn down(context: &Context) -> Result<()> {
    if engine::find(context) {
        step(
            context,
            "remove the cluster",
            "remove the container by hand: docker rm --force pinpipe-control-plane",
            |log| delete(context, log),
        )?;
    }
    for file in ["run/cluster.key", "kubeconfig"] {
        let _ = fs::remove_file(context.cache.join(file));
    }
    engine::stop_own(context)
}

/// kind's own way needs kind; a container left behind by a killed run may be there without it.
fn delete(context: &Context, log: &Log) -> Result<()> {
    let mut there = context.command("docker");
    there.args(["ps", "--all", "--quiet", "--filter"]).arg(format!("label=io.x-k8s.kind.cluster={CLUSTER}"));
    for container in log.output(&mut there)?.lines() {
        log.run(context.command("docker").args(["rm", "--force", "--volumes", container]))?;
    }
    Ok(())
}

/// Whether the cluster's node runs.
pub fn is_running(context: &Context) -> bool {
    let state = context.command("docker").args(["inspect", "--format", "{{.State.Running}}", NODE]).output();
    state.is_ok_and(|output| output.stdout.trim_ascii() == b"true")
}

/// What a cluster was made from, and the start of its node. One that was started again has lost its volumes, which are in memory, and
/// with them the servers' data, while the API server still knows what relied on those.
fn keyed_start(context: &Context, key: &str) -> Option<String> {
    let format = "{{.State.Running}} {{.Id}} {{.State.StartedAt}}";
    let output = context.command("docker").args(["inspect", "--format", format, NODE]).output().ok()?;
    let state = String::from_utf8(output.stdout).ok()?;
    Some(format!("{key} {}", state.trim().strip_prefix("true ")?))
}

fn answers_within(context: &Context, time: Duration) -> bool {
    let start = Instant::now();
    loop {
        let mut ready = context.command("kubectl");
        ready.args(["wait", "--for=condition=Ready", "node", NODE, "--timeout=10s", "--request-timeout=15s"]);
        if ready.output().is_ok_and(|output| output.status.success()) {
            return true;
        }
        if start.elapsed() > time {
            return false;
        }
        sleep(Duration::from_secs(1));
    }
}

/// Sees to it that there is a kubectl that fits the cluster: the machine's own, or the node's.
fn ensure_kubectl(context: &Context) -> Result<()> {
    let minor =
        |version: &str| version.trim_start_matches('v').split('.').nth(1).and_then(|minor| minor.parse::<u32>().ok());
    let server = context.command("docker").args(["exec", NODE, "cat", "/kind/version"]).output()?;
    let server = minor(&String::from_utf8_lossy(&server.stdout)).context("the node does not tell its version")?;
    let client = |program: &mut Command| {
        let output = program.args(["version", "--client", "--output", "json"]).output().ok()?;
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
        minor(answer["clientVersion"]["gitVersion"].as_str()?)
    };
    if client(&mut context.command("kubectl")).is_some_and(|client| client.abs_diff(server) <= MINOR_SKEW) {
        return Ok(());
    }
    let copied = context.temporary_folder("kubectl")?.join("kubectl");
    let mut copy = context.command("docker");
    copy.args(["cp", "--follow-link", &format!("{NODE}:/usr/bin/kubectl")]).arg(&copied);
    let output = copy.output()?;
    anyhow::ensure!(
        output.status.success(),
        "copying kubectl from the node: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(fs::rename(copied, context.bin("kubectl"))?)
}

/// What is there, and how to use it.
pub fn status(context: &Context) -> Result<String> {
    let mut text = String::new();
    if !engine::find(context) {
        return Ok("no Docker Engine answers, so there is no cluster. `cargo xtask cluster up` makes one.\n".to_owned());
    }
    let engine = context.command("docker").args(["version", "--format", "{{.Server.Version}}"]).output()?;
    writeln!(text, "Docker Engine {}", String::from_utf8_lossy(&engine.stdout).trim())?;
    if !is_running(context) {
        writeln!(text, "no cluster: `cargo xtask cluster up` makes one")?;
        return Ok(text);
    }
    for arguments in [
        &["get", "nodes", "--output", "wide"][..],
        &["get", "pods", "--all-namespaces", "--field-selector", "metadata.namespace!=kube-system"],
    ] {
        let output = context.command("kubectl").args(arguments).arg("--request-timeout=10s").output()?;
        writeln!(
            text,
            "\n{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr).trim_end()
        )?;
    }
    writeln!(text, "To use it:\n{}", context.exports())?;
    Ok(text)
}
