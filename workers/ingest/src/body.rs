//! Reads request bodies within the size limit, the timeout and the shared memory budget.

use std::time::Duration;

use axum::{
    body::{Body, BodyDataStream},
    http::{HeaderMap, header},
};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};

use crate::{budget::Share, problem::Problem, split::Form};

/// How long a client may take to send the body.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// How many times the limit is read and discarded if a body is too large, so that the client sees
/// the response rather than a broken connection.
const DRAIN_FACTOR: usize = 4;

/// The body's format according to the headers, or why it is not supported.
pub fn form(headers: &HeaderMap) -> Result<Form, Problem> {
    let text = |name| {
        headers
            .get(name)
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    if let Some(encoding) =
        text(header::CONTENT_ENCODING).filter(|name| !name.eq_ignore_ascii_case("identity"))
    {
        return Err(Problem::UnsupportedEncoding(encoding));
    }
    let content_type = text(header::CONTENT_TYPE);
    content_type
        .as_deref()
        .and_then(Form::of)
        .ok_or(Problem::UnsupportedMediaType(content_type))
}

/// Reads the whole body. Its bytes are taken from `share` as they arrive.
pub async fn read(body: Body, limit: usize, share: &mut Share) -> Result<Bytes, Problem> {
    let mut stream = body.into_data_stream();
    match tokio::time::timeout(READ_TIMEOUT, read_all(&mut stream, limit, share)).await {
        Ok(result) => result,
        Err(_) => Err(Problem::BodyLost(format!(
            "it took longer than {} s",
            READ_TIMEOUT.as_secs()
        ))),
    }
}

async fn read_all(
    stream: &mut BodyDataStream,
    limit: usize,
    share: &mut Share,
) -> Result<Bytes, Problem> {
    let mut chunks = Vec::new();
    let mut length = 0;
    while let Some(chunk) = stream
        .try_next()
        .await
        .map_err(|error| Problem::BodyLost(error.to_string()))?
    {
        length += chunk.len();
        if length > limit {
            drain(stream, limit.saturating_mul(DRAIN_FACTOR)).await;
            return Err(Problem::BodyTooLarge { limit });
        }
        if share.take(chunk.len()).is_err() {
            drain(stream, limit).await;
            return Err(Problem::Busy);
        }
        chunks.push(chunk);
    }
    Ok(match chunks.as_slice() {
        [only] => only.clone(),
        _ => chunks.concat().into(),
    })
}

/// Reads and discards up to `bytes`.
async fn drain(stream: &mut BodyDataStream, bytes: usize) {
    let mut left = bytes;
    while let Some(Ok(chunk)) = stream.next().await {
        left = left.saturating_sub(chunk.len());
        if left == 0 {
            return;
        }
    }
}
