//! Traces, with real servers.

use pinpipe_config::{Batch, BatchPostgres, BatchSink, Cassandra, Stream, WriteMode};
use pinpipe_core::Kind;
use pinpipe_servers::stores;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    inspect::{
        args::Command,
        server_tests::{Database, command, set_aside},
    },
    plan::Request,
    testing::{self, TestDir},
    turn::{self, Work},
};

/// A place without what differs between runs.
type Found = (PlaceKind, PlaceState, Option<i64>, Option<u64>);

async fn traced(components: &Components, kind: &str, key: &str) -> Vec<Place> {
    let Command::Trace(args) = command(&["trace", kind, key]) else {
        panic!()
    };
    Box::pin(trace(components, &args)).await.unwrap()
}

/// Without the answers.
fn found(places: &[Place]) -> Vec<Found> {
    let places = places
        .iter()
        .filter(|place| place.place != PlaceKind::Answer);
    places
        .map(|place| (place.place, place.state, place.offset, place.line))
        .collect()
}

fn pin(key: &str, title: &str) -> String {
    format!(
        "{{\"unique_id\": \"{key}\", \"index\": 7, \"title\": \"{title}\", \"category\": \"art\"}}"
    )
}

fn row(schema: &str, key: &str, offset: i64, topic: Option<&str>) -> String {
    let (column, value) = topic.map_or_else(Default::default, |topic| {
        (", _topic", format!(", '{topic}'"))
    });
    format!(
        "INSERT INTO {schema}.pin (unique_id, index_id, _time, _partition, _offset{column}) \
         VALUES ('{key}', 7, 'epoch', 0, {offset}{value});"
    )
}

/// A pipeline with three versions of the pin `a`, of which the last is neither archived nor in a
/// sink, a rejected record, the pin `b`, and a geo record.
struct Pipeline {
    config: Batch,
    live: Vec<Stream>,
    database: Database,
    _folder: TestDir,
}

impl Pipeline {
    async fn new(name: &str) -> Self {
        let (mut config, folder) = (testing::pipeline(name), TestDir::new());
        config.scratch_dir = folder.path().to_owned();
        let pins = [
            pin("a", "first"),
            "{}".to_owned(),
            pin("b", "B"),
            pin("a", "second"),
        ];
        testing::post(&config, &pins).await;
        let geo = r#"{"ind": 7, "country": "Albania", "timestamp": "2020-01-02 03:04:05"}"#;
        let geo = [geo.to_owned()];
        testing::send(&config, Kind::Geo, &geo).await;
        let store = Store::open(&config.zone).await.unwrap();
        testing::archive(&config, &store, Kind::Geo, 0, &geo, None).await;
        testing::commit(&config, [4, 1, 0]);
        let database = Database::new(name).await;
        config.sinks = vec![
            BatchSink {
                name: "serving".into(),
                cassandra: Some(Cassandra {
                    contact_points: vec![format!("127.0.0.1:{}", stores::cassandra())],
                    keyspace: name.to_owned(),
                    replication: [].into(),
                    credentials_dir: None,
                    tls: None,
                }),
                postgres: None,
            },
            BatchSink {
                name: "warehouse".into(),
                cassandra: None,
                postgres: Some(BatchPostgres {
                    url_file: database.folder.file("url"),
                    secret: None,
                    tls: None,
                    schema: "batch".into(),
                }),
            },
        ];
        let live = database.sink(&config, "live", WriteMode::Upsert).await;
        let log = database.sink(&config, "log", WriteMode::Append).await;
        let topic = &config.topics.pin.name;
        let rows = [
            row("live", "a", 3, None),
            row("live", "b", 2, None),
            row("log", "a", 0, Some(topic)),
            row("log", "b", 2, Some(topic)),
        ];
        database.execute(&rows.concat()).await;
        database.position(&live, "live", 4).await;
        database.position(&log, "log", 4).await;
        Self {
            config,
            live: vec![live, log],
            database,
            _folder: folder,
        }
    }

    fn components(&self) -> Components {
        Components::of(None, self.live.clone(), Some(self.config.clone())).unwrap()
    }

