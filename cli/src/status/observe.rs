//! Reads what a status is made from: the pipeline's children, and samples of its workers' metrics.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use futures::future::join_all;
use k8s_openapi::{
    api::{apps::v1::Deployment, core::v1::Pod},
    jiff::Timestamp,
};
use kube::{ResourceExt as _, api::DynamicObject};
use pinpipe_crds::PinterestPipeline;
use pinpipe_plan::names;
use tokio::time::sleep;

use crate::{
    cluster::Cluster,
    failure::Failure,
    metrics::{Sample, parse},
    pods, runs,
    time::now,
};

/// Time between the two samples that rates are computed from.
const BETWEEN_SAMPLES: Duration = Duration::from_millis(1500);

/// What was read of a pipeline.
#[derive(Clone, Debug)]
pub(super) struct Observed {
    pub(super) pipeline: PinterestPipeline,
    pub(super) deployments: Vec<Deployment>,
    /// Newest first.
    pub(super) runs: Vec<DynamicObject>,
    /// Samples by component.
    pub(super) sampled: BTreeMap<String, Vec<Sampled>>,
    /// Sentences about what could not be read.
    pub(super) notes: Vec<String>,
    pub(super) now: Timestamp,
}

/// Two samples of a pod's metrics.
#[derive(Clone, Debug, Default)]
pub(super) struct Sampled {
    pub(super) first: Vec<Sample>,
    pub(super) second: Vec<Sample>,
    /// Seconds between them.
    pub(super) seconds: f64,
}

/// Reads everything. What can't be read is noted, and the rest is there.
pub(super) async fn observe(cluster: &Cluster, pipeline: PinterestPipeline) -> Observed {
    let name = pipeline.name_any();
    let (children, everything) = (names::selector(&name, None), names::jobs_selector(&name));
    let (deployments, runs, pods) = futures::join!(
        cluster.list::<Deployment>("list deployments.apps", &children),
        runs::list(cluster, &name),
        cluster.list::<Pod>("list pods", &everything),
    );
    let mut notes = Vec::new();
    let deployments = noted(deployments, &mut notes);
    let runs = noted(runs, &mut notes);
    let pods = noted(pods, &mut notes);
    let sampled = sample(cluster, &pods, &mut notes).await;
    Observed {
        pipeline,
        deployments,
        runs,
        sampled,
        notes,
        now: now(),
    }
}

fn noted<T: Default>(read: Result<T, Failure>, notes: &mut Vec<String>) -> T {
    read.unwrap_or_else(|failure| {
        notes.push(failure.to_string());
        T::default()
    })
}

/// Samples the metrics of all pods that run and serve them, twice.
async fn sample(
    cluster: &Cluster,
    pods: &[Pod],
    notes: &mut Vec<String>,
) -> BTreeMap<String, Vec<Sampled>> {
    let workers: Vec<(&str, String)> = pods.iter().filter_map(pods::worker).collect();
    if workers.is_empty() {
        return BTreeMap::new();
    }
    let once = || join_all(workers.iter().map(|(_, pod)| scrape(cluster, pod)));
    let first = once().await;
    let refused = first.iter().all(Result::is_err);
    let second = if refused {
        Vec::new()
    } else {
        sleep(BETWEEN_SAMPLES).await;
        once().await
    };
    let mut sampled: BTreeMap<String, Vec<Sampled>> = BTreeMap::new();
    let mut second = second.into_iter();
    for ((component, _), first) in workers.iter().zip(first) {
        match (first, second.next()) {
            (Ok(first), Some(Ok(second))) => {
                let of_component = sampled.entry((*component).to_owned()).or_default();
                of_component.push(Sampled {
                    seconds: (second.0 - first.0).as_secs_f64(),
                    first: first.1,
                    second: second.1,
                });
            }
            (Err(note), _) | (_, Some(Err(note))) => {
                // A missing right is the same for all pods.
                if !notes.contains(&note) {
                    notes.push(note);
                }
            }
            (Ok(_), None) => {}
        }
    }
    sampled
}

async fn scrape(cluster: &Cluster, pod: &str) -> Result<(Instant, Vec<Sample>), String> {
    let text = pods::admin(cluster, pod, "metrics").await?;
    Ok((Instant::now(), parse(&text)))
}
