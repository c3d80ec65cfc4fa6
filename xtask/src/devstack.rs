//! The dev servers in the cluster: charts/devstack.

use anyhow::Result;

use crate::context::Context;
use crate::images::Server;
use crate::step::step;

/// The namespace, and the name of the Helm release.
pub const NAMESPACE: &str = "devstack";
/// Where the servers run: the ports of that node are mapped to this machine's, and tests stop the
/// others.
const ON_CONTROL_PLANE: &str = r#"{
    "nodeSelector": {"node-role.kubernetes.io/control-plane": ""},
    "tolerations": [{"key": "node-role.kubernetes.io/control-plane", "operator": "Exists", "effect": "NoSchedule"}]
}"#;

/// Installs or upgrades the servers and waits until each answers its readiness probe.
pub fn up(context: &Context, servers: &[Server]) -> Result<()> {
    let hint = format!(
        "kubectl --namespace {NAMESPACE} describe pods; kubectl --namespace {NAMESPACE} logs kafka-0"
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
