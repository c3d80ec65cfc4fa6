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
/// Wait after a list that succeeded.
const AGAIN: Duration = Duration::from_mins(1);

/// Sets the readiness once pipelines of every scope can be listed and their definition knows what
/// the operator writes, and takes it back when that is no longer so. So the pods of an upgrade that
/// lacks the definition don't replace the old ones. The controller's own store can't tell: its
/// `wait_until_ready` wakes only the last waiter, and the controller itself waits there
/// (kube-runtime 5.0, `DelayedInit`).
///
/// A namespace that was deleted took the operator's Role with it, and is left out as long as
/// another one can be listed.
pub async fn report_readiness(client: Client, scopes: Vec<Scope>, readiness: Readiness) {
    let mut is_ready = false;
    loop {
        let mut lists = Vec::new();
        for scope in &scopes {
            let listed = list(&client, scope).await;
            lists.push(listed.inspect_err(|(_, message)| tracing::warn!(message)));
        }
        let mut failure = failure_of(lists);
        if failure.is_none()
            && let Some(problem) = definition::problem(&client).await
        {
            tracing::error!(problem);
            failure = Some((Failure::Definition, problem));
        }
        if let Some(state) = next(is_ready, failure) {
            is_ready = state.is_ok();
            readiness.set(state);
        }
        tokio::time::sleep(if is_ready { AGAIN } else { RETRY }).await;
    }
}

/// Readiness after lists, or after one failed. None: it stays.
fn next(is_ready: bool, failure: Option<(Failure, String)>) -> Option<Result<(), String>> {
    match failure {
        None => Some(Ok(())),
        // An operator isn't unready because the API server doesn't answer for a while.
        Some((Failure::Other, _)) if is_ready => None,
        Some((_, message)) => Some(Err(message)),
    }
}

/// Why the operator isn't ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    /// Nothing in the scope is permitted.
    Forbidden,
    /// The definition (CRD) is absent or too old.
    Definition,
    Other,
}

async fn list(client: &Client, scope: &Scope) -> Result<(), (Failure, String)> {
    let api = scope.api::<CachedPipeline>(client);
    let first = ListParams::default().limit(1);
    let (failure, error) = match timeout(LIST_TIMEOUT, api.list_metadata(&first)).await {
        Ok(Ok(_)) => return Ok(()),
        Ok(Err(error)) => (failure(&error), error.to_string()),
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

fn failure(error: &kube::Error) -> Failure {
    match error {
        error if is_forbidden(error) => Failure::Forbidden,
        kube::Error::Api(status) if status.code == 404 => Failure::Definition,
        _ => Failure::Other,
    }
}

/// The first failure that counts.
fn failure_of(lists: Vec<Result<(), (Failure, String)>>) -> Option<(Failure, String)> {
    let is_any_listed = lists.iter().any(Result::is_ok);
    let mut failures = lists.into_iter().filter_map(Result::err);
    failures.find(|(failure, _)| !is_any_listed || *failure != Failure::Forbidden)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_that_is_gone_keeps_no_operator_of_others_from_being_ready() {
        let (forbidden, other) = (Failure::Forbidden, Failure::Other);
        let fails = |failure| Err((failure, String::new()));
        for (lists, expected) in [
            (vec![Ok(())], None),
            (vec![Ok(()), fails(forbidden)], None),
            (vec![fails(forbidden), Ok(())], None),
            (vec![fails(forbidden)], Some(forbidden)),
            (vec![fails(forbidden), fails(forbidden)], Some(forbidden)),
            (vec![Ok(()), fails(forbidden), fails(other)], Some(other)),
        ] {
            let found = failure_of(lists.clone()).map(|(failure, _)| failure);
            assert_eq!(found, expected, "{lists:?}");
        }
    }

    #[test]
    fn the_readiness_goes_when_the_api_server_refuses_to_list_pipelines() {
        let (forbidden, definition) = (Failure::Forbidden, Failure::Definition);
        let unready = Some(Err("no".to_owned()));
        for (is_ready, failure, expected) in [
            (false, Some(Failure::Other), unready.clone()),
            (false, None, Some(Ok(()))),
            (true, None, Some(Ok(()))),
            (true, Some(Failure::Other), None),
            (true, Some(forbidden), unready.clone()),
            (true, Some(definition), unready),
        ] {
            let found = next(is_ready, failure.map(|failure| (failure, "no".to_owned())));
            assert_eq!(found, expected, "{is_ready} {failure:?}");
        }
    }
}
