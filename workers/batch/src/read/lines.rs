//! The records of a raw object, read piece by piece.

use anyhow::Result;
use aws_sdk_s3::primitives::ByteStream;
use bytes::{Buf as _, Bytes};
use pinpipe_runtime::{
    compressed::Decompressor,
    raw_zone::{self, Index, ObjectMetadata},
};

use crate::{
    coverage::Span,
    decode::{LineDecoder, Records},
    failure::Permanent,
    manifest::{RawObject, Window},
    store::Store,
};

/// A raw object of the archive that is being read.
pub struct Lines<R> {
    /// What it covers.
    pub span: Option<Span>,
    /// Bytes read so far, as they are stored.
    pub bytes: u64,
    body: ByteStream,
    /// The rest of the body's last piece.
    piece: Bytes,
    decompressor: Decompressor,
    decoder: LineDecoder<R>,
    is_empty: bool,
}

impl<R: Records> Lines<R> {
    /// Begins to read an object; `records` take those in the window.
    pub async fn open(
        store: &Store,
        object: &RawObject,
        window: &Window,
        records: R,
    ) -> Result<Self> {
        let response = store.get_once(&object.key).await?;
        let metadata = ObjectMetadata::from_metadata(&response.metadata.unwrap_or_default())
            .map_err(|error| Permanent(error.to_string()))?;
        let first = raw_zone::first_offset(&object.key);
        // A gap that was told to be one needs no index.
        let is_empty = metadata.record_count == 0;
        let index = if is_empty {
            Index::default()
        } else {
            store.get_json_once(&metadata.index).await?
        };
        let decompressor =
            Decompressor::for_key(&object.key).map_err(|error| Permanent(error.to_string()))?;
        Ok(Self {
            span: first.map(|first| Span::new(&object.key, first, &metadata)),
            bytes: 0,
            body: response.body,
            piece: Bytes::new(),
            decompressor,
            decoder: LineDecoder::new(records, object.partition, window.clone(), index)?,
            is_empty,
        })
    }

    /// Reads on, not much at once. False at the object's end.
    pub async fn read(&mut self) -> Result<bool> {
        while !self.is_empty {
            let mut rest = &self.piece[..];
            if let Some(text) = self.decompressor.next(&mut rest)? {
                self.decoder.push(text)?;
                let taken = self.piece.len() - rest.len();
                self.piece.advance(taken);
                return Ok(true);
            }
            let Some(piece) = self.body.next().await else {
                break;
            };
            self.piece = piece?;
            self.bytes += self.piece.len() as u64;
        }
        Ok(false)
    }

    /// What takes the records.
    pub const fn records(&mut self) -> &mut R {
        self.decoder.records()
    }

    /// Ends the reading, and returns what has taken the records.
    pub fn finish(self) -> Result<R> {
        if !self.is_empty {
            self.decompressor.finish()?;
        }
        self.decoder.finish()
    }
}
