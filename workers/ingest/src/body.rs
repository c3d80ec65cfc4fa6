//! Reads request bodies, and decompresses them, within the size limit, the timeout and the shared
//! memory budget.

use std::time::Duration;

use axum::{
    body::{Body, BodyDataStream, HttpBody as _},
    http::{HeaderMap, header},
};
use futures::{StreamExt, TryStreamExt};
use pinpipe_config::Compression;
use pinpipe_runtime::compressed::Decompressor;
use tokio::time::{Instant, timeout_at};

use crate::{budget::Share, form::Form, problem::Problem};

/// How long a client may take to send the body.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// The first buffer of a body whose length isn't known, bytes.
const MIN_BUFFER: usize = 16 * 1024;

/// How many times the limit is read and discarded if a body is too large, so that the client sees
/// the response rather than a broken connection.
const DRAIN_FACTOR: usize = 4;

/// Memory of decompression besides the text, bytes: the largest window and buffers.
const fn decompression_bytes(compression: Compression) -> usize {
    match compression {
        Compression::None => 0,
        Compression::Gzip => 256 << 10,
        Compression::Zstd => (8 << 20) + (512 << 10),
    }
}

/// How the body is compressed according to the headers, which must name a type that `form` takes. A
/// request without a `Content-Type` is read as JSON.
pub fn compression(form: Form, headers: &HeaderMap) -> Result<Compression, Problem> {
    let text = |name| {
        headers
            .get(name)
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    if let Some(other) = text(header::CONTENT_TYPE).filter(|name| !form.takes(name)) {
        return Err(Problem::UnsupportedMediaType(other));
    }
    let encoding = text(header::CONTENT_ENCODING).unwrap_or_default();
    match encoding.trim().to_ascii_lowercase().as_str() {
        "" | "identity" => Ok(Compression::None),
        "gzip" | "x-gzip" => Ok(Compression::Gzip),
        "zstd" => Ok(Compression::Zstd),
        _ => Err(Problem::UnsupportedEncoding(encoding)),
    }
}

/// A request's body with its share of the budget, which covers its buffer.
pub struct Received {
    /// The body.
    pub bytes: Vec<u8>,
    /// The request's share.
    pub share: Share,
}

/// Reads the whole body, decompressed, into one buffer, whose capacity is taken from `share` as it
/// grows. Neither the body nor its text may be over `limit` bytes.
pub async fn read(
    body: Body,
    compression: Compression,
    limit: usize,
    share: Share,
) -> Result<Received, Problem> {
    let declared = body.size_hint().exact();
    let stream = body.into_data_stream();
    read_within(READ_TIMEOUT, stream, declared, compression, limit, share).await
}

/// [`read`] with another timeout. `declared` is the length according to the headers.
async fn read_within(
    timeout: Duration,
    mut stream: BodyDataStream,
    declared: Option<u64>,
    compression: Compression,
    limit: usize,
    share: Share,
) -> Result<Received, Problem> {
    let end = Instant::now() + timeout;
    let reading = async {
        if declared.is_some_and(|length| length > limit as u64) {
            return Err(Problem::BodyTooLarge { limit });
        }
        let most = declared.and_then(|length| usize::try_from(length).ok());
        let most = most.filter(|_| compression == Compression::None);
        let text = Text {
            received: Received {
                bytes: Vec::new(),
                share,
            },
            limit,
            expected: most.unwrap_or(limit),
        };
        read_all(&mut stream, compression, text).await
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

/// The text received so far. Its buffer doubles as text arrives, up to `expected`: a client that
/// announces a large body and doesn't send it takes nothing from others.
struct Text {
    received: Received,
    limit: usize,
    expected: usize,
}

impl Text {
    fn push(&mut self, chunk: &[u8]) -> Result<(), Problem> {
        let Received { bytes, share } = &mut self.received;
        let length = bytes.len() + chunk.len();
        if length > self.limit {
            return Err(Problem::BodyTooLarge { limit: self.limit });
        }
        if length > bytes.capacity() {
            let before = bytes.capacity();
            let capacity = (2 * before).max(MIN_BUFFER).min(self.expected).max(length);
            // Both buffers are there while the bytes are copied.
            share.take(capacity).map_err(|_| Problem::Busy)?;
            bytes.reserve_exact(capacity - bytes.len());
            share.give_back(before);
        }
        bytes.extend_from_slice(chunk);
        Ok(())
    }
}

async fn read_all(
    stream: &mut BodyDataStream,
    compression: Compression,
    mut text: Text,
) -> Result<Received, Problem> {
    let decompression = decompression_bytes(compression);
    let taken = text.received.share.take(decompression);
    taken.map_err(|_| Problem::Busy)?;
    let mut decompressor = Decompressor::new(compression)?;
    let mut length = 0;
    while let Some(chunk) = stream
        .try_next()
        .await
        .map_err(|error| Problem::BodyLost(error.to_string()))?
    {
        // Much that is compressed may hold nothing.
        length += chunk.len();
        if length > text.limit {
            return Err(Problem::BodyTooLarge { limit: text.limit });
        }
        decompressor.push(&chunk, |part| text.push(part))?;
    }
    if length > 0 {
        decompressor.finish()?;
    }
    text.received.share.give_back(decompression);
    Ok(text.received)
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
            let read = read_within(
                Duration::ZERO,
                stream,
                declared,
                Compression::None,
                10,
                share,
            )
            .await;
            assert_eq!(
                read.err().as_ref(),
                Some(expected),
                "{arrived} {declared:?}"
            );
        }
    }

    fn compressed(compression: Compression, text: &[u8]) -> Vec<u8> {
        pinpipe_runtime::compressed::compress(compression, text).unwrap()
    }

    /// Reads a body in chunks of `size` bytes.
    async fn text_of(
        compression: Compression,
        body: &[u8],
        size: usize,
        limit: usize,
    ) -> Result<Vec<u8>, Problem> {
        let chunks: Vec<_> = body.chunks(size).map(<[u8]>::to_vec).collect();
        let body = Body::from_stream(stream::iter(chunks.into_iter().map(io::Result::Ok)));
        let share = Budget::new(16 << 20, Gauge::default()).share();
        let received = read(body, compression, limit, share).await?;
        Ok(received.bytes)
    }

    #[tokio::test]
    async fn compressed_bodies_are_read_as_their_text() {
        let text = b"{\"ind\": 1}\n".repeat(9_000);
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let whole = compressed(compression, &text);
            let parts = text
                .chunks(40_000)
                .map(|part| compressed(compression, part));
            let several = parts.collect::<Vec<_>>().concat();
            for size in [1, 1000, usize::MAX] {
                for body in [&whole, &several] {
                    let found = text_of(compression, body, size, text.len()).await;
                    assert!(found.as_ref() == Ok(&text), "{compression:?}, {size}");
                }
            }
            let found = text_of(compression, &whole, 1000, text.len() - 1).await;
            let limit = text.len() - 1;
            assert_eq!(
                found,
                Err(Problem::BodyTooLarge { limit }),
                "{compression:?}"
            );
            assert_eq!(
                text_of(compression, b"", 1, 1).await,
                Ok(vec![]),
                "{compression:?}"
            );
        }
    }

    #[tokio::test]
    async fn a_broken_or_endless_compressed_body_is_refused() {
        let text = vec![b' '; 1 << 20];
        for compression in [Compression::Gzip, Compression::Zstd] {
            let whole = compressed(compression, &text);
            for body in [&whole[..whole.len() - 1], b"{}"] {
                let found = text_of(compression, body, 9, 2 << 20).await;
                let broken = matches!(found, Err(Problem::BrokenEncoding(_)));
                assert!(
                    broken,
                    "{compression:?}: {:?}",
                    found.map(|text| text.len())
                );
            }
            let nothing = compressed(compression, b"").repeat(1000);
            let limit = nothing.len() - 1;
            let found = text_of(compression, &nothing, 100, limit).await;
            assert_eq!(
                found,
                Err(Problem::BodyTooLarge { limit }),
                "{compression:?}"
            );
        }
    }

    #[test]
    fn headers_tell_how_a_body_is_compressed() {
        for (encoding, expected) in [
            ("identity", Ok(Compression::None)),
            ("", Ok(Compression::None)),
            ("GZIP", Ok(Compression::Gzip)),
            ("x-gzip", Ok(Compression::Gzip)),
            ("zstd", Ok(Compression::Zstd)),
            ("br", Err(Problem::UnsupportedEncoding("br".to_owned()))),
            (
                "gzip, gzip",
                Err(Problem::UnsupportedEncoding("gzip, gzip".to_owned())),
            ),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_ENCODING, encoding.parse().unwrap());
            assert_eq!(compression(Form::Records, &headers), expected, "{encoding}");
        }
        assert_eq!(
            compression(Form::Records, &HeaderMap::new()),
            Ok(Compression::None)
        );
    }
}
