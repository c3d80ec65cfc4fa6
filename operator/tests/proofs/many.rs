//! Many pipelines on one broker: they settle, then cost no write, and the operator stays small. One that is broken holds up no other.

use std::{
    env,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kube::{Api, api::ListParams};
use pinpipe_crds::PinterestPipeline;
use serde_json::json;

use crate::{
    user::Pipeline,
    world::{World, until},
};

/// How many, unless named: as many as settle while one waits. `PINPIPE_MANY=1000` takes minutes.
const FEW: usize = 100;
/// Where another number may be named.
const MANY: &str = "PINPIPE_MANY";
/// The most memory the operator may take, bytes.
const MEMORY: u64 = 100 << 20;
/// How long a pipeline that is ready is left alone at most, jitter included.
const RESYNC: Duration = Duration::from_secs(36);

pub async fn run(world: &World) -> Result<String> {
    let many = env::var(MANY).map_or(Ok(FEW), |many| many.parse())?;
    let namespace = "many";
    world.place(namespace).await?;
    let lane = world.lane().await?;
    let begun = Instant::now();
    let spec = json!({
        "broker": {"kafka": {"bootstrapServers": lane.bootstrap_servers, "topics": {"partitions": 1}}},
        "ingest": {"replicas": 1},
    });
    let mut away = spec.clone();
    // An address nobody has: nothing ever answers.
    away["broker"]["kafka"]["bootstrapServers"] = json!("192.0.2.1:9092");
    let name = |at: usize| format!("p-{at}");
    Pipeline::new(&world.admin, namespace, "broken").create(&away).await?;
    stream::iter(0..many)
        .map(|at| Pipeline::new(&world.admin, namespace, &name(at)))
        .map(|pipeline| {
            let spec = &spec;
            async move { pipeline.create(spec).await }
        })
        .buffer_unordered(8)
        .try_collect::<Vec<()>>()
        .await?;
    let made = begun.elapsed();

    lane.start(&["--namespace", namespace])?;
    let begun = Instant::now();
    let api: Api<PinterestPipeline> = Api::namespaced(world.admin.clone(), namespace);
    let ready = async || {
        let pipelines = api.list(&ListParams::default()).await?;
        let is_ready = |pipeline: &&PinterestPipeline| {
            let conditions = pipeline.status.iter().flat_map(|status| &status.conditions);
            conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
        };
        anyhow::Ok(pipelines.iter().filter(is_ready).count())
    };
    let patience = Duration::from_secs(60 + many as u64);
    until("all pipelines are ready, but for the broken one", patience, async || {
        let ready = ready().await?;
        // A list of all is work for the API server, too.
        tokio::time::sleep(Duration::from_secs(1)).await;
        ensure!(ready == many, "{ready} of {many}");
        Ok(())
    })
    .await
    .with_context(|| lane.last_words())?;
    let settled = begun.elapsed();
    let peak = lane.memory()?;

    // The last were ready a moment ago, and are looked at once more for what their Deployments said.
    until("the operator writes nothing more", Duration::from_secs(60), async || {
        lane.tap.begin(None);
        let passes = lane.passes().await?;
        lane.passed(passes + 50.0).await?;
        ensure!(lane.tap.attempts().is_empty(), "{:?}", lane.tap.attempts());
        Ok(())
    })
    .await?;

    lane.tap.begin(None);
    let passes = lane.passes().await?;
    let asked = lane.tap.requests();
    let begun = Instant::now();
    // Each is looked at twice; then all lists are read anew.
    let twice = passes + 2.0 * many as f64;
    until("every pipeline was looked at twice", 4 * RESYNC + patience, async || {
        let now = lane.passes().await?;
        ensure!(now >= twice, "{} of {}", now - passes, twice - passes);
        Ok(())
    })
    .await?;
    let (resynced, requests) = (begun.elapsed(), lane.tap.requests() - asked);
    lane.api.relist();
    let passes = lane.passes().await?;
    lane.passed(passes + many as f64).await?;
    let written = lane.tap.attempts();
    ensure!(written.is_empty(), "settled pipelines were written to: {written:?}");
    ensure!(ready().await? == many, "not every pipeline is still ready");
    let memory = lane.memory()?;
    let told = format!(
        "{many} pipelines made in {:.1} s, ready {:.1} s after the operator's start; looked at twice in {:.1} s by {requests} requests and no \
         write; resident {} MiB once they were ready, {} MiB at the end",
        made.as_secs_f64(),
        settled.as_secs_f64(),
        resynced.as_secs_f64(),
        peak >> 20,
        memory >> 20,
    );
    ensure!(memory.max(peak) < MEMORY, "more than {} MiB: {told}", MEMORY >> 20);
    Ok(told)
}
