//! Brings the cluster to the desired objects.
//!
//! Objects are written by server-side apply under one field manager, each after those it depends
//! on. A write is skipped when an annotation has the hash of what would be sent and the operator
//! owns exactly the fields that would be sent, so that a settled pipeline is only read. Values are
//! not compared: whoever changes one takes over its field, and what an admission webhook rewrites
//! stays rewritten without a write in each reconcile. An object that has a child's name but another
//! owner is left alone. A child that is no longer desired is deleted ([`prune`]). Every write first
//! checks the proof of the Lease.

mod prune;

use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
};
use pinpipe_lease::{LeaseError, Proof};
use pinpipe_plan::{
    build::Object,
    names::{self, APPLIED_ANNOTATION, IMAGE_ANNOTATION, MANAGER},
};
use serde_json::{Value, json};

use crate::{
    error::{Error, Trying as _},
    metrics::Metrics,
    observe::{
        child_cache::{ChildCache, Of},
        children::{Children, Key, is_owned, value},
        managed_fields,
    },
};

/// Field manager that holds the number of pods between the operator and an autoscaler.
const HANDOVER: &str = "pinpipe-operator-handover";

/// Why a child could not be written, although the others were.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// An object that belongs to something else has its name.
    Foreign,
    /// The API server refuses it, with this message.
    Refused(String),
}

/// Writes the children of one pipeline.
pub struct Applier<'a> {
    /// Client of the API server.
    pub client: Client,
    /// The operator's metrics.
    pub metrics: Metrics,
    /// Lists of children, which a write makes out of date.
    pub cache: &'a ChildCache,
    /// Proof that this replica holds the Lease; None when leader election is off.
    pub lease: Option<Proof>,
    /// Namespace of the pipeline.
    pub namespace: String,
    /// Name of the pipeline.
    pub pipeline: String,
    /// UID of the pipeline.
    pub uid: String,
}

impl Applier<'_> {
    /// Applies the objects that differ from the children, and updates those. Returns the objects
    /// that could not be written.
    pub async fn apply(
        &self,
        desired: &[Object],
        children: &mut Children,
    ) -> Result<Vec<(Key, Obstacle)>, Error> {
        let mut obstacles = Vec::new();
        for object in desired {
            let object = &stamped(object);
            let key = (object.resource.kind.clone(), object.name.clone());
            if children.get(&key.0, &key.1).is_none()
                && let Some(found) = self.find(object).await?
            {
                // Either the labels of a child were removed, or the object isn't a child.
                if !is_owned(&found, &self.uid) {
                    obstacles.push((key, Obstacle::Foreign));
                    continue;
                }
                children.insert(key.clone(), found);
            }
            let live = children.get(&key.0, &key.1);
            if live.is_some_and(|live| is_settled(live, &object.body)) {
                continue;
            }
            match self.write(object, live).await? {
                Ok(written) => {
                    if !is_settled(&written, &object.body) {
                        let (kind, name) = (&key.0, &key.1);
                        tracing::warn!(kind, name, "the API server dropped fields of a child");
                    }
                    children.insert(key, written);
                }
                Err(refusal) => obstacles.push((key, Obstacle::Refused(refusal))),
            }
        }
        Ok(obstacles)
    }

    fn api(&self, resource: &ApiResource) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.namespace, resource)
    }

    fn of(&self) -> Of<'_> {
        Of {
            namespace: &self.namespace,
            name: &self.pipeline,
            uid: &self.uid,
        }
    }

    fn check_lease(&self) -> Result<(), LeaseError> {
        self.lease.as_ref().map_or(Ok(()), Proof::check)
    }

    async fn find(&self, object: &Object) -> Result<Option<Value>, Error> {
        let found = self.api(&object.resource).get_opt(&object.name).await;
        Ok(found.trying("reading a child")?.as_ref().map(value))
    }

    /// Writes one object. The inner error is the API server's refusal of what was sent, which
    /// sending it again would not change.
    async fn write(
        &self,
        object: &Object,
        live: Option<&Value>,
    ) -> Result<Result<Value, String>, Error> {
        let mut written = Ok(Value::Null);
        if live.is_some_and(|live| is_handed_over(live, &object.body)) {
            // The list of children may be older than the last change of the number of pods.
            let live = self.find(object).await?;
            if let Some(live) = live.filter(|live| is_handed_over(live, &object.body)) {
                written = self.patch(object, HANDOVER, &replicas_of(&live)).await?;
            }
        }
        if written.is_ok() {
            written = self.patch(object, MANAGER, &object.body).await?;
            tracing::info!(kind = object.resource.kind, name = object.name, "applied");
        }
        Ok(written)
    }

    async fn patch(
        &self,
        object: &Object,
        manager: &str,
        fields: &Value,
    ) -> Result<Result<Value, String>, Error> {
        self.check_lease()?;
        self.cache.changes(&self.uid, &object.resource.kind);
        let mut body = fields.clone();
        body["apiVersion"] = json!(object.resource.api_version);
        body["kind"] = json!(object.resource.kind);
        body["metadata"]["name"] = json!(object.name);
        let params = PatchParams::apply(manager).force();
        let api = self.api(&object.resource);
        match api.patch(&object.name, &params, &Patch::Apply(&body)).await {
            Ok(written) => {
                self.metrics.wrote("apply", &object.resource.plural);
                Ok(Ok(value(&written)))
            }
            Err(kube::Error::Api(status)) if matches!(status.code, 400 | 403 | 422) => {
                Ok(Err(status.message))
            }
            Err(error) => Err(error).trying("applying a child"),
        }
    }
}

