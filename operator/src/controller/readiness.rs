//! Readiness of the operator: pipelines can be listed.

use std::time::Duration;

use kube::{Client, api::ListParams};
use pinpipe_runtime::admin::Readiness;
use tokio::time::{error::Elapsed, timeout};

use super::Scope;
use crate::observe::pipeline_index::CachedPipeline;

/// Time-out of a list of one pipeline.
const LIST_TIMEOUT: Duration = Duration::from_secs(30);
/// Wait after a list that failed.
const RETRY: Duration = Duration::from_secs(3);

/// Sets the readiness once pipelines of every scope can be listed. The controller's own store can't
/// tell: its `wait_until_ready` wakes only the last waiter, and the controller itself waits there
/// (kube-runtime 5.0, `DelayedInit`).
pub async fn report_readiness(client: Client, scopes: Vec<Scope>, readiness: Readiness) {
    for scope in scopes {
        let api = scope.api::<CachedPipeline>(&client);
        let first = ListParams::default().limit(1);
        while let Err(error) = listed(timeout(LIST_TIMEOUT, api.list_metadata(&first)).await) {
            let place = match &scope {
                Scope::All => String::new(),
                Scope::Namespace(namespace) => format!(" of namespace {namespace}"),
            };
            let message = format!(
                "the PinterestPipelines{place} can't be listed: {error}; check that the CRD is \
                 installed and that this ServiceAccount may list them"
            );
            tracing::warn!(message);
            readiness.set(Err(message));
            tokio::time::sleep(RETRY).await;
        }
    }
    readiness.set(Ok(()));
}

/// Why a list failed, if it did.
fn listed<T>(list: Result<kube::Result<T>, Elapsed>) -> Result<(), String> {
    match list {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} s", LIST_TIMEOUT.as_secs())),
    }
}
