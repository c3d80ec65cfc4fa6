//! Admission policies of the API server, in place of webhooks.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client, api::PostParams};
use serde_json::{Value, json};

use crate::{cluster::SYSTEM, wait::until};

const GROUP: &str = "admissionregistration.k8s.io/v1";

/// A policy that refuses entries with an id in the record of topics, of topics whose names begin
/// with `prefix`.
pub struct RefusedIds<'a> {
    client: &'a Client,
    name: &'static str,
    prefix: &'a str,
}

impl<'a> RefusedIds<'a> {
    /// Makes the policy, and waits until it is in force.
    pub async fn begin(client: &'a Client, prefix: &'a str) -> Result<Self> {
        let policy = Self {
            client,
            name: "refused-ids",
            prefix,
        };
        let refused = format!("k.startsWith('{prefix}') && object.data[k].contains('\"id\"')");
        let rule = json!({"apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"],
            "operations": ["CREATE", "UPDATE"]});
        let spec = json!({
            "matchConstraints": {"resourceRules": [rule]},
            "validations": [{
                "expression": format!("!has(object.data) || !object.data.exists(k, {refused})"),
                "message": "no ids",
            }],
        });
        create(client, "ValidatingAdmissionPolicy", policy.name, spec).await?;
        let binding = json!({"policyName": policy.name, "validationActions": ["Deny"]});
        let kind = "ValidatingAdmissionPolicyBinding";
        create(client, kind, policy.name, binding).await?;
        until("ids are refused", IN_FORCE, async || {
            policy.refuses(true).await
        })
        .await?;
        Ok(policy)
    }

    /// Deletes the policy, and waits until it is no longer in force.
    pub async fn end(self) -> Result<()> {
        for kind in [
            "ValidatingAdmissionPolicyBinding",
            "ValidatingAdmissionPolicy",
        ] {
            let path = format!("{}/{}", path(kind), self.name);
            let request = http::Request::delete(path).body(Vec::new())?;
            self.client.request::<Value>(request).await.context(kind)?;
        }
        until("ids are accepted", IN_FORCE, async || {
            self.refuses(false).await
        })
        .await
    }

    async fn refuses(&self, expected: bool) -> Result<()> {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), SYSTEM);
        let entry = json!({
            "metadata": {"generateName": "entry-"},
            "data": {format!("{}x", self.prefix): "\"id\""},
        });
        let params = PostParams {
            dry_run: true,
            ..PostParams::default()
        };
        let refused = api.create(&params, &serde_json::from_value(entry)?).await;
        ensure!(refused.is_err() == expected, "{refused:?}");
        Ok(())
    }
}

/// How long the API server may take to put a policy in force.
const IN_FORCE: Duration = Duration::from_secs(60);

/// Creates an object of the admission API.
async fn create(client: &Client, kind: &str, name: &str, spec: Value) -> Result<()> {
    let object = json!({"apiVersion": GROUP, "kind": kind, "metadata": {"name": name},
        "spec": spec});
    let request = http::Request::post(path(kind))
        .header("content-type", "application/json")
        .body(serde_json::to_vec(&object)?)?;
    client
        .request::<Value>(request)
        .await
        .context(name.to_owned())?;
    Ok(())
}

fn path(kind: &str) -> String {
    let kind = kind.to_lowercase();
    let plural = kind
        .strip_suffix('y')
        .map_or_else(|| format!("{kind}s"), |stem| format!("{stem}ies"));
    format!("/apis/{GROUP}/{plural}")
}
