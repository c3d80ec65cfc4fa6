//! Refused rows on their way from raw objects into a real store, the dead letters, and back.

use std::{collections::BTreeMap, fs, slice};

use chrono::{DateTime, Utc};
use clap::Parser as _;
use pinpipe_config::{BatchPostgres, BatchSink, Cassandra};
use pinpipe_runtime::dead_letter::{Entry, Outcome};
use pinpipe_servers::stores;
use rdkafka::{
    ClientConfig, Message as _,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    dead_letters::{TopicReader, ends},
    failure::Permanent,
    fold::fold,
    load::{self, Loading, SinkReport},
    manifest::{Import, Manifest, RELEASE, RawObject as Planned, RunKind},
    memory::Memory,
    progress::Progress,
    redrive::{self, redrive_once},
    runs::Runs,
    scratch::Scratch,
    sink::Marker,
    state::State,
    testing::{self, TestDir, at, json_pin as pin},
};

/// The options of a re-drive.
#[derive(clap::Parser)]
struct Cli {
    #[command(flatten)]
    args: redrive::Args,
}

/// A pipeline's topics and raw objects of pins, and the sink that runs load.
struct Place {
    config: Batch,
    store: Store,
    objects: Vec<Planned>,
    /// The offset after the last record.
    end: i64,
    /// The state of the last run, and the offset after the last record that it read.
    base: Option<(State, i64)>,
    folder: TestDir,
}

impl Place {
    async fn new(name: &str, sink: impl FnOnce(&TestDir) -> BatchSink) -> Self {
        let (mut config, folder) = (testing::config(), TestDir::new());
        config.pipeline.name = name.to_owned();
        config.kafka.bootstrap_servers = format!("127.0.0.1:{}", stores::kafka());
        config.topics.pin = Topic {
            name: format!("data.{name}.pin"),
            dead_letter: format!("data.{name}.pin.dlq"),
        };
        config.max_record_bytes = 1 << 20;
        config.sinks = vec![sink(&folder)];
        config.zone = testing::zone(&format!("refused-{name}"), stores::s3(true).0);
        let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
            .set("bootstrap.servers", &config.kafka.bootstrap_servers)
            .create()
            .unwrap();
        let topics = [&config.topics.pin.name, &config.topics.pin.dead_letter];
        let topics = topics.map(|name| NewTopic::new(name, 1, TopicReplication::Fixed(1)));
        let created = admin.create_topics(&topics, &AdminOptions::new()).await;
        let created = created.unwrap();
        assert!(created.iter().all(Result::is_ok), "{created:?}");
        Self {
            store: Store::open(&config.zone).await.unwrap(),
            config,
            objects: Vec::new(),
            end: 0,
            base: None,
            folder,
        }
    }

    /// Archives pins. `original` is the order of the first one, if that is a re-driven record.
    async fn archive(&mut self, lines: &[String], original: Option<Order>) {
        let (config, store) = (&self.config, &self.store);
        let archived = testing::archive_pins(config, store, self.end, lines, original).await;
        self.objects.push(archived);
        self.end += i64::try_from(lines.len()).unwrap();
    }

    /// A run's time, by the number of the run.
    fn time(run: i64) -> DateTime<Utc> {
        DateTime::from_timestamp_micros(1_790_000_000_000_000 + run).unwrap()
    }

    /// What a run does that reads the new records, or all.
    async fn run(&mut self, run: i64, kind: RunKind) -> SinkReport {
        let base = self.base.take().filter(|_| kind == RunKind::Incremental);
        let positions =
            |offset| BTreeMap::from([(self.config.topics.pin.name.clone(), [(0, offset)].into())]);
        let manifest = Manifest {
            run: run.to_string(),
            run_time: Self::time(run),
            release: RELEASE.into(),
            kind,
            state: None,
            state_id: "lake".into(),
            buckets: 64,
            from: positions(base.as_ref().map_or(0, |(_, end)| *end)),
            to: positions(self.end),
            begin: BTreeMap::new(),
            covered: BTreeMap::new(),
            import: Import::default(),
            objects: self.objects.clone(),
        };
        let Self { config, store, .. } = &*self;
        let base_state = base.as_ref().map(|(state, _)| state);
        let scratch = Scratch::open(self.folder.path()).unwrap();
        let memory = Memory::of(256 << 20);
        let (path, progress) = (scratch.folder(), Progress::default());
        let read = read::read(config, store, &manifest, path, memory.buffers, &progress);
        let read = read.await.unwrap();
        let folding = fold(
            store, config, &manifest, base_state, read, &scratch, &memory,
        );
        let folded = Box::pin(folding).await.unwrap();
        let loading = Loading {
            config,
            store,
            scratch: &scratch,
            state: &folded.state,
            marker: Marker {
                state_id: "lake".into(),
                run_time: Self::time(run),
            },
            base: base_state.and_then(|state| state.run_time),
            is_attempt: false,
            changed: &folded.changed,
            answers: &[],
        };
        let sink = load::connect(&config.sinks[0]).await.unwrap();
        let loaded = loading.load(&config.sinks[0].name, "data/pins", &*sink);
        let report = loaded.await.unwrap();
        self.base = Some((folded.state, self.end));
        report
    }

