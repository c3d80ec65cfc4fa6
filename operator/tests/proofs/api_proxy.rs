//! The proxy between an operator and the API server. It forwards requests as the operator's service
//! account, records writes and used permissions, and can drop watch events or answer with old
//! lists.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::Ipv4Addr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context as _, Result};
use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::{Request, State},
    http::{Method, StatusCode, Uri, header},
    response::Response,
};
use futures::{StreamExt as _, stream};
use kube::Client;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch};

use crate::traffic::{Permission, Traffic};

/// A request as the API server interprets it.
#[derive(Clone, Debug)]
pub struct ApiRequest {
    pub verb: &'static str,
    pub group: String,
    /// The plural resource name, followed by a slash and the subresource, if any.
    pub resource: String,
    pub namespace: Option<String>,
    pub name: Option<String>,
    query: String,
}

impl ApiRequest {
    /// Source: Kubernetes API Concepts, "Resource URIs"; Authorization, "Determine the request
    /// verb".
    fn of(method: &Method, uri: &Uri) -> Option<Self> {
        let mut parts = uri.path().trim_matches('/').split('/');
        let group = match parts.next()? {
            "api" => String::new(),
            "apis" => parts.next()?.to_owned(),
            _ => return None,
        };
        let _version = parts.next()?;
        let mut rest: Vec<&str> = parts.collect();
        let namespace = (rest.len() > 2 && rest[0] == "namespaces").then(|| rest[1].to_owned());
        if namespace.is_some() {
            rest.drain(..2);
        }
        let mut rest = rest.into_iter();
        let (resource, name, subresource) = (rest.next()?, rest.next(), rest.next());
        let query = uri.query().unwrap_or_default().to_owned();
        let watches = query
            .split('&')
            .any(|part| part == "watch=true" || part == "watch=1");
        let verb = match (method.as_str(), name) {
            ("GET", _) if watches => "watch",
            ("GET", Some(_)) => "get",
            ("GET", None) => "list",
            ("POST", _) => "create",
            ("PUT", _) => "update",
            ("PATCH", _) => "patch",
            ("DELETE", Some(_)) => "delete",
            ("DELETE", None) => "deletecollection",
            _ => return None,
        };
        Some(Self {
            verb,
            group,
            resource: subresource.map_or_else(
                || resource.to_owned(),
                |subresource| format!("{resource}/{subresource}"),
            ),
            namespace,
            name: name.map(ToOwned::to_owned),
            query,
        })
    }

    fn writes(&self) -> bool {
        !matches!(self.verb, "get" | "list" | "watch")
    }

    /// Whether it is the initial list of a watch, which kube requests in pages of 500.
    fn begins_watch(&self) -> bool {
        self.verb == "list" && self.query.split('&').any(|part| part == "limit=500")
    }

    fn permission(&self, verb: &str) -> Permission {
        Permission {
            group: self.group.clone(),
            resource: self.resource.clone(),
            verb: verb.to_owned(),
            namespace: self.namespace.clone(),
        }
    }

    fn summary(&self) -> String {
        let Self {
            verb,
            resource,
            name,
            ..
        } = self;
        format!("{verb} {resource} {}", name.as_deref().unwrap_or_default())
    }
}

/// Selects watch events by resource, type of event, and object.
pub type EventFilter = Box<dyn Fn(&str, &str, &Value) -> bool + Send>;

/// The faults that the proxy injects.
#[derive(Default)]
pub struct Faults {
    /// The watch events to drop.
    pub drops: Option<EventFilter>,
    /// The response to the initial list of a watch, by resource.
    pub lists: BTreeMap<String, Bytes>,
}

/// The proxy of one operator.
pub struct ApiProxy {
    client: Client,
    traffic: Arc<Traffic>,
    faults: Mutex<Faults>,
    cut: watch::Sender<u64>,
}

impl ApiProxy {
    /// Serves at a free port, which is returned, too.
    pub async fn serve(client: Client, traffic: Arc<Traffic>) -> Result<(Arc<Self>, u16)> {
        let proxy = Arc::new(Self {
            client,
            traffic,
            faults: Mutex::default(),
            cut: watch::Sender::new(0),
        });
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let router = Router::new()
            .fallback(answer)
            .with_state(Arc::clone(&proxy));
        tokio::spawn(axum::serve(listener, router).into_future());
        Ok((proxy, port))
    }

    /// The faults to inject from now on.
    pub fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends every watch with status 410 Gone, so that the operator lists again.
    pub fn relist(&self) {
        self.cut.send_modify(|cut| *cut += 1);
    }

