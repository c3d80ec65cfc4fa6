//! Resets of the archive. They only go forward, since archived records stay archived.
//!
//! An object without lines covers the skipped offsets. A marker beside the index objects records
//! the reset and its target. It is written first, so that the next worker completes an interrupted
//! reset: it finds the archive's end before the marker's offset.

use std::{fmt::Write, sync::Arc};

use bytes::Bytes;
use pinpipe_runtime::raw_zone::{Index, RawPartition};
use serde::{Deserialize, Serialize};

use super::{Archive, Content, lines::compress, raw_partition, store::Store};
use crate::sink::{Halt, SinkError, Source, StoredPosition, Topic};

/// The record of a reset in one partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Marker {
    /// The id of the topic that was reset.
    topic_id: String,
    /// The offset at which the archive continues.
    to: i64,
}

impl Marker {
    /// Whether the archive's end, `position`, is still before the marker's offset.
    fn is_ahead(&self, topic: &Topic, position: Option<&StoredPosition>) -> bool {
        self.topic_id == topic.id
            && position.is_some_and(|position| position.next.next_offset() < self.to)
    }
}

/// What the keys of markers begin with.
fn markers(prefix: &str, raw: &RawPartition) -> String {
    raw.index_folder(prefix) + "reset+"
}

/// Where an archive without objects begins in a log that starts at `start`. Of several resets the
/// one that leaves out the fewest records counts, since markers don't tell which was the last.
fn first_begin(markers: &[Marker], topic: &Topic, start: i64) -> i64 {
    let own = markers.iter().filter(|marker| marker.topic_id == topic.id);
    own.map(|marker| marker.to)
        .min()
        .unwrap_or(start)
        .max(start)
}

/// The key of a reset's marker. Escapes characters of the id that are unsafe in object keys.
fn marker_key(prefix: &str, raw: &RawPartition, id: &str) -> String {
    let mut key = markers(prefix, raw);
    for byte in id.bytes() {
        if byte.is_ascii_alphanumeric() || b"-.:".contains(&byte) {
            key.push(char::from(byte));
        } else {
            let _ = write!(key, "_{byte:02x}");
        }
    }
    key + ".json"
}

/// Checks that an archive which ends at `next` can continue at `to`.
fn check_forward(
    source: &Source,
    folder: &str,
    index_folder: &str,
    next: i64,
    to: i64,
) -> Result<(), Halt> {
    if to >= next {
        return Ok(());
    }
    Err(Halt::ResetImpossible(format!(
        "the archive of {source} ends at offset {next} and is to go on at {to}: it holds the \
         records between already. To archive them again, move {folder} and {index_folder} out of \
         the archive's prefix, and create the run again under another name"
    )))
}

impl Archive {
    /// Those of `partitions` in which the reset `id` is not carried out or not complete.
    pub(super) async fn pending_resets(
        &self,
        store: &Store,
        topic: &Arc<Topic>,
        id: &str,
        partitions: &[i32],
    ) -> Result<Vec<i32>, SinkError> {
        let mut pending = Vec::new();
        for &partition in partitions {
            let raw = raw_partition(topic, partition);
            let done = match self.marker(store, &raw, id).await? {
                Some(marker) => {
                    !marker.is_ahead(topic, self.position(store, topic, &raw).await?.as_ref())
                }
                None => false,
            };
            if !done {
                pending.push(partition);
            }
        }
        Ok(pending)
    }

    /// Where an archive begins that has neither objects nor a note. An earlier release left only
    /// the marker of a reset of such an archive.
    pub(super) async fn first_begin(
        &self,
        store: &Store,
        topic: &Topic,
        partition: i32,
        start: i64,
    ) -> Result<i64, SinkError> {
        let raw = raw_partition(topic, partition);
        let mut found = Vec::new();
        for key in store.keys(&markers(&self.config.zone.prefix, &raw)).await? {
            found.extend(store.get_json(&key).await?);
        }
        Ok(first_begin(&found, topic, start))
    }

    async fn marker(
        &self,
        store: &Store,
        raw: &RawPartition,
        id: &str,
    ) -> Result<Option<Marker>, SinkError> {
        store
            .get_json(&marker_key(&self.config.zone.prefix, raw, id))
            .await
    }

