//! Records and dead letters of real topics, and a pipeline for the tests of this module.

use std::{fs, time::Duration};

use clap::Parser as _;
use pinpipe_config::{
    Batch, Postgres, RecordKind, StartFrom, Stream, StreamSink, WriteMode,
    inspect::{Letter, TopicRecord},
};
use pinpipe_core::{Kind, clean};
use pinpipe_runtime::dead_letter::{DeadLetter, DeadLetterId, Outcome, Verdict};
use pinpipe_stream::postgres::sql::Sql;
use rdkafka::{
    ClientConfig,
    producer::{FutureProducer, FutureRecord},
};
use tokio_postgres::Client;

use super::{
    args::{DeadlettersCommand, TailArgs},
    *,
};
use crate::testing::{self, TestDir, json_pin};

/// A command line.
#[derive(clap::Parser)]
struct Cli {
    #[command(flatten)]
    args: Args,
}

/// The command that these words are.
pub fn command(words: &[&str]) -> Command {
    let words = ["inspect"].iter().chain(words);
    Cli::parse_from(words).args.command
}

/// The pipeline with a batch alone.
pub fn batch_alone(config: &Batch) -> Components {
    Components::of(None, Vec::new(), Some(config.clone())).unwrap()
}

/// A database with the tables of live sinks.
pub struct Database {
    /// A connection to it.
    pub sql: Client,
    /// Its URL, with a name for the batch's sinks.
    pub folder: TestDir,
}

impl Database {
    /// Creates it.
    pub async fn new(name: &str) -> Self {
        let (sql, url) = testing::database(name).await;
        let folder = TestDir::new();
        fs::write(folder.file("url"), url).unwrap();
        Self { sql, folder }
    }

    /// The configuration of a sink in a schema of its own name, and creates its tables.
    pub async fn sink(&self, config: &Batch, name: &str, write_mode: WriteMode) -> Stream {
        let sql = Sql::new(name, write_mode);
        self.execute(&sql.create_schema()).await;
        for (_, create) in sql.tables() {
            self.execute(&create).await;
        }
        Stream {
            pipeline: config.pipeline.clone(),
            kafka: config.kafka.clone(),
            topics: config.topics.clone(),
            max_record_bytes: config.max_record_bytes,
            group: format!("data.{}.{name}", config.pipeline.name),
            sink: StreamSink::Postgres(Postgres {
                name: name.to_owned(),
                url_file: self.folder.file("url"),
                secret: None,
                tls: None,
                schema: name.to_owned(),
                start_from: StartFrom::Earliest,
                write_mode,
            }),
            ..testing::stream()
        }
    }

    /// Stores a sink's position in the topic of pins.
    pub async fn position(&self, sink: &Stream, name: &str, next: i64) {
        self.execute(&format!(
            "INSERT INTO {name}.pinpipe_position (sink, topic, partition, cluster_id, topic_id, \
             next_offset) VALUES ('{}', '{}', 0, 'c', 't', {next})",
            sink.group, sink.topics.pin.name
        ))
        .await;
    }

    /// Executes statements.
    pub async fn execute(&self, statements: &str) {
        self.sql.batch_execute(statements).await.unwrap();
    }
}

/// Writes the dead letter of a pin, as a worker does.
pub async fn set_aside(config: &Batch, offset: i64, sink: Option<&str>, raw: &str) {
    let verdict = match (sink, clean(Kind::Pin, raw.as_bytes(), 1 << 20)) {
        (None, Err(rejection)) => Verdict::from(&rejection),
        _ => Verdict {
            outcome: Outcome::Refused,
            reason: "23514".into(),
            field: None,
            message: "violates check constraint \"polite\"".to_owned(),
        },
    };
    let letter = DeadLetter {
        id: DeadLetterId {
            topic_id: "t".into(),
            partition: 0,
            offset,
            sink: sink.map(str::to_owned),
        },
        cluster_id: "c".into(),
        topic: config.topics.pin.name.clone(),
        time: testing::at(offset).time,
        verdict,
        redriven: None,
    };
    send(config, Some(raw), letter.headers(None)).await;
}

