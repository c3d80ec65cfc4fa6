//! Where the archive of a partition begins, while it has no objects.
//!
//! The first worker notes the log's start. So what retention deletes before the first object is
//! written is missed (`OffsetOutOfRange`), and the group's offset, which tells nothing of what is
//! archived, is never the position.

use pinpipe_runtime::raw_zone::RawPartition;
use serde::{Deserialize, Serialize};

use super::{Archive, raw_partition, store::Store};
use crate::{
    log::Position,
    sink::{SinkError, StoredPosition, Topic},
};

/// The log that the note is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Note {
    cluster_id: String,
    topic_id: String,
}

/// What the keys of notes begin with.
fn notes(prefix: &str, raw: &RawPartition) -> String {
    raw.index_folder(prefix) + "begin+"
}

fn note_key(prefix: &str, raw: &RawPartition, position: i64) -> String {
    format!("{}{position:010}.json", notes(prefix, raw))
}

/// The position in the key of a note.
fn noted(notes: &str, key: &str) -> Option<i64> {
    key.strip_prefix(notes)?.strip_suffix(".json")?.parse().ok()
}

/// The noted position of a topic. Of two workers that note the log's start at different times, the
/// later one is right.
fn latest(notes: impl IntoIterator<Item = (i64, Note)>, topic: &Topic) -> Option<i64> {
    let own = |note: &Note| note.topic_id == topic.id && note.cluster_id == topic.cluster_id;
    let notes = notes.into_iter().filter(|(_, note)| own(note));
    notes.map(|(position, _)| position).max()
}

impl Archive {
    /// The noted position; none where there is no note, or one of an earlier topic.
    pub(super) async fn begin(
        &self,
        store: &Store,
        topic: &Topic,
        raw: &RawPartition,
    ) -> Result<Option<StoredPosition>, SinkError> {
        let notes = notes(&self.config.zone.prefix, raw);
        let mut found = Vec::new();
        for key in store.keys(&notes).await? {
            if let Some(position) = noted(&notes, &key)
                && let Some(note) = store.get_json::<Note>(&key).await?
            {
                found.push((position, note));
            }
        }
        Ok(latest(found, topic).map(|position| StoredPosition {
            cluster_id: topic.cluster_id.clone(),
            topic_id: topic.id.clone(),
            next: Position::offset(position),
            noted: true,
        }))
    }

    /// Notes where the archive of a partition begins.
    pub(super) async fn note_begin(
        &self,
        store: &Store,
        topic: &Topic,
        partition: i32,
        position: i64,
    ) -> Result<(), SinkError> {
        let raw = raw_partition(topic, partition);
        let note = Note {
            cluster_id: topic.cluster_id.clone(),
            topic_id: topic.id.clone(),
        };
        // Replaces the note of an earlier topic.
        let key = note_key(&self.config.zone.prefix, &raw, position);
        store.put_json(&key, &note).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_note_about_this_log_counts() {
        let topic = |id: &str| Topic {
            kind: pinpipe_core::Kind::Pin,
            name: "t".into(),
            cluster_id: "c".into(),
            id: id.into(),
        };
        let note = |id: &str| Note {
            cluster_id: "c".into(),
            topic_id: id.into(),
        };
        let notes = [
            (9, note("earlier")),
            (3, note("now")),
            (7, note("now")),
            (5, note("now")),
        ];
        assert_eq!(latest(notes.clone(), &topic("now")), Some(7));
        assert_eq!(latest(notes, &topic("next")), None);
    }

    #[test]
    fn the_position_is_read_from_the_key_it_was_written_to() {
        let raw = RawPartition {
            topic: "t".into(),
            partition: 1,
        };
        for position in [0, 7, 12_345_678_901] {
            let key = note_key("topics", &raw, position);
            assert_eq!(noted(&notes("topics", &raw), &key), Some(position));
        }
        assert_eq!(
            note_key("topics", &raw, 7),
            "topics/_index/t/partition=1/begin+0000000007.json"
        );
    }
}