/// An object with annotations of what is applied: its hash, and a Deployment's image.
fn stamped(object: &Object) -> Object {
    let mut stamped = object.clone();
    let image = &object.body["spec"]["template"]["spec"]["containers"][0]["image"];
    let image = image
        .as_str()
        .map(|image| (IMAGE_ANNOTATION, image.to_owned()));
    let hash = (APPLIED_ANNOTATION, names::hash(&object.body.to_string()));
    for (annotation, value) in image.into_iter().chain([hash]) {
        stamped.body["metadata"]["annotations"][annotation] = json!(value);
    }
    stamped
}

/// Whether `desired` was the last that was applied, and nobody has taken over or given up a field
/// of it since.
fn is_settled(live: &Value, desired: &Value) -> bool {
    let applied = |object: &Value| {
        let annotations = &object["metadata"]["annotations"];
        annotations[APPLIED_ANNOTATION]
            .as_str()
            .map(ToOwned::to_owned)
    };
    applied(live) == applied(desired) && managed_fields::owns_exactly(live, desired, MANAGER)
}

/// Whether the operator owned the number of pods and no longer sets it. A field without an owner
/// would fall back to one pod until an autoscaler acts, so it is kept under another field manager;
/// whatever scales the Deployment takes it over with its first write. At zero pods, which is how
/// a suspended pipeline ends, an autoscaler would leave it there.
fn is_handed_over(live: &Value, desired: &Value) -> bool {
    let unset = desired["spec"]["template"].is_object() && desired["spec"]["replicas"].is_null();
    let has_pods = live["spec"]["replicas"]
        .as_i64()
        .is_some_and(|replicas| replicas > 0);
    unset && has_pods && managed_fields::owns(live, "/f:spec/f:replicas", MANAGER)
}

fn replicas_of(live: &Value) -> Value {
    json!({"spec": {"replicas": live["spec"]["replicas"]}})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(image: &str) -> Object {
        let container = json!({"name": "main", "image": image});
        Object {
            resource: ApiResource::erase::<k8s_openapi::api::apps::v1::Deployment>(&()),
            name: "a".to_owned(),
            body: json!({"metadata": {"name": "a"},
                "spec": {"template": {"spec": {"containers": [container]}}}}),
        }
    }

    #[test]
    fn a_rewritten_image_is_settled_and_one_that_another_manager_set_is_not() {
        let desired = stamped(&object("r/ingest:1")).body;
        assert_eq!(
            desired["metadata"]["annotations"][IMAGE_ANNOTATION],
            "r/ingest:1"
        );
        let annotations =
            json!({format!("f:{APPLIED_ANNOTATION}"): {}, format!("f:{IMAGE_ANNOTATION}"): {}});
        let owned = |container: Value| {
            let containers = json!({"k:{\"name\":\"main\"}": container});
            json!([{"manager": MANAGER, "operation": "Apply", "fieldsV1": {
                "f:metadata": {"f:annotations": annotations},
                "f:spec": {"f:template": {"f:spec": {"f:containers": containers}}}}}])
        };
        let mut live = desired.clone();
        live["metadata"]["managedFields"] = owned(json!({".": {}, "f:name": {}, "f:image": {}}));
        live["spec"]["template"]["spec"]["containers"][0]["image"] = json!("mirror/ingest:1");
        assert!(is_settled(&live, &desired));
        assert!(!is_settled(&live, &stamped(&object("r/ingest:2")).body));
        live["metadata"]["managedFields"] = owned(json!({".": {}, "f:name": {}}));
        assert!(!is_settled(&live, &desired), "kubectl set image");
        live["metadata"]["managedFields"] = json!([]);
        assert!(!is_settled(&live, &desired), "managedFields cleared");
    }

    #[test]
    fn the_number_of_pods_is_handed_over_once_and_only_where_there_are_some() {
        let live = |replicas: i32, owned: Value| {
            let fields = json!({"f:spec": owned});
            json!({"spec": {"replicas": replicas, "template": {}}, "metadata": {"managedFields": [
                {"manager": MANAGER, "operation": "Apply", "fieldsV1": fields}]}})
        };
        let (ours, not_ours) = (json!({"f:replicas": {}}), json!({}));
        let unset = json!({"spec": {"template": {}}});
        let fixed = json!({"spec": {"template": {}, "replicas": 3}});
        assert!(is_handed_over(&live(5, ours.clone()), &unset));
        assert!(!is_handed_over(&live(5, ours.clone()), &fixed));
        assert!(!is_handed_over(&live(5, not_ours), &unset));
        assert!(!is_handed_over(&live(0, ours), &unset));
    }
}
