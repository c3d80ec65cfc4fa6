//! Rows on disk by hash bucket, so that each bucket can be processed separately.
//!
//! State objects are found by this hash, so it must never change. It is FNV-1a, implemented here
//! rather than taken from a library that may change its hash.

use std::path::{Path, PathBuf};

use anyhow::Result;
use arrow::{
    array::{Array, AsArray, RecordBatch, UInt32Array},
    compute::{concat_batches, take_record_batch},
    datatypes::{Int64Type, SchemaRef},
};
use pinpipe_core::Kind;

use crate::{
    rows,
    scratch::{AppendWriter, Stream},
};

/// About how many bytes a batch on disk has at most, so that many can be read side by side.
const BATCH_BYTES: usize = 1 << 20;

/// The bucket of `bytes` out of `buckets`, a power of two. When the number of buckets doubles,
/// bucket `b` is split into `b` and `b + buckets`.
fn bucket(bytes: &[u8], buckets: u32) -> u32 {
    let fnv = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    // The upper half is better distributed, so it is folded into the lower one.
    let folded = (fnv ^ (fnv >> 32)) & u64::from(u32::MAX);
    u32::try_from(folded).unwrap_or_default() & (buckets - 1)
}

/// The bucket of each row by its value in `column`: 64-bit integers or texts without nulls.
pub fn buckets_of(column: &dyn Array, buckets: u32) -> Vec<u32> {
    if let Some(numbers) = column.as_primitive_opt::<Int64Type>() {
        return numbers
            .values()
            .iter()
            .map(|number| bucket(&number.to_le_bytes(), buckets))
            .collect();
    }
    let texts = column.as_string::<i32>();
    (0..texts.len())
        .map(|row| bucket(texts.value(row).as_bytes(), buckets))
        .collect()
}

/// Writes rows to one file per bucket.
pub struct Spill {
    /// Common prefix of the files' paths.
    stem: PathBuf,
    schema: SchemaRef,
    buckets: Vec<Bucket>,
    /// Bytes buffered in memory.
    buffered_bytes: usize,
    /// Most bytes to be buffered in memory.
    budget: usize,
    /// The kind of the rows if they are rows read, of which only the latest of each key is needed.
    latest_of: Option<Kind>,
}

#[derive(Default)]
struct Bucket {
    buffered: Vec<RecordBatch>,
    file: Option<AppendWriter>,
}

/// The rows of one bucket.
#[derive(Clone, Debug)]
pub struct Spilled {
    /// The file.
    pub stream: Stream,
    /// Approximate size of the rows in memory.
    pub bytes: u64,
}

impl Spill {
    /// A spill without rows. Files are named `<stem>-<bucket>.arrow`; up to `budget` bytes are
    /// buffered in memory.
    pub fn new(stem: &Path, schema: SchemaRef, buckets: u32, budget: usize) -> Self {
        let buckets = (0..buckets).map(|_| Bucket::default()).collect();
        Self {
            stem: stem.to_owned(),
            schema,
            buckets,
            buffered_bytes: 0,
            budget,
            latest_of: None,
        }
    }

    /// A spill of rows read in this run. Repeats of a key are dropped as far as they meet in
    /// memory.
    pub fn latest_of(kind: Kind, stem: &Path, buckets: u32, budget: usize) -> Self {
        Self {
            latest_of: Some(kind),
            ..Self::new(stem, rows::read_schema(kind), buckets, budget)
        }
    }

    /// Adds rows; `buckets` has the bucket of each row.
    pub fn push(&mut self, batch: &RecordBatch, buckets: &[u32]) -> Result<()> {
        let mut rows: Vec<(u32, u32)> = buckets.iter().copied().zip(0..).collect();
        rows.sort_unstable();
        let sorted = take_record_batch(
            batch,
            &UInt32Array::from_iter_values(rows.iter().map(|(_, row)| *row)),
        )?;
        self.buffered_bytes += sorted.get_array_memory_size();
        let mut start = 0;
        for group in rows.chunk_by(|a, b| a.0 == b.0) {
            let bucket = usize::try_from(group[0].0)?;
            self.buckets[bucket]
                .buffered
                .push(sorted.slice(start, group.len()));
            start += group.len();
        }
        if self.buffered_bytes >= self.budget {
            self.flush()
        } else {
            Ok(())
        }
    }

