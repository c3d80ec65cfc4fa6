//! Brings the cluster to the desired objects.
//!
//! Objects are written by server-side apply under one field manager, each after those it depends
//! on. A write is skipped when the live object already holds every field that would be sent
//! ([`diff`]) and the operator owns no other field, so that a settled pipeline is only read. An
//! object that has a child's name but another owner is left alone. A child that is no longer
//! desired is deleted ([`prune`]). Every write first checks the proof of the Lease.

pub mod diff;
mod prune;

use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
};
use pinpipe_lease::{LeaseError, Proof};
use pinpipe_plan::{build::Object, names::MANAGER};
use serde_json::{Value, json};

use crate::{
    error::{Error, Trying as _},
    metrics::Metrics,
    observe::{
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
pub struct Applier {
    /// Client of the API server.
    pub client: Client,
    /// The operator's metrics.
    pub metrics: Metrics,
    /// Proof that this replica holds the Lease; None when leader election is off.
    pub lease: Option<Proof>,
    /// Namespace of the pipeline.
    pub namespace: String,
    /// Name of the pipeline.
    pub pipeline: String,
    /// UID of the pipeline.
    pub uid: String,
}

impl Applier {
    /// Applies the objects that differ from the children, and updates those. Returns the objects
    /// that could not be written.
    pub async fn apply(
        &self,
        desired: &[Object],
        children: &mut Children,
    ) -> Result<Vec<(Key, Obstacle)>, Error> {
        let mut obstacles = Vec::new();
        for object in desired {
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
                Ok(written) => children.insert(key, written),
                Err(refusal) => obstacles.push((key, Obstacle::Refused(refusal))),
            }
        }
        Ok(obstacles)
    }

    fn api(&self, resource: &ApiResource) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.namespace, resource)
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
        if let Some(live) = live.filter(|live| is_handed_over(live, &object.body)) {
            written = self.patch(object, HANDOVER, &replicas_of(live)).await?;
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

/// Whether applying `desired` would change nothing.
fn is_settled(live: &Value, desired: &Value) -> bool {
    diff::holds(live, desired) && !managed_fields::owns_more(live, desired, MANAGER)
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
