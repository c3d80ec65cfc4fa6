//! Rows on disk by hash bucket, so that each bucket can be worked on by itself.
//!
//! The hash is part of what is kept: the state of an older run is found by it. So it is FNV-1a,
//! written down here, and not that of a library.

use std::path::{Path, PathBuf};

use anyhow::Result;
use arrow::{
    array::{Array, AsArray, RecordBatch, UInt32Array},
    compute::{concat_batches, take_record_batch},
    datatypes::{Int64Type, SchemaRef},
};

use crate::scratch::{Growing, Stream};

/// The bucket of `bytes` out of `buckets`, a power of two. Of twice as many buckets, `b` is split
/// into `b` and `b + buckets`.
fn bucket(bytes: &[u8], buckets: u32) -> u32 {
    let fnv = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    // The upper half is the better one: it is folded into the lower.
    let folded = (fnv ^ (fnv >> 32)) & u64::from(u32::MAX);
    u32::try_from(folded).unwrap_or_default() & (buckets - 1)
}

/// The bucket of each row by a column of numbers or of texts without nulls.
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

/// Rows on their way to the disk.
pub struct Spill {
    /// Paths of the buckets' files, without their number.
    stem: PathBuf,
    schema: SchemaRef,
    buckets: Vec<Bucket>,
    /// Bytes held in memory, and how many may be.
    held: usize,
    budget: usize,
}

#[derive(Default)]
struct Bucket {
    waiting: Vec<RecordBatch>,
    file: Option<Growing>,
}

/// The rows of one bucket.
#[derive(Clone, Debug)]
pub struct Spilled {
    /// Where they are.
    pub stream: Stream,
    /// How large they are in memory, about.
    pub bytes: u64,
}

impl Spill {
    /// No rows yet. Files are named by `stem` and the bucket's number; up to `budget` bytes wait in
    /// memory.
    pub fn new(stem: &Path, schema: SchemaRef, buckets: u32, budget: usize) -> Self {
        let buckets = (0..buckets).map(|_| Bucket::default()).collect();
        Self {
            stem: stem.to_owned(),
            schema,
            buckets,
            held: 0,
            budget,
        }
    }

    /// Takes rows in; `buckets` says where each belongs.
    pub fn push(&mut self, batch: &RecordBatch, buckets: &[u32]) -> Result<()> {
        let mut rows: Vec<(u32, u32)> = buckets.iter().copied().zip(0..).collect();
        rows.sort_unstable();
        let sorted = take_record_batch(
            batch,
            &UInt32Array::from_iter_values(rows.iter().map(|(_, row)| *row)),
        )?;
        self.held += sorted.get_array_memory_size();
        let mut begin = 0;
        for run in rows.chunk_by(|a, b| a.0 == b.0) {
            let bucket = usize::try_from(run[0].0)?;
            self.buckets[bucket]
                .waiting
                .push(sorted.slice(begin, run.len()));
            begin += run.len();
        }
        if self.held >= self.budget {
            self.flush()
        } else {
            Ok(())
        }
    }

    /// All rows that wait, of all buckets: they share memory, so writing only some would free none.
    fn flush(&mut self) -> Result<()> {
        for (number, bucket) in self
            .buckets
            .iter_mut()
            .enumerate()
            .filter(|(_, bucket)| !bucket.waiting.is_empty())
        {
            let rows = concat_batches(&self.schema, &bucket.waiting)?;
            bucket.waiting.clear();
            let file = match &mut bucket.file {
                Some(file) => file,
                none => {
                    let mut path = self.stem.clone().into_os_string();
                    path.push(format!("-{number}.arrow"));
                    none.insert(Growing::new(path.into(), &self.schema)?)
                }
            };
            file.append(&rows)?;
        }
        self.held = 0;
        Ok(())
    }

    /// Everything on disk: a stream per bucket, none where there are no rows.
    pub fn finish(mut self) -> Result<Vec<Option<Spilled>>> {
        self.flush()?;
        let spilled = |file: Growing| Spilled {
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
    use crate::testing::Folder;

    #[test]
    fn the_hash_is_what_it_was() {
        let numbers = Int64Array::from(vec![0, 1, 7528, -1, i64::MAX]);
        let texts = StringArray::from(vec!["", "a", "fbe53c66-3442-4773-b19e-d3ec6f54dddf"]);
        assert_eq!(
            buckets_of(&numbers, 1 << 16),
            HASHED_NUMBERS,
            "state that was written can't be found any more"
        );
        assert_eq!(
            buckets_of(&texts, 1 << 16),
            HASHED_TEXTS,
            "state that was written can't be found any more"
        );
    }
    const HASHED_NUMBERS: [u32; 5] = [49655, 56973, 53851, 37558, 64310];
    const HASHED_TEXTS: [u32; 3] = [49089, 12480, 62957];

    #[test]
    fn numbers_in_a_row_are_spread_and_more_buckets_split_each_one() {
        let numbers = Int64Array::from_iter_values(0..64_000);
        let (few, many) = (buckets_of(&numbers, 64), buckets_of(&numbers, 256));
        for bucket in 0..64 {
            let rows = few.iter().filter(|found| **found == bucket).count();
            assert!((800..1200).contains(&rows), "{rows} in bucket {bucket}");
        }
        assert!(few.iter().zip(&many).all(|(few, many)| few == &(many % 64)));
    }

    #[test]
    fn every_row_comes_back_in_its_bucket_however_little_may_wait() {
        for budget in [0, 3000, usize::MAX] {
            let folder = Folder::new();
            let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
            let mut spill = Spill::new(&folder.file("rows"), Arc::clone(&schema), 8, budget);
            for begin in (0..1000).step_by(100) {
                let numbers = Int64Array::from_iter_values(begin..begin + 100);
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
    fn no_rows_leave_no_file() {
        let folder = Folder::new();
        let spill = Spill::new(&folder.file("rows"), Arc::new(Schema::empty()), 4, 10);
        assert!(spill.finish().unwrap().iter().all(Option::is_none));
    }
}
