//! Client of the API server: every request is counted and has a time-out.

use std::{
    task::{Context, Poll},
    time::Duration,
};

use futures::{FutureExt as _, future::BoxFuture};
use http::{Method, Request, Response, header::CONTENT_TYPE};
use kube::{Client, Config, client::Body, client::ClientBuilder};
use tower::{BoxError, Layer, Service};

use crate::metrics::Metrics;

/// Time-out until an answer begins, including a client's own retries after 429 and 503, which alone
/// may go on for hours.
const ANSWER: Duration = Duration::from_secs(30);
/// Longest silence of a connection during an answer. A watch is silent for as long as the server
/// keeps it open: 290 s, as kube requests.
const SILENCE: Duration = Duration::from_secs(320);

/// A client that counts requests.
pub fn client(mut config: Config, metrics: Metrics) -> kube::Result<Client> {
    config.read_timeout = Some(SILENCE);
    // Measured from the request on, since an idle connection is silent, too.
    config.reset_reader_on_write = true;
    Ok(ClientBuilder::try_from(config)?
        .with_layer(&Counting {
            metrics,
            answer: ANSWER,
        })
        .build())
}

/// Counts requests, and ends those without an answer.
#[derive(Clone)]
struct Counting {
    metrics: Metrics,
    answer: Duration,
}

impl<S> Layer<S> for Counting {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted {
            inner,
            counting: self.clone(),
        }
    }
}

/// Service whose requests are counted.
struct Counted<S> {
    inner: S,
    counting: Counting,
}

impl<S, B> Service<Request<Body>> for Counted<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
{
    type Response = Response<B>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<B>, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let Counting { metrics, answer } = self.counting.clone();
        let verb = verb(&request);
        let resource = resource(request.uri().path()).0.to_owned();
        let answered = self.inner.call(request);
        async move {
            let result = match tokio::time::timeout(answer, answered).await {
                Ok(result) => result.map_err(Into::into),
                Err(_) => Err(format!("the API server did not answer within {answer:?}").into()),
            };
            let code = result.as_ref().map_or_else(
                |_| "none".to_owned(),
                |answer| answer.status().as_str().to_owned(),
            );
            metrics.requested(verb, resource, code);
            result
        }
        .boxed()
    }
}

/// Verb of a request, as Kubernetes' permissions name it; server-side apply, there a `patch`, is
/// counted by itself.
fn verb(request: &Request<Body>) -> &'static str {
    let (_, named) = resource(request.uri().path());
    let watches = request
        .uri()
        .query()
        .is_some_and(|query| query.split('&').any(|part| part.starts_with("watch=")));
    let applies = request
        .headers()
        .get(CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/apply-patch"));
    match *request.method() {
        Method::GET if watches => "watch",
        Method::GET if named => "get",
        Method::GET => "list",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH if applies => "apply",
        Method::PATCH => "patch",
        Method::DELETE if named => "delete",
        Method::DELETE => "deletecollection",
        _ => "other",
    }
}

/// Resource of a path, with its subresource (`deployments/status`), and whether the path names one
/// object. `other`: the path has no resource.
fn resource(path: &str) -> (&str, bool) {
    let mut rest = path.trim_start_matches('/');
    let root = match rest.split_once('/') {
        Some(("api", _)) => 2,
        Some(("apis", _)) => 3,
        _ => return ("other", false),
    };
    for _ in 0..root {
        let Some((_, below)) = rest.split_once('/') else {
            return ("other", false);
        };
        rest = below;
    }
    if let Some((_, below)) = rest
        .strip_prefix("namespaces/")
        .and_then(|named| named.split_once('/'))
    {
        rest = below;
    }
    let mut parts = rest.splitn(3, '/');
    let (kind, name, below) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
    match (kind, below) {
        ("", _) => ("other", false),
        (_, Some("status")) => (status_of(kind), true),
        _ => (kind, name.is_some()),
    }
}

