//! Compression of raw objects, determined only by the suffix of the object's key; that of other
//! tools' objects by their first bytes.
//!
//! `Content-Encoding` is not set: some clients decompress such objects transparently and others
//! don't, so the suffix would be wrong for one of them.

use std::{
    io::{self, Write},
    mem,
};

use flate2::{Decompress, FlushDecompress, Status, write::GzEncoder};
use pinpipe_config::Compression;
use zstd::stream::{
    raw::{DParameter, Decoder, Operation},
    write::Encoder,
};

/// Size of the decompression buffer, bytes.
const CHUNK: usize = 64 << 10;
/// The largest window of gzip streams, as a power of two.
const GZIP_WINDOW: u8 = 15;
/// The largest window of Zstandard streams, as a power of two: 8 MiB, which RFC 8878 asks every
/// decoder to support. `zstd` needs more only with `--ultra` or `--long`.
const ZSTD_WINDOW: u32 = 23;

/// Suffixes of raw objects, longer ones first.
const SUFFIXES: [(&str, Compression); 3] = [
    (".json.gz", Compression::Gzip),
    (".json.zst", Compression::Zstd),
    (".json", Compression::None),
];

/// The first bytes of compressed objects. No JSON text begins with them.
const MAGIC: [(&[u8], Compression); 2] = [
    (&[0x1f, 0x8b], Compression::Gzip),
    (&[0x28, 0xb5, 0x2f, 0xfd], Compression::Zstd),
];

/// The suffix of an object's key.
#[must_use]
pub const fn suffix(compression: Compression) -> &'static str {
    match compression {
        Compression::None => ".json",
        Compression::Gzip => ".json.gz",
        Compression::Zstd => ".json.zst",
    }
}

/// The `Content-Type` of an object.
#[must_use]
pub const fn content_type(compression: Compression) -> &'static str {
    match compression {
        Compression::None => "application/x-ndjson",
        Compression::Gzip => "application/gzip",
        Compression::Zstd => "application/zstd",
    }
}

/// Splits a raw object's key into the part before the suffix and the compression. `None` if the key
/// has no such suffix.
#[must_use]
pub fn split(key: &str) -> Option<(&str, Compression)> {
    SUFFIXES
        .iter()
        .find_map(|(suffix, compression)| Some((key.strip_suffix(suffix)?, *compression)))
}

/// Compresses a whole object. CPU-bound: call it where blocking is allowed.
pub fn compress(compression: Compression, text: &[u8]) -> io::Result<Vec<u8>> {
    match compression {
        Compression::None => Ok(text.to_vec()),
        Compression::Gzip => {
            let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(text)?;
            encoder.finish()
        }
        Compression::Zstd => {
            let mut encoder = Encoder::new(Vec::new(), zstd::DEFAULT_COMPRESSION_LEVEL)?;
            encoder.include_checksum(true)?;
            encoder.set_pledged_src_size(Some(text.len() as u64))?;
            encoder.write_all(text)?;
            encoder.finish()
        }
    }
}

/// Turns the bytes of one raw object, in pieces of any size, into its text. Memory is bounded
/// whatever the text expands to.
pub struct Decompressor {
    stream: Stream,
    /// Where the stream, as far as it came, may end.
    ended: bool,
    /// Whether the buffer was full, so more text may follow although all input has been read.
    full: bool,
    text: Vec<u8>,
}

