//! What runs read from a bucket with raw objects, some of which are lost.

use std::ops::Range;

use pinpipe_config::Compression;
use pinpipe_core::Kind;
use pinpipe_runtime::raw_zone::{Index, ObjectMetadata, RawPartition};
use pinpipe_servers::stores;

use super::*;
use crate::{
    coverage::{self, Coverage},
    progress::Progress,
    read,
    testing::{self, TestDir},
};

/// The raw objects of a partition with users.
struct Archive {
    config: Batch,
    store: Store,
    client: aws_sdk_s3::Client,
    raw: RawPartition,
}

impl Archive {
    async fn new(bucket: &str) -> Self {
        let mut config = testing::config();
        config.zone = testing::zone(bucket, stores::s3(true).0);
        let client = pinpipe_runtime::s3::client(&config.zone.s3).await;
        Self {
            store: Store::open(&config.zone).await.unwrap(),
            client: client.unwrap(),
            raw: RawPartition {
                topic: config.topics.user.name.clone(),
                partition: 0,
            },
            config,
        }
    }

    fn key(&self, first: i64) -> String {
        let prefix = self.store.prefix();
        self.raw.object_key(prefix, first, Compression::None)
    }

    /// Writes an object with a record for each offset.
    async fn put(&self, offsets: Range<i64>, topic_id: &str) {
        let index = Index {
            offsets: offsets.clone().collect(),
            times: offsets.clone().collect(),
            orders: Vec::new(),
        };
        let lines = index.offsets.len();
        let metadata = ObjectMetadata {
            next_offset: offsets.end,
            record_count: lines as u64,
            min_time: offsets.start,
            max_time: offsets.end,
            cluster_id: "c".into(),
            topic_id: topic_id.into(),
            index: self
                .raw
                .index_key(self.store.prefix(), offsets.start, offsets.end, lines),
        };
        self.store.put_json(&metadata.index, &index).await.unwrap();
        let records: Vec<String> = offsets
            .clone()
            .map(|offset| format!("{{\"ind\": {offset}}}\n"))
            .collect();
        let put = self.client.put_object().bucket(&self.config.zone.bucket);
        put.key(self.key(offsets.start))
            .set_metadata(Some(metadata.to_metadata()))
            .body(records.concat().into_bytes().into())
            .send()
            .await
            .unwrap();
    }

    async fn delete(&self, first: i64) {
        self.store.delete(&[self.key(first)]).await.unwrap();
    }

    /// Reads what a run of these offsets reads. Returns the number of records, and the state, if
    /// nothing is missing.
    async fn run(&self, kind: RunKind, from: i64, to: i64, base: &State) -> Result<(u64, State)> {
        let positions = |offset| Positions::from([(self.raw.topic.clone(), [(0, offset)].into())]);
        let mut manifest = Manifest {
            run: "r".into(),
            run_time: DateTime::UNIX_EPOCH,
            release: RELEASE.into(),
            kind,
            state: None,
            state_id: String::new(),
            buckets: 64,
            from: positions(from),
            to: positions(to),
            begin: Positions::new(),
            covered: base.covered.clone(),
            import: Import::default(),
            objects: Vec::new(),
        };
        let (Self { config, store, .. }, folder) = (self, TestDir::new());
        let (objects, begin) =
            archived_objects(store, &config.topics, &manifest, Some(base)).await?;
        manifest.begin = begin;
        manifest.objects = objects.into_iter().map(|(object, _)| object).collect();
        let (path, progress) = (folder.path(), Progress::default());
        let read = read::read(config, store, &manifest, path, 1 << 20, &progress).await?;
        let Coverage {
            begin,
            covered,
            topic_ids,
            ..
        } = coverage::check(&config.pipeline, &manifest, &read.spans, Some(base))?;
        let state = State {
            begin,
            covered,
            topic_ids,
            listed: coverage::last_objects(&read.spans, Some(base)),
            ..testing::state("r")
        };
        Ok((read.stats[&Kind::User].counts.read, state))
    }
}

