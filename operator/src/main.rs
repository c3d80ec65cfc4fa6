//! The operator's process: telemetry, the API server, the admin port, and the controller until SIGTERM.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use clap::Parser as _;
use pinpipe_operator::{args::Args, context::Context, controller, metrics::Metrics, said};
use pinpipe_runtime::{admin::Admin, shutdown, telemetry};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    telemetry::init(args.log_format);
    let stop = shutdown::on_signal();
    let client = kube::Client::try_default()
        .await
        .context("no access to a Kubernetes API: run in a cluster, or set KUBECONFIG")?;

    let mut admin = Admin::new();
    let metrics = Metrics::register(admin.registry());
    let readiness = admin.readiness();
    let pods = said::client().context("no HTTP client can be made to ask workers with")?;
    let context =
        Arc::new(Context::new(client, pods, args.images(), Duration::from_secs(args.drain_deadline), metrics));
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        registry = context.images.registry,
        tag = context.images.tag,
        "operator started"
    );

    let admin = tokio::spawn(admin.serve(args.admin_port, axum::Router::new(), stop.clone()));
    let controller = tokio::spawn(controller::run(context, args.concurrency, readiness, stop.clone()));
    // Either's failure ends the process; a stop waits for both, and so for passes under way.
    tokio::try_join!(async { admin.await? }, async { Ok(controller.await?) })?;
    tracing::info!("operator stopped");
    Ok(())
}
