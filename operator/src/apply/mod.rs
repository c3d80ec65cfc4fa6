//! Phase 4: brings the cluster to the desired objects.
//!
//! Objects are written by server-side apply under one field manager, each after those it depends
//! on. A write is skipped when the live object already holds every field we send ([`subset`]) and
//! we own no field beyond ([`managed`]), so a settled pipeline is only read. An object of a child's
//! name that isn't ours is left alone. What is ours and no longer desired is deleted.

pub mod managed;
pub mod subset;

use std::collections::{BTreeMap, BTreeSet};

use futures::future::try_join_all;
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::{Deployment, ReplicaSet},
        autoscaling::v2::HorizontalPodAutoscaler,
        batch::v1::{CronJob, Job},
        coordination::v1::Lease,
        core::v1::{ConfigMap, Service, ServiceAccount},
        policy::v1::PodDisruptionBudget,
        rbac::v1::{Role, RoleBinding},
    },
};
use kube::{
    Api, Client, Resource,
    api::{
        ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, Preconditions,
    },
};
use serde_json::{Value, json};

use crate::{MANAGER, build, build::Object, metrics::Metrics};

/// The field manager of a number of pods that was ours, until an autoscaler has taken it over.
const HANDOVER: &str = "pinpipe-operator-handover";

/// The kinds of children there are.
#[must_use]
pub fn child_kinds() -> [ApiResource; 10] {
    fn kind<K: Resource<DynamicType = (), Scope = NamespaceResourceScope>>() -> ApiResource {
        ApiResource::erase::<K>(&())
    }
    [
        kind::<ServiceAccount>(),
        kind::<Lease>(),
        kind::<Role>(),
        kind::<RoleBinding>(),
        kind::<ConfigMap>(),
        kind::<Service>(),
        kind::<Deployment>(),
        kind::<CronJob>(),
        kind::<PodDisruptionBudget>(),
        kind::<HorizontalPodAutoscaler>(),
    ]
}

/// Kind and name of a child.
pub type Key = (String, String);

/// A child that could not be written. The others were.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// Something that isn't ours has its name.
    Foreign,
    /// The API server refuses it, and says this.
    Refused(String),
}

/// What a pipeline has in the cluster.
#[derive(Clone, Debug, Default)]
pub struct Live(BTreeMap<Key, Value>);

impl Live {
    /// These objects, each with its kind.
    pub fn of(objects: impl IntoIterator<Item = (String, Value)>) -> Self {
        Self(
            objects
                .into_iter()
                .map(|(kind, object)| ((kind, name(&object)), object))
                .collect(),
        )
    }

    /// A child by kind and name.
    #[must_use]
    pub fn get(&self, kind: &str, name: &str) -> Option<&Value> {
        self.0.get(&(kind.to_owned(), name.to_owned()))
    }

    /// All children.
    pub fn objects(&self) -> impl Iterator<Item = &Value> {
        self.0.values()
    }
}

/// The API server, for the children of one pipeline.
pub struct Applier {
    /// The client.
    pub client: Client,
    /// What is counted.
    pub metrics: Metrics,
    /// The pipeline's namespace.
    pub namespace: String,
    /// The pipeline's name.
    pub pipeline: String,
    /// The pipeline's UID.
    pub uid: String,
}

