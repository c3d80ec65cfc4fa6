//! A `PinterestPipeline` on the cluster and what belongs to it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::{
    apps::v1::Deployment,
    batch::v1::{CronJob, Job},
    core::v1::Pod,
    events::v1::Event,
};
use kube::{
    Api, ResourceExt,
    api::{
        ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams,
        PostParams,
    },
};
use serde_json::{Value, json};

use crate::{
    Kind, Space, Spec, eventually,
    node::{self, Signal},
    operator,
};

/// How long a pipeline may take until it is ready.
pub const READY_WITHIN: Duration = Duration::from_secs(150);
/// How long a batch run may take.
pub const RUN_WITHIN: Duration = Duration::from_mins(4);

/// The kinds of children a pipeline has.
const CHILDREN: [(&str, &str, &str); 10] = [
    ("apps", "v1", "Deployment"),
    ("batch", "v1", "CronJob"),
    ("", "v1", "Service"),
    ("", "v1", "ConfigMap"),
    ("", "v1", "ServiceAccount"),
    ("rbac.authorization.k8s.io", "v1", "Role"),
    ("rbac.authorization.k8s.io", "v1", "RoleBinding"),
    ("coordination.k8s.io", "v1", "Lease"),
    ("policy", "v1", "PodDisruptionBudget"),
    ("autoscaling", "v2", "HorizontalPodAutoscaler"),
];

/// A pipeline by name.
#[derive(Clone)]
pub struct Pipeline {
    /// Where it is.
    pub space: Space,
    /// Its name.
    pub name: String,
}

/// An object the operator made for a pipeline, as it was when listed.
#[derive(Clone, Debug)]
pub struct Child {
    /// The whole object.
    pub object: DynamicObject,
    resource: ApiResource,
}

/// A container that runs a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Worker {
    /// Its pod.
    pub pod: String,
    /// The node it runs on.
    pub node: String,
    container: String,
}

impl Worker {
    /// The first container of a pod, if it runs.
    #[must_use]
    pub fn of(pod: &Pod) -> Option<Self> {
        let container = pod.status.as_ref()?.container_statuses.as_ref()?.first()?;
        container.state.as_ref()?.running.as_ref()?;
        Some(Self {
            pod: pod.name_any(),
            node: pod.spec.as_ref()?.node_name.clone()?,
            container: container.container_id.clone()?,
        })
    }

    /// Sends its process a signal.
    pub async fn send(&self, signal: Signal) -> Result<()> {
        node::signal(&self.node, &self.container, signal).await
    }

    /// The most memory it ever had resident, bytes.
    pub async fn peak_memory(&self) -> Result<u64> {
        node::peak_memory(&self.node, &self.container).await
    }
}

impl Child {
    /// `<kind>/<name>`.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}/{}", self.resource.kind, self.object.name_any())
    }

    /// The UID: another one after the object was deleted and made again.
    #[must_use]
    pub fn uid(&self) -> String {
        self.object.uid().unwrap_or_default()
    }
}

impl Pipeline {
    /// `<namespace>.<name>`, the prefix of topics, groups and runs.
    #[must_use]
    pub fn full_name(&self) -> String {
        format!("{}.{}", self.space.namespace, self.name)
    }

    /// The topic of a kind.
    #[must_use]
    pub fn topic(&self, kind: Kind) -> String {
        format!("{}.{kind}", self.full_name())
    }

    fn api(&self) -> Api<DynamicObject> {
        self.space.cluster.pipelines(&self.space.namespace)
    }

    fn manifest(&self, spec: &Spec) -> Value {
        json!({
            "apiVersion": "pinpipe.dev/v1alpha1",
            "kind": "PinterestPipeline",
            "metadata": {"name": self.name, "namespace": self.space.namespace},
            "spec": spec.0,
        })
    }

    /// Creates it, or changes it to this spec.
    pub async fn apply(&self, spec: &Spec) -> Result<()> {
        let apply = PatchParams::apply("e2e").force();
        self.api()
            .patch(&self.name, &apply, &Patch::Apply(self.manifest(spec)))
            .await?;
        Ok(())
    }

