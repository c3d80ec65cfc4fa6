//! The operator's process: telemetry, the API server, the admin port, and the controller until
//! SIGTERM.

use std::{process::exit, sync::Arc};

use anyhow::Context as _;
use clap::Parser as _;
use kube::{Api, Client, Config};
use pinpipe_lease::{Held, LeaseError};
use pinpipe_operator::{api, args::Args, context::Context, controller, metrics::Metrics, said};
use pinpipe_runtime::{admin::Admin, malloc, shutdown, telemetry};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

fn main() -> anyhow::Result<()> {
    // A list of a thousand pipelines needs much memory for a moment.
    malloc::give_back();
    Runtime::new()?.block_on(run())
}

async fn run() -> anyhow::Result<()> {
    let args = Args::parse();
    telemetry::init(args.log_format);
    let stop = shutdown::on_signal();
    let mut admin = Admin::new();
    let metrics = Metrics::register(admin.registry());
    let config = Config::infer()
        .await
        .context("no access to a Kubernetes API: run in a cluster, or set KUBECONFIG")?;
    let client = api::client(config, metrics.clone())
        .context("no client of the Kubernetes API can be made")?;
    let readiness = admin.readiness();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        registry = args.image_registry,
        tag = args.image_tag,
        "operator started"
    );

    let admin = tokio::spawn(admin.serve(args.admin_port, axum::Router::new(), stop.clone()));
    // One that stands by is ready to work, and says so.
    tokio::spawn(controller::tell_ready(
        client.clone(),
        args.scopes(),
        readiness,
    ));
    // Either's failure ends the process; a stop waits for both, and so for passes under way.
    tokio::try_join!(
        async { admin.await? },
        work(&args, client, metrics, stop.clone())
    )?;
    tracing::info!("operator stopped");
    Ok(())
}

/// Runs pipelines until `stop`, from when no other operator does.
async fn work(
    args: &Args,
    client: Client,
    metrics: Metrics,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let pods = said::client().context("no HTTP client can be made to ask workers with")?;
    let held = tokio::select! {
        held = lead(args, &client) => held?,
        () = stop.cancelled() => return Ok(()),
    };
    metrics.leads();
    let proof = held.as_ref().map(Held::proof);
    let context = Arc::new(Context::new(client, pods, args.settings(), metrics, proof));
    let controller = controller::run(context, args.scopes(), stop);
    let Some(held) = held else {
        controller.await;
        return Ok(());
    };
    tokio::select! {
        biased;
        error = held.lost() => {
            // At once, whatever is under way: another operator is about to begin.
            tracing::error!(%error, "another operator may work from now on: this one ends");
            exit(1);
        }
        () = controller => {}
    }
    held.release().await;
    Ok(())
}

/// Waits until no other operator works. None: there is no Lease to go by, so there is no other.
async fn lead(args: &Args, client: &Client) -> Result<Option<Held>, LeaseError> {
    let (Some(name), Some(namespace)) = (&args.lease, &args.lease_namespace) else {
        return Ok(None);
    };
    let api = Api::namespaced(client.clone(), namespace);
    pinpipe_lease::acquire(api, name, &pinpipe_lease::identity().await, None)
        .await
        .map(Some)
}
