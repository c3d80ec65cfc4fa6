//! The record in the sinks of batch runs.

use std::borrow::Cow;

use anyhow::{Result, bail};
use pinpipe_config::{
    BatchSink,
    inspect::{Place, PlaceKind, PlaceState},
};
use pinpipe_core::{Kind, columns};
use tokio_postgres::types::Type;

use super::{
    Known, in_time, place,
    state::{Lake, key_of},
    unknown,
};
use crate::{
    cassandra, cells::Cell, failure::Permanent, inspect::deadletters::sentence, load::clean_table,
    postgres, sink::Lookup,
};

/// The places of the record in a sink.
pub async fn search(known: &Known<'_>, sink: &BatchSink, lake: Option<&Lake<'_>>) -> Vec<Place> {
    let kind = known.target.kind;
    let container = match (&sink.cassandra, &sink.postgres) {
        (Some(cassandra), _) => cassandra.keyspace.as_str(),
        (None, Some(postgres)) => &postgres.schema,
        (None, None) => "?",
    };
    let name = format!("{}: {container}.{}", sink.name, clean_table(kind));
    let in_state: Vec<String> = lake
        .into_iter()
        .flat_map(|lake| &lake.rows)
        .map(|row| key_of(kind, row))
        .collect();
    let mut keys = known.keys();
    for key in &in_state {
        if !keys.contains(key) {
            keys.push(key.clone());
        }
    }
    let lookup = match in_time(find(known, sink, &keys)).await {
        Ok(lookup) => lookup,
        Err(error) => return vec![unknown(PlaceKind::BatchTable, name, &error)],
    };
    let is_current = is_current(&lookup, lake);
    let mut places: Vec<Place> = lookup
        .rows
        .iter()
        .map(|row| Place {
            note: loaded(&lookup, lake),
            value: Some(row.clone()),
            ..place(PlaceKind::BatchTable, name.clone(), PlaceState::Found)
        })
        .collect();
    let missing = in_state.len().saturating_sub(lookup.rows.len());
    if places.is_empty() || missing > 0 {
        let (state, note) = why_not(known, sink, &lookup, missing > 0, is_current);
        let note = format!("{note}; {}", loaded(&lookup, lake));
        places.push(Place {
            note,
            ..place(PlaceKind::BatchTable, name, state)
        });
    }
    places
}

async fn find(known: &Known<'_>, sink: &BatchSink, keys: &[String]) -> Result<Lookup> {
    let kind = known.target.kind;
    let (table, key) = (clean_table(kind), columns::key(kind));
    match (&sink.cassandra, &sink.postgres) {
        (Some(cassandra), None) => {
            let keys: Vec<Cow<'_, str>> = keys.iter().map(Into::into).collect();
            let cells: Vec<Cell<'_>> = keys.iter().map(|key| known.target.cell(key)).collect();
            cassandra::find(cassandra, table, key, &cells).await
        }
        (None, Some(config)) => {
            let numbers: Vec<i64> = keys.iter().filter_map(|key| key.parse().ok()).collect();
            let parameter: postgres::Parameter<'_> = match kind {
                Kind::Pin => (&keys, Type::TEXT_ARRAY),
                Kind::Geo | Kind::User => (&numbers, Type::INT8_ARRAY),
            };
            postgres::find(config, table, key, parameter).await
        }
        _ => bail!(Permanent(
            "it must hold exactly one of cassandra and postgres".to_owned()
        )),
    }
}

/// Whether the last run was loaded into the sink.
fn is_current(lookup: &Lookup, lake: Option<&Lake<'_>>) -> bool {
    match (&lookup.marker, lake) {
        (Some(marker), Some(lake)) => marker.run_time >= lake.last.run_time,
        _ => false,
    }
}

/// What the sink has of runs.
fn loaded(lookup: &Lookup, lake: Option<&Lake<'_>>) -> String {
    let Some(marker) = &lookup.marker else {
        return "no run was loaded into the sink".to_owned();
    };
    let time = marker
        .run_time
        .to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
    match lake {
        Some(lake) if is_current(lookup, Some(lake)) => {
            format!("the sink has the last run, {}, of {time}", lake.last.run)
        }
        _ => format!("the sink has the run of {time}, which isn't the last"),
    }
}

/// Why the sink lacks a row that the state has, if `is_in_state`.
fn why_not(
    known: &Known<'_>,
    sink: &BatchSink,
    lookup: &Lookup,
    is_in_state: bool,
    is_current: bool,
) -> (PlaceState, String) {
    let name = format!("batch/{}", sink.name);
    let refused = |letter: &&_| {
        let letter: &pinpipe_runtime::dead_letter::DeadLetter = letter;
        letter.id.sink.as_deref() == Some(&name)
    };
    if let Some(letter) = known.letters.iter().rev().find(refused) {
        return (PlaceState::Absent, sentence(letter));
    }
    let table = if lookup.has_table {
        "the table has no such row"
    } else {
        "the table doesn't exist"
    };
    let state = match (is_in_state, is_current) {
        (true, true) if known.letters_unknown => PlaceState::Unknown,
        (true, true) => PlaceState::Missing,
        (true, false) => PlaceState::Pending,
        (false, _) => PlaceState::Absent,
    };
    let of_state = if is_in_state {
        "the state has it"
    } else {
        "the state hasn't, either"
    };
    (state, format!("{table}, {of_state}"))
}
