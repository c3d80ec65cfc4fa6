//! Reads request bodies, and decompresses them, within the size limit, the timeout and the shared
//! memory budget.

use std::{io::Read as _, time::Duration};

use axum::{
    body::{Body, BodyDataStream, HttpBody as _},
    http::{HeaderMap, header},
};
use flate2::bufread::MultiGzDecoder;
use futures::{StreamExt, TryStreamExt};
use pinpipe_config::Compression;
use tokio::time::{Instant, timeout_at};

use crate::{budget::Share, form::Form, problem::Problem};

/// How long a client may take to send the body.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// The first buffer of a body whose length isn't known, bytes.
const MIN_BUFFER: usize = 16 * 1024;

/// How many times the limit is read and discarded if a body is too large, so that the client sees
/// the response rather than a broken connection.
const DRAIN_FACTOR: usize = 4;

/// How the body is compressed according to the headers, which must name a type that `form` takes. A
/// request without a `Content-Type` is read as JSON.
pub fn compression(form: Form, headers: &HeaderMap) -> Result<Compression, Problem> {
    let text = |name| {
        headers
            .get(name)
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    if let Some(seen) = text(header::CONTENT_TYPE).filter(|name| !form.takes(name)) {
        let wanted = form.content_types();
        return Err(Problem::UnsupportedMediaType { seen, wanted });
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

/// Reads the whole body into one buffer, whose capacity is taken from `share` as it grows.
pub async fn read(body: Body, limit: usize, share: Share) -> Result<Received, Problem> {
    let declared = body.size_hint().exact();
    let stream = body.into_data_stream();
    read_within(READ_TIMEOUT, stream, declared, limit, share).await
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

impl Received {
    /// Adds bytes, up to `limit`. The buffer doubles, up to `expected`: a client that announces a
    /// large body and doesn't send it takes nothing from others.
    fn push(&mut self, chunk: &[u8], expected: usize, limit: usize) -> Result<(), Problem> {
        let Self { bytes, share } = self;
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
        bytes.extend_from_slice(chunk);
        Ok(())
    }

    /// Decompresses a whole body, whose text may have up to `limit` bytes.
    pub fn decompress(self, compression: Compression, limit: usize) -> Result<Self, Problem> {
        if compression == Compression::None || self.bytes.is_empty() {
            return Ok(self);
        }
        let Self {
            bytes: compressed,
            share,
        } = self;
        let mut text = Self {
            bytes: Vec::new(),
            share,
        };
        match compression {
            Compression::None => {}
            Compression::Gzip => text.gunzip(&compressed, limit)?,
            Compression::Zstd => text.unzstd(&compressed, limit)?,
        }
        let before = compressed.capacity();
        drop(compressed);
        text.share.give_back(before);
        Ok(text)
    }

    /// Adds the text of a gzip stream, which may have several members.
    fn gunzip(&mut self, compressed: &[u8], limit: usize) -> Result<(), Problem> {
        let mut decoder = MultiGzDecoder::new(compressed);
        let mut chunk = vec![0; MIN_BUFFER];
        loop {
            match decoder.read(&mut chunk) {
                Ok(0) => return Ok(()),
                Ok(length) => self.push(&chunk[..length], limit, limit)?,
                Err(error) => return Err(Problem::BrokenEncoding(error.to_string())),
            }
        }
    }

    /// Becomes the text of a zstd stream, which may have several frames. It is decompressed into
    /// one buffer, which takes the place of a window.
    fn unzstd(&mut self, compressed: &[u8], limit: usize) -> Result<(), Problem> {
        self.share.take(limit).map_err(|_| Problem::Busy)?;
        match zstd::bulk::decompress(compressed, limit) {
            Ok(text) => self.bytes = text,
            // The library's sentence: its code isn't passed on.
            Err(error) if error.to_string().contains("buffer is too small") => {
                return Err(Problem::BodyTooLarge { limit });
            }
            Err(error) => return Err(Problem::BrokenEncoding(error.to_string())),
        }
        self.bytes.shrink_to_fit();
        self.share
            .give_back(limit - self.bytes.capacity().min(limit));
        Ok(())
    }
}

async fn read_all(
    stream: &mut BodyDataStream,
    limit: usize,
    expected: usize,
    share: Share,
) -> Result<Received, Problem> {
    let mut received = Received {
        bytes: Vec::new(),
        share,
    };
    while let Some(chunk) = stream
        .try_next()
        .await
        .map_err(|error| Problem::BodyLost(error.to_string()))?
    {
        received.push(&chunk, expected, limit)?;
    }
    Ok(received)
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
        let held = Gauge::default();
        let share = Budget::new(16 << 20, held.clone()).share();
        let received = read(body, limit, share).await?;
        let Received { bytes, share } = received.decompress(compression, limit)?;
        // Exactly the buffer is paid for.
        assert_eq!(usize::try_from(held.get()), Ok(bytes.capacity()));
        drop(share);
        Ok(bytes)
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
