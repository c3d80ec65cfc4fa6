//! Topics, batches and sinks for the tests.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use pinpipe_config::{Compression, RawZone, Rotate, S3, StartFrom, WriteMode};
use pinpipe_core::{Kind, Order, clean};
use pinpipe_stream::{
    archive::Archive,
    log::Position,
    postgres::Postgres,
    sink::{Answer, Batch, Consumed, Part, Sink, Source, Topic},
};
use tokio_postgres::{Client, NoTls};

use crate::stores;

/// The time of the records, milliseconds since the epoch.
pub const TIME: i64 = 1_600_000_000_000;

/// A topic of one kind.
pub fn topic(kind: Kind) -> Arc<Topic> {
    Arc::new(Topic {
        kind,
        name: "data.pinterest.topic".into(),
        cluster_id: "cluster".into(),
        id: "topic".into(),
    })
}

/// A closed batch of one partition's records, each with its offset.
pub fn batch<S: Sink>(
    sink: &S,
    topic: &Arc<Topic>,
    partition: i32,
    records: &[(i64, String)],
) -> S::Batch {
    let mut batch = sink.batch(&Source {
        topic: topic.clone(),
        partition,
    });
    for (offset, raw) in records {
        let cleaned = clean(topic.kind, raw.as_bytes(), 1 << 20);
        let position = Order {
            time: TIME + offset,
            partition,
            offset: *offset,
        };
        batch.push(Consumed {
            raw: raw.as_bytes(),
            position,
            after: Position::offset(offset + 1),
            order: position,
            cleaned: &cleaned,
        });
    }
    batch.close();
    batch
}

/// A pin with a title.
pub fn pin(key: &str, title: &str) -> String {
    serde_json::json!({"unique_id": key, "index": 1, "title": title}).to_string()
}

/// Stores a batch as the session does: what is refused is split, and the record that is refused by
/// itself is set aside. Returns the offsets of those records with the server's code and sentence.
pub async fn store<S: Sink>(
    sink: &S,
    topic: &Arc<Topic>,
    batch: S::Batch,
    from: i64,
    to: i64,
) -> Vec<(i64, String, String)> {
    let mut refused = Vec::new();
    let mut position = Position::offset(from);
    let mut waiting = vec![(batch, Position::offset(to))];
    while let Some((batch, to)) = waiting.pop() {
        let part = Part {
            partition: 0,
            batch: &batch,
            from: position,
            to,
        };
        match sink.commit(topic, &[part]).await.unwrap().remove(0) {
            Answer::Stored(stored) => position = stored,
            Answer::Refused(refusal) => {
                if let Some((first, second)) = batch.split() {
                    let between = first.last().unwrap();
                    waiting.push((second, to));
                    waiting.push((first, between));
                } else {
                    let offset = batch.last().unwrap().next_offset() - 1;
                    refused.push((offset, refusal.code, refusal.sentence));
                    let source = Source {
                        topic: topic.clone(),
                        partition: 0,
                    };
                    let mut empty = sink.batch(&source);
                    empty.close();
                    waiting.push((empty, to));
                }
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(position, Position::offset(to));
    refused
}

/// A connection to a database of the test server.
pub async fn database(name: &str) -> Client {
    let url = url(stores::postgres(), name);
    let (client, driver) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    tokio::spawn(driver);
    client
}

/// The URL of a database.
pub fn url(port: u16, database: &str) -> String {
    format!("postgresql://postgres@127.0.0.1:{port}/{database}")
}

/// A PostgreSQL sink.
pub fn live(url: &str, schema: &str, write_mode: WriteMode) -> Postgres {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let url_file = stores::folder().join(format!("url-{number}"));
    fs::write(&url_file, url).unwrap();
    let config = pinpipe_config::Postgres {
        name: "live".into(),
        url_file,
        secret: None,
        tls: None,
        schema: schema.into(),
        start_from: StartFrom::Earliest,
        write_mode,
    };
    Postgres::new(config, "data.pinterest.live".into())
}

/// Stores the initial position 0 of partition 0.
pub async fn begin<S: Sink>(sink: &S, topic: &Arc<Topic>) {
    let initial = [(0, Position::START)].into();
    sink.store_initial_positions(topic, &[].into(), &initial)
        .await
        .unwrap();
}

/// An archive in a bucket of the object store at a port of 127.0.0.1.
pub fn archive(port: u16, credentials: &Path, bucket: &str, compression: Compression) -> Archive {
    Archive::new(
        archived(port, credentials, bucket, compression),
        "data.pinterest.archive".into(),
    )
}

/// The configuration of an archive.
pub fn archived(
    port: u16,
    credentials: &Path,
    bucket: &str,
    compression: Compression,
) -> pinpipe_config::Archive {
    pinpipe_config::Archive {
        zone: RawZone {
            bucket: bucket.into(),
            prefix: "topics".into(),
            s3: S3 {
                endpoint: Some(format!("http://127.0.0.1:{port}")),
                region: "us-east-1".into(),
                credentials_dir: Some(credentials.to_path_buf()),
                ..S3::default()
            },
        },
        rotate: Rotate {
            bytes: 1 << 30,
            records: 1_000_000,
            interval_seconds: 300,
        },
        compression,
    }
}
