//! Pods of a pipeline, and what their admin ports answer through the API server.

use std::{io, time::Duration};

use futures::{AsyncBufRead, AsyncBufReadExt as _, Stream, stream};
use http::Request;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use pinpipe_config::ADMIN_PORT;
use pinpipe_plan::{build::INSPECTION, names::COMPONENT_LABEL};
use tokio::time::timeout;

use crate::cluster::Cluster;

/// Label of a Job's pods, with the Job's name.
pub const JOB_LABEL: &str = "batch.kubernetes.io/job-name";
/// Time-out of a request to a pod.
const ANSWER: Duration = Duration::from_secs(5);

/// Component and name of a pod that serves metrics.
#[must_use]
pub fn worker(pod: &Pod) -> Option<(&str, String)> {
    let component = pod.labels().get(COMPONENT_LABEL)?.as_str();
    let phase = pod.status.as_ref()?.phase.as_deref()?;
    let serves = component != "batch" && !is_inspection(pod) && phase == "Running";
    let stays = pod.metadata.deletion_timestamp.is_none();
    (serves && stays).then(|| (component, pod.name_any()))
}

/// Whether a pod looks into data, which its log has.
#[must_use]
pub fn is_inspection(pod: &Pod) -> bool {
    let component = pod.labels().get(COMPONENT_LABEL);
    component.is_some_and(|component| component == INSPECTION)
}

/// Name of the Job that a pod is of. None: it is none of a batch run.
#[must_use]
pub fn job(pod: &Pod) -> Option<&str> {
    pod.labels().get(JOB_LABEL).map(String::as_str)
}

/// Name of a pod's worker container, the first: others were added by the cluster.
#[must_use]
pub fn container(pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    Some(spec.containers.first()?.name.clone())
}

/// What a worker's admin port answers to a path, such as `metrics`. An error is a sentence.
pub async fn admin(cluster: &Cluster, pod: &str, path: &str) -> Result<String, String> {
    let namespace = &cluster.namespace;
    let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}:{ADMIN_PORT}/proxy/{path}");
    let request = Request::get(path).body(Vec::new());
    let request = request.map_err(|error| format!("pod {pod}: {error}"))?;
    match timeout(ANSWER, cluster.client.request_text(request)).await {
        Ok(Ok(text)) => Ok(text),
        Ok(Err(kube::Error::Api(status))) if status.code != 403 => Err(format!(
            "pod {pod} can't be read through the API server: {}",
            status.message
        )),
        Ok(Err(error)) => Err(cluster.failure("get pods/proxy", &error).to_string()),
        Err(_) => Err(format!(
            "pod {pod} doesn't answer the API server within {} s: a NetworkPolicy may keep it out",
            ANSWER.as_secs()
        )),
    }
}

/// The lines of a text, whose bytes needn't be UTF-8. Nothing follows an error.
pub fn lines(text: impl AsyncBufRead + Send) -> impl Stream<Item = io::Result<String>> + Send {
    stream::try_unfold(Box::pin(text), |mut text| async move {
        let mut line = Vec::new();
        if text.read_until(b'\n', &mut line).await? == 0 {
            return Ok(None);
        }
        let line = line.strip_suffix(b"\n").unwrap_or(&line);
        Ok(Some((String::from_utf8_lossy(line).into_owned(), text)))
    })
}

#[cfg(test)]
mod tests {
    use futures::{StreamExt as _, TryStreamExt as _};

    use super::*;

    #[tokio::test]
    async fn lines_may_be_invalid_and_an_error_ends_them() {
        let lines: Vec<_> = super::lines(&b"a\xff\n\nb"[..])
            .map(Result::unwrap)
            .collect()
            .await;
        assert_eq!(lines, ["a\u{fffd}", "", "b"]);
        let parts = stream::iter([Ok(b"a\n".to_vec()), Err(io::Error::other("reset"))]);
        let lines = super::lines(parts.into_async_read());
        let lines: Vec<_> = lines
            .map(|line| line.map_err(|it| it.to_string()))
            .collect()
            .await;
        assert_eq!(lines, [Ok("a".to_owned()), Err("reset".to_owned())]);
    }
}
