//! The state that runs leave behind: the latest row of each key, in hash buckets, so that answers
//! always cover all records.
//!
//! ```text
//! runs/<namespace>.<pipeline>/<run>/state.json                all buckets after the run
//! state/<namespace>.<pipeline>/<kind>/<bucket>/<run>.arrow    one bucket, written by this run
//! ```
//! Objects are immutable: a run writes new ones for the buckets it changes and refers to older ones
//! for the others. They are Arrow IPC streams, compressed with LZ4, with rows sorted by key. After
//! the clean columns, rows have `_time`, `_partition` and `_offset`.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use pinpipe_config::Pipeline;
use pinpipe_core::Kind;
use pinpipe_lease::Held;
use pinpipe_runtime::kafka::Positions;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use crate::store::{ListedObject, MAX_KEYS_PER_DELETE, Store};

/// Fewest buckets per kind.
pub const MIN_BUCKETS: u32 = 64;
/// Most buckets per kind: each one costs a file, a few requests and some memory.
const MAX_BUCKETS: u32 = 1024;
/// Size of a bucket's rows, bytes, over which the number of buckets is doubled.
const BUCKET_BYTES: u64 = 96 << 20;

/// The state after a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// The run.
    pub run: String,
    /// The run's time, as in its manifest; `None` in states of releases
    /// that didn't write it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_time: Option<DateTime<Utc>>,
    /// Identifies this state and all that are built on it or rebuilt in its place; empty in states
    /// of releases that didn't write it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// First offset of each partition that the archive's objects covered when this state was
    /// begun. A full run needs all records from there on.
    #[serde(default, skip_serializing_if = "Positions::is_empty")]
    pub begin: Positions,
    /// Offset after the last one that the archive's objects covered, by partition, when they were
    /// read. That may be before the run's end, if the topic's last offsets have no records.
    #[serde(default, skip_serializing_if = "Positions::is_empty")]
    pub covered: Positions,
    /// The id of each topic that was read, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub topic_ids: BTreeMap<String, String>,
    /// First offset of the last object of each partition that was read: listings begin there.
    #[serde(default, skip_serializing_if = "Positions::is_empty")]
    pub listed: Positions,
    /// Number of buckets per kind, a power of two.
    pub buckets: u32,
    /// Buckets with rows, by kind.
    pub tables: BTreeMap<Kind, Vec<Part>>,
    /// Timestamp of the latest record of each kind, milliseconds since the epoch.
    pub latest: BTreeMap<Kind, i64>,
}

/// A bucket with rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Part {
    /// Number of the bucket.
    pub bucket: u32,
    /// Key of the object.
    pub key: String,
    /// Number of rows.
    pub rows: u64,
    /// Size of the object, bytes.
    pub bytes: u64,
}

impl State {
    /// A bucket; `None` if it has no rows.
    pub fn part(&self, kind: Kind, bucket: u32) -> Option<&Part> {
        self.tables
            .get(&kind)?
            .iter()
            .find(|part| part.bucket == bucket)
    }

    /// Number of rows of a kind.
    pub fn rows(&self, kind: Kind) -> u64 {
        self.tables
            .get(&kind)
            .into_iter()
            .flatten()
            .map(|part| part.rows)
            .sum()
    }

    /// Size of all objects, bytes.
    pub fn bytes(&self) -> u64 {
        self.tables.values().flatten().map(|part| part.bytes).sum()
    }

    fn keys(&self) -> impl Iterator<Item = &str> {
        self.tables.values().flatten().map(|part| part.key.as_str())
    }
}

/// The number of buckets for a run: that of the state it builds on, doubled until the raw bytes to
/// be read and the stored ones fit.
pub fn buckets(base: Option<&State>, raw_bytes: u64) -> u32 {
    let mut buckets = base.map_or(MIN_BUCKETS, |state| state.buckets);
    let bytes = raw_bytes + base.map_or(0, State::bytes);
    while buckets < MAX_BUCKETS && bytes / u64::from(buckets) > BUCKET_BYTES {
        buckets *= 2;
    }
    buckets
}

/// The state objects of a pipeline.
#[derive(Clone, Debug)]
pub struct States {
    folder: String,
}

impl States {
    /// The state objects of `pipeline`.
    pub fn new(pipeline: &Pipeline) -> Self {
        Self {
            folder: format!("state/{}.{}", pipeline.namespace, pipeline.name),
        }
    }

