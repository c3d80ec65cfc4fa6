//! The objects that the operator creates for a pipeline.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use kube::{
    Api, ResourceExt,
    api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams},
};
use serde_json::json;

use crate::Pipeline;

/// The kinds of a pipeline's children: group, version, kind.
const CHILD_KINDS: [(&str, &str, &str); 11] = [
    ("apps", "v1", "Deployment"),
    ("batch", "v1", "CronJob"),
    ("", "v1", "Service"),
    ("", "v1", "ConfigMap"),
    ("", "v1", "ServiceAccount"),
    ("rbac.authorization.k8s.io", "v1", "Role"),
    ("rbac.authorization.k8s.io", "v1", "RoleBinding"),
    ("coordination.k8s.io", "v1", "Lease"),
    ("networking.k8s.io", "v1", "NetworkPolicy"),
    ("policy", "v1", "PodDisruptionBudget"),
    ("autoscaling", "v2", "HorizontalPodAutoscaler"),
];

/// An object owned by a pipeline, as it was when listed.
#[derive(Clone, Debug)]
pub struct Child {
    /// The object.
    pub object: DynamicObject,
    resource: ApiResource,
}

impl Child {
    /// `<kind>/<name>`.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}/{}", self.resource.kind, self.object.name_any())
    }

    /// The UID, which changes when the object is recreated.
    #[must_use]
    pub fn uid(&self) -> String {
        self.object.uid().unwrap_or_default()
    }
}

impl Pipeline {
    /// The objects that the pipeline owns, by `<kind>/<name>`.
    pub async fn children(&self) -> Result<BTreeMap<String, Child>> {
        let client = self.sandbox.cluster.client();
        let mut children = BTreeMap::new();
        for (group, version, kind) in CHILD_KINDS {
            let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
            let api: Api<DynamicObject> =
                Api::namespaced_with(client.clone(), &self.sandbox.namespace, &resource);
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

    /// The children in use: all but the `ConfigMap`s of earlier specs.
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
        let client = self.sandbox.cluster.client();
        let api: Api<DynamicObject> =
            Api::namespaced_with(client, &self.sandbox.namespace, &child.resource);
        api.delete(&child.object.name_any(), &DeleteParams::background())
            .await?;
        Ok(())
    }

    /// The children, except the record, whose content differs from `before`, as `<kind>/<name>`.
    /// The name of a `ConfigMap` ends with a hash of its content; it counts as
    /// `ConfigMap/<component>`.
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
        let is_record = |id: &str| id == format!("ConfigMap/{}-record", self.name);
        let changed = now.iter().filter(|(id, _)| !is_record(id));
        let changed = changed.filter(|(id, child)| {
            before
                .get(*id)
                .is_none_or(|old| content(old) != content(child))
        });
        // The operator prunes a ConfigMap once no ReplicaSet uses it, independently of a rollout.
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
