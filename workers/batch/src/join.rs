//! The join that the questions query: each pin with the country and time it was posted, and its
//! user's age and joining date.
//!
//! A partitioned hash join: pins, geo records and users are bucketed by the join key, the number
//! that records of one post share, and each bucket is joined separately. Only the geo records and
//! users of one bucket are in memory at a time.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result};
use arrow::{
    array::{Array, ArrayRef, AsArray, RecordBatch, UInt32Array},
    compute::{BatchCoalescer, concat_batches, take},
    datatypes::{Field, Int64Type, Schema, SchemaRef},
};
use pinpipe_core::{Kind, columns};
use serde::{Deserialize, Serialize};

use crate::{
    columns::schema,
    merge::BATCH_ROWS,
    scratch::{Stream, Writer, remove},
    spill::{Spill, Spilled, buckets_of},
};

/// The columns of a kind that the join uses. The first one is the join key.
const fn input_columns(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Pin => &["index_id", "category", "poster_name", "follower_count"],
        Kind::Geo => &["ind", "country", "timestamp"],
        Kind::User => &["ind", "age", "date_joined"],
    }
}

/// The schema of the join's input rows of a kind.
pub fn input_schema(kind: Kind) -> SchemaRef {
    let all = schema(kind);
    let fields = input_columns(kind)
        .iter()
        .filter_map(|name| all.column_with_name(name));
    Arc::new(Schema::new(
        fields.map(|(_, field)| field.clone()).collect::<Vec<_>>(),
    ))
}

/// The schema of joined rows: the input columns of all kinds, without the join key.
pub fn joined_schema() -> SchemaRef {
    let fields = Kind::ALL
        .into_iter()
        .flat_map(|kind| input_schema(kind).fields()[1..].to_vec());
    Arc::new(Schema::new(
        fields
            .map(|field| Field::clone(&field).with_nullable(true))
            .collect::<Vec<_>>(),
    ))
}

/// Collects the rows to be joined, bucketed by join key.
pub struct JoinInputs {
    buckets: u32,
    spills: BTreeMap<Kind, Mutex<Spill>>,
}

/// The join's input files by kind and bucket; `None` for a bucket without rows.
pub type JoinInputFiles = BTreeMap<Kind, Vec<Option<Spilled>>>;

impl JoinInputs {
    /// An empty collection. Rows are written to files in `folder`; up to `budget` bytes are
    /// buffered in memory.
    pub fn new(folder: &Path, buckets: u32, budget: usize) -> Self {
        let spill = |kind: Kind| {
            let stem = folder.join(format!("join-{kind}"));
            (
                kind,
                Mutex::new(Spill::new(
                    &stem,
                    input_schema(kind),
                    buckets,
                    budget / Kind::ALL.len(),
                )),
            )
        };
        Self {
            buckets,
            spills: BTreeMap::from(Kind::ALL.map(spill)),
        }
    }

    /// Adds rows. Their first columns are the clean ones; others may follow.
    pub fn push(&self, kind: Kind, rows: &RecordBatch) -> Result<()> {
        let all = columns::columns(kind);
        let indices: Vec<usize> = input_columns(kind)
            .iter()
            .filter_map(|name| all.iter().position(|column| column == name))
            .collect();
        let rows = rows.project(&indices)?.with_schema(input_schema(kind))?;
        let buckets = buckets_of(rows.column(0), self.buckets);
        let spill = self.spills.get(&kind).context("a kind without a spill")?;
        spill
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(&rows, &buckets)
    }

    /// Writes the buffered rows and returns all files.
    pub fn finish(self) -> Result<JoinInputFiles> {
        let finish = |(kind, spill): (Kind, Mutex<Spill>)| {
            Ok((
                kind,
                spill
                    .into_inner()
                    .unwrap_or_else(PoisonError::into_inner)
                    .finish()?,
            ))
        };
        self.spills.into_iter().map(finish).collect()
    }
}

/// The result of the join, on disk.
#[derive(Debug)]
pub struct JoinedRows {
    /// One row per pin.
    pub joined: Stream,
    /// The users' input rows, which one question queries directly.
    pub users: Vec<Stream>,
    /// Counts of rows without a match.
    pub orphans: Orphans,
}

