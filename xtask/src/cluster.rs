//! The kind cluster of the demo and of the end-to-end tests: a control plane, which also runs the
//! dev servers, and two workers.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Subcommand;

use crate::context::{CLUSTER, CONTROL_PLANE, Context};
use crate::engine;
use crate::fingerprint::Fingerprint;
use crate::node_image;
use crate::step::{Log, step};

/// How long an existing cluster may take to answer before it is recreated.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// kubectl is supported within one minor version of the API server; see
/// <https://kubernetes.io/releases/version-skew-policy/#kubectl>.
const MINOR_SKEW: u32 = 1;

#[derive(Subcommand)]
pub enum Action {
    /// Creates the cluster, and whatever it needs, unless it is there
    Up,
    /// Removes the cluster, and the Docker Engine and network interfaces that were started for it
    Down,
    /// Prints the state of the cluster and how to use it
    Status,
}

pub fn run(context: &Context, action: &Action) -> Result<()> {
    match action {
        Action::Up => up(context)?,
        Action::Down => return down(context),
        Action::Status => {}
    }
    print!("{}", status(context)?);
    Ok(())
}

/// Creates the cluster unless the one that is there is healthy and was made from the same
/// configuration.
pub fn up(context: &Context) -> Result<()> {
    engine::ensure(context)?;
    let image = node_image::ensure_with_tools(context)?;
    let key = Fingerprint::default()
        .path(&context.root.join("kind-config.yaml"))?
        .path(&context.root.join("e2e/kind/audit-policy.yaml"))?
        .text(&image)
        .finish();
    let key_file = context.cache.join("run/cluster.key");
    let same =
        fs::read_to_string(&key_file).is_ok_and(|made| Some(made) == keyed_start(context, &key));
    unpause(context)?;
    if same && ensure_kubectl(context).is_ok() && answers_within(context, ANSWER_WITHIN) {
        println!("ok the cluster is up");
        return Ok(());
    }
    let hint = "`cargo xtask cluster down`, then try again; the log names a port of \
                kind-config.yaml that is in use";
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
        let ready = [
            "wait",
            "--for=condition=Ready",
            "node",
            "--all",
            "--timeout=180s",
        ];
        log.run(context.command("kubectl").args(ready))?;
        if node_image::needs_routes(&image) {
            set_routes(context, log)?;
        }
        Ok(fs::write(
            &key_file,
            keyed_start(context, &key).context("a node stopped at once")?,
        )?)
    })
}

/// Removes the cluster, and the engine that was started for it.
pub fn down(context: &Context) -> Result<()> {
    if engine::find(context) {
        step(
            context,
            "remove the cluster",
            "remove the containers by hand: docker rm --force $(docker ps --all --quiet --filter \
             name=pinpipe-)",
            |log| delete(context, log),
        )?;
    }
    for file in ["run/cluster.key", "kubeconfig"] {
        let _ = fs::remove_file(context.cache.join(file));
    }
    engine::stop_own(context)
}

/// Removes the nodes' containers. Unlike `kind delete` this needs no kind, which may not be built.
fn delete(context: &Context, log: &Log) -> Result<()> {
    for container in nodes(context, None)? {
        log.run(
            context
                .command("docker")
                .args(["rm", "--force", "--volumes", &container]),
        )?;
    }
    Ok(())
}

