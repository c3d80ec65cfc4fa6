//! The record in its topic and in the dead letters.

use std::collections::VecDeque;

use anyhow::{Context as _, Result};
use pinpipe_config::inspect::{Place, PlaceKind, PlaceState};
use pinpipe_core::{Order, clean};
use pinpipe_runtime::dead_letter::{DeadLetter, Redriven};
use rdkafka::{Message as _, Timestamp, message::BorrowedMessage};

use super::{Known, Version, at, place, unknown};
use crate::{
    dead_letters::{Ranges, TopicReader, ranges},
    inspect::{
        deadletters::{Letters, sentence},
        form,
        tail::last_of,
    },
};

/// Most versions and dead letters that are kept: the newest.
const MAX_VERSIONS: usize = 100;

/// Searches the topic and its dead letters, and notes what is found in `known`.
pub async fn search(known: &mut Known<'_>, max_records: u32) -> Result<Vec<Place>> {
    let topic = known.components.topic(known.target.kind).clone();
    let retained = ranges(known.components.brokers(), &topic.name)?;
    let searched = last_of(&retained, i64::from(max_records));
    let found = read(known, &topic.name, &searched).await?;
    let cut = not_searched(&retained, &searched);
    let mut places: Vec<Place> = found.places.into();
    known.versions = found.versions.into();
    known.is_whole = cut.is_none();
    for (version, place) in known.versions.iter().zip(&mut places) {
        let Some(key) = &version.key else { continue };
        if let Some(later) = known.latest(key)
            && later.position != version.position
        {
            place.state = PlaceState::Superseded;
            let later = format!("a later version is at {}", at(later.position));
            place.note = joined(&place.note, &later);
        }
    }
    if found.dropped > 0
        && let Some(first) = places.first_mut()
    {
        let note = format!("{} earlier versions are not shown", found.dropped);
        first.note = joined(&first.note, &note);
    }
    if places.is_empty() {
        places.push(nothing(&topic.name, &searched, cut.as_deref()));
    } else if let (Some(cut), Some(last)) = (cut, places.last_mut()) {
        last.note = joined(&last.note, &cut);
    }
    match dead_letters(known).await {
        Ok(letters) => {
            places.extend(letters.iter().map(|(_, place)| place.clone()));
            known.letters = letters.into_iter().map(|(letter, _)| letter).collect();
        }
        Err(error) => {
            known.letters_unknown = true;
            places.push(unknown(PlaceKind::DeadLetter, topic.dead_letter, &error));
        }
    }
    Ok(places)
}

/// Two notes as one.
fn joined(one: &str, other: &str) -> String {
    if one.is_empty() {
        other.to_owned()
    } else {
        format!("{one}; {other}")
    }
}

fn nothing(topic: &str, searched: &Ranges, cut: Option<&str>) -> Place {
    let held = searched.iter().filter(|(_, range)| !range.is_empty());
    let held = held.map(|(partition, range)| {
        format!("partition {partition} {} to {}", range.start, range.end - 1)
    });
    let held: Vec<String> = held.collect();
    let note = match (cut, held.is_empty()) {
        (_, true) => "the topic has no records".to_owned(),
        (None, _) => format!("no record it retains has this key: {}", held.join(", ")),
        (Some(cut), _) => format!("none found: {cut}"),
    };
    let state = if cut.is_some() {
        PlaceState::Unknown
    } else {
        PlaceState::Absent
    };
    Place {
        note,
        ..place(PlaceKind::Topic, topic, state)
    }
}

/// What was left out of the search, if anything.
fn not_searched(retained: &Ranges, searched: &Ranges) -> Option<String> {
    let left = searched.iter().filter_map(|(partition, range)| {
        let first = retained.get(partition)?.start;
        (first < range.start).then(|| format!("partition {partition} before {}", range.start))
    });
    let left: Vec<String> = left.collect();
    (!left.is_empty()).then(|| {
        format!(
            "not searched: {}; raise --max-records to search more",
            left.join(", ")
        )
    })
}

#[derive(Default)]
struct Found {
    versions: VecDeque<Version>,
    places: VecDeque<Place>,
    /// How many earlier ones are left out.
    dropped: u64,
}

