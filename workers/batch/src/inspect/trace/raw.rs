//! The record in the archive's raw objects.

use std::collections::{BTreeMap, btree_map::Entry};

use anyhow::Result;
use pinpipe_config::inspect::{Place, PlaceKind, PlaceState};
use pinpipe_core::{Order, clean};
use pinpipe_runtime::raw_zone::{self, RawPartition};

use super::{Known, Target, Version, place, unknown};
use crate::{
    decode::Records,
    inspect::{form, objects},
    store::{ListedObject, Store},
};

/// Most versions that a search without offsets finds.
const MAX_FOUND: usize = 100;

/// Looks for each version by its offset; if there is none, searches the newest objects, and notes
/// in `known` what is found.
pub async fn search(known: &mut Known<'_>, store: &Store, max_bytes: u64) -> Vec<Place> {
    let topic = known.components.topic(known.target.kind).name.clone();
    if known.versions.is_empty() {
        return match scan(known, store, &topic, max_bytes).await {
            Ok(places) => places,
            Err(error) => {
                known.is_whole = false;
                vec![unknown(PlaceKind::RawObject, folder(store, &topic), &error)]
            }
        };
    }
    let (mut listings, mut places) = (BTreeMap::new(), Vec::new());
    for version in &known.versions {
        let partition = RawPartition {
            topic: topic.clone(),
            partition: version.position.partition,
        };
        let found = locate(known, store, &partition, version, &mut listings).await;
        let name = store.uri(&partition.folder(store.prefix()));
        let found = found.unwrap_or_else(|error| unknown(PlaceKind::RawObject, name, &error));
        places.push(Place {
            partition: Some(version.position.partition),
            offset: Some(version.position.offset),
            ..found
        });
    }
    places
}

fn folder(store: &Store, topic: &str) -> String {
    store.uri(&(raw_zone::joined(store.prefix(), topic) + "/"))
}

/// The object and the line of a version.
async fn locate(
    known: &Known<'_>,
    store: &Store,
    partition: &RawPartition,
    version: &Version,
    listings: &mut BTreeMap<i32, Vec<raw_zone::RawObject>>,
) -> Result<Place> {
    let number = partition.partition;
    let objects = match listings.entry(number) {
        Entry::Occupied(known) => known.into_mut(),
        Entry::Vacant(new) => new.insert(store.raw_objects(partition, 0).await?),
    };
    let offset = version.position.offset;
    let folder = store.uri(&partition.folder(store.prefix()));
    let not_there = |state, note: String| Place {
        note,
        ..place(PlaceKind::RawObject, folder.clone(), state)
    };
    let after = objects.partition_point(|object| object.first <= offset);
    let Some(object) = after.checked_sub(1).map(|at| &objects[at]) else {
        return Ok(match objects.first() {
            Some(first) => not_there(
                PlaceState::Absent,
                format!(
                    "the first object, {}, begins at {}: earlier ones have expired, or the \
                     records had before the archive began",
                    first.key, first.first
                ),
            ),
            None => not_there(
                PlaceState::Pending,
                "the archive has no object yet".to_owned(),
            ),
        });
    };
    let Some(metadata) = store.raw_metadata(&object.key).await? else {
        let note = format!("{} was deleted meanwhile", object.key);
        return Ok(not_there(PlaceState::Missing, note));
    };
    if metadata.next_offset <= offset {
        return Ok(match objects.get(after) {
            Some(next) => not_there(
                PlaceState::Missing,
                format!(
                    "no object covers the offset: {} ends before {}, the next, {}, begins at {}",
                    object.key, metadata.next_offset, next.key, next.first
                ),
            ),
            None => not_there(
                PlaceState::Pending,
                format!("the archive's objects end before {}", metadata.next_offset),
            ),
        });
    }
    let wanted = Finder::of_offset(known, offset);
    let lines = objects::read(store, known.target.kind, number, &object.key, &wanted).await?;
    let lines = lines.found;
    let name = store.uri(&object.key);
    Ok(match (lines.first(), &version.key) {
        (Some(line), _) => line.place(name),
        (None, None) => Place {
            note: "rejected records that aren't JSON are in the dead letters alone".to_owned(),
            ..place(PlaceKind::RawObject, name, PlaceState::Absent)
        },
        (None, Some(_)) => Place {
            note: "the object covers the offset, but has no line of it".to_owned(),
            ..place(PlaceKind::RawObject, name, PlaceState::Missing)
        },
    })
}

