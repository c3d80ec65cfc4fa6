//! Backfills of a live sink on real servers.

use std::fs;

use pinpipe_config::StreamSink;
use pinpipe_lease as lease;
use pinpipe_runtime::dead_letter::Entry;
use rdkafka::Message as _;
use tokio_postgres::Client;

use super::*;
use crate::{
    dead_letters::{TopicReader, ends},
    testing::{self, TestDir, at, json_pin},
};

/// A pipeline with archived pins and a live sink in a database of its own.
struct Place {
    config: Config,
    held: Held,
    sql: Client,
    target: Target,
    _folder: TestDir,
}

impl Place {
    async fn new(name: &str, pins: &[String]) -> Self {
        let (sql, url) = testing::database(name).await;
        let (config, folder) = (testing::pipeline(name), TestDir::new());
        testing::post(&config, pins).await;
        let StreamSink::Postgres(mut postgres) = testing::stream().sink else {
            panic!("the sample is of another sink")
        };
        postgres.url_file = folder.file("url");
        fs::write(&postgres.url_file, url).unwrap();
        let leases = kube::Api::namespaced(testing::kubernetes().await, "data");
        let held = lease::acquire(leases, &config.lease, "test", None).await;
        Self {
            config,
            held: held.unwrap(),
            sql,
            target: Target {
                postgres,
                group: format!("data.{name}.live"),
            },
            _folder: folder,
        }
    }

    /// Backfills the records of these offsets.
    async fn backfill(&self, run: &str, from: i64, to: i64) -> Result<Summary> {
        let time = |offset| DateTime::from_timestamp_millis(at(offset).time).unwrap();
        let request = Request {
            target: self.target.clone(),
            from: time(from),
            to: time(to),
        };
        execute(
            &self.config,
            run,
            &request,
            &Progress::default(),
            &self.held,
        )
        .await
    }

    async fn execute(&self, statement: &str) {
        self.sql.batch_execute(statement).await.unwrap();
    }

    /// Keys and titles, as `a=A`.
    async fn titles(&self) -> Vec<String> {
        let select = "SELECT unique_id || '=' || title FROM pin ORDER BY 1";
        let rows = self.sql.query(select, &[]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// The sinks and offsets of the dead letters.
    async fn dead_letters(&self) -> Vec<(Option<String>, i64)> {
        let topic = &self.config.topics.pin.dead_letter;
        let ends = ends(&self.config, topic).unwrap();
        let mut reader = TopicReader::new(&self.config, topic, &ends).unwrap();
        let mut found = Vec::new();
        while let Some(message) = reader.next().await.unwrap() {
            if let Some(Ok(Entry::DeadLetter(letter))) = message.headers().map(Entry::read) {
                found.push((letter.id.sink, letter.id.offset));
            }
        }
        found
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_a_period_replace_rows_that_are_not_later() {
    let mut pins: Vec<String> = ["a", "b", "c", "d", "e"]
        .map(|key| json_pin(key, &key.to_uppercase()))
        .into();
    pins.push("{}".to_owned());
    let place = Place::new("replayed", &pins).await;
    let first = place.backfill("first", 0, 100).await.unwrap();
    assert_eq!((first.read, first.clean, first.rejected), (6, 5, 1));
    assert_eq!(first.live.unwrap().rows, 5);
    assert_eq!(place.titles().await, ["a=A", "b=B", "c=C", "d=D", "e=E"]);

    place
        .execute(
            "UPDATE pin SET title = 'by earlier rules'; \
             UPDATE pin SET title = 'later', _offset = _offset + 100 WHERE unique_id = 'b'; \
             DELETE FROM pin WHERE unique_id = 'c'; \
             ALTER TABLE pin ADD CONSTRAINT polite CHECK (title <> 'D'); \
             INSERT INTO pinpipe_position (sink, topic, partition, cluster_id, topic_id, \
             next_offset) VALUES ('data.replayed.live', 'data.replayed.pin', 0, 'c', 't', 3)",
        )
        .await;
    let second = place.backfill("second", 0, 4).await.unwrap();
    let live = second.live.clone().unwrap();
    assert_eq!(
        (second.read, live.rows, second.counts[0].refused),
        (4, 2, 1)
    );
    let aside = BTreeMap::from([("data.replayed.pin.dlq".to_owned(), 1)]);
    assert_eq!(live.set_aside, aside);
    assert_eq!(place.dead_letters().await, [(Some("live".to_owned()), 3)]);
    let titles = [
        "a=A",
        "b=later",
        "c=C",
        "d=by earlier rules",
        "e=by earlier rules",
    ];
    assert_eq!(place.titles().await, titles);
    let position = "SELECT sink, next_offset FROM pinpipe_position";
    let rows = place.sql.query(position, &[]).await.unwrap();
    let rows: Vec<(String, i64)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(rows, [("data.replayed.live".to_owned(), 3)]);

    place.execute("DELETE FROM pin WHERE unique_id = 'a'").await;
    let again = place.backfill("second", 0, 4).await.unwrap();
    assert_eq!(again.termination_message(), second.termination_message());
    assert_eq!(place.titles().await, &titles[1..], "it is done");
    let error = place.backfill("second", 0, 5).await.unwrap_err();
    assert!(error.is::<Permanent>(), "{error:#}");
    assert!(error.to_string().contains("other values"), "{error:#}");
    place.backfill("third", 0, 4).await.unwrap();
    assert_eq!(place.titles().await, titles);
    assert_eq!(place.dead_letters().await.len(), 1, "it is there");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_does_not_fit_is_a_permanent_failure_in_the_server_s_words() {
    let place = Place::new("unfit", &[json_pin("a", "A")]).await;
    place.execute("CREATE TABLE pin (unique_id text)").await;
    let error = place.backfill("first", 0, 100).await.unwrap_err();
    assert!(error.is::<Permanent>(), "{error:#}");
    assert!(format!("{error:#}").contains("public\".pin"), "{error:#}");
}