    /// Changes parts of the spec, by a JSON merge patch.
    pub async fn change(&self, spec: Value) -> Result<()> {
        self.api()
            .patch(
                &self.name,
                &PatchParams::default(),
                &Patch::Merge(json!({"spec": spec})),
            )
            .await?;
        Ok(())
    }

    /// Sets an annotation.
    pub async fn annotate(&self, key: &str, value: &str) -> Result<()> {
        let patch = json!({"metadata": {"annotations": {key: value}}});
        self.api()
            .patch(&self.name, &PatchParams::default(), &Patch::Merge(patch))
            .await?;
        Ok(())
    }

    /// The notes of its events with this reason.
    pub async fn events(&self, reason: &str) -> Result<Vec<String>> {
        let selector = format!(
            "regarding.kind=PinterestPipeline,regarding.name={},reason={reason}",
            self.name
        );
        let events = self.space.cluster.api::<Event>(&self.space.namespace);
        let found = events
            .list(&ListParams::default().fields(&selector))
            .await?;
        Ok(found.into_iter().filter_map(|event| event.note).collect())
    }

    /// Deletes it.
    pub async fn delete(&self) -> Result<()> {
        self.api()
            .delete(&self.name, &DeleteParams::default())
            .await?;
        Ok(())
    }

    /// Deletes it and leaves what it made.
    pub async fn orphan(&self) -> Result<()> {
        self.api()
            .delete(&self.name, &DeleteParams::orphan())
            .await?;
        Ok(())
    }

    /// It as it is now.
    pub async fn get(&self) -> Result<DynamicObject> {
        Ok(self.api().get(&self.name).await?)
    }

    /// Its conditions by type, once they are about the current spec.
    pub async fn conditions(&self) -> Result<BTreeMap<String, Value>> {
        let object = self.get().await?;
        let status = &object.data["status"];
        ensure!(
            status["observedGeneration"].as_i64() == object.metadata.generation,
            "generation {:?} of the spec has not been seen yet: {status}",
            object.metadata.generation
        );
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        Ok(conditions
            .into_iter()
            .map(|c| (c["type"].as_str().unwrap_or_default().to_owned(), c))
            .collect())
    }

    /// Waits until it is ready.
    pub async fn ready(&self) -> Result<()> {
        eventually(READY_WITHIN, &format!("{} ready", self.name), async || {
            let conditions = self.conditions().await?;
            ensure!(
                conditions
                    .get("Ready")
                    .is_some_and(|c| c["status"] == "True"),
                "{conditions:#?}"
            );
            Ok(())
        })
        .await
    }

    /// Waits until a condition has this status and its reason or message contains every one of
    /// `words`.
    pub async fn says(&self, condition: &str, status: &str, words: &[&str]) -> Result<()> {
        eventually(
            READY_WITHIN,
            &format!("{}: {condition}={status} naming {words:?}", self.name),
            async || {
                let conditions = self.conditions().await?;
                let found = conditions
                    .get(condition)
                    .with_context(|| format!("no {condition} in {conditions:?}"))?;
                let said = format!("{} {}", found["reason"], found["message"]);
                ensure!(
                    found["status"] == status && words.iter().all(|word| said.contains(word)),
                    "{found}"
                );
                Ok(())
            },
        )
        .await
    }

    /// What the operator made for it, by `<kind>/<name>`.
    pub async fn children(&self) -> Result<BTreeMap<String, Child>> {
        let client = self.space.cluster.client();
        let mut children = BTreeMap::new();
        for (group, version, kind) in CHILDREN {
            let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
            let api: Api<DynamicObject> =
                Api::namespaced_with(client.clone(), &self.space.namespace, &resource);
            for object in api.list(&ListParams::default()).await? {
                let owned = object
                    .owner_references()
                    .iter()
                    .any(|o| o.kind == "PinterestPipeline" && o.name == self.name);
                if owned {
                    let child = Child {
                        object,
                        resource: resource.clone(),
                    };
                    children.insert(child.id(), child);
                }
            }
        }
        Ok(children)
    }

