//! Records that PostgreSQL refuses for good: each is found and set aside, all others are stored.

use pinpipe_config::WriteMode;
use pinpipe_core::Kind;
use pinpipe_stream::{
    log::Position,
    sink::{Answer, Halt, Part, Sink, SinkError},
};

use crate::{
    stores,
    support::{batch, begin, database, live, pin, store, topic, url},
};

/// A schema's objects that refuse a record, made once the sink has created its tables.
struct Case {
    name: &'static str,
    ddl: &'static str,
    /// The title that is refused.
    title: String,
    code: &'static str,
    sentence: &'static str,
}

/// A text that PostgreSQL can't compress.
fn incompressible(bytes: usize) -> String {
    let mut state = 1_u64;
    let digits = (0..bytes).map(|_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        char::from(b'!' + u8::try_from((state >> 40) % 90).unwrap())
    });
    digits.collect()
}

fn cases() -> Vec<Case> {
    vec![
        Case {
            name: "own_index",
            ddl: "CREATE INDEX by_title ON own_index.pin (title)",
            title: incompressible(9000),
            code: "54000",
            sentence: "index row requires",
        },
        Case {
            name: "own_check",
            ddl: "ALTER TABLE own_check.pin ADD CONSTRAINT polite CHECK (title <> 'bad')",
            title: "bad".into(),
            code: "23514",
            sentence: "violates check constraint \"polite\"",
        },
        Case {
            name: "own_unique",
            ddl: "ALTER TABLE own_unique.pin ADD CONSTRAINT one_title UNIQUE (title)",
            title: "title 0".into(),
            code: "23505",
            sentence: "violates unique constraint \"one_title\"",
        },
        Case {
            name: "own_trigger",
            ddl: "CREATE FUNCTION own_trigger.refuse() RETURNS trigger LANGUAGE plpgsql AS \
                  $$BEGIN IF NEW.title = 'bad' THEN RAISE 'no % here', NEW.title; END IF; \
                  RETURN NEW; END$$; \
                  CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON own_trigger.pin \
                  FOR EACH ROW EXECUTE FUNCTION own_trigger.refuse()",
            title: "bad".into(),
            code: "P0001",
            sentence: "no bad here",
        },
        Case {
            name: "own_deferred",
            ddl: "CREATE FUNCTION own_deferred.refuse() RETURNS trigger LANGUAGE plpgsql AS \
                  $$BEGIN IF NEW.title = 'bad' THEN RAISE 'too late'; END IF; RETURN NULL; END$$; \
                  CREATE CONSTRAINT TRIGGER refuse AFTER INSERT OR UPDATE ON own_deferred.pin \
                  DEFERRABLE INITIALLY DEFERRED \
                  FOR EACH ROW EXECUTE FUNCTION own_deferred.refuse()",
            title: "bad".into(),
            code: "P0001",
            sentence: "too late",
        },
    ]
}

