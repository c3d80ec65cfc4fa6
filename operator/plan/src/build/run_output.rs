//! The `ConfigMap` into which a run writes how far it is and its report, and the permission to
//! write there.

use k8s_openapi::{
    api::{
        batch::v1::Job,
        core::v1::ConfigMap,
        rbac::v1::{PolicyRule, Role},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::ResourceExt as _;

use super::{Object, object, role_binding};
use crate::names::NAME_LABEL;

/// Objects that a run's Job needs before it is created, with its name and its owner. They have no
/// labels of children: their changes concern no pipeline.
#[must_use]
pub fn run_output(job: &Job) -> Vec<Object> {
    let name = job.name_any();
    let (label, value) = NAME_LABEL;
    let metadata = ObjectMeta {
        name: Some(name.clone()),
        namespace: job.namespace(),
        labels: Some([(label.to_owned(), value.to_owned())].into()),
        owner_references: job.metadata.owner_references.clone(),
        ..ObjectMeta::default()
    };
    let pod = job
        .spec
        .as_ref()
        .and_then(|spec| spec.template.spec.as_ref());
    let account = pod.and_then(|pod| pod.service_account_name.clone());
    let config_map = ConfigMap {
        metadata: metadata.clone(),
        ..ConfigMap::default()
    };
    let role = Role {
        metadata: metadata.clone(),
        rules: Some(vec![PolicyRule {
            api_groups: Some(vec![String::new()]),
            resources: Some(vec!["configmaps".to_owned()]),
            resource_names: Some(vec![name]),
            verbs: vec!["patch".to_owned()],
            non_resource_urls: None,
        }]),
    };
    let binding = role_binding(metadata, account.as_deref().unwrap_or("default"));
    vec![object(&config_map), object(&role), object(&binding)]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_run_may_write_its_own_config_map_alone() {
        let owner = json!({"apiVersion": "pinpipe.dev/v1alpha1", "kind": "PinterestRun",
            "name": "r", "uid": "7", "controller": true});
        let pod = json!({"serviceAccountName": "batch", "containers": []});
        let job: Job = serde_json::from_value(json!({
            "metadata": {"name": "r-1", "namespace": "data", "ownerReferences": [owner]},
            "spec": {"template": {"spec": pod}},
        }))
        .unwrap();
        let [config_map, role, binding] = &run_output(&job)[..] else {
            panic!("not three objects");
        };
        for object in [config_map, role, binding] {
            assert_eq!(object.name, "r-1");
            assert_eq!(object.body["metadata"]["ownerReferences"][0]["uid"], "7");
        }
        assert_eq!(role.body["rules"][0]["resourceNames"], json!(["r-1"]));
        assert_eq!(binding.body["subjects"][0]["name"], "batch");
    }
}
