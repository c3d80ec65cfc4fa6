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
/// Wait after a list that succeeded.
const AGAIN: Duration = Duration::from_mins(1);

/// Sets the readiness once pipelines of every scope can be listed, and takes it back when they no
/// longer can. The controller's own store can't tell: its `wait_until_ready` wakes only the last
/// waiter, and the controller itself waits there (kube-runtime 5.0, `DelayedInit`).
pub async fn report_readiness(client: Client, scopes: Vec<Scope>, readiness: Readiness) {
    let mut is_ready = false;
    loop {
        let failure = first_failure(&client, &scopes).await;
        if let Some(state) = next(is_ready, failure) {
            is_ready = state.is_ok();
            readiness.set(state.inspect_err(|message| tracing::warn!(message)));
        }
        tokio::time::sleep(if is_ready { AGAIN } else { RETRY }).await;
    }
}

/// Readiness after a list, or why it failed and whether the API server refused it. None: it stays.
fn next(is_ready: bool, failure: Option<(String, bool)>) -> Option<Result<(), String>> {
    match failure {
        None => Some(Ok(())),
        // An operator isn't unready because the API server doesn't answer for a while.
        Some((_, false)) if is_ready => None,
        Some((message, _)) => Some(Err(message)),
    }
}

/// Why pipelines can't be listed, and whether the API server says so.
async fn first_failure(client: &Client, scopes: &[Scope]) -> Option<(String, bool)> {
    for scope in scopes {
        let api = scope.api::<CachedPipeline>(client);
        let first = ListParams::default().limit(1);
        let Err((error, refused)) = listed(timeout(LIST_TIMEOUT, api.list_metadata(&first)).await)
        else {
            continue;
        };
        let place = match &scope {
            Scope::All => String::new(),
            Scope::Namespace(namespace) => format!(" of namespace {namespace}"),
        };
        let message = format!(
            "the PinterestPipelines{place} can't be listed: {error}; check that the CRD is \
             installed and that this ServiceAccount may list them"
        );
        return Some((message, refused));
    }
    None
}

/// Why a list failed, if it did, and whether the API server refused it.
fn listed<T>(list: Result<kube::Result<T>, Elapsed>) -> Result<(), (String, bool)> {
    match list {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => {
            let refused = matches!(&error, kube::Error::Api(s) if matches!(s.code, 403 | 404));
            Err((error.to_string(), refused))
        }
        Err(_) => Err((
            format!("no answer within {} s", LIST_TIMEOUT.as_secs()),
            false,
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readiness_goes_when_the_api_server_refuses_to_list_pipelines() {
        let refused = |refused| Some(("no".to_owned(), refused));
        let unready = Some(Err("no".to_owned()));
        for (is_ready, failure, expected) in [
            (false, refused(false), unready.clone()),
            (false, None, Some(Ok(()))),
            (true, None, Some(Ok(()))),
            (true, refused(false), None),
            (true, refused(true), unready),
        ] {
            assert_eq!(
                next(is_ready, failure.clone()),
                expected,
                "{is_ready} {failure:?}"
            );
        }
    }
}
