//! The folder on disk for what does not fit into memory, and the Arrow IPC streams in it.

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

/// A run's folder.
#[derive(Clone, Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// An empty folder of its own in `folder`: what an earlier run left there is gone.
    pub fn open(folder: &Path) -> Result<Self> {
        let own = folder.join("run");
        let cleared = match fs::remove_dir_all(&own) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => fs::create_dir_all(&own),
        };
        cleared.with_context(|| {
            format!(
                "the scratch folder {} can't be emptied: it has to be on a disk this pod may write to",
                own.display()
            )
        })?;
        Ok(Self(own))
    }

    /// The path of a file.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The folder, for those who name files themselves.
    pub fn folder(&self) -> &Path {
        &self.0
    }
}

/// Removes a file that is no longer needed. One that stays takes room until the run ends, no more.
pub fn discard(path: &Path) {
    let _ = fs::remove_file(path);
}

/// A stream being written to a file of its own.
pub struct Writer {
    out: StreamWriter<BufWriter<File>>,
    path: PathBuf,
    rows: u64,
}

/// A stream in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    /// The file.
    pub path: PathBuf,
    /// Its rows.
    pub rows: u64,
}

impl Writer {
    /// A plain stream.
    pub fn plain(path: PathBuf, schema: &SchemaRef) -> Result<Self> {
        Self::with(path, schema, None)
    }

    /// A stream compressed by LZ4: what goes over the network and is kept.
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
            File::create(&path).with_context(|| format!("{} can't be written", path.display()))?;
        let out = StreamWriter::try_new_with_options(BufWriter::new(file), schema, options)?;
        Ok(Self { out, path, rows: 0 })
    }

    /// Writes rows behind those that are there.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        self.rows += batch.num_rows() as u64;
        self.out.write(batch).with_context(|| full(&self.path))
    }

    /// Ends the stream.
    pub fn finish(mut self) -> Result<Stream> {
        self.out
            .finish()
            .and_then(|()| self.out.flush())
            .with_context(|| full(&self.path))?;
        Ok(Stream {
            path: self.path,
            rows: self.rows,
        })
    }
}

/// A stream that grows bit by bit and holds no open file meanwhile: there may be hundreds of them.
pub struct Growing {
    encoder: StreamEncoder,
    stream: Stream,
    bytes: u64,
}

impl Growing {
    /// An empty stream.
    pub fn new(path: PathBuf, schema: &SchemaRef) -> Result<Self> {
        Ok(Self {
            encoder: StreamEncoder::try_new(schema)?,
            stream: Stream { path, rows: 0 },
            bytes: 0,
        })
    }

    /// Writes rows behind those that are there.
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
        self.bytes += write().with_context(|| full(path))?;
        self.stream.rows += batch.num_rows() as u64;
        Ok(())
    }

    /// Bytes on disk.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The stream as it is. Its end is that of the file, without a mark.
    pub fn finish(self) -> Stream {
        self.stream
    }
}

impl Stream {
    /// Its batches, one after the other.
    pub fn read(&self) -> Result<StreamReader<BufReader<File>>> {
        read(&self.path)
    }

    /// The same, with an error to open it as the first of them.
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

/// The batches of a file, one after the other.
pub fn read(path: &Path) -> Result<StreamReader<BufReader<File>>> {
    let file = File::open(path).with_context(|| format!("{} can't be read", path.display()))?;
    StreamReader::try_new_buffered(file, None)
        .with_context(|| format!("{} is no Arrow IPC stream", path.display()))
}

fn full(path: &Path) -> String {
    format!(
        "{} can't be written: is there room left in the scratch folder?",
        path.display()
    )
}