    /// Writes the buffered rows of all buckets. They are slices of the same memory, so writing only
    /// some buckets would free nothing.
    fn flush(&mut self) -> Result<()> {
        for (number, bucket) in self
            .buckets
            .iter_mut()
            .enumerate()
            .filter(|(_, bucket)| !bucket.buffered.is_empty())
        {
            let mut rows = concat_batches(&self.schema, &bucket.buffered)?;
            bucket.buffered.clear();
            if let Some(kind) = self.latest_of {
                rows = rows::latest_per_key(kind, rows)?;
            }
            let file = match &mut bucket.file {
                Some(file) => file,
                none => {
                    let mut path = self.stem.clone().into_os_string();
                    path.push(format!("-{number}.arrow"));
                    none.insert(AppendWriter::new(path.into(), &self.schema)?)
                }
            };
            let batches = rows.get_array_memory_size() / BATCH_BYTES + 1;
            let step = rows.num_rows().div_ceil(batches).max(1);
            for start in (0..rows.num_rows()).step_by(step) {
                file.append(&rows.slice(start, step.min(rows.num_rows() - start)))?;
            }
        }
        self.buffered_bytes = 0;
        Ok(())
    }

    /// Writes the buffered rows and returns the files by bucket; `None` for one without rows.
    pub fn finish(mut self) -> Result<Vec<Option<Spilled>>> {
        self.flush()?;
        let spilled = |file: AppendWriter| Spilled {
            bytes: file.bytes(),
            stream: file.finish(),
        };
        Ok(self
            .buckets
            .into_iter()
            .map(|bucket| bucket.file.map(spilled))
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, sync::Arc};

    use arrow::{
        array::{Int64Array, StringArray},
        datatypes::{DataType, Field, Schema},
    };

    use super::*;
    use crate::testing::TestDir;

    #[test]
    fn the_hash_never_changes() {
        let numbers = Int64Array::from(vec![0, 1, 7528, -1, i64::MAX]);
        let texts = StringArray::from(vec!["", "a", "fbe53c66-3442-4773-b19e-d3ec6f54dddf"]);
        assert_eq!(
            buckets_of(&numbers, 1 << 16),
            HASHED_NUMBERS,
            "existing state can't be found any more"
        );
        assert_eq!(
            buckets_of(&texts, 1 << 16),
            HASHED_TEXTS,
            "existing state can't be found any more"
        );
    }
    const HASHED_NUMBERS: [u32; 5] = [49655, 56973, 53851, 37558, 64310];
    const HASHED_TEXTS: [u32; 3] = [49089, 12480, 62957];

    #[test]
    fn consecutive_numbers_are_distributed_evenly_and_doubling_splits_each_bucket() {
        let numbers = Int64Array::from_iter_values(0..64_000);
        let (few, many) = (buckets_of(&numbers, 64), buckets_of(&numbers, 256));
        for bucket in 0..64 {
            let rows = few.iter().filter(|found| **found == bucket).count();
            assert!((800..1200).contains(&rows), "{rows} in bucket {bucket}");
        }
        assert!(few.iter().zip(&many).all(|(few, many)| few == &(many % 64)));
    }

    #[test]
    fn every_row_is_in_its_bucket_whatever_the_budget() {
        for budget in [0, 3000, usize::MAX] {
            let folder = TestDir::new();
            let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
            let mut spill = Spill::new(&folder.file("rows"), Arc::clone(&schema), 8, budget);
            for start in (0..1000).step_by(100) {
                let numbers = Int64Array::from_iter_values(start..start + 100);
                let buckets = buckets_of(&numbers, 8);
                spill
                    .push(
                        &RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(numbers)])
                            .unwrap(),
                        &buckets,
                    )
                    .unwrap();
            }
            let mut found = BTreeSet::new();
            for (bucket, spilled) in (0..).zip(spill.finish().unwrap()) {
                for batch in spilled.unwrap().stream.read().unwrap() {
                    let batch = batch.unwrap();
                    assert!(
                        buckets_of(batch.column(0), 8)
                            .iter()
                            .all(|found| *found == bucket)
                    );
                    found.extend(
                        batch
                            .column(0)
                            .as_primitive::<Int64Type>()
                            .values()
                            .iter()
                            .copied(),
                    );
                }
            }
            assert!(found.into_iter().eq(0..1000), "{budget}");
        }
    }

    #[test]
    fn buckets_without_rows_have_no_file() {
        let folder = TestDir::new();
        let spill = Spill::new(&folder.file("rows"), Arc::new(Schema::empty()), 4, 10);
        assert!(spill.finish().unwrap().iter().all(Option::is_none));
    }
}
