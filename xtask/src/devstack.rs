//! The dev servers in the cluster: charts/devstack.

use std::fs;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use pinpipe_servers::certificates::Authority;
use serde_json::Value;

use crate::context::Context;
use crate::debian::{self, need};
use crate::images::Server;
use crate::step::{Log, step};

/// The namespace, and the name of the Helm release.
pub const NAMESPACE: &str = "devstack";
/// The servers whose names are in the certificate.
const SERVERS: [&str; 4] = ["kafka", "postgres", "cassandra", "s3"];
/// The type of the Secrets with a certificate of the servers.
const CERTIFICATE: &str = "pinpipe.dev/devstack-tls";
/// For how many days a certificate is used, and is valid.
const RENEWED_AFTER: u64 = 7;
const VALID_FOR: i32 = 30;
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
    debian::ensure(context, &[need("openssl", "openssl")])?;
    step(context, "dev servers", &hint, |log| {
        let certificate = ensure_certificate(context, log)?;
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
        helm.arg("--set")
            .arg(format!("tls.secretName={certificate}"));
        helm.args(["--set-json", ON_CONTROL_PLANE]);
        for server in servers {
            helm.arg("--set")
                .arg(format!("images.{}={}", server.name, server.image));
        }
        log.run(&mut helm)?;
        for server in servers {
            let set = format!("statefulset/{}", server.name);
            let wait = ["rollout", "status", "--timeout=300s", &set];
            let ready = log.run(&mut in_namespace(context, &wait));
            if ready.is_err() {
                log.run(&mut in_namespace(context, &["get", "pods,events"]))?;
            }
            ready?;
        }
        let others = format!("--field-selector=type={CERTIFICATE},metadata.name!={certificate}");
        log.run(in_namespace(context, &["delete", "secrets"]).arg(others))
    })
}

/// Ensures that there is a Secret with a certificate and passwords of the servers, and returns its
/// name. Each week's has another name: servers read it only when they start, and a new name
/// restarts them.
fn ensure_certificate(context: &Context, log: &Log) -> Result<String> {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let name = format!("certificate-{}", seconds / (RENEWED_AFTER * 24 * 60 * 60));
    let exists = |kind, name| {
        let get = ["get", kind, name, "--ignore-not-found", "--output=name"];
        let found = log.output(&mut in_namespace(context, &get));
        found.map(|found| !found.is_empty())
    };
    if exists("secret", &name)? {
        return Ok(name);
    }
    if !exists("namespace", NAMESPACE)? {
        log.run(&mut in_namespace(
            context,
            &["create", "namespace", NAMESPACE],
        ))?;
    }
    let (folder, files) = (
        context.temporary_folder("authority")?,
        context.temporary_folder("certificate")?,
    );
    let authority = Authority::new(folder.clone())?;
    let hosts = SERVERS.map(|server| format!("{server}.{NAMESPACE}.svc"));
    let hosts = hosts.each_ref().map(String::as_str);
    let issued = authority.issue_for(&hosts, VALID_FOR, &folder.join("issued"))?;
    fs::copy(authority.certificate(), files.join("ca.crt"))?;
    fs::copy(issued.certificate, files.join("tls.crt"))?;
    fs::copy(issued.key, files.join("tls.key"))?;
    for password in ["kafkaPassword", "accessKeyId", "secretAccessKey"] {
        let random = fs::read_to_string("/proc/sys/kernel/random/uuid")?;
        fs::write(files.join(password), random.trim().replace('-', ""))?;
    }
    // A file for each key.
    let from = format!("--from-file={}", files.display());
    let kind = format!("--type={CERTIFICATE}");
    log.run(in_namespace(context, &["create", "secret", "generic", &name]).args([from, kind]))?;
    Ok(name)
}

fn in_namespace(context: &Context, arguments: &[&str]) -> Command {
    let mut kubectl = context.command("kubectl");
    kubectl.args(["--namespace", NAMESPACE]).args(arguments);
    kubectl
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
    let output = in_namespace(context, &arguments)
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

    /// Otherwise the operator is cut off from the stack once its `NetworkPolicy` is turned on.
    #[test]
    fn the_operator_s_network_policy_allows_each_port_of_the_stack_s_broker() {
        let chart = |path: &str| fs::read_to_string(format!("../charts/{path}")).unwrap();
        let values = chart("pinpipe/values.yaml");
        let allowed = values
            .lines()
            .find_map(|line| line.trim().strip_prefix("brokerPorts: ["));
        let allowed = allowed.unwrap().trim_end_matches(']');
        let allowed: Vec<&str> = allowed.split(", ").collect();
        let broker = chart("devstack/templates/kafka.yaml");
        let ports = ["\"port\" ", "\"tlsPort\" "].map(|name| {
            let port = broker.split(name).nth(1).unwrap();
            port.split(|c: char| !c.is_ascii_digit()).next().unwrap()
        });
        assert_eq!(ports, ["9092", "9095"]);
        assert!(
            ports.iter().all(|port| allowed.contains(port)),
            "{allowed:?}"
        );
    }
}
