//! Reads request bodies within the size limit, the timeout and the shared memory budget.

use std::time::Duration;

use axum::{
    body::{Body, BodyDataStream, HttpBody as _},
    http::{HeaderMap, header},
};
use futures::{StreamExt, TryStreamExt};
use tokio::time::{Instant, timeout_at};

use crate::{budget::Share, problem::Problem, split};

/// How long a client may take to send the body.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// The first buffer of a body whose length isn't known, bytes.
const MIN_BUFFER: usize = 16 * 1024;

/// How many times the limit is read and discarded if a body is too large, so that the client sees
/// the response rather than a broken connection.
const DRAIN_FACTOR: usize = 4;

/// Checks that the body's form is supported according to the headers. A request without a
/// `Content-Type` is read as JSON.
pub fn check_form(headers: &HeaderMap) -> Result<(), Problem> {
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
    match text(header::CONTENT_TYPE) {
        Some(other) if !split::is_supported(&other) => Err(Problem::UnsupportedMediaType(other)),
        _ => Ok(()),
    }
}

/// A request's body with its share of the budget, which covers its buffer.
pub struct Received {
    /// The body.
    pub bytes: Vec<u8>,
    /// The request's share.
    pub share: Share,
}

/// Reads the whole body into one buffer, whose capacity is taken from `share` as it grows.
pub async fn read(body: Body, limit: usize, share: Share) -> Result<Received, Problem> {
    let declared = body.size_hint().exact();
    read_within(
        READ_TIMEOUT,
        body.into_data_stream(),
        declared,
        limit,
        share,
    )
    .await
}

/// [`read`] with another timeout. `declared` is the length according to the headers.
async fn read_within(
    timeout: Duration,
    mut stream: BodyDataStream,
    declared: Option<u64>,
    limit: usize,
    share: Share,
) -> Result<Received, Problem> {
    let end = Instant::now() + timeout;
    let reading = async {
        if declared.is_some_and(|length| length > limit as u64) {
            return Err(Problem::BodyTooLarge { limit });
        }
        let most = declared.and_then(|length| usize::try_from(length).ok());
        read_all(&mut stream, limit, most.unwrap_or(limit), share).await
    };
    let result = match timeout_at(end, reading).await {
        Ok(result) => result,
        Err(_) => Err(Problem::BodyLost(format!(
            "it took longer than {} s",
            timeout.as_secs()
        ))),
    };
    let unread = match &result {
        Err(Problem::BodyTooLarge { .. }) => limit.saturating_mul(DRAIN_FACTOR),
        Err(Problem::Busy) => limit,
        _ => 0,
    };
    // The answer is known, whether or not the rest arrives in time.
    if unread > 0 {
        _ = timeout_at(end, drain(&mut stream, unread)).await;
    }
    result
}

/// Reads up to `limit` bytes. The buffer doubles as bytes arrive, up to `expected`: a client that
/// announces a large body and doesn't send it takes nothing from others.
async fn read_all(
    stream: &mut BodyDataStream,
    limit: usize,
    expected: usize,
    mut share: Share,
) -> Result<Received, Problem> {
    let mut bytes = Vec::new();
    while let Some(chunk) = stream
        .try_next()
        .await
        .map_err(|error| Problem::BodyLost(error.to_string()))?
    {
        let length = bytes.len() + chunk.len();
        if length > limit {
            return Err(Problem::BodyTooLarge { limit });
        }
        if length > bytes.capacity() {
            let before = bytes.capacity();
            let capacity = (2 * before).max(MIN_BUFFER).min(expected).max(length);
            // Both buffers are there while the bytes are copied.
            share.take(capacity).map_err(|_| Problem::Busy)?;
            bytes.reserve_exact(capacity - bytes.len());
            share.give_back(before);
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(Received { bytes, share })
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

#[cfg(test)]
mod tests {
    use std::io;

    use futures::stream;
    use prometheus_client::metrics::gauge::Gauge;

    use super::*;
    use crate::budget::Budget;

    #[tokio::test]
    async fn what_is_known_about_a_body_is_the_answer_also_if_the_rest_never_arrives() {
        let too_large = Problem::BodyTooLarge { limit: 10 };
        for (arrived, declared, budget, expected) in [
            ("", Some(11), 100, &too_large),
            ("12345678901", None, 100, &too_large),
            ("1", Some(2), 0, &Problem::Busy),
            (
                "1",
                Some(2),
                100,
                &Problem::BodyLost("it took longer than 0 s".to_owned()),
            ),
        ] {
            let rest = stream::pending::<io::Result<&str>>();
            let body = Body::from_stream(stream::iter([Ok(arrived)]).chain(rest));
            let share = Budget::new(budget, Gauge::default()).share();
            let stream = body.into_data_stream();
            let read = read_within(Duration::ZERO, stream, declared, 10, share).await;
            assert_eq!(
                read.err().as_ref(),
                Some(expected),
                "{arrived} {declared:?}"
            );
        }
    }
}
