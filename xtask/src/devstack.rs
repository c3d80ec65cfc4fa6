//! The dev servers in the cluster: charts/devstack.

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::context::Context;
use crate::images::Server;
use crate::step::step;

/// The namespace, and the name of the Helm release.
pub const NAMESPACE: &str = "devstack";
/// Helm values that place the servers on the control plane: its ports are mapped to this machine's,
/// and tests stop the other nodes.
const ON_CONTROL_PLANE: &str = r#"{
    "nodeSelector": {"node-role.kubernetes.io/control-plane": ""},
    "tolerations": [{
        "key": "node-role.kubernetes.io/control-plane",
        "operator": "Exists",
        "effect": "NoSchedule"
    }]
}"#;

/// Installs or upgrades the servers and waits until each answers its readiness probe.
pub fn up(context: &Context, servers: &[Server]) -> Result<()> {
    let hint = format!(
        "kubectl --namespace {NAMESPACE} describe pods; kubectl --namespace {NAMESPACE} logs \
         kafka-0"
    );
    step(context, "dev servers", &hint, |log| {
        let mut helm = context.command("helm");
        helm.args([
            "upgrade",
            "--install",
            NAMESPACE,
            "charts/devstack",
            "--namespace",
            NAMESPACE,
            "--create-namespace",
            // A test that was killed while it had scaled a server down owns its replicas.
            "--force-conflicts",
        ]);
        helm.args(["--set", "nodePorts.enabled=true"]);
        helm.args(["--set-json", ON_CONTROL_PLANE]);
        for server in servers {
            helm.arg("--set")
                .arg(format!("images.{}={}", server.name, server.image));
        }
        log.run(&mut helm)?;
        for server in servers {
            let mut wait = context.command("kubectl");
            wait.args([
                "--namespace",
                NAMESPACE,
                "rollout",
                "status",
                "--timeout=300s",
            ])
            .arg(format!("statefulset/{}", server.name));
            let ready = log.run(&mut wait);
            if ready.is_err() {
                log.run(context.command("kubectl").args([
                    "--namespace",
                    NAMESPACE,
                    "get",
                    "pods,events",
                ]))?;
            }
            ready?;
        }
        Ok(())
    })
}

/// Prints how often each server was restarted and why: a test may have failed because a server was
/// killed.
pub fn report(context: &Context) {
    let lines = pods(context).map_or_else(
        |error| vec![format!("the dev servers' state is unknown: {error:#}")],
        |list| restarts(&list),
    );
    for line in lines {
        eprintln!("   {line}");
    }
}

fn pods(context: &Context) -> Result<Value> {
    let arguments = ["get", "pods", "--output=json", "--request-timeout=10s"];
    let output = context
        .command("kubectl")
        .args(["--namespace", NAMESPACE])
        .args(arguments)
        .output()
        .context("running kubectl")?;
    serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

/// A line for each container of a list of pods: its restarts, and the reason and exit code of its
/// last end.
fn restarts(pods: &Value) -> Vec<String> {
    let array = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut lines = Vec::new();
    for pod in array(&pods["items"]) {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        for container in array(&pod["status"]["containerStatuses"]) {
            let restarts = container["restartCount"].as_u64().unwrap_or(0);
            let ended = &container["lastState"]["terminated"];
            let reason = match ended["reason"].as_str() {
                Some(reason) => format!(
                    ", last ended {}: {reason}, exit code {}",
                    ended["finishedAt"].as_str().unwrap_or_default(),
                    ended["exitCode"]
                ),
                None => String::new(),
            };
            lines.push(format!("dev server {name}: {restarts} restarts{reason}"));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_killed_server_is_named_with_its_reason() {
        let ended = json!({
            "reason": "OOMKilled", "exitCode": 137, "finishedAt": "2026-11-29T20:00:00Z",
        });
        let pod = |name: &str, status: Value| {
            let status = json!({"containerStatuses": [status]});
            json!({"metadata": {"name": name}, "status": status})
        };
        let pods = json!({"items": [
            pod("kafka-0", json!({"restartCount": 2, "lastState": {"terminated": ended}})),
            pod("s3-0", json!({"restartCount": 0, "lastState": {}})),
            {"metadata": {"name": "postgres-0"}, "status": {"phase": "Pending"}},
        ]});
        assert_eq!(
            restarts(&pods),
            [
                "dev server kafka-0: 2 restarts, last ended 2026-11-29T20:00:00Z: OOMKilled, \
                 exit code 137",
                "dev server s3-0: 0 restarts",
            ]
        );
    }
}
