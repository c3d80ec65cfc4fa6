//! Queries over rows on disk within bounded memory: what doesn't fit is spilled to the scratch
//! folder.

use std::{path::Path, sync::Arc};

use anyhow::Result;
use arrow::datatypes::SchemaRef;
use datafusion::{
    catalog::streaming::StreamingTable,
    common::DataFusionError,
    execution::{
        SendableRecordBatchStream, TaskContext, memory_pool::FairSpillPool,
        runtime_env::RuntimeEnvBuilder,
    },
    physical_plan::{stream::RecordBatchReceiverStreamBuilder, streaming::PartitionStream},
    prelude::{SessionConfig, SessionContext},
};

use crate::scratch::Stream;

/// The fraction of the memory, 1/8, that a sort reserves for merging spilled data.
const SPILL_RESERVE: usize = 8;
/// Batches read ahead of a query.
const READ_AHEAD: usize = 2;

/// A session whose queries use up to `budget` bytes of memory, in `partitions` and in batches of
/// `batch_rows`, and spill the rest to files in `folder`.
pub fn session(
    folder: &Path,
    budget: usize,
    partitions: usize,
    batch_rows: usize,
) -> Result<SessionContext> {
    let config = SessionConfig::new()
        .with_batch_size(batch_rows)
        .with_target_partitions(partitions)
        .with_sort_spill_reservation_bytes(budget / SPILL_RESERVE / partitions);
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(FairSpillPool::new(budget)))
        .with_temp_file_path(folder)
        .with_max_temp_directory_size(u64::MAX)
        .build_arc()?;
    Ok(SessionContext::new_with_config_rt(config, runtime))
}

/// Streams on disk as a table.
pub fn table(schema: SchemaRef, streams: Vec<Stream>) -> Result<Arc<StreamingTable>> {
    let files = Arc::new(Files {
        schema: Arc::clone(&schema),
        streams,
    });
    Ok(Arc::new(StreamingTable::try_new(schema, vec![files])?))
}

/// Streams on disk, read one after the other.
#[derive(Debug)]
struct Files {
    schema: SchemaRef,
    streams: Vec<Stream>,
}

impl PartitionStream for Files {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let mut builder =
            RecordBatchReceiverStreamBuilder::new(Arc::clone(&self.schema), READ_AHEAD);
        let (sender, streams) = (builder.tx(), self.streams.clone());
        builder.spawn_blocking(move || {
            for stream in streams {
                for batch in stream
                    .read()
                    .map_err(|error| DataFusionError::External(error.into()))?
                {
                    // The receiver is dropped if the query ends early.
                    if sender
                        .blocking_send(batch.map_err(DataFusionError::from))
                        .is_err()
                    {
                        return Ok(());
                    }
                }
            }
            Ok(())
        });
        builder.build()
    }
}