    /// Makes the archive continue at `to` in one partition.
    pub(super) async fn reset_partition(
        &self,
        store: &Store,
        source: &Source,
        id: &str,
        to: i64,
    ) -> Result<(), SinkError> {
        let (raw, prefix) = (
            raw_partition(&source.topic, source.partition),
            &self.config.zone.prefix,
        );
        let position = self.position(store, &source.topic, &raw).await?;
        if let Some(position) = &position {
            Halt::check_identity(source, &position.cluster_id, &position.topic_id)?;
        }
        let interrupted = self
            .marker(store, &raw, id)
            .await?
            .filter(|marker| marker.topic_id == source.topic.id);
        let to = if let Some(marker) = interrupted {
            marker.to
        } else {
            if let Some(position) = &position {
                let (folder, index_folder) = (
                    store.url(&raw.folder(prefix)),
                    store.url(&raw.index_folder(prefix)),
                );
                check_forward(
                    source,
                    &folder,
                    &index_folder,
                    position.next.next_offset(),
                    to,
                )?;
            }
            let marker = Marker {
                topic_id: source.topic.id.clone(),
                to,
            };
            store
                .put_json(&marker_key(prefix, &raw, id), &marker)
                .await?;
            to
        };
        let Some(position) = position else {
            tracing::info!(%source, to, reset = id, "the empty archive begins at that offset");
            return self
                .note_begin(store, &source.topic, source.partition, to)
                .await;
        };
        let mut next = position.next.next_offset();
        while next < to {
            let body = compress(self.config.compression, Bytes::new()).await?;
            let gap = Content {
                body,
                index: &Index::default(),
                times: (0, 0),
            };
            let (end, _) = self.write(store, source, gap, next, to).await?;
            tracing::warn!(
                %source,
                from = next,
                to = end,
                reset = id,
                "the reset skips records, which will not be archived"
            );
            next = end;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use pinpipe_core::Kind;

    use super::*;

    fn source() -> Source {
        let topic = Topic {
            kind: Kind::Pin,
            name: "t".into(),
            cluster_id: "c".into(),
            id: "i".into(),
        };
        Source {
            topic: Arc::new(topic),
            partition: 1,
        }
    }

    #[test]
    fn a_marker_s_key_is_safe_whatever_the_id_contains() {
        let raw = raw_partition(&source().topic, 1);
        assert_eq!(
            marker_key("topics", &raw, "live=a/ä-1"),
            "topics/_index/t/partition=1/reset+live_3da_2f_c3_a4-1.json"
        );
        assert_ne!(
            marker_key("topics", &raw, "a_"),
            marker_key("topics", &raw, "a/")
        );
    }

    #[test]
    fn an_archive_without_objects_begins_where_it_was_reset_to() {
        let marker = |topic_id: &str, to| Marker {
            topic_id: topic_id.into(),
            to,
        };
        let topic = &source().topic;
        for (markers, start, expected) in [
            (vec![], 3, 3),
            (vec![marker("i", 9)], 3, 9),
            (vec![marker("i", 9)], 12, 12),
            (vec![marker("earlier", 9)], 3, 3),
            (
                vec![marker("i", 9), marker("i", 5), marker("earlier", 4)],
                3,
                5,
            ),
        ] {
            assert_eq!(first_begin(&markers, topic, start), expected);
        }
    }

    #[test]
    fn an_archive_is_only_reset_forward() {
        for (next, to, allowed) in [(5, 5, true), (5, 9, true), (5, 4, false)] {
            let checked = check_forward(&source(), "s3://b/t/", "s3://b/_index/t/", next, to);
            assert_eq!(checked.is_ok(), allowed, "{next} to {to}");
        }
        let message = check_forward(&source(), "s3://b/t/", "s3://b/_index/t/", 5, 4)
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("s3://b/t/ and s3://b/_index/t/"),
            "{message}"
        );
    }

    #[test]
    fn a_reset_is_completed_only_where_it_was_interrupted() {
        let marker = Marker {
            topic_id: "i".into(),
            to: 9,
        };
        let position = |next| StoredPosition {
            cluster_id: "c".into(),
            topic_id: "i".into(),
            next: crate::log::Position::offset(next),
            noted: false,
        };
        for (position, ahead) in [
            (Some(position(8)), true),
            (Some(position(9)), false),
            (None, false),
        ] {
            assert_eq!(marker.is_ahead(&source().topic, position.as_ref()), ahead);
        }
        let other_topic = Marker {
            topic_id: "other".into(),
            to: 9,
        };
        assert!(!other_topic.is_ahead(&source().topic, Some(&position(8))));
    }
}