/// The names of the cluster's nodes, running or not, in order: all, or those of a role
/// (`control-plane`, `worker`).
pub fn nodes(context: &Context, role: Option<&str>) -> Result<Vec<String>> {
    let mut list = context.command("docker");
    list.args(["ps", "--all", "--format", "{{.Names}}", "--filter"]);
    list.arg(format!("label=io.x-k8s.kind.cluster={CLUSTER}"));
    if let Some(role) = role {
        list.arg("--filter")
            .arg(format!("label=io.x-k8s.kind.role={role}"));
    }
    let output = list.output().context("running docker")?;
    ensure!(
        output.status.success(),
        "docker ps: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let mut names: Vec<String> = String::from_utf8(output.stdout)?
        .lines()
        .map(str::to_owned)
        .collect();
    names.sort_unstable();
    Ok(names)
}

/// Whether the cluster's control plane runs.
pub fn is_running(context: &Context) -> bool {
    let state = context
        .command("docker")
        .args(["inspect", "--format", "{{.State.Running}}", CONTROL_PLANE])
        .output();
    state.is_ok_and(|output| output.stdout.trim_ascii() == b"true")
}

/// The key of a cluster: its inputs, and the start times of its nodes; None if a node is stopped. A
/// restarted control plane has lost the dev servers' volumes, which are in memory, while the API
/// server still has the objects that rely on them. Any restarted node has lost the routes to the
/// other nodes' pods.
fn keyed_start(context: &Context, key: &str) -> Option<String> {
    let mut inspect = context.command("docker");
    inspect.args([
        "inspect",
        "--format",
        "{{.State.Running}} {{.Id}} {{.State.StartedAt}}",
    ]);
    let output = inspect.args(nodes(context, None).ok()?).output().ok()?;
    let states = String::from_utf8(output.stdout).ok()?;
    states.lines().try_fold(key.to_owned(), |text, state| {
        Some(format!("{text}\n{}", state.strip_prefix("true ")?))
    })
}

/// Resumes nodes that a killed test left paused.
fn unpause(context: &Context) -> Result<()> {
    for node in nodes(context, None)? {
        // This fails for a node that isn't paused.
        context
            .command("docker")
            .args(["unpause", &node])
            .output()
            .context("running docker")?;
    }
    Ok(())
}

/// Sets the routes to the other nodes' pods on each node, since the node image has no network
/// plug-in that does.
fn set_routes(context: &Context, log: &Log) -> Result<()> {
    let columns = "--output=jsonpath={range .items[*]}{.metadata.name} {.spec.podCIDR} \
                   {.status.addresses[?(@.type==\"InternalIP\")].address}{\"\\n\"}{end}";
    let listed = log.output(context.command("kubectl").args(["get", "nodes", columns]))?;
    let nodes: Vec<(&str, &str, &str)> = listed
        .lines()
        .map(|line| {
            let mut words = line.split(' ');
            Some((words.next()?, words.next()?, words.next()?))
        })
        .collect::<Option<_>>()
        .with_context(|| format!("not every node has a range of pods and an address: {listed}"))?;
    for (node, ..) in &nodes {
        for (_, pods, address) in nodes.iter().filter(|(other, ..)| other != node) {
            log.run(
                context
                    .command("docker")
                    .args(["exec", node, "ip", "route", "replace", pods, "via", address]),
            )?;
        }
    }
    Ok(())
}

fn answers_within(context: &Context, time: Duration) -> bool {
    let start = Instant::now();
    loop {
        let mut ready = context.command("kubectl");
        ready.args([
            "wait",
            "--for=condition=Ready",
            "node",
            "--all",
            "--timeout=10s",
            "--request-timeout=15s",
        ]);
        if ready.output().is_ok_and(|output| output.status.success()) {
            return true;
        }
        if start.elapsed() > time {
            return false;
        }
        sleep(Duration::from_secs(1));
    }
}

/// Ensures that there is a kubectl that fits the cluster: the machine's own, or a copy of the
/// control plane's, which is always there and needs no download.
fn ensure_kubectl(context: &Context) -> Result<()> {
    let minor = |version: &str| {
        version
            .trim_start_matches('v')
            .split('.')
            .nth(1)
            .and_then(|minor| minor.parse::<u32>().ok())
    };
    let server = context
        .command("docker")
        .args(["exec", CONTROL_PLANE, "cat", "/kind/version"])
        .output()?;
    let server = minor(&String::from_utf8_lossy(&server.stdout))
        .context("the control plane has no /kind/version")?;
    let client = |program: &mut Command| {
        let output = program
            .args(["version", "--client", "--output", "json"])
            .output()
            .ok()?;
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
        minor(answer["clientVersion"]["gitVersion"].as_str()?)
    };
    if client(&mut context.command("kubectl"))
        .is_some_and(|client| client.abs_diff(server) <= MINOR_SKEW)
    {
        return Ok(());
    }
    let copied = context.temporary_folder("kubectl")?.join("kubectl");
    let mut copy = context.command("docker");
    copy.args([
        "cp",
        "--follow-link",
        &format!("{CONTROL_PLANE}:/usr/bin/kubectl"),
    ])
    .arg(&copied);
    let output = copy.output()?;
    ensure!(
        output.status.success(),
        "copying kubectl from the control plane: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(fs::rename(copied, context.bin("kubectl"))?)
}

/// The state of engine and cluster, and how to use them.
pub fn status(context: &Context) -> Result<String> {
    let mut text = String::new();
    if !engine::find(context) {
        return Ok(
            "no Docker Engine answers, so there is no cluster. `cargo xtask cluster up` creates \
             one.\n"
                .to_owned(),
        );
    }
    let engine = context
        .command("docker")
        .args(["version", "--format", "{{.Server.Version}}"])
        .output()?;
    writeln!(
        text,
        "Docker Engine {}",
        String::from_utf8_lossy(&engine.stdout).trim()
    )?;
    if !is_running(context) {
        writeln!(text, "no cluster: `cargo xtask cluster up` creates one")?;
        return Ok(text);
    }
    for arguments in [
        &["get", "nodes", "--output", "wide"][..],
        &[
            "get",
            "pods",
            "--all-namespaces",
            "--field-selector",
            "metadata.namespace!=kube-system",
        ],
    ] {
        let output = context
            .command("kubectl")
            .args(arguments)
            .arg("--request-timeout=10s")
            .output()?;
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
