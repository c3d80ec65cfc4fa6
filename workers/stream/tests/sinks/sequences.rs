//! The generated calls on each store.

use std::collections::BTreeMap;

use pinpipe_config::{Compression, WriteMode};
use pinpipe_runtime::{config::S3, raw_zone, s3};

use crate::{
    contract::{Store, latest, record},
    proxy::Proxy,
    stores,
    support::{archive, database, live, url},
};

#[tokio::test(flavor = "multi_thread")]
async fn postgres_answers_as_the_contract_says() {
    let port = stores::postgres();
    let proxy = Proxy::start(port, |_| {}).await;
    let worker = |port| live(&url(port, "postgres"), "sequences", WriteMode::Upsert);
    let store = Store {
        workers: [worker(proxy.port), worker(port)],
        proxy,
        request: b"COMMIT\0",
        loses_one_in: 3,
        trims: false,
    };
    let client = database("postgres").await;
    store
        .run(200, async |_, expected| {
            let rows = "SELECT ind, country FROM sequences.geo ORDER BY ind";
            let rows = client
                .query(rows, &[])
                .await
                .map_err(|error| error.to_string())?;
            let rows: Vec<(i64, String)> =
                rows.iter().map(|row| (row.get(0), row.get(1))).collect();
            client
                .batch_execute("TRUNCATE sequences.geo")
                .await
                .unwrap();
            if rows == latest(expected) {
                return Ok(());
            }
            Err(format!(
                "the table holds {rows:?} instead of {:?}",
                latest(expected)
            ))
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_store_answers_as_the_contract_says() {
    let (port, credentials) = stores::s3(true);
    let proxy = Proxy::start(*port, |_| {}).await;
    let worker = |port| archive(port, credentials, "sequences", Compression::None);
    let store = Store {
        workers: [worker(proxy.port), worker(*port)],
        proxy,
        request: b"x-amz-meta-next-offset",
        loses_one_in: 40,
        trims: true,
    };
    let client = s3::client(&S3 {
        endpoint: Some(format!("http://127.0.0.1:{port}")),
        region: "us-east-1".into(),
        credentials_dir: Some(credentials.clone()),
        ..S3::default()
    })
    .await
    .unwrap();
    store
        .run(200, async |topic, expected| {
            let mut lines = BTreeMap::new();
            for partition in 0..2 {
                let raw = raw_zone::RawPartition {
                    topic: topic.name.clone(),
                    partition,
                };
                let objects = raw_zone::list(&client, "sequences", "topics", &raw, 0).await;
                for object in objects.unwrap() {
                    let body = client
                        .get_object()
                        .bucket("sequences")
                        .key(&object.key)
                        .send();
                    let body = body.await.unwrap().body.collect().await.unwrap();
                    let text = String::from_utf8(body.to_vec()).unwrap();
                    if !text.is_empty() {
                        lines.insert((partition, object.first), text);
                    }
                }
            }
            let expected: BTreeMap<_, String> = expected
                .stored
                .iter()
                .map(|(&(partition, from), &to)| {
                    let lines = (from..to).map(|offset| record(partition, offset) + "\n");
                    ((partition, from), lines.collect())
                })
                .collect();
            if lines == expected {
                return Ok(());
            }
            Err(format!(
                "the bucket holds {lines:?} instead of {expected:?}"
            ))
        })
        .await;
}
