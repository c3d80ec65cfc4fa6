//! What stands between an operator and the API server. It passes everything on, in the name of the
//! operator's account; it counts writes, records what needs permission, and can have the operator
//! see less than there is, or what was there before.

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

use crate::tap::{Tap, Use};

/// A request as the API server understands it.
#[derive(Clone, Debug)]
pub struct Asked {
    pub verb: &'static str,
    pub group: String,
    /// With its subresource behind a slash.
    pub resource: String,
    pub namespace: Option<String>,
    pub name: Option<String>,
    query: String,
}

impl Asked {
    /// Source: Kubernetes' API concepts, "Resource URIs", and how the API server makes verbs of
    /// them.
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
        let (resource, name, below) = (rest.next()?, rest.next(), rest.next());
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
            resource: below.map_or_else(
                || resource.to_owned(),
                |below| format!("{resource}/{below}"),
            ),
            namespace,
            name: name.map(ToOwned::to_owned),
            query,
        })
    }

    fn writes(&self) -> bool {
        !matches!(self.verb, "get" | "list" | "watch")
    }

    /// Whether it is the list a watch begins with, which comes in pages.
    fn begins_watch(&self) -> bool {
        self.verb == "list" && self.query.split('&').any(|part| part == "limit=500")
    }

    fn needs(&self, verb: &str) -> Use {
        Use {
            group: self.group.clone(),
            resource: self.resource.clone(),
            verb: verb.to_owned(),
            namespace: self.namespace.clone(),
        }
    }

    fn told(&self) -> String {
        let Self {
            verb,
            resource,
            name,
            ..
        } = self;
        format!("{verb} {resource} {}", name.as_deref().unwrap_or_default())
    }
}

/// Which events a watch loses: by resource, type of event, and object.
pub type Loses = Box<dyn Fn(&str, &str, &Value) -> bool + Send>;

/// What the operator sees other than it is.
#[derive(Default)]
pub struct Meddling {
    /// Events that never arrive.
    pub loses: Option<Loses>,
    /// By resource, what the next lists that watches begin with answer.
    pub lists: BTreeMap<String, Bytes>,
}

/// One operator's way to the API server.
pub struct Api {
    client: Client,
    tap: Arc<Tap>,
    meddling: Mutex<Meddling>,
    cut: watch::Sender<u64>,
}

impl Api {
    /// Serves. Gives the port, too.
    pub async fn serve(client: Client, tap: Arc<Tap>) -> Result<(Arc<Self>, u16)> {
        let api = Arc::new(Self {
            client,
            tap,
            meddling: Mutex::default(),
            cut: watch::Sender::new(0),
        });
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let router = Router::new().fallback(answer).with_state(Arc::clone(&api));
        tokio::spawn(axum::serve(listener, router).into_future());
        Ok((api, port))
    }

    /// What the operator sees other than it is.
    pub fn meddling(&self) -> MutexGuard<'_, Meddling> {
        self.meddling.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends every watch as one that is too old, so that each begins anew with a list.
    pub fn relist(&self) {
        self.cut.send_modify(|cut| *cut += 1);
    }

    async fn pass_on(self: &Arc<Self>, request: Request) -> Result<Response> {
        let (mut parts, body) = request.into_parts();
        let body = to_bytes(body, usize::MAX).await?;
        let asked = Asked::of(&parts.method, &parts.uri);
        let old = asked.as_ref().filter(|asked| asked.begins_watch());
        if let Some(list) =
            old.and_then(|asked| self.meddling().lists.get(&asked.resource).cloned())
        {
            return Ok(Response::builder()
                .header(header::CONTENT_TYPE, "application/json")
                .body(list.into())?);
        }
        if let Some(asked) = &asked {
            self.tap.uses(asked.needs(asked.verb));
            if asked.writes() {
                self.tap.attempt(asked.told());
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
            .context("the API server does not answer")?;
        let (mut parts, answer) = response.into_parts();
        parts.headers.remove(header::TRANSFER_ENCODING);
        match asked {
            Some(asked) if asked.verb == "watch" && parts.status.is_success() => Ok(
                Response::from_parts(parts, self.events(asked, Body::new(answer))),
            ),
            Some(asked) if asked.writes() => {
                let answer = to_bytes(Body::new(answer), usize::MAX).await?;
                if parts.status.is_success() {
                    self.written(&asked, parts.status, &body);
                }
                Ok(Response::from_parts(parts, answer.into()))
            }
            _ => Ok(Response::from_parts(parts, Body::new(answer))),
        }
    }

    fn written(&self, asked: &Asked, status: StatusCode, body: &Bytes) {
        if asked.verb == "patch" && status == StatusCode::CREATED {
            self.tap.uses(asked.needs("create"));
        }
        if asked.resource == "roles" {
            let role: Value = serde_json::from_slice(body).unwrap_or_default();
            for given in rules(&role) {
                self.tap.grants(given);
            }
        }
        self.tap.done(asked.told());
    }

    /// The events of a watch, line by line.
    fn events(self: &Arc<Self>, asked: Asked, body: Body) -> Body {
        let state = (
            body.into_data_stream(),
            Vec::<u8>::new(),
            self.cut.subscribe(),
            asked,
            Arc::clone(self),
        );
        let lines = stream::unfold(Some(state), |state| async move {
            let (mut body, mut rest, mut cut, asked, api) = state?;
            loop {
                if let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = rest.drain(..=end).collect();
                    if !api.is_lost(&asked, &line) {
                        return Some((
                            Ok::<_, Infallible>(Bytes::from(line)),
                            Some((body, rest, cut, asked, api)),
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
                        let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                            "message": "too old resource version", "reason": "Expired", "code": 410});
                        let line = format!("{}\n", json!({"type": "ERROR", "object": status}));
                        return Some((Ok(Bytes::from(line)), None));
                    }
                }
            }
        });
        Body::from_stream(lines)
    }

    fn is_lost(&self, asked: &Asked, line: &[u8]) -> bool {
        let meddling = self.meddling();
        let Some(loses) = &meddling.loses else {
            return false;
        };
        let event: Value = serde_json::from_slice(line).unwrap_or_default();
        let type_ = event["type"].as_str().unwrap_or_default();
        type_ != "BOOKMARK" && loses(&asked.resource, type_, &event["object"])
    }
}

/// What a Role allows.
pub fn rules(role: &Value) -> Vec<Use> {
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
                    allowed.push(Use {
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

async fn answer(State(api): State<Arc<Api>>, request: Request) -> Response {
    let watches = request
        .uri()
        .query()
        .is_some_and(|query| query.contains("watch=true"));
    let open = (!watches).then(|| api.tap.opens());
    let answer = api.pass_on(request).await;
    drop(open);
    answer.unwrap_or_else(|error| {
        let mut response = Response::new(format!("{error:#}").into());
        *response.status_mut() = StatusCode::BAD_GATEWAY;
        response
    })
}
