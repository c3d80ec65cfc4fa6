//! What runs keep: the latest row of each key, in hash buckets, so that answers always cover
//! everything.
//!
//! ```text
//! runs/<namespace>.<pipeline>/<run>/state.json                the buckets as the run left them
//! state/<namespace>.<pipeline>/<kind>/<bucket>/<run>.arrow    the rows of one bucket, as the run that wrote it left them
//! ```
//! An object is never changed: a run writes new ones for the buckets it touches and refers to older
//! ones for the others. Rows are sorted by key and have `_time`, `_partition` and `_offset` behind
//! the clean columns. Arrow IPC streams, compressed by LZ4.

use std::collections::{BTreeMap, BTreeSet};

use pinpipe_config::Pipeline;
use pinpipe_core::Kind;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use crate::store::{Listed, Store};

/// Buckets of each kind at least.
pub const BUCKETS: u32 = 64;
/// Buckets at most: each is a file, a few requests and some memory.
const MOST_BUCKETS: u32 = 1024;
/// What a bucket may grow to before there are twice as many: rows of ten million pins are six times
/// as much.
const BUCKET_BYTES: u64 = 96 << 20;

/// The state a run left behind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// The run.
    pub run: String,
    /// Buckets of each kind, a power of two.
    pub buckets: u32,
    /// The buckets that have rows.
    pub tables: BTreeMap<Kind, Vec<Part>>,
    /// The latest record of each kind: milliseconds since the epoch.
    pub latest: BTreeMap<Kind, i64>,
}

/// One bucket that has rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Part {
    /// Its number.
    pub bucket: u32,
    /// The object's key.
    pub key: String,
    /// Its rows.
    pub rows: u64,
    /// The object's size.
    pub bytes: u64,
}

impl State {
    /// A bucket of this state, if it has rows.
    pub fn part(&self, kind: Kind, bucket: u32) -> Option<&Part> {
        self.tables
            .get(&kind)?
            .iter()
            .find(|part| part.bucket == bucket)
    }

    /// Rows of a kind.
    pub fn rows(&self, kind: Kind) -> u64 {
        self.tables
            .get(&kind)
            .into_iter()
            .flatten()
            .map(|part| part.rows)
            .sum()
    }

    /// Bytes of the objects.
    pub fn bytes(&self) -> u64 {
        self.tables.values().flatten().map(|part| part.bytes).sum()
    }

    fn keys(&self) -> impl Iterator<Item = &str> {
        self.tables.values().flatten().map(|part| part.key.as_str())
    }
}

/// How many buckets a run keeps its rows in: as many as there were, or twice as many, and again,
/// until what it reads, raw bytes, fits with what is kept.
pub fn buckets(before: Option<&State>, raw_bytes: u64) -> u32 {
    let mut buckets = before.map_or(BUCKETS, |state| state.buckets);
    let bytes = raw_bytes + before.map_or(0, State::bytes);
    while buckets < MOST_BUCKETS && bytes / u64::from(buckets) > BUCKET_BYTES {
        buckets *= 2;
    }
    buckets
}

/// Where a pipeline's state is.
#[derive(Clone, Debug)]
pub struct States {
    folder: String,
}

impl States {
    /// The state of `pipeline`.
    pub fn new(pipeline: &Pipeline) -> Self {
        Self {
            folder: format!("state/{}.{}", pipeline.namespace, pipeline.name),
        }
    }

    /// The key of a bucket's rows as `run` writes them.
    pub fn object(&self, kind: Kind, bucket: u32, run: &str) -> String {
        format!("{}/{kind}/{bucket:04}/{run}.arrow", self.folder)
    }

    /// Deletes the objects that none of `kept` refers to and that are of no run in `open`. What
    /// can't be deleted is left to the next run.
    pub async fn tidy(&self, store: &Store, kept: &[&State], open: &[&str]) {
        let unused = async {
            let listed = store.list(&format!("{}/", self.folder)).await?;
            let unused = unused(&listed, kept, open);
            store.delete(&unused).await?;
            Ok::<_, anyhow::Error>(unused.len())
        };
        match unused.await {
            Ok(0) => {}
            Ok(objects) => info!(objects, "state of earlier runs deleted"),
            Err(error) => {
                warn!(
                    error = format!("{error:#}"),
                    "state of earlier runs is left to the next run to delete"
                );
            }
        }
    }
}

fn unused(listed: &[Listed], kept: &[&State], open: &[&str]) -> Vec<String> {
    let kept: BTreeSet<&str> = kept.iter().flat_map(|state| state.keys()).collect();
    let run = |key: &str| {
        key.rsplit('/')
            .next()
            .and_then(|name| name.strip_suffix(".arrow"))
            .map(str::to_owned)
    };
    let is_unused = |key: &str| {
        run(key).is_some_and(|run| !kept.contains(key) && !open.contains(&run.as_str()))
    };
    listed
        .iter()
        .filter(|object| is_unused(&object.key))
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
            run: run.into(),
            buckets: 64,
            tables,
            latest: BTreeMap::new(),
        }
    }

    #[test]
    fn what_the_last_two_runs_and_open_ones_refer_to_stays() {
        let before = state("b", &[(0, "a"), (1, "b")]);
        let last = state("c", &[(0, "c"), (1, "b")]);
        let key = |bucket, run| states().object(Kind::Pin, bucket, run);
        let listed: Vec<Listed> = [
            key(0, "a"),
            key(1, "a"),
            key(1, "b"),
            key(0, "c"),
            key(0, "open.1"),
            key(3, "gone"),
            "state/x".into(),
        ]
        .map(|key| Listed {
            key,
            modified: 0,
            bytes: 0,
        })
        .into();
        assert_eq!(
            unused(&listed, &[&last, &before], &["open.1"]),
            [key(1, "a"), key(3, "gone")]
        );
    }

    #[test]
    fn a_bucket_without_rows_is_none() {
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
    fn buckets_are_doubled_until_one_fits_and_never_halved() {
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