    /// The children a worker needs: all but the `ConfigMap`s of earlier specs.
    pub async fn needed_children(&self) -> Result<BTreeMap<String, Child>> {
        let mut children = self.children().await?;
        let specs: Vec<String> = children
            .values()
            .map(|child| child.object.data["spec"].to_string())
            .collect();
        children.retain(|_, child| {
            let name = format!("\"{}\"", child.object.name_any());
            child.resource.kind != "ConfigMap" || specs.iter().any(|spec| spec.contains(&name))
        });
        Ok(children)
    }

    /// Deletes a child.
    pub async fn delete_child(&self, child: &Child) -> Result<()> {
        let client = self.space.cluster.client();
        let api: Api<DynamicObject> =
            Api::namespaced_with(client, &self.space.namespace, &child.resource);
        api.delete(&child.object.name_any(), &DeleteParams::background())
            .await?;
        Ok(())
    }

    /// The running pods of a component (`stream-live`, `archive`, `batch`) that have a started
    /// container.
    pub async fn pods(&self, component: &str) -> Result<Vec<Pod>> {
        let selector = format!(
            "app.kubernetes.io/instance={},app.kubernetes.io/component={component}",
            self.name
        );
        let pods = self
            .space
            .cluster
            .api::<Pod>(&self.space.namespace)
            .list(&ListParams::default().labels(&selector))
            .await?;
        Ok(pods.items)
    }

    /// The workers of a component that run now.
    pub async fn workers(&self, component: &str) -> Result<Vec<Worker>> {
        Ok(self
            .pods(component)
            .await?
            .iter()
            .filter_map(Worker::of)
            .collect())
    }

    /// Kills a worker of a component with SIGKILL, as soon as one runs.
    pub async fn kill(&self, component: &str) -> Result<Worker> {
        eventually(
            READY_WITHIN,
            &format!("SIGKILL to {component}"),
            async || {
                let worker = self
                    .workers(component)
                    .await?
                    .into_iter()
                    .next()
                    .context("none runs")?;
                worker.send(Signal::Kill).await?;
                Ok(worker)
            },
        )
        .await
    }

    /// Waits until a component's worker is another one than the container killed, and ready.
    pub async fn back(&self, component: &str, killed: &Worker) -> Result<()> {
        eventually(READY_WITHIN, &format!("{component} back"), async || {
            for pod in self.pods(component).await? {
                let containers = pod
                    .status
                    .unwrap_or_default()
                    .container_statuses
                    .unwrap_or_default();
                if containers
                    .iter()
                    .any(|c| c.ready && c.container_id.as_deref() != Some(&killed.container))
                {
                    return Ok(());
                }
            }
            bail!("no ready container")
        })
        .await
    }

    /// Replaces a worker's pod at once, without the grace of a clean stop.
    pub async fn replace(&self, worker: &Worker) -> Result<()> {
        let pods = self.space.cluster.api::<Pod>(&self.space.namespace);
        match pods
            .delete(&worker.pod, &DeleteParams::default().grace_period(0))
            .await
        {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            other => Ok(other.map(drop)?),
        }
    }

    /// Starts a batch run, as `kubectl create job --from=cronjob/…` does.
    pub async fn start_run(&self, run: &str) -> Result<()> {
        let name = format!("{}-batch", self.name);
        let cron: CronJob = self
            .space
            .cluster
            .api::<CronJob>(&self.space.namespace)
            .get(&name)
            .await?;
        let template = cron
            .spec
            .as_ref()
            .map(|spec| spec.job_template.clone())
            .unwrap_or_default();
        let mut metadata = template.metadata.unwrap_or_default();
        metadata.name = Some(format!("{name}-{run}"));
        metadata.annotations.get_or_insert_default().insert(
            "cronjob.kubernetes.io/instantiate".to_owned(),
            "manual".to_owned(),
        );
        metadata.owner_references = Some(vec![serde_json::from_value(json!({
            "apiVersion": "batch/v1", "kind": "CronJob", "name": name, "uid": cron.metadata.uid, "controller": true,
        }))?]);
        let job = Job {
            metadata,
            spec: template.spec,
            ..Job::default()
        };
        self.space
            .cluster
            .api::<Job>(&self.space.namespace)
            .create(&PostParams::default(), &job)
            .await?;
        Ok(())
    }

