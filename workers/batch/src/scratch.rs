//! The scratch folder for data that exceeds the memory, and the Arrow IPC streams in it.

use std::{
    fs::{self, File, OpenOptions},
    io::{BufReader, BufWriter, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use arrow::{array::RecordBatch, datatypes::SchemaRef};
use arrow_ipc::{
    CompressionType,
    reader::StreamReader,
    writer::{IpcWriteOptions, StreamEncoder, StreamWriter},
};

/// The folder of one run.
#[derive(Clone, Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// Creates an empty folder `run` in `folder`. Files of an earlier run are deleted.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join("run");
        let emptied = match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => fs::create_dir_all(&path),
        };
        emptied.with_context(|| {
            format!(
                "can't empty the scratch folder {}: it must be on a writable volume",
                path.display()
            )
        })?;
        Ok(Self(path))
    }

    /// The path of a file.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The path of the folder.
    pub fn folder(&self) -> &Path {
        &self.0
    }
}

/// Deletes a file that is no longer needed. Errors are ignored: the file only uses space until the
/// run ends.
pub fn remove(path: &Path) {
    let _ = fs::remove_file(path);
}

/// Writes a stream to a new file.
pub struct Writer {
    out: StreamWriter<BufWriter<File>>,
    path: PathBuf,
    rows: u64,
}

/// A stream in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    /// Path of the file.
    pub path: PathBuf,
    /// Number of rows.
    pub rows: u64,
}

impl Writer {
    /// A writer of an uncompressed stream.
    pub fn plain(path: PathBuf, schema: &SchemaRef) -> Result<Self> {
        Self::with(path, schema, None)
    }

    /// A writer of an LZ4-compressed stream, for objects to be uploaded.
    pub fn compressed(path: PathBuf, schema: &SchemaRef) -> Result<Self> {
        Self::with(path, schema, Some(CompressionType::LZ4_FRAME))
    }

    fn with(
        path: PathBuf,
        schema: &SchemaRef,
        compression: Option<CompressionType>,
    ) -> Result<Self> {
        let options = IpcWriteOptions::default().try_with_compression(compression)?;
        let file =
            File::create(&path).with_context(|| format!("can't create {}", path.display()))?;
        let out = StreamWriter::try_new_with_options(BufWriter::new(file), schema, options)?;
        Ok(Self { out, path, rows: 0 })
    }

    /// Appends rows.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        self.rows += batch.num_rows() as u64;
        self.out
            .write(batch)
            .with_context(|| cant_write(&self.path))
    }

    /// Ends the stream.
    pub fn finish(mut self) -> Result<Stream> {
        self.out
            .finish()
            .and_then(|()| self.out.flush())
            .with_context(|| cant_write(&self.path))?;
        Ok(Stream {
            path: self.path,
            rows: self.rows,
        })
    }
}

/// Writes a stream by appending to a file that is not kept open between writes, since there may be
/// hundreds of them.
pub struct AppendWriter {
    encoder: StreamEncoder,
    stream: Stream,
    bytes: u64,
}

impl AppendWriter {
    /// A writer of an empty stream.
    pub fn new(path: PathBuf, schema: &SchemaRef) -> Result<Self> {
        Ok(Self {
            encoder: StreamEncoder::try_new(schema)?,
            stream: Stream { path, rows: 0 },
            bytes: 0,
        })
    }

    /// Appends rows.
    pub fn append(&mut self, batch: &RecordBatch) -> Result<()> {
        let path = &self.stream.path;
        let mut write = || -> Result<u64> {
            let mut file = OpenOptions::new().create(true).append(true).open(path)?;
            let mut bytes = 0;
            for buffer in self.encoder.encode(batch)? {
                file.write_all(&buffer)?;
                bytes += buffer.len() as u64;
            }
            Ok(bytes)
        };
        self.bytes += write().with_context(|| cant_write(path))?;
        self.stream.rows += batch.num_rows() as u64;
        Ok(())
    }

    /// Size of the file, bytes.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns the stream. It ends with the file, without an end-of-stream marker.
    pub fn finish(self) -> Stream {
        self.stream
    }
}

impl Stream {
    /// Opens the stream. Iterating over the reader yields the batches.
    pub fn read(&self) -> Result<StreamReader<BufReader<File>>> {
        read(&self.path)
    }

    /// The batches of the stream. An error when opening it becomes the only item.
    pub fn batches(&self) -> impl Iterator<Item = Result<RecordBatch>> + Send + use<> {
        let (batches, failed) = match self.read() {
            Ok(batches) => (Some(batches), None),
            Err(error) => (None, Some(Err(error))),
        };
        failed
            .into_iter()
            .chain(batches.into_iter().flatten().map(|batch| Ok(batch?)))
    }
}

/// Opens the stream in a file. Iterating over the reader yields the batches.
pub fn read(path: &Path) -> Result<StreamReader<BufReader<File>>> {
    let file = File::open(path).with_context(|| format!("can't open {}", path.display()))?;
    StreamReader::try_new_buffered(file, None)
        .with_context(|| format!("{} isn't an Arrow IPC stream", path.display()))
}

fn cant_write(path: &Path) -> String {
    format!(
        "can't write {}; if the scratch volume is full, raise spec.batch.scratchSize",
        path.display()
    )
}
