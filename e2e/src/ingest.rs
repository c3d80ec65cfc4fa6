//! Posting to ingest through the API server's proxy to the pipeline's Service, which needs no port
//! on this machine.

use anyhow::{Context, Result, ensure};
use http::{Method, Request};
use kube::client::Body;
use serde::Deserialize;
use serde_json::Value;

use crate::{Kind, Pipeline, samples::Sample};

/// The format of records in a request body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One object.
    Object,
    /// An array of objects.
    Array,
    /// One object per line.
    Lines,
}

/// The position of an acknowledged record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct Ack {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
}

/// The response to a request.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The header `Retry-After`.
    pub retry_after: Option<String>,
    /// The body.
    pub body: String,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.body).with_context(|| format!("not JSON: {self:?}"))
    }
}

/// Posts a body to a path of ingest.
pub async fn post(
    pipeline: &Pipeline,
    path: &str,
    content_type: &str,
    body: String,
) -> Result<Answer> {
    let namespace = &pipeline.sandbox.namespace;
    let service = format!("{}-ingest:8080", pipeline.name);
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!(
            "/api/v1/namespaces/{namespace}/services/{service}/proxy/{path}"
        ))
        .header("content-type", content_type)
        .body(Body::from(body.into_bytes()))?;
    let response = pipeline.sandbox.cluster.client().send(request).await?;
    let status = response.status().as_u16();
    let retry_after = response
        .headers()
        .get("retry-after")
        .and_then(|value| value.to_str().ok())
        .map(str::to_owned);
    let body = String::from_utf8(response.into_body().collect_bytes().await?.to_vec())?;
    Ok(Answer {
        status,
        retry_after,
        body,
    })
}

/// Posts records, which may be refused.
pub async fn offer(
    pipeline: &Pipeline,
    kind: Kind,
    samples: &[Sample],
    form: Form,
) -> Result<Answer> {
    let raw: Vec<&str> = samples.iter().map(|sample| sample.raw.as_str()).collect();
    let (content_type, body) = match form {
        Form::Object => ("application/json", raw.concat()),
        Form::Array => ("application/json", format!("[{}]", raw.join(",\n "))),
        Form::Lines => ("application/x-ndjson", raw.join("\n") + "\n"),
    };
    post(pipeline, kind.name(), content_type, body).await
}

/// Posts records. An error unless all of them are acknowledged.
pub async fn send(
    pipeline: &Pipeline,
    kind: Kind,
    samples: &[Sample],
    form: Form,
) -> Result<Vec<Ack>> {
    #[derive(Deserialize)]
    struct Acknowledged {
        records: Vec<Ack>,
    }
    let answer = offer(pipeline, kind, samples, form).await?;
    ensure!(
        answer.status == 202,
        "posting {} {kind} records: {answer:?}",
        samples.len()
    );
    let answer: Acknowledged = serde_json::from_value(answer.json()?)?;
    ensure!(
        answer.records.len() == samples.len(),
        "{} of {} acknowledged",
        answer.records.len(),
        samples.len()
    );
    Ok(answer.records)
}