    /// Key of the object that `run` writes for a bucket.
    pub fn object(&self, kind: Kind, bucket: u32, run: &str) -> String {
        format!("{}/{kind}/{bucket:04}/{run}.arrow", self.folder)
    }

    /// Deletes all objects that were written before `before`, milliseconds since the epoch by the
    /// store's clock, and that `retained` doesn't refer to. If that fails, the next run deletes
    /// them.
    pub async fn delete_unreferenced(
        &self,
        store: &Store,
        retained: &[&State],
        before: i64,
        held: &Held,
    ) {
        let deletion = async {
            held.check()?;
            let listed = store.list(&format!("{}/", self.folder)).await?;
            let keys = unreferenced(&listed, retained, before);
            for keys in keys.chunks(MAX_KEYS_PER_DELETE) {
                held.check()?;
                store.delete(keys).await?;
            }
            Ok::<_, anyhow::Error>(keys.len())
        };
        match deletion.await {
            Ok(0) => {}
            Ok(objects) => info!(objects, "deleted the state of earlier runs"),
            Err(error) => {
                warn!(
                    error = format!("{error:#}"),
                    "can't delete the state of earlier runs; the next run tries again"
                );
            }
        }
    }
}

fn unreferenced(listed: &[ListedObject], retained: &[&State], before: i64) -> Vec<String> {
    let referenced: BTreeSet<&str> = retained.iter().flat_map(|state| state.keys()).collect();
    listed
        .iter()
        .filter(|object| object.modified < before && !referenced.contains(object.key.as_str()))
        .filter(|object| object.key.strip_suffix(".arrow").is_some())
        .map(|object| object.key.clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn states() -> States {
        States::new(&Pipeline {
            namespace: "data".into(),
            name: "pins".into(),
            uid: "u".into(),
        })
    }

    fn state(run: &str, parts: &[(u32, &str)]) -> State {
        let part = |(bucket, run): &(u32, &str)| Part {
            bucket: *bucket,
            key: states().object(Kind::Pin, *bucket, run),
            rows: 10,
            bytes: 1000,
        };
        let tables = BTreeMap::from([(Kind::Pin, parts.iter().map(part).collect())]);
        State {
            tables,
            ..crate::testing::state(run)
        }
    }

    #[test]
    fn only_objects_older_than_the_last_two_runs_and_not_in_their_states_are_deleted() {
        let previous = state("b", &[(0, "a"), (1, "b")]);
        let last = state("c", &[(0, "c"), (1, "b")]);
        let key = |bucket, run| states().object(Kind::Pin, bucket, run);
        let listed: Vec<ListedObject> = [
            (key(0, "a"), 5),
            (key(1, "a"), 5),
            (key(1, "b"), 10),
            (key(0, "c"), 20),
            // A run that died, and one that has begun since this process was frozen.
            (key(0, "died"), 9),
            (key(0, "meanwhile"), 30),
            ("state/x".into(), 5),
        ]
        .map(|(key, modified)| ListedObject {
            key,
            modified,
            ..ListedObject::default()
        })
        .into();
        assert_eq!(
            unreferenced(&listed, &[&last, &previous], 10),
            [key(1, "a"), key(0, "died")]
        );
    }

    #[test]
    fn a_bucket_without_rows_has_no_part() {
        let state = state("a", &[(3, "a"), (7, "a")]);
        assert_eq!(
            (
                state.part(Kind::Pin, 3).map(|part| part.rows),
                state.part(Kind::Pin, 4)
            ),
            (Some(10), None)
        );
        assert_eq!(
            (
                state.part(Kind::Geo, 3),
                state.rows(Kind::Pin),
                state.bytes()
            ),
            (None, 20, 2000)
        );
    }

    #[test]
    fn buckets_are_doubled_until_the_rows_fit_and_never_halved() {
        let gib = 1 << 30;
        for (raw, expected) in [
            (0, 64),
            (6 * gib, 64),
            (7 * gib, 128),
            (13 * gib, 256),
            (10_000 * gib, 1024),
        ] {
            assert_eq!(buckets(None, raw), expected, "{raw}");
        }
        let mut large = state("a", &[]);
        large.buckets = 256;
        assert_eq!(buckets(Some(&large), 0), 256);
    }
}