/// Reads objects, the newest first, up to `max_bytes`.
async fn scan(
    known: &mut Known<'_>,
    store: &Store,
    topic: &str,
    max_bytes: u64,
) -> Result<Vec<Place>> {
    let mut objects: Vec<(ListedObject, i32)> = Vec::new();
    for partition in store.raw_partitions(topic).await? {
        let listed = store.list(&partition.folder(store.prefix())).await?;
        let raw = listed.into_iter().filter(|object| {
            partition
                .first_offset(store.prefix(), &object.key)
                .is_some()
        });
        objects.extend(raw.map(|object| (object, partition.partition)));
    }
    objects.sort_unstable_by_key(|(object, _)| object.modified);
    let (mut places, mut bytes, mut left) = (Vec::new(), 0, 0_usize);
    for (object, partition) in objects.iter().rev() {
        if (bytes > 0 && bytes + object.bytes > max_bytes) || places.len() >= MAX_FOUND {
            left += 1;
            continue;
        }
        bytes += object.bytes;
        let wanted = Finder::of_key(known);
        let kind = known.target.kind;
        let lines = match objects::read(store, kind, *partition, &object.key, &wanted).await {
            Ok(lines) => lines.found,
            Err(error) => {
                known.is_whole = false;
                let name = store.uri(&object.key);
                places.push(unknown(PlaceKind::RawObject, name, &error));
                continue;
            }
        };
        for line in lines {
            places.push(line.place(store.uri(&object.key)));
            known.versions.push(Version {
                position: line.position,
                order: line.order,
                key: line.key,
            });
        }
    }
    known.is_whole &= left == 0;
    known.versions.sort_by_key(|version| version.order);
    if places.is_empty() {
        let (state, note) = if left > 0 {
            let note = format!("not in the newest {} MiB; raise --max-mib", bytes >> 20);
            (PlaceState::Unknown, note)
        } else if objects.is_empty() {
            (
                PlaceState::Absent,
                "the topic has no raw objects".to_owned(),
            )
        } else {
            let note = format!("no line of the {} objects has this key", objects.len());
            (PlaceState::Absent, note)
        };
        places.push(Place {
            note,
            ..place(PlaceKind::RawObject, folder(store, topic), state)
        });
    }
    Ok(places)
}

/// A line that was looked for.
#[derive(Clone)]
struct Line {
    /// From 1.
    number: u64,
    position: Order,
    order: Order,
    key: Option<String>,
    value: String,
}

impl Line {
    fn place(&self, name: String) -> Place {
        Place {
            partition: Some(self.position.partition),
            offset: Some(self.position.offset),
            time: Some(form::time(self.position.time)),
            line: Some(self.number),
            value: Some(self.value.clone()),
            ..place(PlaceKind::RawObject, name, PlaceState::Found)
        }
    }
}

/// Takes the lines of an object and keeps those that are looked for.
#[derive(Clone)]
struct Finder {
    target: Target,
    /// The offset, if it is known.
    offset: Option<i64>,
    max_bytes: usize,
    /// Lines so far.
    lines: u64,
    found: Vec<Line>,
}

impl Finder {
    fn of_key(known: &Known<'_>) -> Self {
        Self {
            target: known.target.clone(),
            offset: None,
            max_bytes: known.components.shared.max_bytes,
            lines: 0,
            found: Vec::new(),
        }
    }

    fn of_offset(known: &Known<'_>, offset: i64) -> Self {
        Self {
            offset: Some(offset),
            ..Self::of_key(known)
        }
    }
}

impl Records for Finder {
    fn record(&mut self, raw: &[u8], order: Order, position: Order) -> Result<()> {
        self.lines += 1;
        if self.offset.is_some_and(|offset| offset != position.offset) {
            return Ok(());
        }
        let cleaned = clean(self.target.kind, raw, self.max_bytes).ok();
        let cleaned = cleaned.filter(|cleaned| self.target.is(&cleaned.record));
        if (cleaned.is_some() || self.offset.is_some()) && self.found.len() < MAX_FOUND {
            self.found.push(Line {
                number: self.lines,
                position,
                order,
                key: cleaned.map(|cleaned| cleaned.record.key().into_owned()),
                value: form::text(raw),
            });
        }
        Ok(())
    }

    fn max_bytes(&self) -> usize {
        self.max_bytes
    }
}
