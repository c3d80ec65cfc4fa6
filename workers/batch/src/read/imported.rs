//! Reads objects that another tool wrote.

use std::{io, mem, pin::pin};

use anyhow::{Context, Result, ensure};
use aws_sdk_s3::primitives::ByteStream;
use futures::{StreamExt, TryStreamExt, stream};
use pinpipe_core::Kind;
use pinpipe_runtime::compressed::Decompressor;
use tracing::warn;

use super::{ChunkSender, UnitRead, send};
use crate::{
    decode::{Cleaner, ReadStats},
    failure::Permanent,
    manifest::{Format, RawObject, pass_over},
    retry::{RETRY_TIMEOUT, retry},
    split::Splitter,
    store::Store,
};

/// Objects that a reader takes at a time.
pub const OBJECTS: usize = 256;
/// Bytes up to which objects are read as a whole, several concurrently.
const SMALL: u64 = 1 << 20;
/// Bytes of a small object that are decoded at a time.
const PIECE: usize = 64 << 10;
/// Small objects that a reader reads concurrently.
const REQUESTS: usize = 8;

/// Whether an object is read together with others.
pub fn is_small(object: &RawObject) -> bool {
    match &object.format {
        Format::Imported(imported) => imported.bytes <= SMALL,
        Format::Single(_) => true,
        Format::Connector(_) | Format::Archive => false,
    }
}

/// Whether another tool wrote an object.
pub const fn is_imported(object: &RawObject) -> bool {
    !matches!(object.format, Format::Archive)
}

/// Reads objects of one kind: several small ones, or one of any size.
pub async fn read(
    store: &Store,
    objects: &[RawObject],
    max_bytes: usize,
    chunks: &ChunkSender,
) -> Result<UnitRead> {
    if let [large] = objects
        && !is_small(large)
    {
        // A second attempt sends chunks again: rows of the same record are merged.
        return retry(RETRY_TIMEOUT, "reading an object", || {
            read_large(store, large, max_bytes, chunks)
        })
        .await
        .with_context(|| large.key.clone());
    }
    let mut decoder = Decoder::new(objects[0].kind, max_bytes);
    let read = stream::iter(objects.to_vec())
        .map(|object| async move {
            let reading = retry(RETRY_TIMEOUT, "reading an object", || async {
                let body = get(store, &object).await?;
                Ok(body.collect().await?.into_bytes())
            });
            let bytes = reading.await.with_context(|| object.key.clone())?;
            anyhow::Ok((object, bytes))
        })
        .buffered(REQUESTS);
    let mut read = pin!(read);
    while let Some((object, bytes)) = read.try_next().await? {
        let mut reading = decoder.begin(&object);
        for piece in bytes.chunks(PIECE) {
            reading.push(piece, chunks).await?;
        }
        reading.finish()?;
    }
    decoder.finish(chunks).await
}

async fn read_large(
    store: &Store,
    object: &RawObject,
    max_bytes: usize,
    chunks: &ChunkSender,
) -> Result<UnitRead> {
    let mut decoder = Decoder::new(object.kind, max_bytes);
    let mut body = get(store, object).await?;
    let mut reading = decoder.begin(object);
    while let Some(piece) = body.next().await {
        reading.push(&piece?, chunks).await?;
    }
    reading.finish()?;
    decoder.finish(chunks).await
}

/// The content of an object, which must be what was planned.
async fn get(store: &Store, object: &RawObject) -> Result<ByteStream> {
    let response = store.get_once(&object.key).await?;
    if let Format::Imported(imported) = &object.format
        && let (Some(planned), Some(found)) = (&imported.etag, &response.e_tag)
    {
        ensure!(
            planned == found,
            Permanent(
                "it was written again since the import was planned: start another import"
                    .to_owned()
            )
        );
    }
    Ok(response.body)
}

/// Decoder of several objects.
struct Decoder {
    kind: Kind,
    max_bytes: usize,
    cleaner: Cleaner,
    read: UnitRead,
}

/// One object that is being read.
struct Reading<'a> {
    decoder: &'a mut Decoder,
    object: &'a RawObject,
    decompressor: Decompressor,
    splitter: Splitter,
    /// Number of records so far.
    records: u32,
    /// Why the rest can't be decompressed.
    corrupt: Option<io::Error>,
}