    /// Starts work by hand, with the chart for it: `values` are `name=value`. The Job has the
    /// release's name.
    pub async fn by_hand(&self, release: &str, values: &[&str]) -> Result<()> {
        let chart = "../charts/pinpipe-job";
        let pipeline = format!("pipeline={}", self.name);
        let mut arguments = vec![
            "install",
            release,
            chart,
            "--namespace",
            &self.space.namespace,
            "--set",
            &pipeline,
        ];
        arguments.extend(values.iter().flat_map(|value| ["--set", *value]));
        operator::helm(&arguments).await.map(drop)
    }

    /// Waits for a run's end; fails when the run does.
    pub async fn run_ends(&self, run: &str) -> Result<()> {
        self.job_ends(&format!("{}-batch-{run}", self.name)).await
    }

    /// Waits for a Job's end; fails when the Job does.
    pub async fn job_ends(&self, name: &str) -> Result<()> {
        let jobs = self.space.cluster.api::<Job>(&self.space.namespace);
        let failed = eventually(RUN_WITHIN, &format!("run {name} ended"), async || {
            let status = jobs.get(name).await?.status.unwrap_or_default();
            let is = |kind: &str| {
                status
                    .conditions
                    .iter()
                    .flatten()
                    .find(|c| c.type_ == kind && c.status == "True")
                    .map(|c| c.message.clone())
            };
            if let Some(message) = is("Failed") {
                return Ok(Some(message.unwrap_or_default()));
            }
            is("Complete").with_context(|| format!("{status:?}"))?;
            Ok(None)
        })
        .await?;
        failed.map_or(Ok(()), |message| bail!("run {name} failed: {message}"))
    }

    /// Its Deployments.
    pub async fn deployments(&self) -> Result<Vec<Deployment>> {
        let selector =
            ListParams::default().labels(&format!("app.kubernetes.io/instance={}", self.name));
        Ok(self
            .space
            .cluster
            .api::<Deployment>(&self.space.namespace)
            .list(&selector)
            .await?
            .items)
    }

    /// The replicas its Deployments ask for and have, by component.
    pub async fn replicas(&self) -> Result<BTreeMap<String, (i32, i32)>> {
        Ok(self
            .deployments()
            .await?
            .into_iter()
            .map(|d| {
                let wanted = d.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
                let there = d
                    .status
                    .as_ref()
                    .and_then(|status| status.replicas)
                    .unwrap_or(0);
                (d.name_any(), (wanted, there))
            })
            .collect())
    }

    /// Scales a component's Deployment, as an autoscaler does.
    pub async fn scale(&self, component: &str, pods: i32) -> Result<()> {
        let name = format!("{}-{component}", self.name);
        let patch = Patch::Merge(json!({"spec": {"replicas": pods}}));
        let deployments = self.space.cluster.api::<Deployment>(&self.space.namespace);
        deployments
            .patch_scale(&name, &PatchParams::default(), &patch)
            .await?;
        Ok(())
    }

    /// What a change rolls: the children whose spec (or data) is another one than in `before`. A
    /// `ConfigMap` is named by its content; it counts as `ConfigMap/<child>`.
    pub async fn changed_since(
        &self,
        before: &BTreeMap<String, Child>,
    ) -> Result<BTreeSet<String>> {
        let now = self.children().await?;
        let content = |child: &Child| {
            let data = &child.object.data;
            json!([
                data["spec"],
                data["data"],
                data["rules"],
                data["roleRef"],
                data["subjects"]
            ])
        };
        let changed = now.iter().filter(|(id, child)| {
            before
                .get(*id)
                .is_none_or(|old| content(old) != content(child))
        });
        // A ConfigMap that no ReplicaSet needs any more goes when the operator finds it, which is
        // nobody's roll.
        let gone = before
            .iter()
            .filter(|(id, child)| child.resource.kind != "ConfigMap" && !now.contains_key(*id));
        let name = |(id, child): (&String, &Child)| match child.resource.kind.as_str() {
            "ConfigMap" => id
                .rsplit_once('-')
                .map_or_else(|| id.clone(), |(child, _)| child.to_owned()),
            _ => id.clone(),
        };
        Ok(changed.map(name).chain(gone.map(name)).collect())
    }
}