/// All partitions are read: who writes to the topic, and how many partitions it had then, decides
/// to which one a key went.
async fn read(known: &Known<'_>, topic: &str, searched: &Ranges) -> Result<Found> {
    let mut found = Found::default();
    let mut reader = TopicReader::between(known.components.brokers(), topic, searched)?;
    let reading = || format!("reading the topic {topic}");
    while let Some(message) = reader.next().await.with_context(reading)? {
        if let Some((version, place)) = version(known, &message) {
            found.versions.push_back(version);
            found.places.push_back(place);
            if found.versions.len() > MAX_VERSIONS {
                found.versions.pop_front();
                found.places.pop_front();
                found.dropped += 1;
            }
        }
    }
    Ok(found)
}

/// A message that has the key, or would have it if it could be keyed.
fn version(known: &Known<'_>, message: &BorrowedMessage<'_>) -> Option<(Version, Place)> {
    let target = &known.target;
    let raw = message.payload().unwrap_or_default();
    let (key, note) = match clean(target.kind, raw, known.components.shared.max_bytes) {
        Ok(cleaned) if target.is(&cleaned.record) => {
            (Some(cleaned.record.key().into_owned()), String::new())
        }
        Err(rejection) if message.key() == Some(target.text.as_bytes()) => {
            (None, format!("rejected: {rejection}"))
        }
        Ok(_) | Err(_) => return None,
    };
    let position = position(message);
    let redriven = message.headers();
    let redriven = redriven.and_then(|headers| Redriven::read(headers, position).ok()?);
    let order = redriven.map_or(position, |redriven| redriven.order);
    let found = Place {
        partition: Some(position.partition),
        offset: Some(position.offset),
        time: message.timestamp().to_millis().map(form::time),
        note: match redriven {
            Some(_) => joined(&note, &format!("re-driven, first written at {}", at(order))),
            None => note,
        },
        value: message.payload().map(form::text),
        ..place(PlaceKind::Topic, message.topic(), PlaceState::Found)
    };
    let version = Version {
        position,
        order,
        key,
    };
    Some((version, found))
}

/// A record that its producer has stamped is older than all that the broker has.
fn position(message: &BorrowedMessage<'_>) -> Order {
    let time = match message.timestamp() {
        Timestamp::LogAppendTime(time) => time,
        Timestamp::CreateTime(_) | Timestamp::NotAvailable => 0,
    };
    Order {
        time,
        partition: message.partition(),
        offset: message.offset(),
    }
}

/// The dead letters of the versions, and those with the key.
async fn dead_letters(known: &Known<'_>) -> Result<Vec<(DeadLetter, Place)>> {
    let target = &known.target;
    let letters = Letters::open(known.components, target.kind).await?;
    let mut found: VecDeque<(DeadLetter, Place)> = VecDeque::new();
    let take = |letter: &DeadLetter, message: &BorrowedMessage<'_>| {
        let is_of_version = known.versions.iter().any(|version| {
            let Order {
                partition, offset, ..
            } = version.position;
            (partition, offset) == (letter.id.partition, letter.id.offset)
        });
        let has_key = || {
            let raw = message.payload().unwrap_or_default();
            let cleaned = clean(target.kind, raw, known.components.shared.max_bytes);
            cleaned.is_ok_and(|cleaned| target.is(&cleaned.record))
                || message.key() == Some(target.text.as_bytes())
        };
        if !is_of_version && !has_key() {
            return;
        }
        let mut note = sentence(letter);
        if letters.is_redriven(letter) {
            note.push_str("; a re-drive has written it back to its topic");
        }
        let place = Place {
            partition: Some(letter.id.partition),
            offset: Some(letter.id.offset),
            time: Some(form::time(letter.time)),
            note,
            value: message.payload().map(form::text),
            ..place(PlaceKind::DeadLetter, message.topic(), PlaceState::Found)
        };
        found.push_back((letter.clone(), place));
        if found.len() > MAX_VERSIONS {
            found.pop_front();
        }
    };
    letters.each(take).await?;
    Ok(found.into())
}
