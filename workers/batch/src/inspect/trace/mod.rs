//! Traces the records with a key through all places where they may be.
//!
//! First the topic and the dead letters are read, then each further place is asked what it has of
//! the versions found. If the topic no longer has the record, raw objects are searched. A place
//! that can't be reached is a result, too: the others are still asked.

mod answers;
mod live;
mod raw;
#[cfg(test)]
mod server_tests;
mod sinks;
mod state;
mod target;
mod topics;

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, Result};
use pinpipe_config::inspect::{Place, PlaceKind, PlaceState};
use pinpipe_core::Order;
use pinpipe_runtime::dead_letter::DeadLetter;

pub use self::{
    live::{positions, sql},
    target::Target,
};
use super::{args::TraceArgs, components::Components};
use crate::store::Store;

/// How long a server may take to answer.
const SERVER_TIMEOUT: Duration = Duration::from_secs(45);

/// A version of the record: one with its key was written at a position of the topic.
#[derive(Clone, Debug)]
pub struct Version {
    /// Where it is in the topic.
    pub position: Order,
    /// What decides which of two versions is later: differs from the position if the record was
    /// re-driven.
    pub order: Order,
    /// Its clean key; `None` if it can't be keyed.
    pub key: Option<String>,
}

/// What has been found so far.
pub struct Known<'a> {
    /// The components.
    pub components: &'a Components,
    /// What is traced.
    pub target: Target,
    /// The versions, in the order of the log.
    pub versions: Vec<Version>,
    /// The dead letters of these versions.
    pub letters: Vec<DeadLetter>,
    /// Whether all was searched that the topic and the archive have.
    pub is_whole: bool,
    /// Whether the dead letters could not be read.
    pub letters_unknown: bool,
}

impl Known<'_> {
    /// The latest version of a key.
    pub fn latest(&self, key: &str) -> Option<&Version> {
        let same = |version: &&Version| version.key.as_deref() == Some(key);
        self.versions
            .iter()
            .filter(same)
            .max_by_key(|version| version.order)
    }

    /// The clean keys of the versions; the traced key itself if none was found.
    pub fn keys(&self) -> Vec<String> {
        let keys = self
            .versions
            .iter()
            .filter_map(|version| version.key.clone());
        let keys: BTreeSet<String> = keys.collect();
        if keys.is_empty() {
            vec![self.target.text.clone()]
        } else {
            keys.into_iter().collect()
        }
    }

    /// The dead letter of a version that this sink has refused.
    pub fn refused_by(&self, sink: &str, version: &Version) -> Option<&DeadLetter> {
        self.letters.iter().find(|letter| {
            letter.id.sink.as_deref() == Some(sink)
                && (letter.id.partition, letter.id.offset)
                    == (version.position.partition, version.position.offset)
        })
    }

    /// That no version of the record is known, as a place's note.
    pub fn none_known(&self) -> (PlaceState, String) {
        if self.is_whole {
            (PlaceState::Absent, "no record has this key".to_owned())
        } else {
            let why = "no record with this key is known, but not all was searched";
            (PlaceState::Unknown, why.to_owned())
        }
    }
}

/// A place, of which nothing is said yet.
pub fn place(place: PlaceKind, name: impl Into<String>, state: PlaceState) -> Place {
    Place {
        place,
        name: name.into(),
        state,
        partition: None,
        offset: None,
        time: None,
        line: None,
        note: String::new(),
        value: None,
    }
}

/// A place that can't be asked.
fn unknown(kind: PlaceKind, name: impl Into<String>, error: &anyhow::Error) -> Place {
    Place {
        note: format!("{error:#}"),
        ..place(kind, name, PlaceState::Unknown)
    }
}

/// The place of an order in the log, for people.
pub fn at(order: Order) -> String {
    format!("partition {}, offset {}", order.partition, order.offset)
}

/// How many records are missing from a place where they should be.
pub fn missing(places: &[Place]) -> u64 {
    let missing = places
        .iter()
        .filter(|place| place.state == PlaceState::Missing);
    missing.count() as u64
}

/// All places of the record.
pub async fn trace(components: &Components, args: &TraceArgs) -> Result<Vec<Place>> {
    let target = Target::new(args.kind, &args.key)?;
    let mut known = Known {
        components,
        target,
        versions: Vec::new(),
        letters: Vec::new(),
        is_whole: true,
        letters_unknown: false,
    };
    let topic = components.topic(args.kind).name.clone();
    let found = topics::search(&mut known, args.max_records).await;
    let mut places = found.unwrap_or_else(|error| {
        known.is_whole = false;
        vec![unknown(PlaceKind::Topic, &topic, &error)]
    });
    let store = match open(&known).await {
        Ok(store) => store,
        Err(error) => {
            known.is_whole = false;
            places.push(unknown(PlaceKind::RawObject, &topic, &error));
            if components.batch.is_some() {
                places.push(unknown(PlaceKind::State, "state/", &error));
            }
            None
        }
    };
    if let Some(store) = &store {
        let max_bytes = u64::from(args.max_mib) << 20;
        places.extend(raw::search(&mut known, store, max_bytes).await);
    }
    for live in &components.live {
        places.extend(live::search(&known, live).await);
    }
    if let Some(batch) = &components.batch {
        let mut state = None;
        if let Some(store) = &store {
            match state::search(&known, batch, store).await {
                Ok((found, more)) => {
                    state = found;
                    places.extend(more);
                }
                Err(error) => {
                    places.push(unknown(PlaceKind::State, store.uri("state/"), &error));
                }
            }
        }
        for sink in &batch.sinks {
            places.extend(sinks::search(&known, sink, state.as_ref()).await);
        }
        if let Some(state) = &state {
            places.extend(answers::places(&known, state).await);
        }
    }
    Ok(places)
}

/// The bucket, if the pipeline has one. Fails soon if it can't be read: what reads more of it
/// waits for longer.
async fn open(known: &Known<'_>) -> Result<Option<Store>> {
    let Some(zone) = &known.components.zone else {
        return Ok(None);
    };
    let store = Store::open_to_read(zone).await?;
    let topic = &known.components.topic(known.target.kind).name;
    let listed = in_time(store.raw_partitions(topic)).await;
    let bucket = || format!("the bucket {} can't be read", store.bucket());
    listed.with_context(bucket)?;
    Ok(Some(store))
}

/// The answer of a server, within a time.
async fn in_time<T>(answer: impl Future<Output = Result<T>>) -> Result<T> {
    let answer = tokio::time::timeout(SERVER_TIMEOUT, answer).await;
    answer.with_context(|| format!("no answer within {SERVER_TIMEOUT:?}"))?
}
