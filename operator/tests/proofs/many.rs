//! Many pipelines on one broker: they settle and then cause no write, the operator's memory stays
//! bounded, and a pipeline without a broker delays no other.

use std::{
    env,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kube::{Api, api::ListParams};
use pinpipe_crds::PinterestPipeline;
use serde_json::json;

use crate::{cluster::Cluster, operator::Operator, pipeline::Pipeline, wait::until};

/// The default number of pipelines. `PINPIPE_MANY=1000` takes minutes.
const DEFAULT_COUNT: usize = 100;
/// The environment variable with another number.
const COUNT: &str = "PINPIPE_MANY";
/// The largest permitted resident memory of the operator, bytes. About a third of it are pages of
/// the debug build.
const MEMORY: u64 = 150 << 20;
/// The longest resync interval of a ready pipeline, with jitter: at least, and per pipeline.
const RESYNC: (Duration, Duration) = (Duration::from_secs(36), Duration::from_millis(480));
/// The largest permitted rate of requests to the API server at rest, per second.
const REQUESTS: f64 = 20.0;

pub async fn run(cluster: &Cluster) -> Result<String> {
    let many = env::var(COUNT).map_or(Ok(DEFAULT_COUNT), |many| many.parse())?;
    let namespace = "many";
    cluster.namespace_with_secrets(namespace).await?;
    let operator = cluster.operator().await?;
    let begun = Instant::now();
    let spec = json!({
        "broker": {"kafka": {
            "bootstrapServers": operator.bootstrap_servers,
            "topics": {"partitions": 1},
        }},
        "ingest": {"autoscaling": {"minReplicas": 1, "maxReplicas": 2}},
        "stream": {"sinks": [
            {"name": "live", "postgres": {"urlSecretRef": {"name": "warehouse", "key": "url"}}},
        ]},
        "archive": {"bucket": "raw", "s3": {"credentialsSecretRef": {"name": "s3"}}},
        "batch": {"schedule": "0 10 * * *", "sinks": [{"name": "serving", "cassandra": {
            "contactPoints": ["c:9042"],
            "credentialsSecretRef": {"name": "cassandra"},
        }}]},
    });
    let mut without_broker = spec.clone();
    // An address reserved for documentation (RFC 5737), which never answers.
    without_broker["broker"]["kafka"]["bootstrapServers"] = json!("192.0.2.1:9092");
    let name = |at: usize| format!("p-{at}");
    Pipeline::new(&cluster.admin, namespace, "broken")
        .create(&without_broker)
        .await?;
    stream::iter(0..many)
        .map(|at| Pipeline::new(&cluster.admin, namespace, &name(at)))
        .map(|pipeline| {
            let spec = &spec;
            async move { pipeline.create(spec).await }
        })
        .buffer_unordered(8)
        .try_collect::<Vec<()>>()
        .await?;
    let created = begun.elapsed();

    operator.start(&["--namespace", namespace])?;
    let begun = Instant::now();
    let api: Api<PinterestPipeline> = Api::namespaced(cluster.admin.clone(), namespace);
    let ready = async || {
        let pipelines = api.list(&ListParams::default()).await?;
        let is_ready = |pipeline: &&PinterestPipeline| {
            let conditions = pipeline.status.iter().flat_map(|status| &status.conditions);
            conditions
                .into_iter()
                .any(|condition| condition.type_ == "Ready" && condition.status == "True")
        };
        anyhow::Ok(pipelines.iter().filter(is_ready).count())
    };
    let deadline = Duration::from_secs(180 + many as u64);
    until(
        "all pipelines are ready, except the broken one",
        deadline,
        async || {
            let ready = ready().await?;
            // Listing all pipelines is expensive for the API server.
            tokio::time::sleep(Duration::from_secs(1)).await;
            ensure!(ready == many, "{ready} of {many}");
            Ok(())
        },
    )
    .await
    .with_context(|| operator.log_end())?;
    let settled = begun.elapsed();
    let peak = operator.memory()?;

    // The last pipelines became ready a moment ago, and are reconciled once more for the status of
    // their Deployments.
    until(
        "the operator writes nothing more",
        Duration::from_mins(1),
        async || {
            operator.traffic.begin(None);
            wait_for_more_reconciles(&operator, 50, deadline).await?;
            ensure!(
                operator.traffic.attempts().is_empty(),
                "{:?}",
                operator.traffic.attempts()
            );
            Ok(())
        },
    )
    .await?;

    operator.traffic.begin(None);
    let resync = RESYNC.0.max(RESYNC.1 * u32::try_from(many)?);
    let (requests_before, begun) = (operator.traffic.requests(), Instant::now());
    wait_for_more_reconciles(&operator, 2 * many, 3 * resync + deadline)
        .await
        .context("every pipeline is reconciled twice")?;
    let (resynced, requests) = (
        begun.elapsed(),
        operator.traffic.requests() - requests_before,
    );
    let rate = requests as f64 / resynced.as_secs_f64();
    ensure!(rate < REQUESTS, "{rate:.1} requests per second at rest");
    operator.api.relist();
    wait_for_more_reconciles(&operator, many, deadline)
        .await
        .context("every pipeline is reconciled after all lists were repeated")?;
    let written = operator.traffic.attempts();
    let broken = Pipeline::new(&cluster.admin, namespace, "broken")
        .get()
        .await?;
    ensure!(
        written.is_empty(),
        "settled pipelines were written to: {written:?}; the broken one is {}",
        broken["status"]
    );
    ensure!(ready().await? == many, "not every pipeline is still ready");
    let memory = operator.memory()?;
    let result = format!(
        "{many} pipelines created in {:.1} s, ready {:.1} s after the operator's start; reconciled \
         twice in {:.1} s with {requests} requests and no write; resident {} MiB once they were \
         ready, {} MiB at the end",
        created.as_secs_f64(),
        settled.as_secs_f64(),
        resynced.as_secs_f64(),
        peak >> 20,
        memory >> 20,
    );
    ensure!(
        memory.max(peak) < MEMORY,
        "more than {} MiB: {result}",
        MEMORY >> 20
    );
    Ok(result)
}

/// Waits until that many more reconciles are complete.
async fn wait_for_more_reconciles(
    operator: &Operator,
    reconciles: usize,
    deadline: Duration,
) -> Result<()> {
    let before = operator.reconciles().await?;
    until("reconciles", deadline, async || {
        let ended = operator.reconciles().await? - before;
        ensure!(ended >= reconciles as f64, "{ended} of {reconciles}");
        Ok(())
    })
    .await
}