/// Name of a status subresource that is written.
fn status_of(kind: &str) -> &str {
    match kind {
        "pinterestpipelines" => "pinterestpipelines/status",
        "pinterestruns" => "pinterestruns/status",
        kind => kind,
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::{Api, api::PostParams};
    use prometheus_client::{encoding::text::encode, registry::Registry};
    use tower::service_fn;

    use super::*;

    #[test]
    fn requests_are_classified_as_permissions_are() {
        let apply = "application/apply-patch+yaml";
        for (method, uri, content, expected) in [
            (
                "GET",
                "/api/v1/namespaces/data/configmaps?labelSelector=a%3Db",
                "",
                ("list", "configmaps"),
            ),
            (
                "GET",
                "/api/v1/namespaces/data/secrets/s3?",
                "",
                ("get", "secrets"),
            ),
            (
                "GET",
                "/apis/apps/v1/deployments?watch=true&timeoutSeconds=290",
                "",
                ("watch", "deployments"),
            ),
            (
                "GET",
                "/apis/pinpipe.dev/v1alpha1/pinterestpipelines?&limit=1",
                "",
                ("list", "pinterestpipelines"),
            ),
            (
                "PATCH",
                "/apis/apps/v1/namespaces/data/deployments/p-ingest?&fieldManager=x",
                apply,
                ("apply", "deployments"),
            ),
            (
                "PATCH",
                "/apis/pinpipe.dev/v1alpha1/namespaces/data/pinterestpipelines/p/status",
                apply,
                ("apply", "pinterestpipelines/status"),
            ),
            (
                "PATCH",
                "/apis/pinpipe.dev/v1alpha1/namespaces/data/pinterestpipelines/p",
                "application/merge-patch+json",
                ("patch", "pinterestpipelines"),
            ),
            (
                "POST",
                "/apis/events.k8s.io/v1/namespaces/data/events?",
                "",
                ("create", "events"),
            ),
            (
                "PUT",
                "/apis/coordination.k8s.io/v1/namespaces/data/leases/l",
                "",
                ("update", "leases"),
            ),
            (
                "DELETE",
                "/api/v1/namespaces/data/services/p",
                "",
                ("delete", "services"),
            ),
            (
                "DELETE",
                "/api/v1/namespaces/data/services",
                "",
                ("deletecollection", "services"),
            ),
            ("GET", "/api/v1/namespaces/data", "", ("get", "namespaces")),
            ("GET", "/version", "", ("list", "other")),
        ] {
            let request = Request::builder()
                .method(method)
                .uri(uri)
                .header(CONTENT_TYPE, content);
            let request = request.body(Body::empty()).unwrap();
            assert_eq!(
                (verb(&request), resource(request.uri().path()).0),
                expected,
                "{method} {uri}"
            );
        }
    }

    fn counted(registry: &Registry) -> Vec<String> {
        let mut text = String::new();
        encode(&mut text, registry).unwrap();
        text.lines()
            .filter(|line| line.contains("api_requests_total{"))
            .map(ToOwned::to_owned)
            .collect()
    }

    #[tokio::test]
    async fn requests_are_counted_by_their_answer_and_end_without_one() {
        let mut registry = Registry::default();
        let counting = Counting {
            metrics: Metrics::register(&mut registry),
            answer: Duration::from_millis(50),
        };
        let refuses = service_fn(async |_: Request<Body>| {
            let status = br#"{"kind": "Status", "code": 403, "reason": "Forbidden"}"#.to_vec();
            Ok::<_, BoxError>(
                Response::builder()
                    .status(403)
                    .body(Body::from(status))
                    .unwrap(),
            )
        });
        let silent = service_fn(async |_: Request<Body>| {
            pending::<Result<Response<Body>, BoxError>>().await
        });
        let api = |client| Api::<ConfigMap>::namespaced(client, "data");
        let client = ClientBuilder::new(refuses, "data")
            .with_layer(&counting)
            .build();
        api(client)
            .create(&PostParams::default(), &ConfigMap::default())
            .await
            .unwrap_err();
        let line = |verb: &str, code: &str| {
            let labels = format!("verb=\"{verb}\",resource=\"configmaps\",code=\"{code}\"");
            format!("operator_api_requests_total{{{labels}}} 1")
        };
        assert_eq!(counted(&registry), [line("create", "403")]);

        let client = ClientBuilder::new(silent, "data")
            .with_layer(&counting)
            .build();
        let error = api(client).get("c").await.unwrap_err().to_string();
        assert!(error.contains("did not answer within 50ms"), "{error}");
        assert!(
            counted(&registry).contains(&line("get", "none")),
            "{:?}",
            counted(&registry)
        );
    }
}