    /// The key and value of each record of a topic, and what its headers say.
    async fn records(&self, topic: &str) -> Vec<(String, String, Option<Entry>)> {
        let ends = ends(&self.config, topic).unwrap();
        let mut reader = TopicReader::new(&self.config, topic, &ends).unwrap();
        let mut records = Vec::new();
        while let Some(message) = reader.next().await.unwrap() {
            let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap()).into_owned();
            let entry = message
                .headers()
                .and_then(|headers| Entry::read(headers).ok());
            if message.payload().is_some() {
                records.push((text(message.key()), text(message.payload()), entry));
            }
        }
        records
    }

    /// The dead letters with the keys and values of their records.
    async fn dead_letters(&self) -> Vec<(String, String, DeadLetter)> {
        let records = self.records(&self.config.topics.pin.dead_letter).await;
        let letters = records.into_iter().map(|(key, value, entry)| match entry {
            Some(Entry::DeadLetter(letter)) => (key, value, letter),
            other => panic!("{other:?}"),
        });
        letters.collect()
    }

    /// Re-drives refused records with a name, and returns the report.
    async fn redrive(&self, run: &str, options: &[&str]) -> Result<redrive::Report> {
        let options = [&["redrive", "--topic", "pin", "--run", run], options].concat();
        let args = Cli::parse_from(options).args;
        let mut report = redrive::Report::new(args.run(), args.dry_run);
        let stop = CancellationToken::new();
        redrive_once(&self.config, &args, &mut report, &stop).await?;
        Ok(report)
    }

    fn set_aside(&self, rows: u64) -> BTreeMap<String, u64> {
        [(self.config.topics.pin.dead_letter.clone(), rows)].into()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_row_is_a_dead_letter_once_and_can_be_redriven() {
    use RunKind::{Full, Incremental};
    let (sql, url) = testing::database("aside").await;
    let mut place = Place::new("aside", |folder| {
        let url_file = folder.file("url");
        fs::write(&url_file, &url).unwrap();
        BatchSink {
            name: "warehouse".into(),
            cassandra: None,
            postgres: Some(BatchPostgres {
                url_file,
                secret: None,
                tls: None,
                schema: "batch".into(),
            }),
        }
    })
    .await;
    let titles = async || -> Vec<String> {
        let select = "SELECT unique_id || '=' || title FROM batch.pinterest_batch ORDER BY 1";
        let rows = sql.query(select, &[]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    };

    place.archive(&[pin("a", "A"), pin("b", "B")], None).await;
    let report = place.run(1, Full).await;
    assert_eq!((report.rows, report.refused), (2, 0), "{report:?}");
    sql.batch_execute(
        "ALTER TABLE batch.pinterest_batch ADD CONSTRAINT polite CHECK (title NOT LIKE 'bad%')",
    )
    .await
    .unwrap();
    let bad = pin("a", "bad");
    place
        .archive(&[pin("c", "C"), bad.clone(), pin("d", "D")], None)
        .await;
    let report = place.run(2, Incremental).await;
    assert_eq!((report.rows, report.refused), (2, 1), "{report:?}");
    assert_eq!(report.set_aside, place.set_aside(1), "{report:?}");
    assert_eq!(titles().await, ["a=A", "b=B", "c=C", "d=D"]);
    let letters = place.dead_letters().await;
    let [(key, value, letter)] = &letters[..] else {
        panic!("{letters:?}")
    };
    assert_eq!((key.as_str(), value), ("a", &bad));
    let id = DeadLetterId {
        topic_id: "t".into(),
        partition: 0,
        offset: 3,
        sink: Some("batch/warehouse".into()),
    };
    assert_eq!((&letter.id, letter.time), (&id, at(3).time));
    assert_eq!(letter.verdict.outcome, Outcome::Refused);
    assert_eq!(letter.verdict.reason, "23514");
    assert!(letter.verdict.message.contains("polite"), "{letter:?}");

    // A run over all records, and one that loads the state into a sink that has lost its marker.
    let drop_marker = "DROP TABLE batch.pinpipe_marker";
    for (run, kind) in [(3, Full), (4, Incremental)] {
        let report = place.run(run, kind).await;
        assert_eq!(report.set_aside, place.set_aside(1), "{report:?}");
        assert_eq!(place.dead_letters().await, letters, "run {run}");
        sql.batch_execute(drop_marker).await.unwrap();
    }
    place.run(5, Incremental).await;

    // The archive has the re-driven record, which is refused again.
    let tried = place
        .redrive("try", &["--reason", "23514", "--dry-run"])
        .await;
    let tried = tried.unwrap().to_json();
    assert!(tried.contains(r#""redriven":1"#), "{tried}");
    let other = place
        .redrive("live", &["--sink", "warehouse"])
        .await
        .unwrap()
        .to_json();
    assert!(
        other.contains(r#""read":1,"redriven":0,"skipped":0"#),
        "{other}"
    );
    let redriven = place.redrive("first", &["--outcome", "refused"]).await;
    let redriven = redriven.unwrap().to_json();
    assert!(redriven.contains(r#""redriven":1"#), "{redriven}");
    let records = place.records(&place.config.topics.pin.name).await;
    assert_eq!(records, [("a".to_owned(), bad.clone(), None)]);
    place.archive(slice::from_ref(&bad), Some(at(3))).await;
    let report = place.run(6, Incremental).await;
    assert_eq!(report.set_aside, place.set_aside(1), "{report:?}");
    let letters = place.dead_letters().await;
    let (_, _, again) = letters.last().unwrap();
    assert_eq!(letters.len(), 2, "{letters:?}");
    assert_eq!((again.id.offset, again.order()), (5, at(3)));
    assert_eq!(again.attempt(), 2, "{again:?}");

    let allow = "ALTER TABLE batch.pinterest_batch DROP CONSTRAINT polite";
    sql.batch_execute(allow).await.unwrap();
    // The first one is done, and so is what was only tried.
    for (run, options) in [
        ("first", &["--outcome", "refused"][..]),
        ("try", &["--reason", "23514", "--dry-run"]),
    ] {
        let again = place.redrive(run, options).await.unwrap();
        let first = if run == "first" { &redriven } else { &tried };
        assert_eq!(&again.to_json(), first);
    }
    let error = place.redrive("first", &["--sink", "batch/warehouse"]).await;
    let error = error.unwrap_err();
    assert!(error.is::<Permanent>(), "{error:#}");
    assert!(error.to_string().contains("other values"), "{error:#}");
    assert_eq!(place.records(&place.config.topics.pin.name).await.len(), 1);
    let redriven = place
        .redrive("second", &["--sink", "batch/warehouse"])
        .await;
    let redriven = redriven.unwrap().to_json();
    assert!(
        redriven.contains(r#""redriven":1,"doneBefore":1"#),
        "{redriven}"
    );
    place.archive(&[bad], Some(at(3))).await;
    let report = place.run(7, Incremental).await;
    assert_eq!((report.rows, report.refused), (1, 0), "{report:?}");
    assert_eq!(titles().await, ["a=bad", "b=B", "c=C", "d=D"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redrive_that_died_counts_what_it_has_done() {
    let place = Place::new("died", |_| BatchSink {
        name: "serving".into(),
        cassandra: None,
        postgres: None,
    })
    .await;
    let item = |offset| Item {
        letter: DeadLetter {
            id: DeadLetterId {
                topic_id: "t".into(),
                partition: 0,
                offset,
                sink: Some("batch/serving".into()),
            },
            cluster_id: "c".into(),
            topic: place.config.topics.pin.name.clone(),
            time: 1000 + offset,
            verdict: (&Refusal::new("0x2200", "no")).into(),
            redriven: None,
        },
        key: Some(b"a".to_vec()),
        value: pin("a", "A").into_bytes(),
    };
    let writer = Writer::new(&place.config, &place.config.topics.pin.dead_letter).unwrap();
    writer.write((0..3).map(item).collect()).await.unwrap();
    for attempt in ["first", "second"] {
        let report = place.redrive("limited", &["--outcome", "refused", "--max", "1"]);
        let report = report.await.unwrap().to_json();
        let counts = r#""letters":3,"matching":3,"redriven":1,"left":2,"open""#;
        assert!(report.contains(counts), "{attempt}: {report}");
        let records = place.records(&place.config.topics.pin.name).await;
        assert_eq!(records.len(), 1, "{attempt}");
        // As if it had died before it noted that it has ended.
        let ended = Runs::new(&place.config.pipeline).redrive("limited");
        place.store.delete(&[ended]).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_too_long_for_cassandra_is_a_dead_letter_once() {
    let mut place = Place::new("long", |_| BatchSink {
        name: "serving".into(),
        postgres: None,
        cassandra: Some(Cassandra {
            contact_points: vec![format!("127.0.0.1:{}", stores::cassandra())],
            keyspace: "aside".into(),
            replication: BTreeMap::new(),
            credentials_dir: None,
            tls: None,
        }),
    })
    .await;
    let key = "k".repeat(70_000);
    place
        .archive(&[pin(&key, "long"), pin("a", "A")], None)
        .await;
    for attempt in ["first", "repeated"] {
        let report = place.run(1, RunKind::Full).await;
        assert_eq!((report.rows, report.refused), (1, 1), "{attempt}");
        assert_eq!(report.set_aside, place.set_aside(1), "{attempt}");
        let letters = place.dead_letters().await;
        let [(found, value, letter)] = &letters[..] else {
            panic!("{attempt}: {} dead letters", letters.len())
        };
        assert_eq!((found, value), (&key, &pin(&key, "long")));
        assert_eq!((letter.id.offset, &*letter.verdict.reason), (0, "0x2200"));
        assert!(letter.verdict.message.contains("65535"), "{letter:?}");
    }
}
