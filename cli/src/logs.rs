//! `logs`: the logs of all pods of a pipeline or of one component, each line with its pod's name.

use futures::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::{ResourceExt as _, api::LogParams};
use pinpipe_plan::{
    component::Component,
    names::{self, COMPONENT_LABEL},
};

use crate::{
    cluster::{self, Cluster},
    failure::{Failure, Outcome},
    output::{print, reader_is_gone},
    pods,
    time::seconds,
};

/// Arguments of `logs`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Pipeline; by default the only one of the namespace
    #[arg(value_name = "PIPELINE")]
    name: Option<String>,

    /// Component: ingest, stream-<sink>, archive, batch (the last run) or emulator; by default all
    #[arg(value_name = "COMPONENT", value_parser = component)]
    component: Option<Component>,

    /// Go on until interrupted; pods that start later are not followed
    #[arg(short, long)]
    follow: bool,

    /// Only lines younger than this, such as 90s, 5m or 2h
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    since: Option<i64>,

    /// Only this many last lines of each pod
    #[arg(long, value_name = "LINES")]
    tail: Option<i64>,

    /// The logs of containers that ended before the present ones
    #[arg(short, long, conflicts_with = "follow")]
    previous: bool,

    #[command(flatten)]
    cluster: cluster::Access,
}

fn component(text: &str) -> Result<Component, String> {
    text.parse()
        .map_err(|_| "a component is ingest, stream-<sink>, archive, batch or emulator".to_owned())
}

/// Prints the logs. The answer is whether all of them could be read.
pub async fn run(arguments: &Arguments) -> Outcome {
    let cluster = if arguments.follow {
        arguments.cluster.patient_cluster().await?
    } else {
        arguments.cluster.cluster().await?
    };
    // Before the pods: a misspelt name is more likely than a pipeline without pods.
    let pipeline = cluster.the_pipeline(arguments.name.as_deref()).await?;
    let name = pipeline.name_any();
    let pods = pods(&cluster, &name, arguments.component.as_ref()).await?;
    if pods.is_empty() {
        let what = arguments.component.as_ref().map(ToString::to_string);
        return Err(Failure::Cluster(format!(
            "pipeline {name} has no pod{}: see kubectl pinpipe status -n {} {name}",
            what.map_or_else(String::new, |component| format!(" of {component}")),
            cluster.namespace
        )));
    }
    let mut complete = true;
    let mut logs = Vec::new();
    for pod in &pods {
        match lines(&cluster, pod, arguments).await {
            Ok(lines) => logs.push(lines),
            Err(failure) => {
                eprintln!("{}: {failure}", pod.name_any());
                complete = false;
            }
        }
    }
    let mut lines = if arguments.follow {
        stream::select_all(logs).boxed()
    } else {
        stream::iter(logs).flatten().boxed()
    };
    while let Some(line) = lines.next().await {
        match line {
            Ok(line) => print(&line)?,
            Err(message) => {
                eprintln!("{message}");
                complete = false;
            }
        }
        if reader_is_gone() {
            break;
        }
    }
    Ok(complete)
}

/// The lines of a pod's log, each with its pod's name in front. An error is a sentence about a log
/// that was cut off.
async fn lines(
    cluster: &Cluster,
    pod: &Pod,
    arguments: &Arguments,
) -> Result<stream::BoxStream<'static, Result<String, String>>, Failure> {
    let name = pod.name_any();
    let params = LogParams {
        container: pods::container(pod),
        follow: arguments.follow,
        since_seconds: arguments.since,
        tail_lines: arguments.tail,
        previous: arguments.previous,
        ..LogParams::default()
    };
    let log = cluster.api::<Pod>().log_stream(&name, &params).await;
    let log = log.map_err(|error| cluster.failure("get pods/log", &error))?;
    let lines = pods::lines(log).map(move |line| match line {
        Ok(line) => Ok(format!("[{name}] {line}\n")),
        Err(error) => Err(format!("{name}: its log was cut off: {error}")),
    });
    Ok(lines.boxed())
}

/// Pods of a component, or of all; of batch runs those of the newest alone.
async fn pods(
    cluster: &Cluster,
    name: &str,
    component: Option<&Component>,
) -> Result<Vec<Pod>, Failure> {
    let mut selector = names::jobs_selector(name);
    if let Some(component) = component {
        selector = format!("{selector},{COMPONENT_LABEL}={component}");
    }
    let mut pods: Vec<Pod> = cluster.list("list pods", &selector).await?;
    pods.retain(|pod| !pods::is_inspection(pod));
    let newest = newest_run(&pods);
    pods.retain(|pod| pods::job(pod).is_none_or(|job| Some(job) == newest.as_deref()));
    pods.sort_by_key(|pod| (pod.labels().get(COMPONENT_LABEL).cloned(), pod.name_any()));
    Ok(pods)
}

/// Name of the Job whose pod is the newest.
fn newest_run(pods: &[Pod]) -> Option<String> {
    let of_runs = pods.iter().filter(|pod| pods::job(pod).is_some());
    let newest = of_runs.max_by_key(|pod| pod.creation_timestamp().map(|time| time.0))?;
    pods::job(newest).map(ToOwned::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_newest_run_is_told_by_its_pod() {
        let pod = |job: &str, created: &str| -> Pod {
            let labels = json!({"batch.kubernetes.io/job-name": job});
            let metadata = json!({"name": job, "labels": labels, "creationTimestamp": created});
            serde_json::from_value(json!({"metadata": metadata})).unwrap()
        };
        let worker: Pod = serde_json::from_value(json!({"metadata": {"name": "w"}})).unwrap();
        let pods = [
            pod("b", "2026-01-02T00:00:00Z"),
            pod("a", "2026-01-01T00:00:00Z"),
            worker,
        ];
        assert_eq!(newest_run(&pods).as_deref(), Some("b"));
    }
}