impl Applier {
    fn api(&self, resource: &ApiResource) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.namespace, resource)
    }

    /// Reads everything that is ours.
    pub async fn live(&self) -> kube::Result<Live> {
        let params = ListParams::default().labels(&build::selector(&self.pipeline, None));
        let lists =
            try_join_all(
                child_kinds().map(|resource| {
                    let params = params.clone();
                    async move {
                        Ok::<_, kube::Error>((self.api(&resource).list(&params).await?, resource))
                    }
                }),
            )
            .await?;
        Ok(Live::of(lists.into_iter().flat_map(|(list, resource)| {
            let objects = list.items.into_iter().map(|object| value(&object));
            objects
                .filter(|object| owned(object, &self.uid))
                .map(move |object| (resource.kind.clone(), object))
        })))
    }

    /// Writes what differs. `live` is what was read before, and afterwards what is there. Gives the
    /// children that could not be written.
    pub async fn write(
        &self,
        desired: &[Object],
        live: &mut Live,
    ) -> kube::Result<Vec<(Key, Obstacle)>> {
        let mut obstacles = Vec::new();
        for object in desired {
            let key = (object.resource.kind.clone(), object.name.clone());
            if !live.0.contains_key(&key)
                && let Some(found) = self.api(&object.resource).get_opt(&object.name).await?
            {
                // Ours without its labels, or somebody else's.
                let found = value(&found);
                if !owned(&found, &self.uid) {
                    obstacles.push((key, Obstacle::Foreign));
                    continue;
                }
                live.0.insert(key.clone(), found);
            }
            let settled = live.0.get(&key).is_some_and(|found| {
                subset::holds(found, &object.body)
                    && !managed::owns_more(found, &object.body, MANAGER)
            });
            if settled {
                continue;
            }
            let applied = match live.0.get(&key) {
                Some(found) if hands_over(found, &object.body) => {
                    self.hand_over(object, found).await
                }
                _ => Ok(()),
            };
            let applied = match applied {
                Ok(()) => self.apply(object).await,
                Err(error) => Err(error),
            };
            match applied {
                Ok(written) => {
                    live.0.insert(key, written);
                }
                // What is sent won't get better by being sent again: the user is to know.
                Err(kube::Error::Api(status)) if matches!(status.code, 400 | 403 | 422) => {
                    obstacles.push((key, Obstacle::Refused(status.message)));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(obstacles)
    }

    async fn apply(&self, object: &Object) -> kube::Result<Value> {
        let params = PatchParams::apply(MANAGER).force();
        let mut body = object.body.clone();
        body["apiVersion"] = Value::String(object.resource.api_version.clone());
        body["kind"] = Value::String(object.resource.kind.clone());
        let written = self
            .api(&object.resource)
            .patch(&object.name, &params, &Patch::Apply(&body))
            .await?;
        self.metrics.wrote("apply", &object.resource.plural);
        tracing::info!(kind = object.resource.kind, name = object.name, "applied");
        Ok(value(&written))
    }

    /// Lets the number of pods stand when it isn't ours to say any longer: a field nobody owns
    /// would fall back to one pod until an autoscaler has had a look. Whatever scales the
    /// Deployment takes it over with its first write.
    async fn hand_over(&self, object: &Object, live: &Value) -> kube::Result<()> {
        let body = json!({
            "apiVersion": object.resource.api_version,
            "kind": object.resource.kind,
            "metadata": {"name": object.name},
            "spec": {"replicas": live["spec"]["replicas"]},
        });
        let params = PatchParams::apply(HANDOVER).force();
        self.api(&object.resource)
            .patch(&object.name, &params, &Patch::Apply(&body))
            .await?;
        self.metrics.wrote("apply", &object.resource.plural);
        Ok(())
    }

    /// Deletes what is ours and no longer desired, except what is `needed` all the same, and a
    /// `ConfigMap` that pods may still be started with.
    pub async fn prune(
        &self,
        desired: &[Object],
        needed: &BTreeSet<Key>,
        live: &mut Live,
    ) -> kube::Result<()> {
        let wanted: BTreeSet<Key> = desired
            .iter()
            .map(|o| (o.resource.kind.clone(), o.name.clone()))
            .collect();
        let mut orphans: Vec<Key> = live
            .0
            .keys()
            .filter(|key| !wanted.contains(*key) && !needed.contains(*key))
            .cloned()
            .collect();
        if orphans.iter().any(|(kind, _)| kind == "ConfigMap") {
            let referred = self.referred_config_maps(live).await?;
            orphans.retain(|(kind, name)| kind != "ConfigMap" || !referred.contains(name));
        }
        let kinds = child_kinds();
        for key in orphans {
            let Some(resource) = kinds.iter().find(|resource| resource.kind == key.0) else {
                continue;
            };
            let uid = live
                .0
                .get(&key)
                .and_then(|object| object["metadata"]["uid"].as_str())
                .map(ToOwned::to_owned);
            let params = DeleteParams {
                preconditions: Some(Preconditions {
                    uid,
                    resource_version: None,
                }),
                ..DeleteParams::background()
            };
            match self.api(resource).delete(&key.1, &params).await {
                Ok(_) => {
                    self.metrics.wrote("delete", &resource.plural);
                    tracing::info!(kind = key.0, name = key.1, "deleted: no longer wanted");
                }
                // Gone already, or another one has its name by now.
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
                Err(error) => return Err(error),
            }
            live.0.remove(&key);
        }
        Ok(())
    }

    /// The `ConfigMap`s that pod templates of Deployments, `ReplicaSet`s, `CronJob`s and Jobs name.
    async fn referred_config_maps(&self, live: &Live) -> kube::Result<BTreeSet<String>> {
        let sets_of = ListParams::default().labels(&build::selector(&self.pipeline, None));
        let jobs_of = ListParams::default().labels(&build::jobs_selector(&self.pipeline));
        let (sets, jobs) = (
            ApiResource::erase::<ReplicaSet>(&()),
            ApiResource::erase::<Job>(&()),
        );
        let (sets, jobs) = (self.api(&sets), self.api(&jobs));
        let (sets, jobs) = futures::try_join!(sets.list(&sets_of), jobs.list(&jobs_of))?;
        let runners = sets.items.iter().chain(&jobs.items).map(value);
        Ok(runners
            .chain(live.objects().cloned())
            .flat_map(|object| config_maps(&object))
            .collect())
    }
}

/// Whether a Deployment's number of pods was ours to say and is no longer. None at all is a
/// suspended pipeline's, at which an autoscaler would leave it.
fn hands_over(live: &Value, desired: &Value) -> bool {
    let wants_no_say =
        desired["spec"]["template"].is_object() && desired["spec"]["replicas"].is_null();
    let has_pods = live["spec"]["replicas"]
        .as_i64()
        .is_some_and(|replicas| replicas > 0);
    wants_no_say && has_pods && managed::owns(live, "/f:spec/f:replicas", MANAGER)
}

/// The `ConfigMap`s a workload's pods mount.
#[must_use]
pub fn config_maps(workload: &Value) -> Vec<String> {
    let spec = &workload["spec"];
    let template = if spec["jobTemplate"].is_object() {
        &spec["jobTemplate"]["spec"]["template"]
    } else {
        &spec["template"]
    };
    let volumes = template["spec"]["volumes"].as_array();
    volumes
        .into_iter()
        .flatten()
        .filter_map(|v| v["configMap"]["name"].as_str().map(ToOwned::to_owned))
        .collect()
}

fn owned(object: &Value, uid: &str) -> bool {
    let owners = object["metadata"]["ownerReferences"].as_array();
    owners
        .into_iter()
        .flatten()
        .any(|owner| owner["uid"] == uid)
}

fn name(object: &Value) -> String {
    object["metadata"]["name"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

/// An object as it came. Its keys are texts, so it always is JSON.
fn value(object: &DynamicObject) -> Value {
    serde_json::to_value(object).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_pods_is_handed_over_once_and_only_where_there_are_some() {
        let live = |replicas: i32, owned: Value| {
            json!({"spec": {"replicas": replicas, "template": {}}, "metadata": {"managedFields": [
                {"manager": MANAGER, "operation": "Apply", "fieldsV1": {"f:spec": owned}}]}})
        };
        let (ours, not_ours) = (json!({"f:replicas": {}}), json!({}));
        let (silent, fixed) = (
            json!({"spec": {"template": {}}}),
            json!({"spec": {"template": {}, "replicas": 3}}),
        );
        assert!(hands_over(&live(5, ours.clone()), &silent));
        assert!(!hands_over(&live(5, ours.clone()), &fixed));
        assert!(!hands_over(&live(5, not_ours), &silent));
        assert!(!hands_over(&live(0, ours), &silent));
    }

    #[test]
    fn config_maps_of_deployments_and_cron_jobs_are_found() {
        let template = json!({"spec": {"volumes": [{"name": "a", "configMap": {"name": "x"}}, {"name": "b", "secret": {}}]}});
        assert_eq!(config_maps(&json!({"spec": {"template": template}})), ["x"]);
        assert_eq!(
            config_maps(&json!({"spec": {"jobTemplate": {"spec": {"template": template}}}})),
            ["x"]
        );
        assert!(config_maps(&json!({"data": {}})).is_empty());
    }

    #[test]
    fn an_object_is_ours_by_its_owners_uid_alone() {
        let object = json!({"metadata": {"ownerReferences": [{"name": "p", "uid": "1"}]}});
        assert!(owned(&object, "1"));
        assert!(!owned(&object, "2"));
        assert!(!owned(&json!({"metadata": {"name": "p-ingest"}}), "1"));
    }
}
