//! The configurations of a pipeline's components, as the operator wrote them.

use std::{fs, io, path::Path};

use anyhow::{Context as _, Result};
use pinpipe_config::{
    Batch, BatchPostgres, CONFIG_KEY, Kafka, Pipeline, Postgres, RawZone, Stream, StreamSink,
    Topic, Topics, WorkerConfig,
    inspect::{INSPECT_ARCHIVE, INSPECT_BATCH, INSPECT_SINKS},
};
use pinpipe_core::Kind;
use pinpipe_runtime::config;
use pinpipe_stream::postgres::sql::table;

use crate::{dead_letters::Brokers, failure::Permanent, read};

/// What all components of a pipeline agree on.
#[derive(Debug)]
pub struct Shared {
    /// The pipeline.
    pub pipeline: Pipeline,
    /// The cluster.
    pub kafka: Kafka,
    /// The topics.
    pub topics: Topics,
    /// Size limit of a record, bytes.
    pub max_bytes: usize,
}

/// A sink of the stream with live tables.
#[derive(Debug)]
pub struct Live {
    /// Its configuration.
    pub postgres: Postgres,
    /// Its consumer group, under whose name it keeps positions.
    pub group: String,
}

impl Live {
    /// Its table of a kind, for people.
    pub fn table_name(&self, kind: Kind) -> String {
        let Postgres { name, schema, .. } = &self.postgres;
        format!("{name}: {schema}.{}", table(kind))
    }

    /// Its database.
    pub fn database(&self) -> BatchPostgres {
        let Postgres {
            url_file,
            secret,
            tls,
            schema,
            ..
        } = self.postgres.clone();
        BatchPostgres {
            url_file,
            secret,
            tls,
            schema,
        }
    }
}

/// The components that a pipeline has.
#[derive(Debug)]
pub struct Components {
    /// What they agree on.
    pub shared: Shared,
    /// Where raw objects are, if the pipeline has an archive or a batch.
    pub zone: Option<RawZone>,
    /// The archive's consumer group.
    pub archive_group: Option<String>,
    /// The stream sinks in PostgreSQL, by name.
    pub live: Vec<Live>,
    /// The batch.
    pub batch: Option<Batch>,
}

impl Components {
    /// Reads those in `folder`.
    pub fn read(folder: &Path) -> Result<Self> {
        let archive = load::<Stream>(&folder.join(INSPECT_ARCHIVE))?;
        let batch = load::<Batch>(&folder.join(INSPECT_BATCH))?;
        let mut sinks = Vec::new();
        for sink in folders(&folder.join(INSPECT_SINKS))? {
            sinks.extend(load::<Stream>(&sink)?);
        }
        Self::of(archive, sinks, batch).with_context(|| folder.display().to_string())
    }

    /// Those with these configurations.
    pub fn of(archive: Option<Stream>, sinks: Vec<Stream>, batch: Option<Batch>) -> Result<Self> {
        let stream = archive.iter().chain(&sinks).next();
        let shared = match (&batch, stream) {
            (Some(batch), _) => Shared {
                pipeline: batch.pipeline.clone(),
                kafka: batch.kafka.clone(),
                topics: batch.topics.clone(),
                max_bytes: usize::try_from(batch.max_record_bytes)?,
            },
            (None, Some(stream)) => Shared {
                pipeline: stream.pipeline.clone(),
                kafka: stream.kafka.clone(),
                topics: stream.topics.clone(),
                max_bytes: usize::try_from(stream.max_record_bytes)?,
            },
            (None, None) => {
                return Err(Permanent(
                    "there is no component's configuration: mount that of the archive, the batch \
                     or a stream sink"
                        .to_owned(),
                )
                .into());
            }
        };
        let mut zone = batch.as_ref().map(|batch| batch.zone.clone());
        let mut archive_group = batch.as_ref().map(|batch| batch.archive_group.clone());
        if let Some(Stream {
            sink: StreamSink::Archive(archive),
            group,
            ..
        }) = archive
        {
            (zone, archive_group) = (Some(archive.zone), Some(group));
        }
        let live = sinks.into_iter().filter_map(|stream| match stream.sink {
            StreamSink::Postgres(postgres) => Some(Live {
                postgres,
                group: stream.group,
            }),
            StreamSink::Archive(_) => None,
        });
        Ok(Self {
            shared,
            zone,
            archive_group,
            live: live.collect(),
            batch,
        })
    }

    /// Where the topics are.
    pub const fn brokers(&self) -> Brokers<'_> {
        Brokers {
            kafka: &self.shared.kafka,
            pipeline: &self.shared.pipeline,
        }
    }

    /// The topic of a kind.
    pub fn topic(&self, kind: Kind) -> &Topic {
        read::topic(&self.shared.topics, kind)
    }
}

/// The configuration in a component's folder; `None` if there is no such folder.
fn load<T: WorkerConfig>(folder: &Path) -> Result<Option<T>> {
    if !folder.exists() {
        return Ok(None);
    }
    let loaded = config::load(&folder.join(CONFIG_KEY)).map_err(Permanent::from)?;
    Ok(Some(loaded))
}

/// The folders in a folder, by name; none if it doesn't exist.
fn folders(folder: &Path) -> Result<Vec<std::path::PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("{} can't be read", folder.display()))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            found.push(path);
        }
    }
    found.sort_unstable();
    Ok(found)
}