fn missing(offsets: &str, run: Result<(u64, State)>) {
    let error = format!("{:#}", run.err().unwrap());
    let expected = format!("[0] are missing: no object covers the offsets {offsets}");
    assert!(error.contains(&expected), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_lost_at_the_end_are_missed_and_read_once_they_are_restored() {
    use RunKind::{Full, Incremental};
    let archive = Archive::new("lost-end").await;
    archive.put(0..10, "t").await;
    archive.put(10..20, "t").await;
    let (read, state) = archive
        .run(Full, 0, 20, &testing::state("r"))
        .await
        .unwrap();
    assert_eq!(read, 20);

    archive.delete(10).await;
    missing("10 to 19", archive.run(Incremental, 20, 20, &state).await);
    missing("10 to 19", archive.run(Full, 0, 20, &state).await);
    archive.put(10..20, "t").await;

    // One that no run has read: the topic's last offsets may be without records.
    let (read, state) = archive.run(Incremental, 20, 30, &state).await.unwrap();
    assert_eq!(read, 0);
    archive.put(30..40, "t").await;
    missing("20 to 29", archive.run(Incremental, 30, 40, &state).await);
    archive.put(20..30, "t").await;
    let (read, state) = archive.run(Incremental, 30, 40, &state).await.unwrap();
    assert_eq!(read, 20, "what was lost is read with what is new");
    let (read, _) = archive.run(Incremental, 40, 40, &state).await.unwrap();
    assert_eq!(read, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_under_the_name_of_another_run_fails_unless_it_is_the_same() {
    let archive = Archive::new("reused-name").await;
    let (store, runs) = (&archive.store, Runs::new(&archive.config.pipeline));
    let request = |prefix: &str| ImportRequest {
        objects: vec![(Kind::User, prefix.into())],
        ..ImportRequest::default()
    };
    let run = async |name: &str, kind, state: Option<&str>| {
        let import = Import {
            request: serde_json::to_string(&request("old")).unwrap(),
            ..Import::default()
        };
        let manifest = Manifest {
            run: name.into(),
            run_time: DateTime::UNIX_EPOCH,
            release: RELEASE.into(),
            state: state.map(str::to_owned),
            state_id: String::new(),
            buckets: 64,
            from: Positions::new(),
            to: Positions::new(),
            begin: Positions::new(),
            covered: Positions::new(),
            import: match kind {
                RunKind::Import => import,
                _ => Import::default(),
            },
            kind,
            objects: Vec::new(),
        };
        let manifest = runs.start(store, manifest).await.unwrap();
        store.put_json(&runs.report(name), &0).await.unwrap();
        runs.publish(store, &manifest, true).await.unwrap()
    };
    let check = async |name: &str, prefix: &str, last: &Pointer| {
        let known = runs.list(store).await.unwrap();
        let run = known.iter().find(|run| run.name == name).unwrap();
        let request = request(prefix);
        let is_other = check_is_no_other(store, &runs, run, &request).await;
        let is_forgotten = check_is_not_forgotten(store, &runs, run, Some(last)).await;
        [is_other, is_forgotten].map(|checked| checked.err().map(|error| error.to_string()))
    };
    let import = run("import-1", RunKind::Import, None).await;
    assert_eq!(check("import-1", "old", &import).await, [None, None]);
    let daily = run("daily", RunKind::Incremental, Some("import-1")).await;
    assert_eq!(check("import-1", "old", &daily).await, [None, None]);
    let full = run("full", RunKind::Full, None).await;
    for (name, prefix) in [("import-1", "new"), ("daily", "old")] {
        let [is_other, _] = check(name, prefix, &daily).await;
        let message = is_other.unwrap();
        assert!(message.contains("other values"), "{message}");
    }
    let [is_other, is_forgotten] = check("import-1", "old", &full).await;
    assert_eq!(is_other, None);
    let message = is_forgotten.unwrap();
    assert!(message.contains("a full run"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recreated_topic_s_objects_are_read_by_a_full_run_alone() {
    let archive = Archive::new("recreated").await;
    archive.put(0..10, "old").await;
    let (_, state) = archive
        .run(RunKind::Full, 0, 10, &testing::state("r"))
        .await
        .unwrap();
    archive.delete(0).await;
    archive.put(5..25, "new").await;
    let error = archive
        .run(RunKind::Incremental, 10, 25, &state)
        .await
        .err();
    let error = format!("{:#}", error.unwrap());
    assert!(error.contains("was recreated"), "{error}");
    let (read, state) = archive.run(RunKind::Full, 0, 25, &state).await.unwrap();
    assert_eq!(read, 20);
    archive.put(25..30, "new").await;
    let (read, _) = archive
        .run(RunKind::Incremental, 25, 30, &state)
        .await
        .unwrap();
    assert_eq!(read, 5);
}
