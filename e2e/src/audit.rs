//! Writes to a namespace, read from the API server's audit log.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};
use serde::Deserialize;

use crate::node;

/// A request that changed something, or tried to.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Write {
    /// `create`, `update`, `patch`, `delete`, …
    pub verb: String,
    /// The account that sent it.
    pub user: User,
    /// The object it is about.
    pub object_ref: Option<Object>,
    /// When the API server received it.
    pub request_received_timestamp: DateTime<Utc>,
    stage: String,
}

/// The account that sent a request.
#[derive(Clone, Debug, Deserialize)]
pub struct User {
    /// `system:serviceaccount:<namespace>:<name>` for pods.
    pub username: String,
    #[serde(default)]
    extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// The pod that sent the request.
    #[must_use]
    pub fn pod(&self) -> Option<String> {
        self.extra
            .get("authentication.kubernetes.io/pod-name")?
            .first()
            .cloned()
    }
}

/// The object of a request.
#[derive(Clone, Debug, Deserialize)]
pub struct Object {
    /// The plural resource name, such as `configmaps`.
    pub resource: Option<String>,
    /// The namespace.
    pub namespace: Option<String>,
    /// The name.
    pub name: Option<String>,
    /// The subresource, such as `status`.
    pub subresource: Option<String>,
}

/// The requests in the audit log that changed something in a namespace, or tried to.
pub async fn writes(namespace: &str) -> Result<Vec<Write>> {
    let mut writes = Vec::new();
    for line in node::audit_log(namespace).await?.lines() {
        let event: Write =
            serde_json::from_str(line).with_context(|| format!("not an audit event: {line}"))?;
        if event.stage == "ResponseComplete"
            && !matches!(event.verb.as_str(), "get" | "list" | "watch")
        {
            writes.push(event);
        }
    }
    Ok(writes)
}