enum Stream {
    /// The first bytes, which are too few to tell the compression.
    Unknown(Vec<u8>),
    Plain,
    Gzip(Decompress),
    Zstd(Decoder<'static>),
}

/// What one step made of its input.
struct Step {
    read: usize,
    written: usize,
    ended: bool,
}

impl Decompressor {
    /// For the object `key`; an error: it has no suffix of raw objects.
    pub fn for_key(key: &str) -> io::Result<Self> {
        let (_, compression) = split(key).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{key} is not a raw object"),
            )
        })?;
        Self::new(compression)
    }

    /// For an object whose compression its first bytes tell, whatever its key.
    #[must_use]
    pub const fn by_content() -> Self {
        Self {
            stream: Stream::Unknown(Vec::new()),
            ended: true,
            full: false,
            text: Vec::new(),
        }
    }

    fn new(compression: Compression) -> io::Result<Self> {
        let (stream, text) = match compression {
            Compression::None => (Stream::Plain, Vec::new()),
            Compression::Gzip => (
                Stream::Gzip(Decompress::new_gzip(GZIP_WINDOW)),
                vec![0; CHUNK],
            ),
            Compression::Zstd => {
                let mut decoder = Decoder::new()?;
                decoder.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW))?;
                (Stream::Zstd(decoder), vec![0; CHUNK])
            }
        };
        Ok(Self {
            stream,
            ended: compression == Compression::None,
            full: false,
            text,
        })
    }

    /// Decompresses the object's next bytes and passes the text to `take`, in chunks of up to 64
    /// KiB if it was compressed. Fails if the bytes don't match the suffix or if `take` fails.
    pub fn push<E: From<io::Error>>(
        &mut self,
        mut bytes: &[u8],
        mut take: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        while let Some(text) = self.next(&mut bytes)? {
            take(text)?;
        }
        Ok(())
    }

    /// Takes bytes from the front of the object's next ones, and returns the text that follows, up
    /// to 64 KiB if it was compressed; `None` when all bytes are taken and their text is returned.
    /// Fails if the bytes don't match the suffix.
    pub fn next<'text, 'bytes: 'text>(
        &'text mut self,
        bytes: &mut &'bytes [u8],
    ) -> io::Result<Option<&'text [u8]>> {
        if let Stream::Unknown(first) = &mut self.stream {
            let (mut first, mut known) = (mem::take(first), None);
            while let (None, Some((byte, rest))) = (known, bytes.split_first()) {
                first.push(*byte);
                *bytes = rest;
                known = of_content(&first);
            }
            let Some(compression) = known else {
                self.ended = first.is_empty();
                self.stream = Stream::Unknown(first);
                return Ok(None);
            };
            *self = Self::new(compression)?;
            if compression == Compression::None {
                self.text = first;
                return Ok(Some(&self.text));
            }
            // Of the bytes that tell the compression there is no text yet.
            let mut first = &first[..];
            while !first.is_empty() {
                let step = self.step(first)?;
                first = &first[step.read..];
                self.ended = step.ended;
            }
        }
        if matches!(self.stream, Stream::Plain) {
            let text = mem::take(bytes);
            return Ok((!text.is_empty()).then_some(text));
        }
        while !bytes.is_empty() || (self.full && !self.ended) {
            let step = self.step(bytes)?;
            *bytes = &bytes[step.read..];
            (self.ended, self.full) = (step.ended, step.written == self.text.len());
            if step.written > 0 {
                return Ok(Some(&self.text[..step.written]));
            }
        }
        Ok(None)
    }

    fn step(&mut self, bytes: &[u8]) -> io::Result<Step> {
        match &mut self.stream {
            Stream::Unknown(_) | Stream::Plain => Ok(Step {
                read: bytes.len(),
                written: 0,
                ended: true,
            }),
            Stream::Gzip(stream) => {
                if self.ended {
                    // Concatenated gzip files: another stream follows.
                    *stream = Decompress::new_gzip(GZIP_WINDOW);
                }
                let before = (stream.total_in(), stream.total_out());
                let status = stream.decompress(bytes, &mut self.text, FlushDecompress::None)?;
                let step = Step {
                    read: usize::try_from(stream.total_in() - before.0).unwrap_or(bytes.len()),
                    written: usize::try_from(stream.total_out() - before.1).unwrap_or(0),
                    ended: status == Status::StreamEnd,
                };
                if step.read == 0 && step.written == 0 && !bytes.is_empty() {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "the gzip stream is broken",
                    ));
                }
                Ok(step)
            }
            Stream::Zstd(stream) => {
                let status = stream
                    .run_on_buffers(bytes, &mut self.text)
                    .map_err(window_error)?;
                Ok(Step {
                    read: status.bytes_read,
                    written: status.bytes_written,
                    ended: status.remaining == 0,
                })
            }
        }
    }

    /// Finishes after the last [`Self::push`]. Fails if the compressed stream is truncated.
    pub fn finish(self) -> io::Result<()> {
        if self.ended {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the compressed object is truncated",
        ))
    }
}

/// The compression of an object that begins so; `None` if these are too few bytes to tell.
fn of_content(first: &[u8]) -> Option<Compression> {
    let may_become = |magic: &[u8]| magic.starts_with(first);
    let known = MAGIC.iter().find(|(magic, _)| first.starts_with(magic));
    match known {
        Some((_, compression)) => Some(*compression),
        None if MAGIC.iter().any(|(magic, _)| may_become(magic)) => None,
        None => Some(Compression::None),
    }
}