impl Decoder {
    fn new(kind: Kind, max_bytes: usize) -> Self {
        Self {
            kind,
            max_bytes,
            cleaner: Cleaner::new(kind, max_bytes),
            read: UnitRead::default(),
        }
    }

    fn begin<'a>(&'a mut self, object: &'a RawObject) -> Reading<'a> {
        Reading {
            splitter: Splitter::new(self.max_bytes),
            decoder: self,
            object,
            decompressor: Decompressor::by_content(),
            records: 0,
            corrupt: None,
        }
    }

    async fn finish(self, chunks: &ChunkSender) -> Result<UnitRead> {
        let (rest, stats) = self.cleaner.finish()?;
        send(chunks, self.kind, rest).await?;
        let bytes = self.read.stats.bytes;
        Ok(UnitRead {
            stats: ReadStats { bytes, ..stats },
            ..self.read
        })
    }
}

impl Reading<'_> {
    /// Reads the object's next bytes and sends its rows. They may be many: a few kilobytes can
    /// expand to millions.
    async fn push(&mut self, mut bytes: &[u8], chunks: &ChunkSender) -> Result<()> {
        self.decoder.read.stats.bytes += bytes.len() as u64;
        while self.corrupt.is_none() {
            let text = match self.decompressor.next(&mut bytes) {
                Ok(Some(text)) => text,
                Ok(None) => break,
                Err(error) => {
                    self.corrupt = Some(error);
                    break;
                }
            };
            let (cleaner, object) = (&mut self.decoder.cleaner, self.object);
            let records = &mut self.records;
            self.splitter
                .push(text, |record| take(cleaner, object, records, record))?;
            send(chunks, object.kind, cleaner.ready()).await?;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<()> {
        let decompressor = mem::replace(&mut self.decompressor, Decompressor::by_content());
        if let Some(error) = self.corrupt.or_else(|| decompressor.finish().err()) {
            let key = &self.object.key;
            warn!(
                key,
                "the rest of a compressed object can't be read: {error}"
            );
            pass_over(&mut self.decoder.read.passed_over, "corrupt", key);
            self.decoder
                .read
                .corrupt
                .get_or_insert_with(|| format!("{key}: {error}"));
            return Ok(());
        }
        let (cleaner, object) = (&mut self.decoder.cleaner, self.object);
        let records = &mut self.records;
        self.splitter
            .finish(|record| take(cleaner, object, records, record))
    }
}

fn take(cleaner: &mut Cleaner, object: &RawObject, records: &mut u32, record: &[u8]) -> Result<()> {
    let order = object.order(*records);
    *records = records.saturating_add(1);
    cleaner.record(record, order, order)
}

#[cfg(test)]
mod tests {
    use futures::poll;
    use pinpipe_config::Compression;
    use pinpipe_runtime::compressed::compress;
    use tokio::sync::mpsc::channel;

    use super::*;
    use crate::manifest::Imported;

    #[tokio::test]
    async fn a_few_bytes_that_expand_to_many_rows_wait_until_rows_are_taken() {
        let text = "{\"ind\":1,\"first_name\":\"a\"}\n".repeat(200_000);
        let bytes = compress(Compression::Zstd, text.as_bytes()).unwrap();
        let object = RawObject {
            kind: Kind::User,
            partition: -1,
            key: "e/many.json".into(),
            format: Format::Imported(Imported {
                modified: 0,
                number: 0,
                bytes: bytes.len() as u64,
                etag: None,
            }),
        };
        let mut decoder = Decoder::new(Kind::User, 1000);
        let mut reading = decoder.begin(&object);
        // Nobody takes the chunks: of 8192 rows, one fits into the channel.
        let (chunks, _arriving) = channel(1);
        {
            let mut pushing = pin!(reading.push(&bytes, &chunks));
            for _ in 0..1000 {
                assert!(poll!(&mut pushing).is_pending());
            }
        }
        let records = reading.records;
        assert!((8192..25_000).contains(&records), "{records}");
    }
}
