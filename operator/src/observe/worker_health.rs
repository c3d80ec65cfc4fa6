//! Health of running workers, probed pod by pod.
//!
//! Kubernetes knows that a pod isn't ready, but not why; and a worker whose sink is unavailable
//! stays ready, since a replacement would do no better. `/readyz` gives the reason. A pod that
//! doesn't answer is left out.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use pinpipe_config::{ADMIN_PORT, CONTROL_PORT, RESET_PATH, ResetState};
use pinpipe_crds::reasons;
use pinpipe_plan::component::Component;
use reqwest::{Client, Response, StatusCode, redirect::Policy};

use super::pods::component;
use crate::finding::Finding;

/// Time-out of one request to a pod.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes that are read of an answer.
const MAX_ANSWER: usize = 4096;

/// A client that connects to pods directly, whatever proxy the operator's environment names.
pub fn client() -> reqwest::Result<Client> {
    Client::builder()
        .timeout(TIMEOUT)
        .no_proxy()
        .redirect(Policy::none())
        .build()
}

/// First problem reported by each component's pods, in the order of the pods' names.
pub async fn problems(client: &Client, pods: &[Pod]) -> BTreeMap<Component, Finding> {
    let mut targets: Vec<Target<'_>> = pods.iter().filter_map(target).collect();
    targets.sort_unstable();
    let answers = join_all(targets.iter().map(|target| async move {
        let answer = health(client, target.address).await;
        answer
            .inspect_err(|error| tracing::debug!(pod = target.pod, %error, "no health of a worker"))
            .ok()
    }))
    .await;
    let mut problems = BTreeMap::new();
    for (target, answer) in targets.into_iter().zip(answers) {
        if let Some(finding) = answer.as_deref().and_then(finding) {
            problems.entry(target.component).or_insert(finding);
        }
    }
    problems
}

/// What the pods of a component answer about the reset in their configurations, as far as they
/// answer, and whether one is of an older release, which can't answer.
pub async fn resets(
    client: &Client,
    pods: &[Pod],
    component: &Component,
) -> (Vec<ResetState>, bool) {
    let targets = pods.iter().filter_map(target);
    let targets = targets.filter(|target| target.component == *component);
    let answers = targets.map(|target| async move {
        let url = url(target.address, ADMIN_PORT, RESET_PATH);
        let answer = async {
            let response = client.get(url).send().await?;
            if response.status() == StatusCode::NOT_FOUND {
                return Ok(None);
            }
            let body = bytes(response.error_for_status()?).await?;
            anyhow::Ok(Some(serde_json::from_slice(&body)?))
        };
        let state: anyhow::Result<Option<ResetState>> = answer.await;
        state
            .inspect_err(|error| tracing::debug!(pod = target.pod, %error, "no state of a reset"))
            .ok()
    });
    let answers: Vec<_> = join_all(answers).await.into_iter().flatten().collect();
    let is_old = answers.iter().any(Option::is_none);
    (answers.into_iter().flatten().collect(), is_old)
}

/// Requests the pods of a component to flush what they have buffered. A pod that can't be reached,
/// such as one of a release without a control port, flushes when its time comes.
pub async fn flush(client: &Client, pods: &[Pod], component: &Component) {
    let targets = pods
        .iter()
        .filter_map(target)
        .filter(|target| target.component == *component);
    join_all(targets.map(|target| async move {
        if let Err(error) = client
            .post(url(target.address, CONTROL_PORT, "/flush"))
            .send()
            .await
        {
            tracing::debug!(pod = target.pod, %error, "a worker can't be requested to flush");
        }
    }))
    .await;
}

/// A pod that can be probed.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Target<'a> {
    component: Component,
    pod: &'a str,
    address: IpAddr,
}

/// The pod as a target. None: it isn't running, or its component has no health to report.
fn target(pod: &Pod) -> Option<Target<'_>> {
    let component = component(pod).filter(|component| {
        matches!(
            component,
            Component::Ingest | Component::Archive | Component::Stream(_)
        )
    })?;
    let status = pod.status.as_ref()?;
    let mut containers = status
        .container_statuses
        .iter()
        .flatten()
        .map(|c| c.state.as_ref());
    let runs = containers.any(|state| state.is_some_and(|state| state.running.is_some()));
    if pod.metadata.deletion_timestamp.is_some() || !runs {
        return None;
    }
    let address = status.pod_ip.as_deref()?.parse().ok()?;
    Some(Target {
        component,
        pod: pod.metadata.name.as_deref()?,
        address,
    })
}

