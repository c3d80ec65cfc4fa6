//! Reads what a report has: objects, events, logs, and what pods say of themselves.

use futures::future::join_all;
use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    autoscaling::v2::HorizontalPodAutoscaler,
    batch::v1::{CronJob, Job},
    coordination::v1::Lease,
    core::v1::{ConfigMap, Event, Pod, Service},
    networking::v1::NetworkPolicy,
    policy::v1::PodDisruptionBudget,
};
use kube::{Resource, ResourceExt as _, api::LogParams, core::NamespaceResourceScope};
use pinpipe_crds::PinterestPipeline;
use pinpipe_plan::names;
use serde::{Serialize, de::DeserializeOwned};

use super::Bundle;
use crate::{cluster::Cluster, failure::Failure, pods, runs};

/// Adds everything. Returns a sentence about each thing that could not be read.
pub(super) async fn gather(
    cluster: &Cluster,
    pipeline: &PinterestPipeline,
    tail: i64,
    bundle: &mut Bundle,
) -> Vec<String> {
    let name = pipeline.name_any();
    let mut reader = Reader {
        cluster,
        selector: names::jobs_selector(&name),
        lacks: Vec::new(),
        bundle,
    };
    reader.bundle.objects("pipeline.yaml", pipeline);
    reader.versions().await;
    let runs = runs::list(cluster, &name).await;
    let runs = reader.read(runs);
    reader.bundle.objects("pinterestruns.yaml", &runs);
    reader.kind::<Deployment>("deployments.apps").await;
    reader.kind::<ReplicaSet>("replicasets.apps").await;
    reader.kind::<CronJob>("cronjobs.batch").await;
    reader.kind::<Job>("jobs.batch").await;
    reader.kind::<ConfigMap>("configmaps").await;
    reader.kind::<Service>("services").await;
    reader
        .kind::<NetworkPolicy>("networkpolicies.networking.k8s.io")
        .await;
    reader
        .kind::<PodDisruptionBudget>("poddisruptionbudgets.policy")
        .await;
    reader
        .kind::<HorizontalPodAutoscaler>("horizontalpodautoscalers.autoscaling")
        .await;
    reader.kind::<Lease>("leases.coordination.k8s.io").await;
    reader.events(&name).await;
    let mut pods = reader.kind::<Pod>("pods").await;
    pods.retain(|pod| !pods::is_inspection(pod));
    reader.pods(&pods, tail).await;
    reader.lacks
}

struct Reader<'a> {
    cluster: &'a Cluster,
    selector: String,
    lacks: Vec<String>,
    bundle: &'a mut Bundle,
}

impl Reader<'_> {
    async fn versions(&mut self) {
        let server = match self.cluster.client.apiserver_version().await {
            Ok(version) => version.git_version,
            Err(error) => self.cluster.failure("get /version", &error).to_string(),
        };
        let own = env!("CARGO_PKG_VERSION");
        let text = format!("kubectl pinpipe {own}\nAPI server {server}\n");
        self.bundle.text("versions.txt", &text);
    }

    /// Adds the pipeline's objects of a kind.
    async fn kind<K>(&mut self, resource: &str) -> Vec<K>
    where
        K: Resource<Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + Serialize
            + std::fmt::Debug,
        K::DynamicType: Default,
    {
        let listed = self
            .cluster
            .list::<K>(&format!("list {resource}"), &self.selector)
            .await;
        let objects = self.read(listed);
        if !objects.is_empty() {
            let plural = resource.split('.').next().unwrap_or(resource);
            self.bundle.objects(format!("{plural}.yaml"), &objects);
        }
        objects
    }

    /// Adds the events of the pipeline and of objects whose names begin with its name.
    async fn events(&mut self, name: &str) {
        let listed = self.cluster.list::<Event>("list events", "").await;
        let mut events = self.read(listed);
        let child = format!("{name}-");
        events.retain(|event| {
            let about = event.involved_object.name.as_deref().unwrap_or_default();
            about == name || about.starts_with(&child)
        });
        self.bundle.objects("events.yaml", &events);
    }

    fn read<T>(&mut self, read: Result<Vec<T>, Failure>) -> Vec<T> {
        read.unwrap_or_else(|failure| {
            self.lacks.push(failure.to_string());
            Vec::new()
        })
    }

    /// Adds the logs of all pods, and what workers answer at their admin ports.
    async fn pods(&mut self, pods: &[Pod], tail: i64) {
        let cluster = self.cluster;
        let logs = pods.iter().flat_map(|pod| {
            let restarted = restarts(pod) > 0;
            let of_earlier = restarted.then_some(true);
            [Some(false), of_earlier]
                .into_iter()
                .flatten()
                .map(move |previous| {
                    let name = pod.name_any();
                    let params = LogParams {
                        container: pods::container(pod),
                        tail_lines: Some(tail),
                        previous,
                        timestamps: true,
                        ..LogParams::default()
                    };
                    async move {
                        let log = cluster.api::<Pod>().logs(&name, &params).await;
                        let ending = if previous { ".previous" } else { "" };
                        (format!("logs/{name}{ending}.txt"), log)
                    }
                })
        });
        for (path, log) in join_all(logs).await {
            match log {
                Ok(log) => self.bundle.text(path, &log),
                Err(error) => {
                    let failure = cluster.failure("get pods/log", &error);
                    self.lacks.push(format!("{path}: {failure}"));
                }
            }
        }
        let answers = pods.iter().filter_map(pods::worker).flat_map(|(_, pod)| {
            ["metrics", "readyz"].map(|path| {
                let pod = pod.clone();
                async move {
                    let answer = pods::admin(cluster, &pod, path).await;
                    (format!("{path}/{pod}.txt"), path, answer)
                }
            })
        });
        for (file, path, answer) in join_all(answers).await {
            match answer {
                Ok(answer) => self.bundle.text(file, &answer),
                // A pod that isn't ready says so by an error.
                Err(answer) if path == "readyz" => self.bundle.text(file, &answer),
                Err(answer) => self.lacks.push(answer),
            }
        }
        self.lacks.dedup();
    }
}

/// How often a pod's containers have started again.
fn restarts(pod: &Pod) -> i32 {
    let status = pod.status.as_ref();
    let containers = status.and_then(|status| status.container_statuses.as_ref());
    let restarts = containers
        .into_iter()
        .flatten()
        .map(|container| container.restart_count);
    restarts.max().unwrap_or(0)
}
