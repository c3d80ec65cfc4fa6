//! The join all questions start from: each pin with the country and time it was posted, and its
//! user's age and day of joining.
//!
//! Geo records and users stand in buckets by the number that joins, so pins are put into buckets by
//! it too, and each bucket is joined by itself: in memory are the geo records and users of one.

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
    scratch::{Stream, Writer, discard},
    spill::{Spill, Spilled, buckets_of},
};

/// The columns the join takes of a kind. The number that joins is the first.
const fn sides(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Pin => &["index_id", "category", "poster_name", "follower_count"],
        Kind::Geo => &["ind", "country", "timestamp"],
        Kind::User => &["ind", "age", "date_joined"],
    }
}

/// The schema of what the join takes of a kind.
pub fn joined_schema(kind: Kind) -> SchemaRef {
    let all = schema(kind);
    let fields = sides(kind)
        .iter()
        .filter_map(|name| all.column_with_name(name));
    Arc::new(Schema::new(
        fields.map(|(_, field)| field.clone()).collect::<Vec<_>>(),
    ))
}

/// The schema of the join: all of those columns but the number.
pub fn facts_schema() -> SchemaRef {
    let fields = Kind::ALL
        .into_iter()
        .flat_map(|kind| joined_schema(kind).fields()[1..].to_vec());
    Arc::new(Schema::new(
        fields
            .map(|field| Field::clone(&field).with_nullable(true))
            .collect::<Vec<_>>(),
    ))
}

/// The rows to be joined, gathered by the number that joins.
pub struct Sides {
    buckets: u32,
    spills: BTreeMap<Kind, Mutex<Spill>>,
}

/// Files of rows by kind and bucket.
pub type Buckets = BTreeMap<Kind, Vec<Option<Spilled>>>;

impl Sides {
    /// No rows yet. They go to files in `folder`; up to `budget` bytes wait in memory.
    pub fn new(folder: &Path, buckets: u32, budget: usize) -> Self {
        let spill = |kind: Kind| {
            let stem = folder.join(format!("join-{kind}"));
            (
                kind,
                Mutex::new(Spill::new(
                    &stem,
                    joined_schema(kind),
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

    /// Takes rows that have the clean columns, and may have others behind them.
    pub fn push(&self, kind: Kind, rows: &RecordBatch) -> Result<()> {
        let positions = columns::columns(kind).iter().enumerate();
        let wanted = sides(kind).iter();
        let indices: Vec<usize> = wanted
            .filter_map(|name| {
                positions
                    .clone()
                    .find(|(_, column)| *column == name)
                    .map(|(position, _)| position)
            })
            .collect();
        let rows = rows.project(&indices)?.with_schema(joined_schema(kind))?;
        let buckets = buckets_of(rows.column(0), self.buckets);
        let spill = self.spills.get(&kind).context("a kind without a place")?;
        spill
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(&rows, &buckets)
    }

    /// Everything on disk.
    pub fn finish(self) -> Result<Buckets> {
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

/// The join on disk.
#[derive(Debug)]
pub struct Facts {
    /// The join: a row per pin.
    pub joined: Stream,
    /// The users.
    pub users: Vec<Stream>,
    /// What found no partner.
    pub orphans: Orphans,
}

/// Rows that the inner joins of the questions leave out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Orphans {
    /// Pins of which nobody knows where they were posted.
    pub pins_without_geo: u64,
    /// Geo records no pin belongs to.
    pub geos_without_pin: u64,
    /// Pins of which nobody knows who posted them.
    pub pins_without_user: u64,
    /// Users without a pin.
    pub users_without_pin: u64,
}

/// Joins what was gathered. The pins' and geo records' files are gone then.
pub fn join(mut sides: Buckets, file: std::path::PathBuf) -> Result<Facts> {
    let mut out = Writer::plain(file, &facts_schema())?;
    let mut batches = BatchCoalescer::new(facts_schema(), BATCH_ROWS);
    let mut orphans = Orphans::default();
    let mut take_side = |kind| sides.remove(&kind).unwrap_or_default();
    let (pins, geos, users) = (
        take_side(Kind::Pin),
        take_side(Kind::Geo),
        take_side(Kind::User),
    );
    for ((pins, geos), users) in pins.into_iter().zip(geos).zip(&users) {
        let mut geo = Partners::load(Kind::Geo, geos.as_ref())?;
        let mut user = Partners::load(Kind::User, users.as_ref())?;
        if let Some(pins) = &pins {
            for pins in pins.stream.read()? {
                let pins = pins?;
                let numbers = pins.column(0).as_primitive::<Int64Type>().values();
                let mut columns: Vec<ArrayRef> = pins.columns()[1..].to_vec();
                columns.extend(geo.columns(numbers)?);
                columns.extend(user.columns(numbers)?);
                batches.push_batch(RecordBatch::try_new(facts_schema(), columns)?)?;
                while let Some(batch) = batches.next_completed_batch() {
                    out.write(&batch)?;
                }
            }
            discard(&pins.stream.path);
        }
        if let Some(geos) = geos {
            discard(&geos.stream.path);
        }
        orphans.pins_without_geo += geo.missing;
        orphans.geos_without_pin += geo.unused();
        orphans.pins_without_user += user.missing;
        orphans.users_without_pin += user.unused();
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
    Ok(Facts {
        joined: out.finish()?,
        users,
        orphans,
    })
}

/// The rows of a bucket that pins may find by their number, which is unique.
struct Partners {
    rows: RecordBatch,
    by_number: HashMap<i64, u32>,
    found: Vec<bool>,
    /// Pins that found none.
    missing: u64,
}

impl Partners {
    fn load(kind: Kind, spilled: Option<&Spilled>) -> Result<Self> {
        let batches = match spilled {
            Some(spilled) => spilled.stream.read()?.collect::<Result<Vec<_>, _>>()?,
            None => Vec::new(),
        };
        let rows = concat_batches(&joined_schema(kind), &batches)?;
        let numbers = rows.column(0).as_primitive::<Int64Type>().values();
        let by_number = numbers.iter().copied().zip(0..).collect();
        Ok(Self {
            by_number,
            found: vec![false; rows.num_rows()],
            rows,
            missing: 0,
        })
    }

    /// The columns behind the number, a row for each of `numbers`; nulls where there is no partner.
    fn columns(&mut self, numbers: &[i64]) -> Result<Vec<ArrayRef>> {
        let rows: UInt32Array = numbers
            .iter()
            .map(|number| self.by_number.get(number).copied())
            .collect();
        self.missing += rows.null_count() as u64;
        for row in rows.iter().flatten() {
            self.found[usize::try_from(row)?] = true;
        }
        Ok(self.rows.columns()[1..]
            .iter()
            .map(|column| take(column, &rows, None))
            .collect::<Result<_, _>>()?)
    }

    fn unused(&self) -> u64 {
        self.found.iter().filter(|found| !**found).count() as u64
    }
}
