//! The worker's process.

use std::{
    fs,
    process::Child,
    time::{Duration, Instant},
};

use pinpipe_servers::{
    get,
    stores::{folder, kafka},
};

use crate::{
    broker,
    program::{self, Program},
};

const DEADLINE: Duration = Duration::from_mins(1);
/// The size limit of a record, bytes.
pub const RECORD_BYTES: usize = 2000;
/// The size limit of a body, bytes.
pub const BODY_BYTES: usize = 200_000;

/// A running worker, which is killed when it is dropped.
pub struct Worker {
    child: Child,
    /// The base URL.
    pub url: String,
    /// The beginning of its topics' names.
    pub prefix: String,
}

impl Worker {
    /// Starts a worker for topics whose names begin with `prefix`. Each kind has an alias:
    /// `streaming-0a1b-pin` and so on.
    pub async fn start(prefix: &str) -> Self {
        broker::create_topics(prefix).await;
        let own = folder().join(prefix);
        fs::create_dir(&own).unwrap();
        let kinds = ["pin", "geo", "user"];
        let topic = |kind| {
            format!("  {kind}: {{name: {prefix}.{kind}, deadLetter: {prefix}.{kind}.dlq}}\n")
        };
        let alias = |kind| format!("  - {{name: streaming-0a1b-{kind}, kind: {kind}}}\n");
        let config = format!(
            "configVersion: 1\n\
             pipeline: {{namespace: data, name: p, uid: u}}\n\
             kafka: {{bootstrapServers: \"127.0.0.1:{}\"}}\n\
             maxRecordBytes: {RECORD_BYTES}\n\
             maxRequestBytes: {BODY_BYTES}\n\
             topics:\n{}aliases:\n{}",
            kafka(),
            kinds.map(topic).concat(),
            kinds.map(alias).concat(),
        );
        let Program { child, http, admin } = program::start(&own, &config, &[]);
        let worker = Self {
            child,
            url: format!("http://127.0.0.1:{http}"),
            prefix: prefix.to_owned(),
        };
        let begun = Instant::now();
        while get(admin, "/readyz").is_none() {
            let log = || fs::read_to_string(own.join("log")).unwrap();
            assert!(begun.elapsed() < DEADLINE, "{}", log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        worker
    }

    /// The name of a kind's topic.
    pub fn topic(&self, kind: &str) -> String {
        format!("{}.{kind}", self.prefix)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}
