//! The operator's process: telemetry, the API server, the admin port, and the controller until
//! SIGTERM.

use std::{process::exit, sync::Arc};

use anyhow::Context as _;
use clap::Parser as _;
use kube::{Api, Client, Config};
use pinpipe_lease::{Held, LeaseError};
use pinpipe_operator::{
    cli::Args,
    context::Context,
    controller, kube_client,
    metrics::Metrics,
    observe::{pipeline_index::PipelineIndex, worker_health},
    pipeline_metrics,
};
use pinpipe_runtime::{admin::Admin, malloc, shutdown, telemetry};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

fn main() -> anyhow::Result<()> {
    // A list of a thousand pipelines needs much memory for a short time.
    malloc::return_freed_memory();
    Runtime::new()?.block_on(run())
}

async fn run() -> anyhow::Result<()> {
    let args = Args::parse();
    telemetry::init(args.log_format);
    let stop = shutdown::on_signal();
    let mut admin = Admin::new();
    let metrics = Metrics::register(admin.registry());
    let pipelines = PipelineIndex::default();
    pipeline_metrics::register(admin.registry(), pipelines.clone());
    let config = Config::infer()
        .await
        .context("no access to a Kubernetes API: run in a cluster, or set KUBECONFIG")?;
    let client = kube_client::client(config, metrics.clone())
        .context("no client of the Kubernetes API can be made")?;
    let readiness = admin.readiness();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        registry = args.image_registry,
        tag = args.image_tag,
        "operator started"
    );

    let admin = tokio::spawn(admin.serve(args.admin_port, axum::Router::new(), stop.clone()));
    // A replica that stands by is ready to take over, and is Ready.
    tokio::spawn(controller::report_readiness(
        client.clone(),
        args.scopes(),
        readiness,
    ));
    // A failure of either ends the process; a stop waits for both, and so for active reconciles.
    tokio::try_join!(
        async { admin.await? },
        work(&args, client, metrics, pipelines, stop.clone())
    )?;
    tracing::info!("operator stopped");
    Ok(())
}

/// Reconciles pipelines until `stop`, once this replica holds the Lease.
async fn work(
    args: &Args,
    client: Client,
    metrics: Metrics,
    pipelines: PipelineIndex,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let pods = worker_health::client().context("the HTTP client for workers can't be made")?;
    let held = tokio::select! {
        held = lead(args, &client) => held?,
        () = stop.cancelled() => return Ok(()),
    };
    metrics.leads();
    let proof = held.as_ref().map(Held::proof);
    // In a pod it is the namespace of the ServiceAccount, elsewhere that of the kubeconfig.
    let settings = args.settings(client.default_namespace());
    let context = Arc::new(Context {
        pipelines,
        ..Context::new(client, pods, settings, metrics, proof)
    });
    let controller = controller::run(context, args.scopes(), stop);
    let Some(held) = held else {
        controller.await;
        return Ok(());
    };
    tokio::select! {
        biased;
        error = held.lost() => {
            // At once, whatever is under way: another replica is about to begin.
            tracing::error!(%error, "another replica may work from now on: this one ends");
            exit(1);
        }
        () = controller => {}
    }
    held.release().await;
    Ok(())
}

/// Waits for the Lease. None: leader election is off.
async fn lead(args: &Args, client: &Client) -> Result<Option<Held>, LeaseError> {
    let (Some(name), Some(namespace)) = (&args.lease, &args.lease_namespace) else {
        return Ok(None);
    };
    let api = Api::namespaced(client.clone(), namespace);
    pinpipe_lease::acquire(api, name, &pinpipe_lease::identity().await, None)
        .await
        .map(Some)
}