async fn send(config: &Batch, value: Option<&str>, headers: rdkafka::message::OwnedHeaders) {
    let producer: FutureProducer = ClientConfig::new()
        .set("bootstrap.servers", &config.kafka.bootstrap_servers)
        .create()
        .unwrap();
    let mut record = FutureRecord::<(), str>::to(&config.topics.pin.dead_letter).headers(headers);
    if let Some(value) = value {
        record = record.payload(value);
    }
    let sent = producer.send(record, Duration::from_secs(10)).await;
    sent.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_counted_and_shown_with_their_records() {
    let config = testing::pipeline("letters");
    testing::create_topics(&config).await;
    set_aside(&config, 3, None, "{}").await;
    set_aside(&config, 4, None, "no json").await;
    set_aside(&config, 5, Some("live"), &json_pin("a", "bad")).await;
    set_aside(&config, 5, Some("live"), &json_pin("a", "bad")).await;
    set_aside(&config, 6, None, "{}").await;
    let id = DeadLetterId {
        topic_id: "t".into(),
        partition: 0,
        offset: 3,
        sink: None,
    };
    let redriven = DeadLetter {
        id,
        cluster_id: String::new(),
        topic: String::new(),
        time: 0,
        verdict: Verdict::from(&clean(Kind::Pin, b"{}", 100).unwrap_err()),
        redriven: None,
    };
    send(&config, None, redriven.mark_headers(None)).await;
    let components = batch_alone(&config);
    let Command::Deadletters(DeadlettersCommand::List(filter)) = command(&["deadletters", "list"])
    else {
        panic!()
    };
    let counts = deadletters::list(&components, &filter).await.unwrap();
    let counts: Vec<_> = counts
        .iter()
        .map(|count| {
            (
                &*count.outcome,
                count.sink.as_deref(),
                &*count.reason,
                count.field.as_deref(),
                (count.letters, count.redriven),
                (&*count.first, &*count.last),
            )
        })
        .collect();
    let (third, sixth) = ("1970-01-01T00:00:01.003Z", "1970-01-01T00:00:01.006Z");
    let (fourth, fifth) = ("1970-01-01T00:00:01.004Z", "1970-01-01T00:00:01.005Z");
    let id = Some("unique_id");
    assert_eq!(
        counts,
        [
            (
                "refused",
                Some("live"),
                "23514",
                None,
                (1, 0),
                (fifth, fifth)
            ),
            ("rejected", None, "key-missing", id, (2, 1), (third, sixth)),
            ("rejected", None, "not-json", None, (1, 0), (fourth, fourth)),
        ]
    );

    let show = async |options: &[&str]| -> Vec<Letter> {
        let words = [&["deadletters", "show"], options].concat();
        let Command::Deadletters(DeadlettersCommand::Show(args)) = command(&words) else {
            panic!()
        };
        let limit = usize::try_from(args.limit).unwrap();
        let shown = deadletters::show(&components, &args.filter, limit).await;
        shown.unwrap()
    };
    let offsets =
        |letters: &[Letter]| -> Vec<i64> { letters.iter().map(|letter| letter.offset).collect() };
    let all = show(&[]).await;
    assert_eq!(offsets(&all), [6, 5, 4, 3]);
    let [_, refused, _, first] = &all[..] else {
        panic!()
    };
    assert_eq!(refused.value.as_deref(), Some(&*json_pin("a", "bad")));
    assert_eq!((refused.kind, refused.redriven), (RecordKind::Pin, false));
    assert!(refused.message.contains("polite"), "{refused:?}");
    assert_eq!((first.redriven, first.letter_offset), (true, 0));
    for (options, expected) in [
        (&["--limit=2"][..], &[6, 5][..]),
        (&["--kind=geo"], &[]),
        (&["--reason=not-json,23514"], &[5, 4]),
        (&["--sink=live"], &[5]),
        (&["--outcome=rejected", "--from", fourth], &[6, 4]),
        (&["--to", fourth], &[3]),
        (&["--field=unique_id"], &[6, 3]),
    ] {
        assert_eq!(offsets(&show(options).await), expected, "{options:?}");
    }

    let mut tailed = Vec::new();
    let args = tail_args(&["tail", "--rejected", "--last=2"]);
    deadletters::tail(&components, &args, &mut |letter| {
        tailed.push(letter);
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(offsets(&tailed), [5, 6], "the oldest first");
}

fn tail_args(words: &[&str]) -> TailArgs {
    match command(words) {
        Command::Tail(args) => args,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_records_are_shown_and_those_that_follow() {
    let config = testing::pipeline("tailed");
    testing::create_topics(&config).await;
    let pins: Vec<String> = (0..5).map(|n| json_pin(&n.to_string(), "T")).collect();
    testing::send(&config, Kind::Pin, &pins).await;
    let geo = r#"{"ind": 7}"#.to_owned();
    testing::send(&config, Kind::Geo, &[geo]).await;
    let components = batch_alone(&config);
    let mut records = Vec::new();
    let args = tail_args(&["tail", "--last=2"]);
    tail::tail(&components, &args, &mut |record| {
        records.push(record);
        Ok(())
    })
    .await
    .unwrap();
    let found: Vec<_> = records
        .iter()
        .map(|record| (record.kind, record.offset))
        .collect();
    let (pin, geo) = (RecordKind::Pin, RecordKind::Geo);
    assert_eq!(found, [(pin, 3), (pin, 4), (geo, 0)]);
    assert_eq!(records[0].value.as_ref(), Some(&pins[3]));
    assert!(records[0].time.is_some() && records[0].key.is_none());

    let (took, mut taken) = tokio::sync::mpsc::unbounded_channel::<TopicRecord>();
    let following = tokio::spawn(async move {
        let args = tail_args(&["tail", "--last=0", "--kind=pin", "--follow"]);
        tail::tail(&components, &args, &mut |record| Ok(took.send(record)?)).await
    });
    // Where it begins is known only once it has begun.
    let deadline = tokio::time::Instant::now() + Duration::from_mins(1);
    let first = loop {
        testing::send(&config, Kind::Pin, &pins[..1]).await;
        match tokio::time::timeout(Duration::from_millis(500), taken.recv()).await {
            Ok(record) => break record.unwrap(),
            Err(_) => assert!(tokio::time::Instant::now() < deadline),
        }
    };
    assert!(first.offset >= 5, "{first:?}");
    following.abort();
}