/// Titles by key, as the table holds them.
async fn titles(name: &str, schema: &str) -> Vec<(String, String)> {
    let rows = database(name)
        .await
        .query(
            &format!("SELECT unique_id, title FROM {schema}.pin ORDER BY unique_id COLLATE \"C\""),
            &[],
        )
        .await
        .unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

#[tokio::test]
async fn a_refused_record_is_set_aside_and_all_others_are_stored() {
    for case in cases() {
        for mode in [WriteMode::Upsert, WriteMode::Append] {
            let (schema, topic) = (case.name, topic(Kind::Pin));
            let client = database("postgres").await;
            let reset = format!("DROP SCHEMA IF EXISTS {schema} CASCADE");
            client.batch_execute(&reset).await.unwrap();
            let sink = live(&url(stores::postgres(), "postgres"), schema, mode);
            begin(&sink, &topic).await;
            client.batch_execute(case.ddl).await.unwrap();
            let mut records: Vec<_> = (0..10)
                .map(|offset| {
                    (
                        offset,
                        pin(&format!("k{offset}"), &format!("title {offset}")),
                    )
                })
                .collect();
            records[5].1 = pin("k7", "the version before");
            records[7].1 = pin("k7", &case.title);
            let batch = batch(&sink, &topic, 0, &records);
            let refused = store(&sink, &topic, batch, 0, 10).await;
            let [(offset, code, sentence)] = &refused[..] else {
                panic!("{}: {refused:?}", case.name)
            };
            assert_eq!((*offset, code.as_str()), (7, case.code), "{}", case.name);
            assert!(sentence.contains(case.sentence), "{sentence}");
            let expected: Vec<_> = [0, 1, 2, 3, 4, 6, 7, 8, 9]
                .map(|number| (format!("k{number}"), format!("title {number}")))
                .map(|(key, title)| match key.as_str() {
                    "k7" => (key, "the version before".to_owned()),
                    _ => (key, title),
                })
                .into();
            assert_eq!(titles("postgres", schema).await, expected, "{}", case.name);
        }
    }
}

/// The made-up texts of a database in LATIN1: two of four can be held.
#[tokio::test]
async fn a_text_that_the_database_s_encoding_lacks_is_set_aside() {
    let topic = topic(Kind::Pin);
    let server = database("postgres").await;
    server
        .batch_execute(
            "CREATE DATABASE latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' \
             TEMPLATE template0",
        )
        .await
        .unwrap();
    let sink = live(
        &url(stores::postgres(), "latin"),
        "public",
        WriteMode::Upsert,
    );
    begin(&sink, &topic).await;
    let titles_sent = [
        "caf\u{e9}",
        "curly \u{2019} quote",
        "\u{1f384} tree",
        "plain",
    ];
    let records: Vec<_> = titles_sent
        .iter()
        .zip(0..)
        .map(|(title, offset)| (offset, pin(&format!("k{offset}"), title)))
        .collect();
    let batch = batch(&sink, &topic, 0, &records);
    let refused = store(&sink, &topic, batch, 0, 4).await;
    let found: Vec<_> = refused
        .iter()
        .map(|(offset, code, _)| (*offset, code.as_str()))
        .collect();
    assert_eq!(found, [(1, "22P05"), (2, "22P05")]);
    let sentence = &refused[0].2;
    assert!(
        sentence.contains("has no equivalent in encoding \"LATIN1\""),
        "{sentence}"
    );
    assert_eq!(
        titles("latin", "public").await,
        [("k0", "caf\u{e9}"), ("k3", "plain")].map(|(key, title)| (key.into(), title.into()))
    );
}

#[tokio::test]
async fn what_one_partition_s_rows_meet_keeps_no_other_from_being_stored() {
    let topic = topic(Kind::Pin);
    for (schema, ddl, reason) in [
        ("group_refused", "ADD CHECK (title <> 'bad')", None),
        (
            "group_halted",
            "ADD COLUMN mine text GENERATED ALWAYS AS (nullif(title, 'bad')) STORED NOT NULL",
            Some("TableUnsuitable"),
        ),
    ] {
        let url = url(stores::postgres(), "postgres");
        let sink = live(&url, schema, WriteMode::Upsert);
        let initial = [0, 1, 2].map(|partition| (partition, Position::START));
        sink.store_initial_positions(&topic, &[].into(), &initial.into())
            .await
            .unwrap();
        let client = database("postgres").await;
        let ddl = format!("ALTER TABLE {schema}.pin {ddl}");
        client.batch_execute(&ddl).await.unwrap();
        let rows = [("a", "good"), ("b", "bad"), ("c", "good")];
        let batches = rows.map(|(key, title)| batch(&sink, &topic, 0, &[(0, pin(key, title))]));
        let parts: Vec<_> = (0..)
            .zip(&batches)
            .map(|(partition, batch)| Part {
                partition,
                batch,
                from: Position::START,
                to: Position::offset(1),
            })
            .collect();
        let answers = sink.commit(&topic, &parts).await.unwrap();
        let [Answer::Stored(_), middle, Answer::Stored(_)] = &answers[..] else {
            panic!("{answers:?}")
        };
        let found = match middle {
            Answer::Refused(_) => None,
            Answer::Halt(halt) => Some(halt.reason()),
            _ => panic!("{answers:?}"),
        };
        assert_eq!(found, reason);
        let good = |key: &str| (key.to_owned(), "good".to_owned());
        assert_eq!(titles("postgres", schema).await, [good("a"), good("c")]);
    }
}

/// What only a person can correct stops the sink with the server's sentence; the sink goes on when
/// it is corrected.
#[tokio::test]
async fn a_table_that_no_row_fits_stops_the_sink() {
    let (schema, topic) = ("own_column", topic(Kind::Pin));
    let sink = live(
        &url(stores::postgres(), "postgres"),
        schema,
        WriteMode::Upsert,
    );
    begin(&sink, &topic).await;
    let client = database("postgres").await;
    for (ddl, correction, sentence) in [
        (
            "ALTER TABLE own_column.pin ADD COLUMN mine text NOT NULL",
            "ALTER TABLE own_column.pin ALTER COLUMN mine DROP NOT NULL",
            "null value in column \"mine\"",
        ),
        (
            "ALTER TABLE own_column.pin ALTER COLUMN title TYPE integer USING 0",
            "ALTER TABLE own_column.pin ALTER COLUMN title TYPE text",
            "the column \"title\" of \"own_column\".pin is integer, text is needed",
        ),
    ] {
        client.batch_execute(ddl).await.unwrap();
        let batch = batch(&sink, &topic, 0, &[(0, pin("a", "t"))]);
        let part = Part {
            partition: 0,
            batch: &batch,
            from: Position::START,
            to: Position::offset(1),
        };
        let answer = match sink.commit(&topic, &[part]).await {
            Ok(answers) => answers.into_iter().next().unwrap(),
            Err(SinkError::Halt(halt)) => Answer::Halt(halt),
            Err(error) => panic!("{error:?}"),
        };
        let Answer::Halt(halt @ Halt::TableUnsuitable(_)) = &answer else {
            panic!("{answer:?}")
        };
        assert!(halt.to_string().contains(sentence), "{halt}");
        client.batch_execute(correction).await.unwrap();
    }
    let batch = batch(&sink, &topic, 0, &[(0, pin("a", "t"))]);
    assert_eq!(store(&sink, &topic, batch, 0, 1).await, []);
}
