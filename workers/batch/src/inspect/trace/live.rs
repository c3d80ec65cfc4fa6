//! The record in the live table of a stream sink.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use pinpipe_config::{
    StartFrom, WriteMode,
    inspect::{Place, PlaceKind, PlaceState},
};
use pinpipe_core::{Kind, Order, columns};
use pinpipe_stream::postgres::sql::{Sql, quoted};
use tokio_postgres::{Row, types::Type};

use super::{Known, Version, at, in_time, place, unknown};
use crate::{
    inspect::{components::Live, deadletters::sentence, form},
    postgres::Reader,
};

/// A row of the live table.
struct LiveRow {
    order: Order,
    key: String,
    json: String,
}

/// What the sink has.
struct Stored<'a> {
    live: &'a Live,
    name: String,
    has_table: bool,
    /// The next offset of each partition.
    positions: BTreeMap<i32, i64>,
    rows: Vec<LiveRow>,
}

/// The places of the record in a sink.
pub async fn search(known: &Known<'_>, live: &Live) -> Vec<Place> {
    let sql = sql(live);
    let name = live.table_name(known.target.kind);
    match in_time(read(known, live, &sql, name.clone())).await {
        Ok(stored) if live.postgres.write_mode == WriteMode::Append => appended(known, &stored),
        Ok(stored) => upserted(known, &stored),
        Err(error) => vec![unknown(PlaceKind::LiveTable, name, &error)],
    }
}

/// The statements of a sink.
pub fn sql(live: &Live) -> Sql {
    Sql::new(&live.postgres.schema, live.postgres.write_mode)
}

async fn read<'a>(
    known: &Known<'_>,
    live: &'a Live,
    sql: &Sql,
    name: String,
) -> Result<Stored<'a>> {
    let (kind, topic) = (
        known.target.kind,
        &known.components.topic(known.target.kind).name,
    );
    let reader = Reader::open(&live.database()).await?;
    let mut stored = Stored {
        live,
        name,
        has_table: false,
        positions: positions(&reader, sql, live, topic).await?,
        rows: Vec::new(),
    };
    let table = sql.live(kind);
    if !reader.has(&table).await? {
        return Ok(stored);
    }
    stored.has_table = true;
    let key = quoted(columns::key(kind));
    let of_topic = match sql.mode() {
        WriteMode::Upsert => "",
        WriteMode::Append => "AND _topic = $2",
    };
    let select = format!(
        "SELECT {key}::text, (extract(epoch FROM _time) * 1000)::bigint, _partition, _offset, \
         row_to_json(found)::text FROM {table} AS found WHERE {key} = ANY ($1) {of_topic} \
         ORDER BY _time, _partition, _offset LIMIT 1000"
    );
    let keys = known.keys();
    let numbers: Vec<i64> = keys.iter().filter_map(|key| key.parse().ok()).collect();
    let parameter: crate::postgres::Parameter<'_> = match kind {
        Kind::Pin => (&keys, Type::TEXT_ARRAY),
        Kind::Geo | Kind::User => (&numbers, Type::INT8_ARRAY),
    };
    let mut parameters = vec![parameter];
    if sql.mode() == WriteMode::Append {
        parameters.push((topic, Type::TEXT));
    }
    let rows = reader.rows(&select, &parameters).await;
    let rows = rows.with_context(|| format!("reading {table}"))?;
    stored.rows = rows.iter().map(row).collect();
    Ok(stored)
}

fn row(row: &Row) -> LiveRow {
    LiveRow {
        order: Order {
            time: row.get(1),
            partition: row.get(2),
            offset: row.get(3),
        },
        key: row.get(0),
        json: row.get(4),
    }
}

