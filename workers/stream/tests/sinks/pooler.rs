//! PostgreSQL behind `PgBouncer`, which gives every transaction another session.

use std::{fs, path::Path};

use pinpipe_config::WriteMode;
use pinpipe_core::Kind;
use pinpipe_servers::{listens, postgres::as_postgres, process::Process};
use pinpipe_stream::{
    log::Position,
    sink::{Answer, Part, Sink},
};

use crate::{
    stores,
    support::{batch, database, live, pin, topic, url},
};

/// Two sessions for all clients, and no help with prepared statements.
fn settings(port: u16, postgres: u16) -> String {
    format!(
        "[databases]
postgres = host=127.0.0.1 port={postgres} dbname=postgres user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 2
server_reset_query_always = 0
"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_by_transaction_can_stand_before_the_server() {
    let (pooler, schema) = (stores::port(), "pooled");
    let file = stores::folder().join("pgbouncer.ini");
    fs::write(&file, settings(pooler, stores::postgres())).unwrap();
    let mut pgbouncer = as_postgres(Path::new("/usr/sbin/pgbouncer")).unwrap();
    pgbouncer.arg(&file);
    let log = stores::folder().join("pgbouncer.log");
    let mut process = Process::start(&mut pgbouncer, log).unwrap();
    process.wait_until(|| listens(pooler)).unwrap();

    // More workers than sessions; each commits to its own partition.
    let workers = 6;
    let topic = topic(Kind::Pin);
    let initial = (0..workers).map(|partition| (partition, Position::START));
    live(&url(pooler, "postgres"), schema, WriteMode::Upsert)
        .store_initial_positions(&topic, &[].into(), &initial.collect())
        .await
        .unwrap();
    let work = (0..workers).map(|partition| {
        let topic = topic.clone();
        tokio::spawn(async move {
            let sink = live(&url(pooler, "postgres"), schema, WriteMode::Upsert);
            for offset in 0..20 {
                let records = [(offset, pin(&format!("{partition}-{offset}"), "t"))];
                let batch = batch(&sink, &topic, partition, &records);
                let part = Part {
                    partition,
                    batch: &batch,
                    from: Position::offset(offset),
                    to: Position::offset(offset + 1),
                };
                let answers = sink.commit(&topic, &[part]).await.unwrap();
                assert_eq!(answers, [Answer::Stored(Position::offset(offset + 1))]);
            }
        })
    });
    for worker in work.collect::<Vec<_>>() {
        worker.await.unwrap();
    }
    let count = format!("SELECT count(*) FROM {schema}.pin");
    let row = database("postgres")
        .await
        .query_one(&count, &[])
        .await
        .unwrap();
    assert_eq!(row.get::<_, i64>(0), i64::from(workers) * 20);
}
