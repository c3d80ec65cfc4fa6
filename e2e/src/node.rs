//! What is done on a node itself, past Kubernetes: signals to a process, images, standing still,
//! reading the API server's audit log.
//!
//! A node of kind is a container; its Docker Engine is the one `DOCKER_HOST` names, or the harness'
//! own, or the machine's.

use std::{collections::BTreeMap, process::Command};

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, Utc};
use k8s_openapi::api::core::v1::Node;
use kube::{Api, ResourceExt as _, api::ListParams};
use serde::Deserialize;

use crate::cluster::{self, Cluster};

/// The node with the API server.
const CONTROL_PLANE: &str = "pinpipe-control-plane";

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

/// Has a node with everything on it stand still while `meanwhile` runs, and lets it go on whatever
/// came of that.
pub async fn still<T>(node: &str, meanwhile: impl AsyncFnOnce() -> Result<T>) -> Result<T> {
    run(vec!["pause".to_owned(), node.to_owned()]).await?;
    let result = meanwhile().await;
    run(vec!["unpause".to_owned(), node.to_owned()]).await?;
    result
}

/// What a process can be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// It ends at once.
    Kill,
    /// It stands still.
    Stop,
    /// It goes on.
    Continue,
}

/// containerd's name of a container whose id in the pod's status is `<runtime>://<name>`.
fn task(id: &str) -> String {
    id.rsplit('/').next().unwrap_or(id).to_owned()
}

/// Sends a signal to a container's process. `id` is the container's id as in the pod's status.
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

/// Makes a container's processes stand still for a second at a time and go on for a moment, for
/// `seconds`: each of its answers takes about a second. It ends by itself, whoever waits for it or
/// not.
pub async fn stutter(node: &str, id: &str, seconds: u64) -> Result<()> {
    let script = r#"
        processes() { ctr -n k8s.io tasks ps "$1" | awk 'NR > 1 { print $1 }'; }
        # One that has ended since (a probe's) is no failure.
        all() { kill "$@" 2> /dev/null || true; }
        trap 'all -CONT $(processes "$1")' EXIT
        end=$(($(date +%s) + $2))
        while [ "$(date +%s)" -lt "$end" ]; do
            still=$(processes "$1")
            [ -n "$still" ] || { echo "no process in $1" >&2; exit 1; }
            all -STOP $still
            sleep 1
            all -CONT $still
        done
    "#;
    exec(node, script.to_owned(), vec![task(id), seconds.to_string()])
        .await
        .map(drop)
}

/// Gives the images of one tag another one, too, on every node: another version, as far as
/// Kubernetes can tell.
pub async fn tag_images(cluster: &Cluster, tag: &str, another: &str) -> Result<()> {
    let script = r#"
        for image in $(ctr -n k8s.io images ls -q | grep "^pinpipe.local/.*:$1\$"); do
            ctr -n k8s.io images tag --force "$image" "${image%:*}:$2" > /dev/null
        done
    "#;
    let nodes: Api<Node> = Api::all(cluster.client());
    for node in nodes.list(&ListParams::default()).await? {
        exec(
            &node.name_any(),
            script.to_owned(),
            vec![tag.to_owned(), another.to_owned()],
        )
        .await?;
    }
    Ok(())
}

/// The most memory a container's first process ever had resident, bytes.
pub async fn peak_memory(node: &str, id: &str) -> Result<u64> {
    let script = r#"
        process=$(ctr -n k8s.io tasks ps "$1" | awk 'NR == 2 { print $1 }')
        awk '/^VmHWM:/ { print $2 }' "/proc/$process/status"
    "#;
    let kibibytes = exec(node, script.to_owned(), vec![task(id)]).await?;
    Ok(kibibytes
        .trim()
        .parse::<u64>()
        .with_context(|| format!("no memory of a process: {kibibytes:?}"))?
        * 1024)
}

/// A request that changed something, or tried to.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Write {
    /// `create`, `update`, `patch`, `delete`, …
    pub verb: String,
    /// Who asked.
    pub user: User,
    /// What it was about.
    pub object_ref: Option<Object>,
    /// When it came.
    pub request_received_timestamp: DateTime<Utc>,
    stage: String,
}

/// Who asked.
#[derive(Clone, Debug, Deserialize)]
pub struct User {
    /// `system:serviceaccount:<namespace>:<name>` for pods.
    pub username: String,
    #[serde(default)]
    extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// The pod that asked.
    #[must_use]
    pub fn pod(&self) -> Option<String> {
        self.extra
            .get("authentication.kubernetes.io/pod-name")?
            .first()
            .cloned()
    }
}

/// What a request is about.
#[derive(Clone, Debug, Deserialize)]
pub struct Object {
    /// `configmaps` …
    pub resource: Option<String>,
    /// The namespace.
    pub namespace: Option<String>,
    /// The name.
    pub name: Option<String>,
    /// `status` …
    pub subresource: Option<String>,
}

/// The requests in the audit log that changed something in a namespace.
pub async fn writes(namespace: &str) -> Result<Vec<Write>> {
    let script = r#"cat /var/log/kubernetes/audit*.log | grep -F "\"namespace\":\"$1\"" || true"#;
    let log = exec(CONTROL_PLANE, script.to_owned(), vec![namespace.to_owned()]).await?;
    let mut writes = Vec::new();
    for line in log.lines() {
        let event: Write =
            serde_json::from_str(line).with_context(|| format!("no audit event: {line}"))?;
        if event.stage == "ResponseComplete"
            && !matches!(event.verb.as_str(), "get" | "list" | "watch")
        {
            writes.push(event);
        }
    }
    Ok(writes)
}
