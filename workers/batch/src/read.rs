//! Reading the raw objects of a manifest: cleaned line by line as they come, several objects at once.
//!
//! An object is held as Arrow rows only, never as text: what is in memory besides is a buffer and an index per object being read.

use std::{
    collections::BTreeMap,
    io::BufRead,
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use pinpipe_config::{Topic, Topics};
use pinpipe_core::{Kind, Order, clean};
use pinpipe_runtime::raw_zone::{Facts, Index, RawPartition};
use tokio::task::JoinSet;
use tracing::info;

use crate::{
    columns::TableBuilder,
    counts::Counts,
    latest::Chunk,
    manifest::{Manifest, Positions, RawObject},
    retry::{Hopeless, PATIENCE, patiently},
    store::Store,
};

/// Objects read at once.
const READERS: usize = 4;
/// Rows of one chunk: bounds what Arrow's text columns can hold.
const CHUNK_ROWS: usize = 16_384;
/// How often the log says how far reading is.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// What was read of one kind.
#[derive(Debug, Default)]
pub struct Read {
    /// The clean rows, repeats of a key among them.
    pub chunks: Vec<Chunk>,
    /// What was seen.
    pub counts: Counts,
}

/// The topic of one kind.
pub fn topic(topics: &Topics, kind: Kind) -> &Topic {
    match kind {
        Kind::Pin => &topics.pin,
        Kind::Geo => &topics.geo,
        Kind::User => &topics.user,
    }
}

/// The raw objects that hold records before `to`, in the log's order.
pub async fn objects(store: &Store, topics: &Topics, to: &Positions) -> Result<Vec<RawObject>> {
    let mut objects = Vec::new();
    for kind in Kind::ALL {
        let topic = &topic(topics, kind).name;
        for (&partition, &end) in to.get(topic).into_iter().flatten() {
            let listed = store.raw_objects(&RawPartition { topic: topic.clone(), partition }).await?;
            let covered = listed.into_iter().filter(|object| object.first < end);
            objects.extend(covered.map(|object| RawObject { kind, partition, key: object.key }));
        }
    }
    Ok(objects)
}

/// Reads and cleans everything a manifest names.
pub async fn read(
    store: &Store,
    topics: &Topics,
    max_record_bytes: u32,
    manifest: &Manifest,
) -> Result<BTreeMap<Kind, Read>> {
    let max_bytes = usize::try_from(max_record_bytes)?;
    let total = manifest.objects.len();
    let mut waiting = manifest.objects.iter();
    let mut tasks: JoinSet<Result<(Kind, Read)>> = JoinSet::new();
    let mut start = |tasks: &mut JoinSet<_>| -> Result<()> {
        if let Some(object) = waiting.next().cloned() {
            let end = manifest.end(&topic(topics, object.kind).name, object.partition)?;
            let store = store.clone();
            tasks.spawn(async move { Ok((object.kind, read_object(&store, &object, end, max_bytes).await?)) });
        }
        Ok(())
    };
    for _ in 0..READERS {
        start(&mut tasks)?;
    }
    let mut found: BTreeMap<Kind, Read> = Kind::ALL.map(|kind| (kind, Read::default())).into();
    let (begun, mut told) = (Instant::now(), Instant::now());
    let (mut done, mut records) = (0, 0);
    while let Some(task) = tasks.join_next().await {
        let (kind, read) = task??;
        start(&mut tasks)?;
        done += 1;
        records += read.counts.read;
        let all = found.entry(kind).or_default();
        all.counts += &read.counts;
        all.chunks.extend(read.chunks);
        if done == total || told.elapsed() >= TELL_EVERY {
            let per_second = (records as f64 / begun.elapsed().as_secs_f64().max(0.001)).round();
            info!(objects = done, of = total, records, per_second, "raw objects read");
            told = Instant::now();
        }
    }
    Ok(found)
}

async fn read_object(store: &Store, object: &RawObject, end: i64, max_bytes: usize) -> Result<Read> {
    patiently(PATIENCE, "reading a raw object", || read_object_once(store, object, end, max_bytes)).await.with_context(
        || {
            format!(
                "the raw object {}: the run needs it; where it is gone for good, delete the run's manifest.json and start anew",
                object.key
            )
        },
    )
}

async fn read_object_once(store: &Store, object: &RawObject, end: i64, max_bytes: usize) -> Result<Read> {
    let got = store.get_once(&object.key).await?;
    let facts = Facts::from_metadata(&got.metadata.unwrap_or_default()).map_err(|error| Hopeless(error.to_string()))?;
    let index: Index = store.get_json_once(&facts.index).await?;
    let mut decoder = Decoder::new(object, end, max_bytes, index)?;
    let mut body = got.body;
    while let Some(bytes) = body.next().await {
        decoder.push(&bytes?)?;
    }
    decoder.finish()
}

/// Turns the bytes of one raw object, in pieces of any size, into clean rows.
struct Decoder {
    kind: Kind,
    partition: i32,
    end: i64,
    max_bytes: usize,
    index: Arc<Index>,
    lines: usize,
    /// The line that has not come to its end.
    line: Vec<u8>,
    table: TableBuilder,
    orders: Vec<Order>,
    read: Read,
}

impl Decoder {
    fn new(object: &RawObject, end: i64, max_bytes: usize, index: Index) -> Result<Self> {
        if index.offsets.len() != index.times.len() {
            return Err(Hopeless("its index object has more offsets than times, or fewer".to_owned()).into());
        }
        Ok(Self {
            kind: object.kind,
            partition: object.partition,
            end,
            max_bytes,
            index: Arc::new(index),
            lines: 0,
            line: Vec::new(),
            table: TableBuilder::new(object.kind),
            orders: Vec::new(),
            read: Read::default(),
        })
    }

    fn push(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            bytes.read_until(b'\n', &mut self.line)?;
            if self.line.last() == Some(&b'\n') {
                self.end_line()?;
            }
        }
        Ok(())
    }

    fn end_line(&mut self) -> Result<()> {
        let mut line = mem::take(&mut self.line);
        self.record(line.strip_suffix(b"\n").unwrap_or(&line))?;
        line.clear();
        self.line = line;
        Ok(())
    }

    fn record(&mut self, raw: &[u8]) -> Result<()> {
        let (Some(&offset), Some(&time)) = (self.index.offsets.get(self.lines), self.index.times.get(self.lines))
        else {
            return Err(self.uneven());
        };
        self.lines += 1;
        if offset >= self.end {
            return Ok(());
        }
        match clean(self.kind, raw, self.max_bytes) {
            Ok(cleaned) => {
                self.read.counts.clean(&cleaned.repairs);
                self.table.push(&cleaned.record);
                self.orders.push(Order { time, partition: self.partition, offset });
                if self.table.len() == CHUNK_ROWS {
                    self.end_chunk()?;
                }
            }
            Err(rejection) => self.read.counts.rejected(&rejection),
        }
        Ok(())
    }

    fn end_chunk(&mut self) -> Result<()> {
        let (batch, orders) = (self.table.finish()?, mem::take(&mut self.orders));
        self.read.chunks.push(Chunk { batch, orders });
        Ok(())
    }

    fn finish(mut self) -> Result<Read> {
        if !self.line.is_empty() {
            self.end_line()?;
        }
        if self.lines != self.index.offsets.len() {
            return Err(self.uneven());
        }
        if self.table.len() > 0 {
            self.end_chunk()?;
        }
        Ok(self.read)
    }

    /// May be an answer cut short, so worth another try.
    fn uneven(&self) -> anyhow::Error {
        anyhow!("it does not have the {} lines its index object tells of", self.index.offsets.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cells::{self, Cell};

    fn decoder(lines: i64, end: i64) -> Decoder {
        let object = RawObject { kind: Kind::User, partition: 3, key: "k".into() };
        let index = Index {
            offsets: (10..10 + lines).collect(),
            times: (0..lines).map(|i| 1000 + i).collect(),
            ..Index::default()
        };
        Decoder::new(&object, end, 1000, index).unwrap()
    }

    const LINES: &[u8] = br#"{"ind": 1, "first_name": "A", "age": 200}
{"first_name": "keyless"}
[]
{"ind": 2, "age": "yesterday", "date_joined": "x"}
{"ind": 1, "last_name": "B"}
"#;

    #[test]
    fn pieces_of_any_size_give_the_same_rows_and_counts() {
        for size in [1, 7, 41, 1000] {
            let mut decoder = decoder(5, 100);
            for piece in LINES.chunks(size) {
                decoder.push(piece).unwrap();
            }
            let read = decoder.finish().unwrap();
            let counts = &read.counts;
            assert_eq!((counts.read, counts.clean, counts.repaired, counts.rejected), (5, 3, 2, 2), "{size}");
            let repaired = [
                ("age", BTreeMap::from([("out-of-range", 1), ("unreadable", 1)])),
                ("date_joined", BTreeMap::from([("unreadable", 1)])),
            ];
            assert_eq!(counts.repaired_by_field, repaired.into());
            assert_eq!(counts.rejected_by_reason, [("key-missing", 1), ("not-an-object", 1)].into());
            let [chunk] = &read.chunks[..] else { panic!("{} chunks", read.chunks.len()) };
            assert_eq!(cells::row(&chunk.batch, 2).unwrap()[..2], [Cell::BigInt(1), Cell::Text("B")]);
            let order = |time, offset| Order { time, partition: 3, offset };
            assert_eq!(chunk.orders, [order(1000, 10), order(1003, 13), order(1004, 14)]);
        }
    }

    #[test]
    fn records_behind_the_barrier_are_left_to_the_next_run() {
        let mut decoder = decoder(5, 13);
        decoder.push(LINES).unwrap();
        let read = decoder.finish().unwrap();
        assert_eq!((read.counts.read, read.counts.clean), (3, 1));
    }

    #[test]
    fn the_last_line_may_lack_its_end_but_no_line_may_be_missing_or_too_many() {
        let trimmed = LINES.trim_ascii_end();
        let mut whole = decoder(5, 100);
        whole.push(trimmed).unwrap();
        assert_eq!(whole.finish().unwrap().counts.read, 5);
        let mut short = decoder(6, 100);
        short.push(LINES).unwrap();
        assert!(short.finish().unwrap_err().to_string().contains("6 lines"));
        assert!(decoder(4, 100).push(LINES).is_err());
    }

    #[test]
    fn a_large_object_is_cut_into_chunks() {
        let rows = i64::try_from(CHUNK_ROWS).unwrap() + 1;
        let mut decoder = decoder(rows, i64::MAX);
        for i in 0..rows {
            decoder.push(format!("{{\"ind\": {i}}}\n").as_bytes()).unwrap();
        }
        let rows: Vec<usize> = decoder.finish().unwrap().chunks.iter().map(|chunk| chunk.orders.len()).collect();
        assert_eq!(rows, [CHUNK_ROWS, 1]);
    }
}
