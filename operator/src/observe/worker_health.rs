//! What running workers say of themselves: `/readyz`, asked pod by pod.
//!
//! Kubernetes knows that a pod isn't ready and not why; and a worker whose sink is away stays
//! ready, since another in its place would do no better. A pod that can't be asked has said
//! nothing.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use pinpipe_config::ADMIN_PORT;
use pinpipe_runtime::figures::{self, Figures};
use reqwest::{Client, Response, redirect::Policy};

use crate::{
    build,
    status::{Finding, reasons, thresholds::Told},
};

/// How long a pod may take to answer.
const TIMEOUT: Duration = Duration::from_secs(2);
/// As much as is read of an answer, bytes.
const MOST: usize = 4096;

/// A client for pods: straight to their addresses, whatever proxy the operator's environment names.
pub fn client() -> reqwest::Result<Client> {
    Client::builder()
        .timeout(TIMEOUT)
        .no_proxy()
        .redirect(Policy::none())
        .build()
}

/// The component a pod is of: `ingest`, `stream-live`.
#[must_use]
pub fn component(pod: &Pod) -> Option<&str> {
    pod.metadata
        .labels
        .as_ref()?
        .get(build::COMPONENT_LABEL)
        .map(String::as_str)
}

/// What is the matter, by component, in the words of the first of its pods, by name, that says so.
pub async fn ask(client: &Client, pods: &[Pod]) -> BTreeMap<String, Finding> {
    let mut asked: Vec<(&str, &str, IpAddr)> = pods.iter().filter_map(to_ask).collect();
    asked.sort_unstable();
    let answers = join_all(asked.iter().map(|(_, name, address)| async move {
        answer(client, *address)
            .await
            .inspect_err(
                |error| tracing::debug!(pod = name, %error, "a worker can't be asked how it is"),
            )
            .ok()
    }))
    .await;
    let mut said = BTreeMap::new();
    for ((component, _, _), answer) in asked.into_iter().zip(answers) {
        if let Some(finding) = answer.as_deref().and_then(finding) {
            said.entry(component.to_owned()).or_insert(finding);
        }
    }
    said
}

/// Component, name and address of a pod that can say how its sink or broker is.
fn to_ask(pod: &Pod) -> Option<(&str, &str, IpAddr)> {
    let component = component(pod)
        .filter(|c| matches!(*c, "ingest" | "archive") || c.starts_with("stream-"))?;
    let status = pod.status.as_ref()?;
    let mut containers = status.container_statuses.iter().flatten();
    let runs = containers.any(|container| {
        container
            .state
            .as_ref()
            .is_some_and(|state| state.running.is_some())
    });
    if pod.metadata.deletion_timestamp.is_some() || !runs {
        return None;
    }
    Some((
        component,
        pod.metadata.name.as_deref()?,
        status.pod_ip.as_deref()?.parse().ok()?,
    ))
}

/// The figures of these components, as far as their pods tell them. One of a worker that is too old
/// to be asked is missing.
pub async fn figures(
    client: &Client,
    pods: &[Pod],
    components: &[String],
) -> BTreeMap<String, Told> {
    let asked = pods
        .iter()
        .filter_map(to_ask)
        .filter(|(component, _, _)| components.iter().any(|c| c == component));
    let answers = asked.map(|(component, name, address)| async move {
        let answer = async {
            anyhow::Ok(serde_json::from_slice(
                &body(client, address, figures::PATH).await?,
            )?)
        };
        let told: anyhow::Result<Figures> = answer.await;
        let told = told.inspect_err(
            |error| tracing::debug!(pod = name, %error, "a worker doesn't tell its figures"),
        );
        (component.to_owned(), told.ok())
    });
    let mut told: BTreeMap<String, Told> = BTreeMap::new();
    for (component, answer) in join_all(answers).await {
        let of = told.entry(component).or_default();
        of.asked += 1;
        of.answers.extend(answer);
    }
    told
}

/// Asks the pods of a component to write what they have gathered. One that can't be asked writes it
/// when its time comes.
pub async fn flush(client: &Client, pods: &[Pod], asked: &str) {
    let addresses = pods
        .iter()
        .filter_map(to_ask)
        .filter(|(component, _, _)| *component == asked);
    join_all(addresses.map(|(_, name, address)| async move {
        if let Err(error) = client.post(url(address, "/flush")).send().await {
            tracing::debug!(pod = name, %error, "a worker can't be asked to write what it has gathered");
        }
    }))
    .await;
}

fn url(address: IpAddr, path: &str) -> String {
    format!("http://{}{path}", SocketAddr::new(address, ADMIN_PORT))
}

async fn answer(client: &Client, address: IpAddr) -> reqwest::Result<String> {
    let body = bytes(client.get(url(address, "/readyz")).send().await?).await?;
    Ok(String::from_utf8_lossy(&body).into_owned())
}

/// The answer to a question that is always answered with 200.
async fn body(client: &Client, address: IpAddr, path: &str) -> reqwest::Result<Vec<u8>> {
    bytes(
        client
            .get(url(address, path))
            .send()
            .await?
            .error_for_status()?,
    )
    .await
}

async fn bytes(mut response: Response) -> reqwest::Result<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        body.extend_from_slice(&chunk);
        if body.len() >= MOST {
            body.truncate(MOST);
            break;
        }
    }
    Ok(body)
}

/// Reads `not ready: TopicReplaced: …` or `degraded: SinkUnavailable: …`. Anything else, such as
/// `ready` or `not ready: starting`, is nothing that Kubernetes doesn't tell as well.
fn finding(answer: &str) -> Option<Finding> {
    let said = answer
        .strip_prefix("not ready: ")
        .or_else(|| answer.strip_prefix("degraded: "))?;
    let (reason, message) = said.split_once(": ")?;
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
        ] {
            let expected = expected.map(|(reason, message)| Finding::bad(reason, message));
            assert_eq!(finding(answer), expected, "{answer}");
        }
    }

    #[test]
    fn workers_that_run_are_asked_and_no_others() {
        let pod = |component: &str, status: Value| -> Pod {
            serde_json::from_value(
                json!({"metadata": {"name": "p", "labels": {"app.kubernetes.io/component": component}},
                "status": status}),
            )
            .unwrap()
        };
        let status = |state: Value| {
            json!({"podIP": "10.0.0.1", "containerStatuses": [{"name": "w", "image": "", "imageID": "", "ready": true,
                "restartCount": 0, "state": state}]})
        };
        let running = status(json!({"running": {}}));
        for (component, asked) in [
            ("ingest", true),
            ("stream-live", true),
            ("archive", true),
            ("batch", false),
            ("emulator", false),
        ] {
            assert_eq!(
                to_ask(&pod(component, running.clone())).is_some(),
                asked,
                "{component}"
            );
        }
        assert_eq!(
            to_ask(&pod(
                "ingest",
                status(json!({"waiting": {"reason": "CrashLoopBackOff"}}))
            )),
            None
        );
        assert_eq!(to_ask(&pod("ingest", json!({"podIP": "10.0.0.1"}))), None);
        let mut going = pod("ingest", running);
        going.metadata.deletion_timestamp =
            Some(serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap());
        assert_eq!(to_ask(&going), None);
    }
}
