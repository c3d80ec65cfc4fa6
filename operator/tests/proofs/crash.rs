//! The crash sweep, Sieve's method: an operator that dies after any one of its writes, and is
//! started again, comes to where one comes that doesn't. The pipeline is created, changed and
//! deleted; what is there after each step is compared.
//!
//! Source: Sun et al., "Automatic Reliability Testing for Cluster Management Controllers", OSDI
//! 2022: intermediate states.

use std::{
    collections::BTreeSet,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::{Context as _, Result, ensure};
use futures::future::try_join_all;
use serde_json::json;

use crate::{
    lane::Lane,
    specs,
    state::{Camera, Picture, ensure_same},
    user::{Pipeline, QUIET, SETTLES},
    world::{World, until},
};

/// So many are under way at once.
const SIDE_BY_SIDE: usize = 6;
/// As many writes as there are at least: each object once, each gone again, topics, the status and
/// the finalizer. How often the status is written besides depends on what the operator sees
/// together, and so on how busy the machine is.
const LEAST: usize = 60;

pub async fn run(world: &World) -> Result<String> {
    let camera = Camera::new(world.admin.clone(), &world.kafka)?;
    let first = world.lane().await?;
    let (expected, writes) = undisturbed(world, &camera, &first)
        .await
        .context("the undisturbed run")?;
    let (n, topics) = (
        writes.len(),
        expected[0]
            .keys()
            .filter(|key| key.starts_with("Topic "))
            .count(),
    );
    ensure!(
        n >= LEAST && topics == 6,
        "{topics} topics, {n} writes: {writes:?}"
    );

    // Until runs end before their write comes, and for each of as many writes as the undisturbed
    // run had.
    let (next, killed) = (AtomicUsize::new(1), Mutex::new(BTreeSet::new()));
    let mut lanes = vec![first];
    for _ in 1..SIDE_BY_SIDE {
        lanes.push(world.lane().await?);
    }
    try_join_all(lanes.iter().map(|lane| async {
        loop {
            let k = next.fetch_add(1, Ordering::Relaxed);
            let reached = disturbed(world, &camera, lane, k, &expected)
                .await
                .with_context(|| format!("killed after write {k}"))?;
            if reached {
                killed
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(k);
            } else if k > n {
                return anyhow::Ok(());
            }
        }
    }))
    .await?;
    let killed = killed.lock().unwrap_or_else(PoisonError::into_inner);
    let never: Vec<usize> = (1..=LEAST).filter(|k| !killed.contains(k)).collect();
    ensure!(
        never.is_empty(),
        "of {n} writes these were never the last of an operator: {never:?}"
    );
    Ok(format!(
        "{n} writes undisturbed; killed after each of {} of them",
        killed.len()
    ))
}

/// What is there after each step, and the writes in all.
async fn undisturbed(
    world: &World,
    camera: &Camera,
    lane: &Lane,
) -> Result<(Vec<Picture>, Vec<String>)> {
    let mut pictures = Vec::new();
    let writes = script(world, lane, "crash-0", None, async |step| {
        let picture = camera.take("crash-0").await?;
        ensure!(
            step < 2 || picture.is_empty(),
            "left by a pipeline that is gone: {:?}",
            picture.keys()
        );
        pictures.push(picture);
        Ok(())
    })
    .await?;
    Ok((pictures, writes))
}

/// Whether the operator was killed.
async fn disturbed(
    world: &World,
    camera: &Camera,
    lane: &Lane,
    k: usize,
    expected: &[Picture],
) -> Result<bool> {
    let namespace = format!("crash-{k}");
    script(world, lane, &namespace, Some(k), async |step| {
        ensure_same(&expected[step], &camera.take(&namespace).await?)
    })
    .await
    .with_context(|| format!("{}\nits writes: {:?}", lane.last_words(), lane.tap.writes()))?;
    Ok(!lane.tap.is_armed())
}

/// Creates, changes and deletes a pipeline; after each step `look` must be content. Gives the
/// operator's writes.
async fn script(
    world: &World,
    lane: &Lane,
    namespace: &str,
    kill_after: Option<usize>,
    mut look: impl AsyncFnMut(usize) -> Result<()>,
) -> Result<Vec<String>> {
    world.place(namespace).await?;
    let pipeline = Pipeline::new(&world.admin, namespace, "pinterest");
    let arguments = ["--namespace", namespace];
    lane.tap.begin(kill_after);
    lane.start(&arguments)?;
    for (step, name) in ["created", "changed", "deleted"].into_iter().enumerate() {
        match step {
            0 => {
                pipeline
                    .create(&specs::whole(&lane.bootstrap_servers))
                    .await?
            }
            1 => {
                let asked = json!({"pinpipe.dev/run-batch": "now", "pinpipe.dev/reset-sink": "live=earliest"});
                pipeline
                    .replace(&asked, &specs::changed(&lane.bootstrap_servers))
                    .await?;
            }
            _ => pipeline.delete().await?,
        }
        until(
            &format!("{name}, the pipeline stands as it should"),
            SETTLES,
            async || {
                lane.revive(&arguments)?;
                if step == 2 {
                    pipeline.is_gone().await?;
                } else {
                    pipeline.is_ready().await?;
                }
                ensure!(lane.tap.is_quiet(QUIET), "the operator is at work");
                look(step).await
            },
        )
        .await?;
    }
    lane.tap.kill();
    Ok(lane.tap.writes())
}
