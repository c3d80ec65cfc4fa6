//! The objects that the operator made for a pipeline.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::Deployment,
        autoscaling::v2::HorizontalPodAutoscaler,
        batch::v1::CronJob,
        coordination::v1::Lease,
        core::v1::{ConfigMap, Service, ServiceAccount},
        networking::v1::NetworkPolicy,
        policy::v1::PodDisruptionBudget,
        rbac::v1::{Role, RoleBinding},
    },
};
use kube::{
    Resource,
    api::{ApiResource, DynamicObject},
};
use pinpipe_plan::{component::Component, model::ValidatedPipeline, names};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Kinds of children.
#[must_use]
pub fn kinds() -> [ApiResource; 11] {
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
        kind::<NetworkPolicy>(),
        kind::<PodDisruptionBudget>(),
        kind::<HorizontalPodAutoscaler>(),
    ]
}

/// Kind and name of a child.
pub type Key = (String, String);

/// A pipeline's children by kind and name, as the API server has them.
#[derive(Clone, Debug, Default)]
pub struct Children(BTreeMap<Key, Value>);

impl Children {
    /// These objects, each with its kind.
    pub fn of(objects: impl IntoIterator<Item = (String, Value)>) -> Self {
        let objects = objects.into_iter();
        Self(
            objects
                .map(|(kind, object)| ((kind, name(&object)), object))
                .collect(),
        )
    }

    /// A child by kind and name.
    #[must_use]
    pub fn get(&self, kind: &str, name: &str) -> Option<&Value> {
        self.0.get(&(kind.to_owned(), name.to_owned()))
    }

    /// A child as its type. None, too, where it can't be read as that.
    #[must_use]
    pub fn typed<K: DeserializeOwned>(&self, kind: &str, name: &str) -> Option<K> {
        serde_json::from_value(self.get(kind, name)?.clone()).ok()
    }

    /// Deployment of a component.
    #[must_use]
    pub fn deployment(
        &self,
        pipeline: &ValidatedPipeline,
        component: &Component,
    ) -> Option<Deployment> {
        self.typed("Deployment", &pipeline.child(component))
    }

    /// Number of pods that a component's Deployment asks for. None: there is no Deployment.
    #[must_use]
    pub fn replicas(&self, pipeline: &ValidatedPipeline, component: &Component) -> Option<i32> {
        let deployment = self.deployment(pipeline, component)?;
        Some(deployment.spec.and_then(|spec| spec.replicas).unwrap_or(1))
    }

    /// All children.
    pub fn objects(&self) -> impl Iterator<Item = &Value> {
        self.0.values()
    }

    /// Kinds and names of all children.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.0.keys()
    }

    /// Remembers a child as it was just read or written.
    pub fn insert(&mut self, key: Key, object: Value) {
        self.0.insert(key, object);
    }

    /// Forgets a child that was deleted.
    pub fn remove(&mut self, key: &Key) {
        self.0.remove(key);
    }

    /// Names of the Deployments and `CronJobs`.
    #[must_use]
    pub fn workloads(&self) -> BTreeSet<String> {
        let keys = self.keys();
        let workloads = keys.filter(|(kind, _)| ["Deployment", "CronJob"].contains(&&**kind));
        workloads.map(|(_, name)| name.clone()).collect()
    }

    /// Settings that can't be changed, as the record of a pipeline has them.
    #[must_use]
    pub fn record(&self, pipeline: &str) -> BTreeMap<String, String> {
        let record: Option<ConfigMap> = self.typed("ConfigMap", &names::record(pipeline));
        record.and_then(|record| record.data).unwrap_or_default()
    }

    /// Components of a pipeline that may have several pods and whose Deployments ask for none.
    #[must_use]
    pub fn at_zero(&self, pipeline: &ValidatedPipeline) -> BTreeSet<Component> {
        let components = pipeline.deployments().into_iter();
        let several = components.filter(|component| pipeline.replicas(component).is_some());
        several
            .filter(|component| self.replicas(pipeline, component) == Some(0))
            .collect()
    }
}

/// Names of the `ConfigMaps` that a workload's pods mount.
#[must_use]
pub fn config_maps(workload: &Value) -> Vec<String> {
    let volumes = pod_template(workload)["spec"]["volumes"].as_array();
    let names = volumes
        .into_iter()
        .flatten()
        .filter_map(|v| v["configMap"]["name"].as_str());
    names.map(ToOwned::to_owned).collect()
}

/// Pod template of a workload.
fn pod_template(workload: &Value) -> &Value {
    let spec = &workload["spec"];
    spec.pointer("/jobTemplate/spec/template")
        .unwrap_or(&spec["template"])
}

/// Whether the object with this UID owns another one.
#[must_use]
pub fn is_owned(object: &Value, uid: &str) -> bool {
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

/// An object as JSON. Its keys are text, so it always serialises.
#[must_use]
pub fn value(object: &DynamicObject) -> Value {
    serde_json::to_value(object).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn config_maps_of_deployments_and_cron_jobs_are_found() {
        let volumes =
            json!([{"name": "a", "configMap": {"name": "x"}}, {"name": "b", "secret": {}}]);
        let template = json!({"spec": {"volumes": volumes}});
        assert_eq!(config_maps(&json!({"spec": {"template": template}})), ["x"]);
        let cron_job = json!({"spec": {"jobTemplate": {"spec": {"template": template}}}});
        assert_eq!(config_maps(&cron_job), ["x"]);
        assert!(config_maps(&json!({"data": {}})).is_empty());
    }

    #[test]
    fn an_object_belongs_to_a_pipeline_by_its_owners_uid_alone() {
        let object = json!({"metadata": {"ownerReferences": [{"name": "p", "uid": "1"}]}});
        assert!(is_owned(&object, "1"));
        assert!(!is_owned(&object, "2"));
        assert!(!is_owned(&json!({"metadata": {"name": "p-ingest"}}), "1"));
    }
}
