//! Installs the operator on the cluster with its chart.

use anyhow::Result;

use crate::context::Context;
use crate::step::step;
use crate::workers::WorkerImages;

/// The operator's namespace.
pub const NAMESPACE: &str = "pinpipe-system";

/// Installs the operator, or upgrades it to these images, and waits until it is ready.
pub fn install(context: &Context, images: &WorkerImages) -> Result<()> {
    let hint = format!(
        "kubectl --namespace {NAMESPACE} describe pods; `cargo xtask cluster status` shows how to \
         reach the cluster"
    );
    step(context, "install the operator", &hint, |log| {
        let mut helm = context.command("helm");
        helm.args([
            "upgrade",
            "--install",
            "pinpipe",
            "charts/pinpipe",
            "--namespace",
            NAMESPACE,
            "--create-namespace",
            // A test that was killed while it had scaled the operator owns its replicas.
            "--force-conflicts",
            // Short enough for end-to-end tests to wait for; e2e/src/cluster.rs has the same.
            "--set",
            "operator.deletionDeadline=60",
        ]);
        log.run(
            helm.args(images.helm_arguments())
                .args(["--wait", "--timeout", "180s"]),
        )
    })
}
