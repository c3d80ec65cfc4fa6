//! The record in the state of batch runs: the latest clean row of each key.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use arrow::{
    array::{AsArray as _, Int64Array, RecordBatch, StringArray},
    datatypes::Int64Type,
};
use pinpipe_config::{
    Batch,
    inspect::{Place, PlaceKind, PlaceState},
};
use pinpipe_core::{Kind, Order};
use pinpipe_runtime::kafka::Positions;
use serde_json::{Map, Value};

use super::{Known, Version, at, place};
use crate::{
    inspect::form,
    runs::{Pointer, Runs},
    scratch,
    spill::buckets_of,
    state::{Part, State},
    store::Store,
};

/// Most rows of one search.
const MAX_ROWS: usize = 1000;

/// A clean row, by column.
pub type Row = Map<String, Value>;

/// The state of the last finished run.
pub struct Lake<'a> {
    store: &'a Store,
    /// Where an object of the state may be kept while it is read.
    folder: &'a Path,
    state: State,
    /// The run.
    pub last: Pointer,
    /// The first offset of each partition that the run has left to the next one.
    to: Positions,
    /// The rows with the traced key.
    pub rows: Vec<Row>,
}

/// Which rows of a kind to read.
pub enum Wanted<'a> {
    /// Those with these clean keys.
    Keys(&'a [String]),
    /// Pins with this number.
    Index(i64),
}

/// The places of the record in the state, and the state, if there is one.
pub async fn search<'a>(
    known: &Known<'_>,
    batch: &'a Batch,
    store: &'a Store,
) -> Result<(Option<Lake<'a>>, Vec<Place>)> {
    let runs = Runs::new(&batch.pipeline);
    let pointer: Option<Pointer> = store.find_json(&runs.pointer()).await?;
    let name = store.uri(&runs.pointer());
    let Some(last) = pointer else {
        let (state, note) = if known.versions.iter().any(|version| version.key.is_some()) {
            (
                PlaceState::Pending,
                "no batch run has finished yet".to_owned(),
            )
        } else {
            let (state, why) = known.none_known();
            (state, format!("no batch run has finished yet; {why}"))
        };
        let pending = Place {
            note,
            ..place(PlaceKind::State, name, state)
        };
        return Ok((None, vec![pending]));
    };
    let Some(key) = &last.state else {
        let none = Place {
            note: format!("the run {} is of a release that kept no state", last.run),
            ..place(PlaceKind::State, name, PlaceState::Unknown)
        };
        return Ok((None, vec![none]));
    };
    let mut lake = Lake {
        store,
        folder: &batch.scratch_dir,
        state: store.get_json(key).await?,
        to: runs.end(store, &last.run).await?,
        last,
        rows: Vec::new(),
    };
    let kind = known.target.kind;
    lake.rows = match known.target.number {
        // Nothing tells the ids of pins with a number.
        Some(number) if kind == Kind::Pin && known.versions.is_empty() => {
            lake.read(kind, &Wanted::Index(number)).await?
        }
        _ => lake.read(kind, &Wanted::Keys(&known.keys())).await?,
    };
    let places = lake.places(known);
    Ok((Some(lake), places))
}