    async fn run(&self) {
        let (work, stop) = (Work::Batch(Request::Incremental), CancellationToken::new());
        let client = testing::kubernetes().await;
        let run = turn::execute(&self.config, client, "first", &work, None, &stop);
        Box::pin(run).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_is_traced_through_all_places() {
    use PlaceKind::{Answer, BatchTable, LiveTable, RawObject, State, Topic};
    use PlaceState::{Absent, Found, Missing, Pending, Superseded};
    let place = Pipeline::new("traced").await;
    let components = place.components();
    let before = traced(&components, "pin", "a").await;
    let state = |places: &[Place], kind| -> Vec<(PlaceState, String)> {
        let places = places.iter().filter(|place| place.place == kind);
        places
            .map(|place| (place.state, place.note.clone()))
            .collect()
    };
    let none = "no batch run has finished yet";
    assert_eq!(state(&before, State), [(Pending, none.to_owned())]);
    let tables = state(&before, BatchTable);
    assert_eq!(tables.len(), 2, "{tables:?}");
    for (state, note) in tables {
        assert_eq!(state, Absent);
        assert!(note.contains("the table doesn't exist"), "{note}");
    }

    place.run().await;
    testing::send(&place.config, Kind::Pin, &[pin("a", "third")]).await;
    set_aside(&place.config, 3, Some("log"), &pin("a", "second")).await;
    let places = traced(&components, "pin", "a").await;
    assert_eq!(
        found(&places),
        [
            (Topic, Superseded, Some(0), None),
            (Topic, Superseded, Some(3), None),
            (Topic, Found, Some(4), None),
            (PlaceKind::DeadLetter, Found, Some(3), None),
            (RawObject, Found, Some(0), Some(1)),
            (RawObject, Found, Some(3), Some(4)),
            (RawObject, Pending, Some(4), None),
            (LiveTable, Superseded, Some(3), None),
            (LiveTable, Found, Some(0), None),
            (LiveTable, Absent, Some(3), None),
            (LiveTable, Pending, Some(4), None),
            (State, Superseded, Some(3), None),
            (BatchTable, Found, None, None),
            (BatchTable, Found, None, None),
        ],
        "{places:#?}"
    );
    let note = |number: usize| places[number].note.as_str();
    for (number, says) in [
        (0, "a later version is at partition 0, offset 4"),
        (3, "refused by the sink log (23514): violates check"),
        (6, "the archive's objects end before 4"),
        (7, "its position in partition 0 is 4"),
        (9, "refused by the sink log"),
        (11, "the last one, first, read partition 0 to offset 4"),
        (12, "the sink has the last run, first"),
    ] {
        assert!(note(number).contains(says), "{number}: {}", note(number));
    }
    for number in [12, 13] {
        let value = places[number].value.as_deref().unwrap();
        assert!(value.contains("second"), "{value}");
    }
    let answers: Vec<(&str, PlaceState)> = places
        .iter()
        .filter(|place| place.place == Answer)
        .map(|place| (&*place.name, place.state))
        .collect();
    assert_eq!(answers.len(), 8);
    assert_eq!(
        answers[..2],
        [
            ("popular_category_by_country", Found),
            ("popular_category_by_year", Found),
        ]
    );
    assert!(answers[2..].iter().all(|(_, state)| *state == Absent));
    assert_eq!(missing(&places), 0);

    // A pin by its number is both, and a geo record joins both.
    let by_number = traced(&components, "pin", "7").await;
    let states = state(&by_number, State);
    assert_eq!(states.len(), 2, "{by_number:#?}");
    let geo = traced(&components, "geo", "7").await;
    assert_eq!(
        found(&geo),
        [
            (Topic, Found, Some(0), None),
            (RawObject, Found, Some(0), Some(1)),
            (LiveTable, Pending, None, None),
            (LiveTable, Pending, Some(0), None),
            (State, Found, Some(0), None),
            (BatchTable, Found, None, None),
            (BatchTable, Found, None, None),
        ],
        "{geo:#?}"
    );
    let counts = state(&geo, Answer);
    let twice = "counts 2 times, first with country Albania, category art";
    assert_eq!(counts[0], (Found, twice.to_owned()));

    // What somebody deletes is missing.
    let sql = "DELETE FROM live.pin WHERE unique_id = 'b'; \
               DELETE FROM batch.pinterest_batch WHERE unique_id = 'b'; DROP TABLE log.pin";
    place.database.execute(sql).await;
    let places = traced(&components, "pin", "b").await;
    assert_eq!(missing(&places), 3, "{places:#?}");
    assert_eq!(
        state(&places, LiveTable)
            .iter()
            .map(|(state, _)| *state)
            .collect::<Vec<_>>(),
        [Missing, Missing]
    );

    let nobody = traced(&components, "user", "12").await;
    let states = nobody.iter().map(|place| place.state);
    assert!(states.clone().all(|state| state == Absent), "{nobody:#?}");
    assert_eq!(missing(&nobody), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_brokers_raw_objects_are_searched() {
    let mut config = testing::pipeline("brokerless");
    let store = Store::open(&config.zone).await.unwrap();
    for (first, title) in [(0, "first"), (2, "second")] {
        let pins = [pin("b", "B"), pin("a", title)];
        testing::archive_pins(&config, &store, first, &pins, None).await;
    }
    config.kafka.bootstrap_servers = "127.0.0.1:1".to_owned();
    let components = Components::of(None, Vec::new(), Some(config)).unwrap();
    let mut places = traced(&components, "pin", "a").await;
    places[1..3].sort_by_key(|place| place.offset);
    assert_eq!(
        found(&places),
        [
            (PlaceKind::Topic, PlaceState::Unknown, None, None),
            (PlaceKind::RawObject, PlaceState::Found, Some(1), Some(2)),
            (PlaceKind::RawObject, PlaceState::Found, Some(3), Some(2)),
            (PlaceKind::State, PlaceState::Pending, None, None),
        ],
        "{places:#?}"
    );
    assert!(places[0].note.contains("127.0.0.1:1"), "{places:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_stores_the_topic_is_still_traced() {
    let mut config = testing::pipeline("unreachable");
    testing::create_topics(&config).await;
    testing::send(&config, Kind::Pin, &[pin("a", "A")]).await;
    config.zone.bucket = "there-is-none".to_owned();
    let components = Components::of(None, Vec::new(), Some(config)).unwrap();
    let places = traced(&components, "pin", "a").await;
    let states: Vec<_> = found(&places)
        .into_iter()
        .map(|(of, state, ..)| (of, state))
        .collect();
    assert_eq!(
        states,
        [
            (PlaceKind::Topic, PlaceState::Found),
            (PlaceKind::RawObject, PlaceState::Unknown),
            (PlaceKind::State, PlaceState::Unknown),
        ],
        "{places:#?}"
    );
    for place in &places[1..] {
        assert!(place.note.contains("there-is-none"), "{place:?}");
    }
}