/// The next offset of each partition that a sink has stored; none if it has no table of them.
pub async fn positions(
    reader: &Reader,
    sql: &Sql,
    live: &Live,
    topic: &str,
) -> Result<BTreeMap<i32, i64>> {
    if !reader.has(&sql.positions()).await? {
        return Ok(BTreeMap::new());
    }
    let parameters: [crate::postgres::Parameter<'_>; 2] =
        [(&live.group, Type::TEXT), (&topic, Type::TEXT)];
    let rows = reader.rows(&sql.read_positions(), &parameters).await?;
    let positions = rows
        .iter()
        .map(|row| (row.get("partition"), row.get("next_offset")));
    Ok(positions.collect())
}

impl Stored<'_> {
    fn place(&self, state: PlaceState, note: String) -> Place {
        Place {
            note,
            ..place(PlaceKind::LiveTable, self.name.clone(), state)
        }
    }

    fn row(&self, row: &LiveRow, state: PlaceState, note: String) -> Place {
        Place {
            partition: Some(row.order.partition),
            offset: Some(row.order.offset),
            time: Some(form::time(row.order.time)),
            value: Some(row.json.clone()),
            ..self.place(state, note)
        }
    }

    /// Why the table lacks a version.
    fn why_not(&self, known: &Known<'_>, version: &Version) -> (PlaceState, String) {
        let Order {
            partition, offset, ..
        } = version.position;
        if let Some(letter) = known.refused_by(&self.live.postgres.name, version) {
            return (PlaceState::Absent, sentence(letter));
        }
        match self.positions.get(&partition) {
            Some(next) if *next <= offset => (
                PlaceState::Pending,
                format!(
                    "the sink hasn't got so far: its position in partition {partition} is {next}"
                ),
            ),
            None => (
                PlaceState::Pending,
                format!("the sink has no position in partition {partition} yet"),
            ),
            Some(_) if !self.has_table => (PlaceState::Missing, "the table is missing".to_owned()),
            Some(next) if self.live.postgres.start_from == StartFrom::Latest => (
                PlaceState::Unknown,
                format!(
                    "the sink's position is {next}; it has startFrom Latest, so the record may be \
                     older than the sink"
                ),
            ),
            Some(next) if known.letters_unknown => (
                PlaceState::Unknown,
                format!(
                    "the sink's position is {next}, behind the record; the sink may have refused \
                     it, since the dead letters can't be read"
                ),
            ),
            Some(next) => (
                PlaceState::Missing,
                format!(
                    "the sink's position is {next}, behind the record: the row was deleted, or a \
                     reset of the sink passed over it"
                ),
            ),
        }
    }
}

/// One place per key: its latest version is the row.
fn upserted(known: &Known<'_>, stored: &Stored<'_>) -> Vec<Place> {
    let keys = known.keys();
    let places = keys.iter().map(|key| {
        let row = stored.rows.iter().find(|row| row.key == *key);
        let same = |version: &Version, row: &LiveRow| {
            (version.order.partition, version.order.offset)
                == (row.order.partition, row.order.offset)
        };
        match (row, known.latest(key)) {
            (Some(row), Some(latest)) if !same(latest, row) && latest.order > row.order => {
                let (state, why) = stored.why_not(known, latest);
                let state = match state {
                    PlaceState::Missing | PlaceState::Unknown => state,
                    _ => PlaceState::Superseded,
                };
                let note = format!("a later version is at {}: {why}", at(latest.position));
                stored.row(row, state, note)
            }
            (Some(row), _) => stored.row(row, PlaceState::Found, String::new()),
            (None, Some(latest)) => {
                let (state, note) = stored.why_not(known, latest);
                stored.place(state, note)
            }
            (None, None) => {
                let (state, note) = none(known, stored);
                stored.place(state, note)
            }
        }
    });
    places.collect()
}

/// That neither a row nor a version is known.
fn none(known: &Known<'_>, stored: &Stored<'_>) -> (PlaceState, String) {
    if !stored.has_table {
        let why = "the table doesn't exist: the sink has stored nothing";
        return (PlaceState::Absent, why.to_owned());
    }
    let rejected = known.versions.iter().any(|version| version.key.is_none());
    if rejected {
        return (
            PlaceState::Absent,
            "rejected records have no row".to_owned(),
        );
    }
    let (_, why) = known.none_known();
    (PlaceState::Absent, format!("no row has this key; {why}"))
}

/// One place per row and per version.
fn appended(known: &Known<'_>, stored: &Stored<'_>) -> Vec<Place> {
    let of = |row: &LiveRow, version: &Version| {
        (version.position.partition, version.position.offset)
            == (row.order.partition, row.order.offset)
    };
    let rows = stored.rows.iter();
    let mut places: Vec<Place> = rows
        .map(|row| stored.row(row, PlaceState::Found, String::new()))
        .collect();
    for version in known
        .versions
        .iter()
        .filter(|version| version.key.is_some())
    {
        if !stored.rows.iter().any(|row| of(row, version)) {
            let (state, note) = stored.why_not(known, version);
            places.push(Place {
                partition: Some(version.position.partition),
                offset: Some(version.position.offset),
                ..stored.place(state, note)
            });
        }
    }
    if places.is_empty() {
        let (state, note) = none(known, stored);
        places.push(stored.place(state, note));
    }
    places
}