/// Counts of rows without a match, which the questions' inner joins leave out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Orphans {
    /// Pins without a geo record.
    pub pins_without_geo: u64,
    /// Geo records without a pin.
    pub geos_without_pin: u64,
    /// Pins without a user.
    pub pins_without_user: u64,
    /// Users without a pin.
    pub users_without_pin: u64,
}

/// Joins the inputs and writes the result to `file`. Deletes the files of pins and geo records.
pub fn join(mut inputs: JoinInputFiles, file: std::path::PathBuf) -> Result<JoinedRows> {
    let mut out = Writer::plain(file, &joined_schema())?;
    let mut batches = BatchCoalescer::new(joined_schema(), BATCH_ROWS);
    let mut orphans = Orphans::default();
    let mut take_input = |kind| inputs.remove(&kind).unwrap_or_default();
    let (pins, geos, users) = (
        take_input(Kind::Pin),
        take_input(Kind::Geo),
        take_input(Kind::User),
    );
    for ((pins, geos), users) in pins.into_iter().zip(geos).zip(&users) {
        let mut geo = BuildSide::load(Kind::Geo, geos.as_ref())?;
        let mut user = BuildSide::load(Kind::User, users.as_ref())?;
        if let Some(pins) = &pins {
            for pins in pins.stream.read()? {
                let pins = pins?;
                let keys = pins.column(0).as_primitive::<Int64Type>().values();
                let mut columns: Vec<ArrayRef> = pins.columns()[1..].to_vec();
                columns.extend(geo.matching_columns(keys)?);
                columns.extend(user.matching_columns(keys)?);
                batches.push_batch(RecordBatch::try_new(joined_schema(), columns)?)?;
                while let Some(batch) = batches.next_completed_batch() {
                    out.write(&batch)?;
                }
            }
            remove(&pins.stream.path);
        }
        if let Some(geos) = geos {
            remove(&geos.stream.path);
        }
        orphans.pins_without_geo += geo.keys_without_match;
        orphans.geos_without_pin += geo.rows_without_match();
        orphans.pins_without_user += user.keys_without_match;
        orphans.users_without_pin += user.rows_without_match();
    }
    batches.finish_buffered_batch()?;
    if let Some(batch) = batches.next_completed_batch() {
        out.write(&batch)?;
    }
    let users = users
        .into_iter()
        .flatten()
        .map(|users| users.stream)
        .collect();
    Ok(JoinedRows {
        joined: out.finish()?,
        users,
        orphans,
    })
}

/// The build side of the hash join of one bucket: rows by their join key, which is unique.
struct BuildSide {
    rows: RecordBatch,
    row_by_key: HashMap<i64, u32>,
    /// Whether each row has had a match.
    matched: Vec<bool>,
    /// Number of probed keys without a match.
    keys_without_match: u64,
}

impl BuildSide {
    fn load(kind: Kind, spilled: Option<&Spilled>) -> Result<Self> {
        let batches = match spilled {
            Some(spilled) => spilled.stream.read()?.collect::<Result<Vec<_>, _>>()?,
            None => Vec::new(),
        };
        let rows = concat_batches(&input_schema(kind), &batches)?;
        let keys = rows.column(0).as_primitive::<Int64Type>().values();
        let row_by_key = keys.iter().copied().zip(0..).collect();
        Ok(Self {
            row_by_key,
            matched: vec![false; rows.num_rows()],
            rows,
            keys_without_match: 0,
        })
    }

    /// The columns after the join key, with one row for each of `keys`; null without a match.
    fn matching_columns(&mut self, keys: &[i64]) -> Result<Vec<ArrayRef>> {
        let rows: UInt32Array = keys
            .iter()
            .map(|key| self.row_by_key.get(key).copied())
            .collect();
        self.keys_without_match += rows.null_count() as u64;
        for row in rows.iter().flatten() {
            self.matched[usize::try_from(row)?] = true;
        }
        Ok(self.rows.columns()[1..]
            .iter()
            .map(|column| take(column, &rows, None))
            .collect::<Result<_, _>>()?)
    }

    fn rows_without_match(&self) -> u64 {
        self.matched.iter().filter(|matched| !**matched).count() as u64
    }
}