/// Adds what to do to the error of a frame whose window is too large.
fn window_error(error: io::Error) -> io::Error {
    if !error.to_string().contains("too much memory") {
        return error;
    }
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!(
            "{error}: its window is larger than 8 MiB; compress it again with zstd's level 19 or \
             lower and without --long"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Compression; 3] = [Compression::None, Compression::Gzip, Compression::Zstd];

    fn key(compression: Compression) -> String {
        format!("topics/t/partition=0/t+0+0000000000{}", suffix(compression))
    }

    /// Decompresses an object in chunks of `size` bytes.
    fn text(key: &str, object: &[u8], size: usize) -> io::Result<Vec<u8>> {
        let (mut decompressor, mut text) = (Decompressor::for_key(key)?, Vec::new());
        for bytes in object.chunks(size) {
            decompressor.push(bytes, |chunk| {
                text.extend_from_slice(chunk);
                io::Result::Ok(())
            })?;
        }
        decompressor.finish()?;
        Ok(text)
    }

    fn lines() -> Vec<u8> {
        (0..20_000)
            .flat_map(|ind| format!("{{\"ind\":{ind}}}\n").into_bytes())
            .collect()
    }

    #[test]
    fn objects_are_decompressed_in_chunks_of_any_size() {
        // The second expands more than a thousandfold: one byte of input may yield many chunks.
        for original in [lines(), vec![b'x'; 3 * CHUNK], Vec::new()] {
            for compression in ALL {
                let object = compress(compression, &original).unwrap();
                for size in [1, 7, 4096, usize::MAX] {
                    let back = text(&key(compression), &object, size).unwrap();
                    assert!(back == original, "{compression:?} in chunks of {size}");
                }
            }
        }
    }

    #[test]
    fn the_first_bytes_tell_the_compression_whatever_the_name() {
        let read = |object: &[u8], size: usize| {
            let (mut decompressor, mut text) = (Decompressor::by_content(), Vec::new());
            for bytes in object.chunks(size) {
                decompressor.push(bytes, |chunk| {
                    text.extend_from_slice(chunk);
                    io::Result::Ok(())
                })?;
            }
            decompressor.finish()?;
            io::Result::Ok(text)
        };
        for original in [&lines()[..], b"{}", b"x", b"(", b""] {
            for compression in ALL {
                let object = compress(compression, original).unwrap();
                for size in [1, 3, usize::MAX] {
                    // A single byte of Zstandard's magic number is nothing else.
                    if object != b"(" {
                        let back = read(&object, size).unwrap();
                        assert!(back == original, "{compression:?} in chunks of {size}");
                    }
                }
            }
        }
        for cut_off in [&b"\x1f"[..], b"\x1f\x8b", b"(\xb5\x2f"] {
            assert!(read(cut_off, 1).is_err(), "{cut_off:?}");
        }
    }

    #[test]
    fn text_comes_in_small_chunks_however_much_the_bytes_expand_to() {
        for compression in [Compression::Gzip, Compression::Zstd] {
            let object = compress(compression, &vec![b'x'; 16 << 20]).unwrap();
            let (mut decompressor, mut bytes) = (Decompressor::by_content(), &object[..]);
            let (mut chunks, mut length) = (0, 0);
            while let Some(text) = decompressor.next(&mut bytes).unwrap() {
                assert!(text.len() <= CHUNK);
                (chunks, length) = (chunks + 1, length + text.len());
            }
            decompressor.finish().unwrap();
            assert_eq!(length, 16 << 20, "{compression:?}");
            assert!(chunks >= 256, "{chunks}");
        }
    }

    #[test]
    fn concatenated_streams_are_read_to_the_end() {
        for compression in ALL {
            let object = [
                compress(compression, b"a\n").unwrap(),
                compress(compression, b"b\n").unwrap(),
            ]
            .concat();
            for size in [1, object.len()] {
                assert_eq!(
                    text(&key(compression), &object, size).unwrap(),
                    b"a\nb\n",
                    "{compression:?}"
                );
            }
        }
    }

    #[test]
    fn a_truncated_or_corrupt_object_is_an_error() {
        for compression in [Compression::Gzip, Compression::Zstd] {
            let mut object = compress(compression, &lines()).unwrap();
            for length in [0, 1, object.len() / 2, object.len() - 1] {
                assert!(
                    text(&key(compression), &object[..length], 100).is_err(),
                    "{compression:?} {length}"
                );
            }
            let middle = object.len() / 2;
            object[middle] ^= 0xff;
            assert!(
                text(&key(compression), &object, 100).is_err(),
                "{compression:?} corrupt"
            );
            assert!(
                text(&key(compression), b"{\"ind\":1}\n", 100).is_err(),
                "{compression:?} plain"
            );
        }
    }

    #[test]
    fn a_window_that_takes_much_memory_is_refused() {
        let object = |window| {
            let mut encoder = Encoder::new(Vec::new(), 1).unwrap();
            encoder.window_log(window).unwrap();
            encoder.write_all(&lines()).unwrap();
            encoder.finish().unwrap()
        };
        let key = key(Compression::Zstd);
        assert!(text(&key, &object(ZSTD_WINDOW), 100).is_ok());
        let error = text(&key, &object(ZSTD_WINDOW + 1), 100).unwrap_err();
        assert!(error.to_string().contains("level 19"), "{error}");
    }

    #[test]
    fn other_suffixes_have_no_decompressor() {
        for key in ["a", "a.gz", "a.json.bz2", ""] {
            assert!(Decompressor::for_key(key).is_err(), "{key}");
        }
    }
}