    async fn forward(self: &Arc<Self>, request: Request) -> Result<Response> {
        let (mut parts, body) = request.into_parts();
        let body = to_bytes(body, usize::MAX).await?;
        let parsed = ApiRequest::of(&parts.method, &parts.uri);
        let initial_list = parsed.as_ref().filter(|request| request.begins_watch());
        if let Some(list) =
            initial_list.and_then(|request| self.faults().lists.get(&request.resource).cloned())
        {
            return Ok(Response::builder()
                .header(header::CONTENT_TYPE, "application/json")
                .body(list.into())?);
        }
        if let Some(request) = &parsed {
            self.traffic.uses(request.permission(request.verb));
            if request.writes() {
                self.traffic.attempt(request.summary());
            }
        }
        for own in [
            header::HOST,
            header::CONNECTION,
            header::CONTENT_LENGTH,
            header::AUTHORIZATION,
        ] {
            parts.headers.remove(own);
        }
        let sent = http::Request::from_parts(parts, body.clone().into());
        let response = self
            .client
            .send(sent)
            .await
            .context("the API server can't be reached")?;
        let (mut parts, answer) = response.into_parts();
        parts.headers.remove(header::TRANSFER_ENCODING);
        match parsed {
            Some(request) if request.verb == "watch" && parts.status.is_success() => Ok(
                Response::from_parts(parts, self.events(request, Body::new(answer))),
            ),
            Some(request) if request.writes() => {
                let answer = to_bytes(Body::new(answer), usize::MAX).await?;
                if parts.status.is_success() {
                    self.written(&request, parts.status, &body);
                }
                Ok(Response::from_parts(parts, answer.into()))
            }
            _ => Ok(Response::from_parts(parts, Body::new(answer))),
        }
    }

    fn written(&self, request: &ApiRequest, status: StatusCode, body: &Bytes) {
        if request.verb == "patch" && status == StatusCode::CREATED {
            self.traffic.uses(request.permission("create"));
        }
        if request.resource == "roles" {
            let role: Value = serde_json::from_slice(body).unwrap_or_default();
            for granted in rules(&role) {
                self.traffic.grants(granted);
            }
        }
        self.traffic.done(request.summary());
    }

    /// The events of a watch, one per line, without the dropped ones.
    fn events(self: &Arc<Self>, request: ApiRequest, body: Body) -> Body {
        let state = (
            body.into_data_stream(),
            Vec::<u8>::new(),
            self.cut.subscribe(),
            request,
            Arc::clone(self),
        );
        let lines = stream::unfold(Some(state), |state| async move {
            let (mut body, mut rest, mut cut, request, proxy) = state?;
            loop {
                if let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = rest.drain(..=end).collect();
                    if !proxy.is_dropped(&request, &line) {
                        return Some((
                            Ok::<_, Infallible>(Bytes::from(line)),
                            Some((body, rest, cut, request, proxy)),
                        ));
                    }
                    continue;
                }
                tokio::select! {
                    chunk = body.next() => match chunk {
                        Some(Ok(chunk)) => rest.extend_from_slice(&chunk),
                        _ => return None,
                    },
                    changed = cut.changed() => {
                        changed.ok()?;
                        let status = json!({
                            "kind": "Status",
                            "apiVersion": "v1",
                            "metadata": {},
                            "status": "Failure",
                            "message": "too old resource version",
                            "reason": "Expired",
                            "code": 410,
                        });
                        let line = format!("{}\n", json!({"type": "ERROR", "object": status}));
                        return Some((Ok(Bytes::from(line)), None));
                    }
                }
            }
        });
        Body::from_stream(lines)
    }

    fn is_dropped(&self, request: &ApiRequest, line: &[u8]) -> bool {
        let faults = self.faults();
        let Some(drops) = &faults.drops else {
            return false;
        };
        let event: Value = serde_json::from_slice(line).unwrap_or_default();
        let type_ = event["type"].as_str().unwrap_or_default();
        type_ != "BOOKMARK" && drops(&request.resource, type_, &event["object"])
    }
}

/// The permissions that a Role grants.
pub fn rules(role: &Value) -> Vec<Permission> {
    let texts = |value: &Value| -> Vec<String> {
        value
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|text| Some(text.as_str()?.to_owned()))
            .collect()
    };
    let namespace = role["metadata"]["namespace"]
        .as_str()
        .map(ToOwned::to_owned);
    let mut allowed = Vec::new();
    for rule in role["rules"].as_array().into_iter().flatten() {
        for group in texts(&rule["apiGroups"]) {
            for resource in texts(&rule["resources"]) {
                for verb in texts(&rule["verbs"]) {
                    let (group, resource, namespace) =
                        (group.clone(), resource.clone(), namespace.clone());
                    allowed.push(Permission {
                        group,
                        resource,
                        verb,
                        namespace,
                    });
                }
            }
        }
    }
    allowed
}

async fn answer(State(proxy): State<Arc<ApiProxy>>, request: Request) -> Response {
    let watches = request
        .uri()
        .query()
        .is_some_and(|query| query.contains("watch=true"));
    let open = (!watches).then(|| proxy.traffic.opens());
    let answer = proxy.forward(request).await;
    drop(open);
    answer.unwrap_or_else(|error| {
        let mut response = Response::new(format!("{error:#}").into());
        *response.status_mut() = StatusCode::BAD_GATEWAY;
        response
    })
}
