//! Crashes at every point, by the method of Sieve: an operator that is killed after any of its
//! writes and started again reaches the same state as one that isn't killed. The pipeline is
//! created, changed and deleted, and the state after each step is compared.
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
    cluster::Cluster,
    operator::Operator,
    pipeline::{Pipeline, QUIET, SETTLES},
    snapshot::{Snapshot, Snapshots, ensure_same},
    specs,
    wait::until,
};

/// How many runs are in progress at once.
const CONCURRENT: usize = 6;
/// The smallest possible number of writes: to create and delete each object, for topics, status and
/// finalizer. The number of further status writes depends on timing.
const MIN_WRITES: usize = 60;

pub async fn run(cluster: &Cluster) -> Result<String> {
    let snapshots = Snapshots::new(cluster.admin.clone(), &cluster.kafka)?;
    let first = cluster.operator().await?;
    let (expected, writes) = undisturbed(cluster, &snapshots, &first)
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
        n >= MIN_WRITES && topics == 6,
        "{topics} topics, {n} writes: {writes:?}"
    );

    // At least one run per write of the undisturbed run, and until a run ends before its write.
    let (next, killed) = (AtomicUsize::new(1), Mutex::new(BTreeSet::new()));
    let mut operators = vec![first];
    for _ in 1..CONCURRENT {
        operators.push(cluster.operator().await?);
    }
    try_join_all(operators.iter().map(|operator| async {
        loop {
            let k = next.fetch_add(1, Ordering::Relaxed);
            let reached = disturbed(cluster, &snapshots, operator, k, &expected)
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
    let never: Vec<usize> = (1..=MIN_WRITES).filter(|k| !killed.contains(k)).collect();
    ensure!(
        never.is_empty(),
        "no operator was killed after these of {n} writes: {never:?}"
    );
    Ok(format!(
        "{n} writes undisturbed; killed after each of {} of them",
        killed.len()
    ))
}

/// The state after each step, and all writes.
async fn undisturbed(
    cluster: &Cluster,
    snapshots: &Snapshots,
    operator: &Operator,
) -> Result<(Vec<Snapshot>, Vec<String>)> {
    let mut taken = Vec::new();
    let writes = script(cluster, operator, "crash-0", None, async |step| {
        let snapshot = snapshots.take("crash-0").await?;
        ensure!(
            step < 2 || snapshot.is_empty(),
            "left of a deleted pipeline: {:?}",
            snapshot.keys()
        );
        taken.push(snapshot);
        Ok(())
    })
    .await?;
    Ok((taken, writes))
}

/// Runs the script with a kill after `k` writes. Whether the operator was killed.
async fn disturbed(
    cluster: &Cluster,
    snapshots: &Snapshots,
    operator: &Operator,
    k: usize,
    expected: &[Snapshot],
) -> Result<bool> {
    let namespace = format!("crash-{k}");
    script(cluster, operator, &namespace, Some(k), async |step| {
        let snapshot = snapshots.take(&namespace).await?;
        // The operator can't know any more that it created the topics.
        if operator.traffic.writes().get(k - 1).map(String::as_str) == Some("CreateTopics") {
            return ensure_unproven(step, &snapshot);
        }
        ensure_same(&expected[step], &snapshot)
    })
    .await
    .with_context(|| {
        format!(
            "{}\nits writes: {:?}",
            operator.log_end(),
            operator.traffic.writes()
        )
    })?;
    Ok(!operator.traffic.is_armed())
}

/// An operator that was killed between the creation of topics and its record says so, and leaves
/// the topics when the pipeline is deleted.
fn ensure_unproven(step: usize, snapshot: &Snapshot) -> Result<()> {
    if step == 2 {
        let topics = snapshot.keys().filter(|key| key.starts_with("Topic "));
        ensure!(topics.count() == 6, "{:?}", snapshot.keys());
        return Ok(());
    }
    let is_pipeline = |key: &&String| key.starts_with("PinterestPipeline ");
    let key = snapshot.keys().find(is_pipeline);
    let key = key.with_context(|| format!("no pipeline: {:?}", snapshot.keys()))?;
    let topics = snapshot[key]["status"]["topics"].as_array();
    let created = topics.into_iter().flatten().map(|topic| &topic["created"]);
    let unknown = created.filter(|created| *created == "Unknown").count();
    ensure!(unknown == 6, "{unknown} of 6 topics: {topics:?}");
    Ok(())
}

/// Creates, changes and deletes a pipeline, and waits after each step until `check` succeeds.
/// Returns the operator's writes.
async fn script(
    cluster: &Cluster,
    operator: &Operator,
    namespace: &str,
    kill_after: Option<usize>,
    mut check: impl AsyncFnMut(usize) -> Result<()>,
) -> Result<Vec<String>> {
    cluster.namespace_with_secrets(namespace).await?;
    let pipeline = Pipeline::new(&cluster.admin, namespace, "pinterest");
    let arguments = ["--namespace", namespace];
    operator.traffic.begin(kill_after);
    operator.start(&arguments)?;
    for (step, name) in ["created", "changed", "deleted"].into_iter().enumerate() {
        match step {
            0 => {
                pipeline
                    .create(&specs::whole(&operator.bootstrap_servers))
                    .await?;
            }
            1 => {
                pipeline
                    .replace(&json!({}), &specs::changed(&operator.bootstrap_servers))
                    .await?;
            }
            _ => pipeline.delete().await?,
        }
        until(
            &format!("the expected state after the pipeline is {name}"),
            SETTLES,
            async || {
                operator.revive(&arguments)?;
                if step == 2 {
                    pipeline.is_gone().await?;
                } else {
                    pipeline.is_ready().await?;
                }
                ensure!(operator.traffic.is_quiet(QUIET), "the operator is busy");
                check(step).await
            },
        )
        .await?;
    }
    operator.traffic.kill();
    Ok(operator.traffic.writes())
}
