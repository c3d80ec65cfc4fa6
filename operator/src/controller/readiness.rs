//! Readiness of the operator: pipelines can be listed.

use std::time::Duration;

use kube::{Client, api::ListParams};
use pinpipe_runtime::admin::Readiness;
use tokio::time::timeout;

use super::Scope;
use crate::{
    error::is_forbidden,
    observe::{definition, pipeline_index::CachedPipeline},
};

/// Time-out of a list of one pipeline.
const LIST_TIMEOUT: Duration = Duration::from_secs(30);
/// Wait after a list that failed.
const RETRY: Duration = Duration::from_secs(3);

/// Sets the readiness once pipelines of every scope can be listed and their definition knows what
/// the operator writes. So the pods of an upgrade that lacks the definition don't replace the old
/// ones. The controller's own store can't
/// tell: its `wait_until_ready` wakes only the last waiter, and the controller itself waits there
/// (kube-runtime 5.0, `DelayedInit`).
///
/// A namespace that was deleted took the operator's Role with it, and is left out as long as
/// another one can be listed.
pub async fn report_readiness(client: Client, scopes: Vec<Scope>, readiness: Readiness) {
    loop {
        let mut lists = Vec::new();
        for scope in &scopes {
            let listed = list(&client, scope).await;
            if let Err((_, message)) = &listed {
                tracing::warn!(message);
            }
            lists.push(listed);
        }
        let mut state = readiness_of(lists);
        if state.is_ok()
            && let Some(problem) = definition::problem(&client).await
        {
            tracing::error!(problem);
            state = Err(problem);
        }
        let is_ready = state.is_ok();
        readiness.set(state);
        if is_ready {
            return;
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Why pipelines of a scope can't be listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    /// Nothing in the scope is permitted.
    Forbidden,
    Other,
}

async fn list(client: &Client, scope: &Scope) -> Result<(), (Failure, String)> {
    let api = scope.api::<CachedPipeline>(client);
    let first = ListParams::default().limit(1);
    let (failure, error) = match timeout(LIST_TIMEOUT, api.list_metadata(&first)).await {
        Ok(Ok(_)) => return Ok(()),
        Ok(Err(error)) if is_forbidden(&error) => (Failure::Forbidden, error.to_string()),
        Ok(Err(error)) => (Failure::Other, error.to_string()),
        Err(_) => {
            let error = format!("no answer within {} s", LIST_TIMEOUT.as_secs());
            (Failure::Other, error)
        }
    };
    let place = match scope {
        Scope::All => String::new(),
        Scope::Namespace(namespace) => format!(" of namespace {namespace}"),
    };
    let message = format!(
        "the PinterestPipelines{place} can't be listed: {error}; check that the CRD is installed \
         and that this ServiceAccount may list them"
    );
    Err((failure, message))
}

/// The first failure that counts.
fn readiness_of(lists: Vec<Result<(), (Failure, String)>>) -> Result<(), String> {
    let is_any_listed = lists.iter().any(Result::is_ok);
    let failures = lists.into_iter().filter_map(Result::err);
    let mut counted =
        failures.filter(|(failure, _)| !is_any_listed || *failure != Failure::Forbidden);
    counted.next().map_or(Ok(()), |(_, message)| Err(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_that_is_gone_keeps_no_operator_of_others_from_being_ready() {
        let (forbidden, other) = (Failure::Forbidden, Failure::Other);
        let fails = |failure| Err((failure, format!("{failure:?}")));
        for (lists, expected) in [
            (vec![Ok(())], None),
            (vec![Ok(()), fails(forbidden)], None),
            (vec![fails(forbidden), Ok(())], None),
            (vec![fails(forbidden)], Some("Forbidden")),
            (vec![fails(forbidden), fails(forbidden)], Some("Forbidden")),
            (vec![Ok(()), fails(forbidden), fails(other)], Some("Other")),
        ] {
            let state = readiness_of(lists.clone());
            assert_eq!(state.err().as_deref(), expected, "{lists:?}");
        }
    }
}