fn url(address: IpAddr, port: u16, path: &str) -> String {
    format!("http://{}{path}", SocketAddr::new(address, port))
}

/// The answer of `/readyz`, whatever its status.
async fn health(client: &Client, address: IpAddr) -> reqwest::Result<String> {
    let body = bytes(
        client
            .get(url(address, ADMIN_PORT, "/readyz"))
            .send()
            .await?,
    )
    .await?;
    Ok(String::from_utf8_lossy(&body).into_owned())
}

async fn bytes(mut response: Response) -> reqwest::Result<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        body.extend_from_slice(&chunk);
        if body.len() >= MAX_ANSWER {
            body.truncate(MAX_ANSWER);
            break;
        }
    }
    Ok(body)
}

/// Parses `not ready: TopicReplaced: …` or `degraded: SinkUnavailable: …`. Other answers, such as
/// `ready` or `not ready: starting`, add nothing to what Kubernetes tells.
fn finding(answer: &str) -> Option<Finding> {
    let problem = answer
        .strip_prefix("not ready: ")
        .or_else(|| answer.strip_prefix("degraded: "))?;
    let (reason, message) = problem.split_once(": ")?;
    let reason = reasons::FROM_WORKERS
        .into_iter()
        .find(|known| *known == reason)?;
    Some(Finding::bad(
        reason,
        message.split_whitespace().collect::<Vec<_>>().join(" "),
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn an_answer_is_a_finding_where_its_reason_is_known() {
        for (answer, expected) in [
            ("ready\n", None),
            ("not ready: starting\n", None),
            ("not ready: stopping: soon\n", None),
            ("<html>", None),
            (
                "not ready: OffsetOutOfRange: the stored position 5 of t[0]\nis outside\n",
                Some((
                    reasons::OFFSET_OUT_OF_RANGE,
                    "the stored position 5 of t[0] is outside",
                )),
            ),
            (
                "degraded: SinkUnavailable: PostgreSQL: connection refused\n",
                Some((reasons::SINK_UNAVAILABLE, "PostgreSQL: connection refused")),
            ),
            (
                "not ready: SinkAccessDenied: password authentication failed\n",
                Some((
                    reasons::SINK_ACCESS_DENIED,
                    "password authentication failed",
                )),
            ),
            (
                "degraded: DatabaseMissing: database \"db\" does not exist\n",
                Some((reasons::DATABASE_MISSING, "database \"db\" does not exist")),
            ),
        ] {
            let expected = expected.map(|(reason, message)| Finding::bad(reason, message));
            assert_eq!(finding(answer), expected, "{answer}");
        }
    }

    #[test]
    fn only_running_workers_are_probed() {
        let pod = |component: &str, status: Value| -> Pod {
            serde_json::from_value(json!({
                "metadata": {
                    "name": "p",
                    "labels": {"app.kubernetes.io/component": component},
                },
                "status": status,
            }))
            .unwrap()
        };
        let status = |state: Value| {
            let container = json!({
                "name": "w",
                "image": "",
                "imageID": "",
                "ready": true,
                "restartCount": 0,
                "state": state,
            });
            json!({"podIP": "10.0.0.1", "containerStatuses": [container]})
        };
        let running = status(json!({"running": {}}));
        for (component, probed) in [
            ("ingest", true),
            ("stream-live", true),
            ("archive", true),
            ("batch", false),
            ("emulator", false),
        ] {
            assert_eq!(
                target(&pod(component, running.clone())).is_some(),
                probed,
                "{component}"
            );
        }
        assert_eq!(
            target(&pod(
                "ingest",
                status(json!({"waiting": {"reason": "CrashLoopBackOff"}}))
            )),
            None
        );
        assert_eq!(target(&pod("ingest", json!({"podIP": "10.0.0.1"}))), None);
        let mut going = pod("ingest", running);
        going.metadata.deletion_timestamp =
            Some(serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap());
        assert_eq!(target(&going), None);
    }

    #[test]
    fn a_pod_is_asked_at_its_address_of_either_kind() {
        let url = |address: &str| url(address.parse().unwrap(), ADMIN_PORT, "/readyz");
        assert_eq!(url("10.0.0.1"), "http://10.0.0.1:9090/readyz");
        assert_eq!(url("fd00::1"), "http://[fd00::1]:9090/readyz");
    }
}
