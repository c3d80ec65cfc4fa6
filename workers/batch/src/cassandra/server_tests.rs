//! What only a real server shows. Each test has a keyspace of its own.

use std::collections::BTreeSet;

use futures::{StreamExt as _, stream};
use pinpipe_core::{Kind, Pin, Record, User};
use pinpipe_servers::stores;

use super::{table::quoted, *};
use crate::{
    columns::{self, TableBuilder},
    testing,
};

fn at(micros: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(micros).unwrap()
}

fn table(kind: Kind) -> SinkTable {
    SinkTable {
        name: if kind == Kind::Pin { "pins" } else { "users" },
        schema: columns::schema(kind),
        key: vec![pinpipe_core::columns::key(kind)],
    }
}

fn pins(keys: &[String]) -> Rows<'static> {
    let mut table = TableBuilder::new(Kind::Pin);
    for key in keys {
        table.push(&Record::Pin(Pin {
            title: Some("title".into()),
            ..testing::pin(key.clone(), 7)
        }));
    }
    stream::iter([Ok(table.finish().unwrap())]).boxed()
}

/// Users without any value but the key.
fn users(keys: std::ops::Range<i64>) -> Rows<'static> {
    let mut table = TableBuilder::new(Kind::User);
    for ind in keys {
        table.push(&Record::User(User {
            ind,
            user_name: None,
            age: None,
            date_joined: None,
        }));
    }
    stream::iter([Ok(table.finish().unwrap())]).boxed()
}

async fn connect_to(keyspace: &str) -> CassandraSink {
    let config = Cassandra {
        contact_points: vec![format!("127.0.0.1:{}", stores::cassandra())],
        keyspace: keyspace.to_owned(),
        replication: BTreeMap::new(),
        credentials_dir: None,
        tls: None,
    };
    CassandraSink::connect(&config).await.unwrap()
}

async fn keys(sink: &CassandraSink, select: &str) -> BTreeSet<String> {
    let cql = format!("SELECT {select} FROM {}.{}", quoted(&sink.keyspace), {
        if select == "unique_id" {
            "pins"
        } else {
            "users"
        }
    });
    let rows = sink.session.query_unpaged(cql, ()).await.unwrap();
    let rows = rows.into_rows_result().unwrap();
    if select == "unique_id" {
        let keys = rows.rows::<(String,)>().unwrap();
        return keys.map(|row| row.unwrap().0).collect();
    }
    let keys = rows.rows::<(i64,)>().unwrap();
    keys.map(|row| row.unwrap().0.to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keyspace_belongs_to_one_pipeline_and_keeps_its_last_run() {
    let sink = connect_to("marker").await;
    let tables = [table(Kind::Pin)];
    assert_eq!(sink.prepare("data/pins", &tables).await.unwrap(), None);
    let error = sink.prepare("data/others", &tables).await.unwrap_err();
    assert!(error.is::<Permanent>(), "{error:#}");
    assert!(
        error.to_string().contains("pipeline data/pins"),
        "{error:#}"
    );
    let marker = Marker {
        state_id: "u-1".into(),
        run_time: at(1_000_007),
    };
    sink.mark(&marker).await.unwrap();
    let zombie = Marker {
        run_time: at(1_000_006),
        ..marker.clone()
    };
    sink.mark(&zombie).await.unwrap();
    let found = sink.prepare("data/pins", &tables).await.unwrap();
    assert_eq!(
        found.as_ref(),
        Some(&marker),
        "a late writer changes nothing"
    );

    let dropped = format!("DROP TABLE {}.pins", quoted(&sink.keyspace));
    sink.change_schema(&dropped).await.unwrap();
    for after in ["the table was dropped", "a run that died"] {
        let found = sink.prepare("data/pins", &tables).await.unwrap();
        assert_eq!(found, None, "{after}");
    }
    let next = Marker {
        run_time: at(1_000_008),
        ..marker
    };
    sink.mark(&next).await.unwrap();
    let found = sink.prepare("data/pins", &tables).await.unwrap();
    assert_eq!(found, Some(next));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_too_long_is_set_aside_and_all_other_rows_are_written() {
    let sink = connect_to("refused").await;
    let pin = table(Kind::Pin);
    sink.prepare("data/pins", std::slice::from_ref(&pin))
        .await
        .unwrap();
    let mut all: Vec<String> = (0..500).map(|number| format!("pin {number}")).collect();
    all.insert(77, "k".repeat(70_000));
    let written = sink.write(&pin, 501, pins(&all), at(5)).await.unwrap();
    assert_eq!((written.rows, written.refused.number()), (500, 1));
    let refused = &written.refused.first()[0];
    assert_eq!(refused.reason.code, "0x2200", "{refused:?}");
    assert!(refused.reason.sentence.contains("65535"), "{refused:?}");
    assert!(refused.key.ends_with("… (70000 bytes)"), "{refused:?}");
    assert_eq!(keys(&sink, "unique_id").await.len(), 500);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_earlier_runs_are_deleted_and_rows_without_values_stay() {
    let sink = connect_to("deleted").await;
    let (pin, user) = (table(Kind::Pin), table(Kind::User));
    let tables = [pin.clone(), user.clone()];
    sink.prepare("data/pins", &tables).await.unwrap();
    let names = |range: std::ops::Range<i64>| -> Vec<String> {
        range.map(|number| number.to_string()).collect()
    };
    sink.write(&pin, 300, pins(&names(0..300)), at(10))
        .await
        .unwrap();
    sink.write(&user, 300, users(0..300), at(10)).await.unwrap();
    sink.write(&pin, 200, pins(&names(100..350)), at(20))
        .await
        .unwrap();
    sink.write(&user, 200, users(100..350), at(20))
        .await
        .unwrap();
    assert_eq!(sink.delete_older(&pin, at(20)).await.unwrap(), 100);
    sink.delete_older(&user, at(20)).await.unwrap();
    let expected: BTreeSet<String> = names(100..350).into_iter().collect();
    assert_eq!(keys(&sink, "unique_id").await, expected);
    assert_eq!(keys(&sink, "ind").await, expected);
    assert_eq!(sink.delete_older(&pin, at(20)).await.unwrap(), 0);
}
