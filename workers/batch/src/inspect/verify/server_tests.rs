//! Verifications, with real servers.

use pinpipe_config::WriteMode;
use pinpipe_core::Kind;
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
};

use super::*;
use crate::{
    inspect::server_tests::{Database, set_aside},
    testing::{self, json_pin},
};

/// What a verification finds, without what is in order.
async fn found(components: &Components) -> (u64, Vec<Finding>) {
    let mut findings = Vec::new();
    let problems = verify(components, &mut |finding| {
        findings.push(finding);
        Ok(())
    })
    .await
    .unwrap();
    (problems, findings)
}

fn row(schema: &str, topic: &str, offset: i64) -> String {
    format!(
        "INSERT INTO {schema}.pin (unique_id, index_id, _topic, _time, _partition, _offset) \
         VALUES ('k', 1, '{topic}', 'epoch', 0, {offset});"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_object_a_missing_row_and_a_doubled_row_are_found() {
    let config = testing::pipeline("verified");
    testing::create_topics(&config).await;
    let mut pins: Vec<String> = (0..9).map(|n| json_pin(&n.to_string(), "T")).collect();
    pins[4] = "{}".to_owned();
    testing::send(&config, Kind::Pin, &pins).await;
    let store = Store::open(&config.zone).await.unwrap();
    let mut keys = Vec::new();
    for first in [0, 3, 6] {
        let lines = &pins[usize::try_from(first).unwrap()..][..3];
        let object = testing::archive_pins(&config, &store, first, lines, None).await;
        keys.push(object.key);
    }
    testing::commit(&config, [9, 0, 0]);

    // A record that the sink refuses, and one that can't be keyed.
    set_aside(&config, 5, Some("log"), &pins[5]).await;
    let database = Database::new("verified").await;
    let log = database.sink(&config, "log", WriteMode::Append).await;
    let live = database.sink(&config, "live", WriteMode::Upsert).await;
    let topic = config.topics.pin.name.clone();
    let rows = [0, 1, 2, 3, 6, 7].map(|offset| row("log", &topic, offset));
    database.execute(&rows.concat()).await;
    database.position(&log, "log", 8).await;
    let components = Components::of(None, vec![log, live], Some(config.clone())).unwrap();
    let (problems, findings) = found(&components).await;
    assert_eq!(problems, 0, "{findings:#?}");
    let of_pins = |findings: &[Finding]| -> Vec<(Outcome, String)> {
        let own = findings.iter().filter(|finding| finding.topic == topic);
        own.map(|finding| (finding.outcome, finding.message.clone()))
            .collect()
    };
    let upsert = "not counted: a sink with writeMode Upsert has one row per key, not per record";
    assert_eq!(
        of_pins(&findings),
        [
            (Outcome::Ok, "the objects join from offset 0 to 9".into()),
            (
                Outcome::Ok,
                "rows of the offsets 0 to 7: 6; records rejected: 1; records refused by the sink: 1"
                    .into()
            ),
            (Outcome::NotCounted, upsert.into()),
        ]
    );

    store.delete(&keys[1..]).await.unwrap();
    database
        .execute(&format!(
            "DELETE FROM log.pin WHERE _offset IN (1, 2, 7); \
             ALTER TABLE log.pin DROP CONSTRAINT pin_pkey; {}",
            row("log", &topic, 3)
        ))
        .await;
    let damaged = found(&components).await;
    let folder = format!("topics/{topic}/partition=0/{topic}+0+");
    let problem = |message: &str| (Outcome::Problem, message.to_owned());
    let expected = [
        problem(&format!(
            "raw objects of {topic}[0] are missing: no object covers the offsets 3 to 8; \
             {folder}0000000000.json ends before 3; there is no later object"
        )),
        problem("the record at offset 3 has 2 rows"),
        problem("the rows of the records at 1 to 2 are missing"),
        problem("the row of the record at 7 is missing"),
        (Outcome::NotCounted, upsert.into()),
    ];
    assert_eq!(of_pins(&damaged.1), expected);
    assert_eq!(damaged.0, 4);
    let counts = damaged.1.iter().filter_map(|finding| {
        (finding.outcome == Outcome::Problem).then_some((finding.from, finding.to, finding.count))
    });
    let counts: Vec<_> = counts.collect();
    let range = |from, to, count| (Some(from), Some(to), Some(count));
    assert_eq!(
        counts,
        [
            range(3, 9, 6),
            range(3, 4, 1),
            range(1, 3, 2),
            range(7, 8, 1)
        ]
    );

    // What the topic has lost is looked up in raw objects; of what both have lost nothing is known.
    for first in [3, 6] {
        let lines = &pins[usize::try_from(first).unwrap()..][..3];
        testing::archive_pins(&config, &store, first, lines, None).await;
    }
    store.delete(&keys[..1]).await.unwrap();
    expire(&config.kafka.bootstrap_servers, &topic, 8).await;
    let (problems, findings) = found(&components).await;
    let expected = [
        (
            Outcome::Ok,
            "the objects join from offset 3 to 9".to_owned(),
        ),
        problem("the record at offset 3 has 2 rows"),
        problem("the row of the record at 7 is missing"),
        (
            Outcome::NotCounted,
            "not counted: the offsets 1 to 2 have no rows, and neither the topic nor the archive \
             tells any more whether they have records"
                .to_owned(),
        ),
        (Outcome::NotCounted, upsert.into()),
    ];
    assert_eq!(of_pins(&findings), expected);
    assert_eq!(problems, 2);

    let index = format!("topics/_index/{topic}/partition=0/{topic}+0+0000000003+0000000006+3.json");
    store.delete(&[index.clone()]).await.unwrap();
    let (problems, findings) = found(&components).await;
    assert_eq!(problems, 3);
    let message = format!(
        "the index object of {folder}0000000003.json is missing, so no batch run can read its \
         lines: restore {index}"
    );
    let found = of_pins(&findings);
    assert_eq!(found[0], problem(&message));
    let unknown = "not counted: the offsets 4 to 5";
    assert!(found[4].1.starts_with(unknown), "{found:#?}");
}

/// Deletes the records of a topic before an offset, as its retention would.
async fn expire(brokers: &str, topic: &str, before: i64) {
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .create()
        .unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, 0, Offset::Offset(before))
        .unwrap();
    let deleted = admin.delete_records(&list, &AdminOptions::new()).await;
    deleted.unwrap();
}
