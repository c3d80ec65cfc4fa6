//! Helpers for the tests of several modules.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use pinpipe_config::{Batch, RawZone, S3};
use pinpipe_core::Pin;
use pinpipe_servers::stores;

use crate::{manifest::Positions, state::State};

/// A pin without any value but its key and index.
pub fn pin(unique_id: String, index_id: i64) -> Pin<'static> {
    Pin {
        unique_id: unique_id.into(),
        index_id,
        title: None,
        category: None,
        description: None,
        poster_name: None,
        follower_count: None,
        tag_list: None,
        is_image_or_video: None,
        image_src: None,
        downloaded: None,
        save_location: None,
    }
}

/// A configuration, without the addresses of servers that are there.
pub fn config() -> Batch {
    let sample = include_str!("../../config/samples/0.1.0/batch.yaml");
    pinpipe_config::parse(sample).unwrap()
}

/// A bucket of the tests' object store, which is reached by `port`: its own or a proxy's.
pub fn zone(bucket: &str, port: u16) -> RawZone {
    let (_, credentials) = stores::s3(true);
    RawZone {
        bucket: bucket.to_owned(),
        prefix: "topics".to_owned(),
        s3: S3 {
            endpoint: Some(format!("http://127.0.0.1:{port}")),
            region: "us-east-1".to_owned(),
            credentials_dir: Some(credentials.clone()),
            ..S3::default()
        },
    }
}

/// The state of a run that has read nothing.
pub fn state(run: &str) -> State {
    State {
        run: run.into(),
        run_time: None,
        id: String::new(),
        begin: Positions::new(),
        covered: Positions::new(),
        topic_ids: BTreeMap::new(),
        listed: Positions::new(),
        buckets: 64,
        tables: BTreeMap::new(),
        latest: BTreeMap::new(),
    }
}

/// A temporary folder for one test, deleted when dropped.
pub struct TestDir(PathBuf);

impl TestDir {
    /// Creates an empty folder.
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "pinpipe-batch-{}-{}",
            std::process::id(),
            NUMBER.fetch_add(1, Ordering::Relaxed)
        );
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// The path of the folder.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The path of a file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for TestDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
