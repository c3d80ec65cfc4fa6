//! Posting to ingest, through the API server's own proxy to the pipeline's Service: no port of this machine is needed.

use anyhow::{Context, Result, ensure};
use http::{Method, Request};
use kube::client::Body;
use serde::Deserialize;
use serde_json::Value;

use crate::{Kind, Pipeline, samples::Sample};

/// How records stand in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One object.
    Object,
    /// An array of objects.
    Array,
    /// One object a line.
    Lines,
}

/// Where an acknowledged record is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct Ack {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
}

/// The answer to a request: HTTP status and JSON body.
pub async fn post(pipeline: &Pipeline, path: &str, content_type: &str, body: String) -> Result<(u16, Value)> {
    let namespace = &pipeline.space.namespace;
    let service = format!("{}-ingest:8080", pipeline.name);
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("/api/v1/namespaces/{namespace}/services/{service}/proxy/{path}"))
        .header("content-type", content_type)
        .body(Body::from(body.into_bytes()))?;
    let response = pipeline.space.cluster.client().send(request).await?;
    let status = response.status().as_u16();
    let body = response.into_body().collect_bytes().await?;
    let json = serde_json::from_slice(&body)
        .with_context(|| format!("{status}, not JSON: {}", String::from_utf8_lossy(&body)))?;
    Ok((status, json))
}

/// Posts records, all of which have to be acknowledged.
pub async fn send(pipeline: &Pipeline, kind: Kind, samples: &[Sample], form: Form) -> Result<Vec<Ack>> {
    #[derive(Deserialize)]
    struct Answer {
        records: Vec<Ack>,
    }
    let raw: Vec<&str> = samples.iter().map(|sample| sample.raw.as_str()).collect();
    let (content_type, body) = match form {
        Form::Object => ("application/json", raw.concat()),
        Form::Array => ("application/json", format!("[{}]", raw.join(",\n "))),
        Form::Lines => ("application/x-ndjson", raw.join("\n") + "\n"),
    };
    let (status, answer) = post(pipeline, kind.name(), content_type, body).await?;
    ensure!(status == 202, "posting {} {kind} records: {status} {answer}", samples.len());
    let answer: Answer = serde_json::from_value(answer)?;
    ensure!(answer.records.len() == samples.len(), "{} of {} acknowledged", answer.records.len(), samples.len());
    Ok(answer.records)
}
