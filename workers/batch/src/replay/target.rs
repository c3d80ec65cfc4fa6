//! The live sink that a backfill writes to.

use std::path::Path;

use anyhow::{Result, bail, ensure};
use pinpipe_config::{Pipeline, Postgres, Stream, StreamSink, WriteMode};
use pinpipe_runtime::config;

use crate::failure::Permanent;

/// A sink of the stream with one row a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its configuration.
    pub postgres: Postgres,
    /// Its consumer group, under whose name it keeps positions.
    pub group: String,
}

impl Target {
    /// The sink `name` of the pipeline, from the configuration of its stream worker.
    pub fn read(path: &Path, name: &str, pipeline: &Pipeline) -> Result<Self> {
        let config: Stream = config::load(path).map_err(Permanent::from)?;
        Self::of(config, name, pipeline)
    }

    fn of(config: Stream, name: &str, pipeline: &Pipeline) -> Result<Self> {
        let Pipeline {
            namespace,
            name: own,
            ..
        } = &config.pipeline;
        ensure!(
            (namespace, own) == (&pipeline.namespace, &pipeline.name),
            Permanent(format!(
                "the configuration of the live sink is the pipeline {namespace}/{own}'s: mount \
                 that of this pipeline"
            ))
        );
        let postgres = match config.sink {
            StreamSink::Postgres(postgres) => postgres,
            StreamSink::Archive(_) => bail!(Permanent(format!(
                "the configuration of the live sink is the archive's, which has raw records: \
                 mount that of the sink {name}"
            ))),
        };
        ensure!(
            postgres.name == name,
            Permanent(format!(
                "the configuration of the live sink is that of {}: mount that of {name}",
                postgres.name
            ))
        );
        ensure!(
            postgres.write_mode == WriteMode::Upsert,
            Permanent(format!(
                "the sink {name} has writeMode Append: each record is a row of its own there, \
                 which none replaces. Add a sink with writeMode Upsert, which gets all records \
                 from the earliest on by today's rules"
            ))
        );
        Ok(Self {
            postgres,
            group: config.group,
        })
    }
}

#[cfg(test)]
mod tests {
    use pinpipe_config::{Archive, Rotate};

    use super::*;
    use crate::testing;

    #[test]
    fn only_a_sink_of_the_pipeline_with_one_row_a_key_is_written_to() {
        let stream = testing::stream;
        let pipeline = stream().pipeline;
        assert_eq!(
            Target::of(stream(), "live", &pipeline).unwrap().group,
            stream().group
        );
        let refusal = |config: Stream, name: &str| {
            let error = Target::of(config, name, &pipeline).unwrap_err();
            assert!(error.is::<Permanent>());
            error.to_string()
        };
        let mut append = stream();
        if let StreamSink::Postgres(postgres) = &mut append.sink {
            postgres.write_mode = WriteMode::Append;
        }
        let mut others = stream();
        others.pipeline.name = "others".into();
        let mut archive = stream();
        archive.sink = StreamSink::Archive(Archive {
            zone: testing::config().zone,
            rotate: Rotate {
                bytes: 1,
                records: 1,
                interval_seconds: 1,
            },
            compression: pinpipe_config::Compression::None,
        });
        for (config, name, part) in [
            (append, "live", "the sink live has writeMode Append"),
            (others, "live", "data/others's"),
            (archive, "live", "is the archive's"),
            (stream(), "lake", "is that of live: mount that of lake"),
        ] {
            let message = refusal(config, name);
            assert!(message.contains(part), "{message}");
        }
    }
}
