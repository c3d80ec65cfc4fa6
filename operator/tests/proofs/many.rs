//! Many pipelines on one broker: they settle, then cost no write, and the operator stays small. One
//! that is broken holds up no other.

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
    lane::Lane,
    user::Pipeline,
    world::{World, until},
};

/// How many, unless named: as many as settle while one waits. `PINPIPE_MANY=1000` takes minutes.
const FEW: usize = 100;
/// Where another number may be named.
const MANY: &str = "PINPIPE_MANY";
/// The most memory the operator may take, bytes.
const MEMORY: u64 = 100 << 20;
/// How long a pipeline that is ready is left alone at most, jitter included: in all, and by how
/// many there are.
const RESYNC: (Duration, Duration) = (Duration::from_secs(36), Duration::from_millis(120));

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
    Pipeline::new(&world.admin, namespace, "broken")
        .create(&away)
        .await?;
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
            conditions
                .into_iter()
                .any(|condition| condition.type_ == "Ready" && condition.status == "True")
        };
        anyhow::Ok(pipelines.iter().filter(is_ready).count())
    };
    let patience = Duration::from_secs(180 + many as u64);
    until(
        "all pipelines are ready, but for the broken one",
        patience,
        async || {
            let ready = ready().await?;
            // A list of all is work for the API server, too.
            tokio::time::sleep(Duration::from_secs(1)).await;
            ensure!(ready == many, "{ready} of {many}");
            Ok(())
        },
    )
    .await
    .with_context(|| lane.last_words())?;
    let settled = begun.elapsed();
    let peak = lane.memory()?;

    // The last were ready a moment ago, and are looked at once more for what their Deployments
    // said.
    until(
        "the operator writes nothing more",
        Duration::from_mins(1),
        async || {
            lane.tap.begin(None);
            more_passes(&lane, 50, patience).await?;
            ensure!(lane.tap.attempts().is_empty(), "{:?}", lane.tap.attempts());
            Ok(())
        },
    )
    .await?;

    lane.tap.begin(None);
    let resync = RESYNC.0.max(RESYNC.1 * u32::try_from(many)?);
    let (asked, begun) = (lane.tap.requests(), Instant::now());
    more_passes(&lane, 2 * many, 3 * resync + patience)
        .await
        .context("every pipeline is looked at twice")?;
    let (resynced, requests) = (begun.elapsed(), lane.tap.requests() - asked);
    lane.api.relist();
    more_passes(&lane, many, patience)
        .await
        .context("every pipeline is looked at after all lists were read anew")?;
    let written = lane.tap.attempts();
    let broken = Pipeline::new(&world.admin, namespace, "broken")
        .get()
        .await?;
    ensure!(
        written.is_empty(),
        "settled pipelines were written to: {written:?}; the broken one is {}",
        broken["status"]
    );
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
    ensure!(
        memory.max(peak) < MEMORY,
        "more than {} MiB: {told}",
        MEMORY >> 20
    );
    Ok(told)
}

/// Waits until so many more passes have ended.
async fn more_passes(lane: &Lane, passes: usize, deadline: Duration) -> Result<()> {
    let before = lane.passes().await?;
    until("passes", deadline, async || {
        let ended = lane.passes().await? - before;
        ensure!(ended >= passes as f64, "{ended} of {passes}");
        Ok(())
    })
    .await
}
