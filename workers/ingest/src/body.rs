//! Reading a request's body, within its limit, its time and the shared budget.

use std::time::Duration;

use axum::{
    body::{Body, BodyDataStream},
    http::{HeaderMap, header},
};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};

use crate::{budget::Share, problem::Problem, split::Form};

/// How long a client may take to send its body.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// How many times the limit is read and thrown away so that a client which sends too much sees the
/// answer, not a broken connection.
const DRAIN_FACTOR: usize = 4;

/// The form the headers announce, or why the body can't be taken.
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

/// The whole body; its bytes are taken from `share` as they come.
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

/// Reads on for nothing, up to so many bytes.
async fn drain(stream: &mut BodyDataStream, bytes: usize) {
    let mut left = bytes;
    while let Some(Ok(chunk)) = stream.next().await {
        left = left.saturating_sub(chunk.len());
        if left == 0 {
            return;
        }
    }
}