impl Lake<'_> {
    /// The rows of a kind, at most [`MAX_ROWS`].
    pub async fn read(&self, kind: Kind, wanted: &Wanted<'_>) -> Result<Vec<Row>> {
        let parts: Vec<&Part> = match wanted {
            Wanted::Keys(keys) => {
                let mut buckets = buckets_of_keys(kind, keys, self.state.buckets);
                buckets.sort_unstable();
                buckets.dedup();
                let part = |bucket: &u32| self.state.part(kind, *bucket);
                buckets.iter().filter_map(part).collect()
            }
            Wanted::Index(_) => self.state.tables.get(&kind).into_iter().flatten().collect(),
        };
        let mut rows = Vec::new();
        for part in parts {
            self.read_part(kind, part, wanted, &mut rows)
                .await
                .with_context(|| {
                    format!(
                        "reading the state {} (a run that ends meanwhile replaces it: try again)",
                        self.store.uri(&part.key)
                    )
                })?;
        }
        Ok(rows)
    }

    async fn read_part(
        &self,
        kind: Kind,
        part: &Part,
        wanted: &Wanted<'_>,
        rows: &mut Vec<Row>,
    ) -> Result<()> {
        let path = self.file(kind, part.bucket);
        let got = self.store.get_file(&part.key, &path).await;
        let opened = got.and_then(|()| scratch::read(&path));
        // The open file stays readable.
        scratch::remove(&path);
        for batch in opened? {
            let batch = batch?;
            for number in matching(kind, &batch, wanted) {
                if rows.len() < MAX_ROWS {
                    rows.push(form::row(&batch, number)?);
                }
            }
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    fn file(&self, kind: Kind, bucket: u32) -> PathBuf {
        let name = format!("inspect-{}-{kind}-{bucket}.arrow", std::process::id());
        self.folder.join(name)
    }

    /// The URI of the object in which a key is, or would be.
    fn name(&self, kind: Kind, key: &str) -> String {
        let buckets = buckets_of_keys(kind, &[key.to_owned()], self.state.buckets);
        let part = buckets
            .first()
            .and_then(|bucket| self.state.part(kind, *bucket));
        self.store.uri(part.map_or("state/", |part| &part.key))
    }

    fn places(&self, known: &Known<'_>) -> Vec<Place> {
        let kind = known.target.kind;
        let mut places: Vec<Place> = self.rows.iter().map(|row| self.row(known, row)).collect();
        for key in known.keys() {
            if self.rows.iter().any(|row| key_of(kind, row) == key) {
                continue;
            }
            let (state, note) = self.why_not(known, known.latest(&key));
            if self.rows.is_empty() || known.latest(&key).is_some() {
                places.push(Place {
                    note,
                    ..place(PlaceKind::State, self.name(kind, &key), state)
                });
            }
        }
        places
    }

    fn row(&self, known: &Known<'_>, row: &Row) -> Place {
        let (key, order) = (key_of(known.target.kind, row), order_of(row));
        let (state, note) = match known.latest(&key) {
            Some(latest)
                if latest.order > order
                    && (latest.order.partition, latest.order.offset)
                        != (order.partition, order.offset) =>
            {
                let (state, why) = self.why_not(known, Some(latest));
                let state = match state {
                    PlaceState::Missing => state,
                    _ => PlaceState::Superseded,
                };
                (
                    state,
                    format!("a later version is at {}: {why}", at(latest.position)),
                )
            }
            _ => (
                PlaceState::Found,
                format!("as of the run {}", self.last.run),
            ),
        };
        Place {
            partition: Some(order.partition),
            offset: Some(order.offset),
            time: Some(form::time(order.time)),
            note,
            value: Some(Value::Object(row.clone()).to_string()),
            ..place(PlaceKind::State, self.name(known.target.kind, &key), state)
        }
    }

    /// Why there is no row of a version.
    fn why_not(&self, known: &Known<'_>, version: Option<&Version>) -> (PlaceState, String) {
        let run = &self.last.run;
        let Some(version) = version else {
            if known.versions.iter().any(|version| version.key.is_none()) {
                return (
                    PlaceState::Absent,
                    "rejected records have no row".to_owned(),
                );
            }
            let (state, why) = known.none_known();
            return (state, format!("the run {run} has no such row; {why}"));
        };
        let (position, topic) = (
            version.position,
            &known.components.topic(known.target.kind).name,
        );
        let to = self.to.get(topic);
        let to = to.and_then(|partitions| partitions.get(&position.partition));
        match to {
            Some(to) if position.offset < *to => (
                PlaceState::Missing,
                format!("the run {run} has read the record's offset, but has no such row"),
            ),
            Some(to) => (
                PlaceState::Pending,
                format!(
                    "no batch run since: the last one, {run}, read partition {} to offset {to}, \
                     exclusive",
                    position.partition
                ),
            ),
            None => (
                PlaceState::Pending,
                format!(
                    "no batch run since: the last one, {run}, has not read partition {}",
                    position.partition
                ),
            ),
        }
    }
}

/// A row's clean key.
pub fn key_of(kind: Kind, row: &Row) -> String {
    match row.get(pinpipe_core::columns::key(kind)) {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => String::new(),
    }
}

fn order_of(row: &Row) -> Order {
    let number = |name: &str| row.get(name).and_then(Value::as_i64).unwrap_or_default();
    Order {
        time: number("_time"),
        partition: i32::try_from(number("_partition")).unwrap_or_default(),
        offset: number("_offset"),
    }
}

fn buckets_of_keys(kind: Kind, keys: &[String], buckets: u32) -> Vec<u32> {
    match kind {
        Kind::Pin => buckets_of(&StringArray::from_iter_values(keys), buckets),
        Kind::Geo | Kind::User => {
            let numbers = keys.iter().filter_map(|key| key.parse::<i64>().ok());
            buckets_of(&Int64Array::from_iter_values(numbers), buckets)
        }
    }
}

/// The rows of a batch that are wanted.
fn matching(kind: Kind, batch: &RecordBatch, wanted: &Wanted<'_>) -> Vec<usize> {
    let rows = 0..batch.num_rows();
    match (wanted, kind) {
        (Wanted::Index(index), _) => {
            let numbers = batch.column(1).as_primitive::<Int64Type>();
            rows.filter(|row| numbers.value(*row) == *index).collect()
        }
        (Wanted::Keys(keys), Kind::Pin) => {
            let texts = batch.column(0).as_string::<i32>();
            rows.filter(|row| keys.iter().any(|key| key == texts.value(*row)))
                .collect()
        }
        (Wanted::Keys(keys), Kind::Geo | Kind::User) => {
            let wanted: Vec<i64> = keys.iter().filter_map(|key| key.parse().ok()).collect();
            let numbers = batch.column(0).as_primitive::<Int64Type>();
            rows.filter(|row| wanted.contains(&numbers.value(*row)))
                .collect()
        }
    }
}
