//! Work on the nodes themselves, without the Kubernetes API: signals, slow and paused processes,
//! image tags, memory, and the audit log.
//!
//! A node of kind is a container. Its Docker Engine is that of `DOCKER_HOST`, or else the harness's
//! own, or else the machine's.

use std::{process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Node;
use kube::{Api, ResourceExt as _, api::ListParams};

use crate::{
    cluster::{self, Cluster},
    eventually, finally,
};

/// The node that runs the API server.
const CONTROL_PLANE: &str = "pinpipe-control-plane";
/// How long the container runtime may need to freeze a node that is busy.
const FROZEN_WITHIN: Duration = Duration::from_mins(1);

fn docker() -> Result<Command> {
    let mut docker = Command::new("docker");
    let own = cluster::cache()?.join("docker/docker.sock");
    if std::env::var_os("DOCKER_HOST").is_none() && own.exists() {
        docker.env("DOCKER_HOST", format!("unix://{}", own.display()));
    }
    Ok(docker)
}

async fn run(arguments: Vec<String>) -> Result<String> {
    tokio::task::spawn_blocking(move || {
        let output = docker()?
            .args(&arguments)
            .output()
            .context("docker can't be run")?;
        ensure!(
            output.status.success(),
            "docker {}: {}, {}",
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?)
    })
    .await?
}

async fn exec(node: &str, script: String, arguments: Vec<String>) -> Result<String> {
    let mut all = ["exec", node, "sh", "-c", &script, "sh"]
        .map(str::to_owned)
        .to_vec();
    all.extend(arguments);
    run(all).await
}

/// Pauses a node with everything on it while `work` runs, and resumes it whether or not `work`
/// succeeds.
///
/// The kernel freezes a group of processes only when all of them stand still at once; the container
/// runtime gives up after a while ("unable to freeze") and thaws those that did, so it is tried
/// again.
pub async fn while_paused<T>(node: &str, work: impl AsyncFnOnce() -> Result<T>) -> Result<T> {
    eventually(FROZEN_WITHIN, &format!("{node} paused"), async || {
        run(vec!["pause".to_owned(), node.to_owned()])
            .await
            .map(drop)
    })
    .await?;
    let resume = async |_| {
        run(vec!["unpause".to_owned(), node.to_owned()])
            .await
            .map(drop)
    };
    finally(work(), resume).await
}

/// A signal to a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGKILL.
    Kill,
    /// SIGSTOP.
    Stop,
    /// SIGCONT.
    Continue,
}

/// containerd's name of a container; the pod's status has `<runtime>://<name>`.
fn task(id: &str) -> String {
    id.rsplit('/').next().unwrap_or(id).to_owned()
}

/// Sends a signal to a container's process. `id` is the container id in the pod's status.
pub async fn signal(node: &str, id: &str, signal: Signal) -> Result<()> {
    let name = match signal {
        Signal::Kill => "SIGKILL",
        Signal::Stop => "SIGSTOP",
        Signal::Continue => "SIGCONT",
    };
    let script = r#"exec ctr -n k8s.io tasks kill --signal "$2" "$1""#.to_owned();
    exec(node, script, vec![task(id), name.to_owned()])
        .await
        .map(drop)
}

/// Stops a container's processes for a second at a time, with moments between, so that each of its
/// answers takes about a second. Ends after `seconds`, even when nobody waits for it.
pub async fn slow_down(node: &str, id: &str, seconds: u64) -> Result<()> {
    let script = r#"
        processes() { ctr -n k8s.io tasks ps "$1" | awk 'NR > 1 { print $1 }'; }
        # A process may have ended since, such as a probe's.
        all() { kill "$@" 2> /dev/null || true; }
        trap 'all -CONT $(processes "$1")' EXIT
        end=$(($(date +%s) + $2))
        while [ "$(date +%s)" -lt "$end" ]; do
            found=$(processes "$1")
            [ -n "$found" ] || { echo "no process in $1" >&2; exit 1; }
            all -STOP $found
            sleep 1
            all -CONT $found
        done
    "#;
    exec(node, script.to_owned(), vec![task(id), seconds.to_string()])
        .await
        .map(drop)
}

/// Gives the images of one tag a second tag on every node, `<tag>-next`, and returns it: to
/// Kubernetes a new version, though the content is the same.
pub async fn tag_as_next(cluster: &Cluster, tag: &str) -> Result<String> {
    let next = format!("{tag}-next");
    let script = r#"
        for image in $(ctr -n k8s.io images ls -q | grep "^pinpipe.local/.*:$1\$"); do
            ctr -n k8s.io images tag --force "$image" "${image%:*}:$2" > /dev/null
        done
    "#;
    let nodes: Api<Node> = Api::all(cluster.client());
    for node in nodes.list(&ListParams::default()).await? {
        let tags = vec![tag.to_owned(), next.clone()];
        exec(&node.name_any(), script.to_owned(), tags).await?;
    }
    Ok(next)
}

/// The audit log's lines about a namespace.
pub(crate) async fn audit_log(namespace: &str) -> Result<String> {
    let script = r#"cat /var/log/kubernetes/audit*.log | grep -F "\"namespace\":\"$1\"" || true"#;
    exec(CONTROL_PLANE, script.to_owned(), vec![namespace.to_owned()]).await
}

/// What a container and its processes, if it still runs, were started with: containerd's
/// description, command lines and environments.
pub async fn started_with(node: &str, id: &str) -> Result<String> {
    let script = r#"
        ctr -n k8s.io containers info "$1" || exit
        for process in $(ctr -n k8s.io tasks ps "$1" 2> /dev/null | awk 'NR > 1 { print $1 }'); do
            echo "process $process"
            cat "/proc/$process/cmdline" "/proc/$process/environ" | tr '\0' '\n'
        done
    "#;
    exec(node, script.to_owned(), vec![task(id)]).await
}

/// The peak resident memory of a container's first process, bytes.
pub async fn peak_memory(node: &str, id: &str) -> Result<u64> {
    let script = r#"
        process=$(ctr -n k8s.io tasks ps "$1" | awk 'NR == 2 { print $1 }')
        awk '/^VmHWM:/ { print $2 }' "/proc/$process/status"
    "#;
    let kibibytes = exec(node, script.to_owned(), vec![task(id)]).await?;
    Ok(kibibytes
        .trim()
        .parse::<u64>()
        .with_context(|| format!("not the memory of a process: {kibibytes:?}"))?
        * 1024)
}
