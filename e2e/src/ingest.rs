//! Posts records to a pipeline's ingest through the API server's Service proxy, so that no port has
//! to be forwarded to this machine.

use anyhow::{Context, Result, ensure};
use http::{Method, Request};
use kube::client::Body;
use serde::Deserialize;
use serde_json::Value;

use crate::{Kind, Pipeline, samples::Sample};

/// The format of records in a request body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFormat {
    /// One JSON object.
    Object,
    /// A JSON array of objects.
    Array,
    /// One JSON object per line (NDJSON).
    Lines,
}

/// The position in Kafka of an acknowledged record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct Ack {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
}

/// An HTTP response of ingest.
#[derive(Clone, Debug)]
pub struct Response {
    /// The HTTP status.
    pub status: u16,
    /// The value of the `Retry-After` header.
    pub retry_after: Option<String>,
    /// The body.
    pub body: String,
}

impl Response {
    /// The body as JSON.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.body).with_context(|| format!("not JSON: {self:?}"))
    }
}

/// Posts a body to a path of the pipeline's ingest and returns the response, whatever its status.
pub async fn post(
    pipeline: &Pipeline,
    path: &str,
    content_type: &str,
    body: String,
) -> Result<Response> {
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
    Ok(Response {
        status,
        retry_after,
        body,
    })
}

/// Posts records and returns the response, whatever its status.
pub async fn try_send(
    pipeline: &Pipeline,
    kind: Kind,
    samples: &[Sample],
    format: BodyFormat,
) -> Result<Response> {
    let raw: Vec<&str> = samples.iter().map(|sample| sample.raw.as_str()).collect();
    let (content_type, body) = match format {
        BodyFormat::Object => ("application/json", raw.concat()),
        BodyFormat::Array => ("application/json", format!("[{}]", raw.join(",\n "))),
        BodyFormat::Lines => ("application/x-ndjson", raw.join("\n") + "\n"),
    };
    post(pipeline, kind.name(), content_type, body).await
}

/// Posts records and returns their positions. Fails unless all of them are acknowledged.
pub async fn send(
    pipeline: &Pipeline,
    kind: Kind,
    samples: &[Sample],
    format: BodyFormat,
) -> Result<Vec<Ack>> {
    #[derive(Deserialize)]
    struct Acknowledged {
        records: Vec<Ack>,
    }
    let response = try_send(pipeline, kind, samples, format).await?;
    ensure!(
        response.status == 202,
        "posting {} {kind} records: {response:?}",
        samples.len()
    );
    let body: Acknowledged = serde_json::from_value(response.json()?)?;
    ensure!(
        body.records.len() == samples.len(),
        "{} of {} records acknowledged",
        body.records.len(),
        samples.len()
    );
    Ok(body.records)
}
