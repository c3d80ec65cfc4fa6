//! Every acknowledged record is in every store, once and correct; every record that can't be keyed
//! is a dead letter; and the eight answers equal those of SQL over the live tables.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use pinpipe_e2e::{
    Kind, Sandbox, SharedScenario, Spec, answers::QUESTIONS, broken, ensure_same, eventually,
    kafka, ledger::Ledger, objects, samples::Samples, scenario::Scenario,
};
use serde_json::{Value, json};

/// Distinct keys of each kind.
const KEYS: i64 = 3_000;
/// Records of each kind that give a key other values: 5%.
const REPEATS: usize = 150;
/// Broken records of each kind: 2%.
const BROKEN: usize = 60;
/// The size limit of a record, bytes.
const LIMIT: usize = 8_192;

/// A pipeline into which all records were sent, and whose batch run is complete.
struct Sent {
    ledger: Ledger,
}

static SENT: SharedScenario<Sent> = SharedScenario::new(5);

impl Scenario for Sent {
    const NAME: &'static str = "every-record";

    async fn set_up(sandbox: Sandbox) -> Result<Self> {
        let spec = Spec::new()
            .max_record_bytes(LIMIT)
            .live(&sandbox)
            .archive(&sandbox, 400)
            .batch(&sandbox);
        let pipeline = sandbox.apply("flow", &spec).await?;
        pipeline.ready().await?;
        let mut ledger = Ledger::new(&pipeline);
        let mut make = Samples::new(3);
        for kind in Kind::ALL {
            let mut samples = make.batch(kind, 0..KEYS, REPEATS);
            let rest = samples.split_off(samples.len() / 2);
            ledger.send(kind, samples, 100).await?;
            ledger
                .send_broken(kind, broken::records(kind, BROKEN, LIMIT))
                .await?;
            ledger.send(kind, rest, 100).await?;
        }
        // A run waits until all records are archived, so tests need not.
        pipeline.start_run("first").await?;
        pipeline.run_completes("first").await?;
        Ok(Self { ledger })
    }
}

#[test]
fn every_acknowledged_record_is_in_the_raw_objects_once() -> Result<()> {
    SENT.test(async |sent| {
        let records = 3 * (usize::try_from(KEYS)? + REPEATS);
        ensure!(
            sent.ledger.acknowledged() == records,
            "{} of {records} acknowledged",
            sent.ledger.acknowledged()
        );
        for kind in Kind::ALL {
            sent.ledger.raw_objects_are_right(kind).await?;
        }
        Ok(())
    })
}

#[test]
fn every_key_is_in_the_live_tables_with_its_latest_record() -> Result<()> {
    SENT.test(async |sent| {
        for kind in Kind::ALL {
            sent.ledger.live_table_is_right(kind).await?;
        }
        Ok(())
    })
}

#[test]
fn every_key_is_in_the_batch_tables_with_its_latest_record() -> Result<()> {
    SENT.test(async |sent| {
        let report = report(sent).await?;
        let mut expected = json!({"read": 0, "clean": 0, "repaired": 0, "rejected": 0});
        for kind in Kind::ALL {
            sent.ledger.batch_table_is_right(kind).await?;
            let log = sent.ledger.log(kind).await?;
            let rejected = log
                .broken
                .iter()
                .filter(|(_, broken)| broken.is_archived())
                .count();
            let repaired = log
                .good
                .iter()
                .filter(|(_, sample)| sample.repaired)
                .count();
            for (name, count) in [
                ("read", log.good.len() + rejected),
                ("clean", log.good.len()),
                ("repaired", repaired),
                ("rejected", rejected),
            ] {
                let counted = expected[name].as_u64().unwrap_or(0);
                expected[name] = json!(counted + u64::try_from(count)?);
            }
        }
        let found = json!({
            "read": report["read"],
            "clean": report["clean"],
            "repaired": report["repaired"],
            "rejected": report["rejected"],
        });
        ensure!(
            found == expected,
            "the report counts {found}, expected {expected}"
        );
        Ok(())
    })
}

#[test]
fn every_broken_record_is_a_dead_letter_with_its_origin_and_reason() -> Result<()> {
    SENT.test(async |sent| {
        let cluster = kafka::cluster_id().await?;
        let mut topic_ids = BTreeSet::new();
        for kind in Kind::ALL {
            let topic = sent.ledger.pipeline.topic(kind);
            let mut expected = BTreeMap::new();
            for (message, broken) in sent.ledger.log(kind).await?.broken {
                let headers = [
                    Some(topic.clone()),
                    Some(message.time.to_string()),
                    Some(broken.reason.to_owned()),
                    broken.field.map(str::to_owned),
                    Some(cluster.clone()),
                ];
                expected.insert(
                    (message.partition, message.offset),
                    (headers, broken.key, broken.raw),
                );
            }
            let dead_letters = format!("{topic}.dlq");
            eventually(Duration::from_mins(1), &dead_letters, async || {
                let mut found = BTreeMap::new();
                for dead_letter in kafka::read(&dead_letters).await? {
                    let header = |name: &str| dead_letter.header(&format!("pinpipe.{name}"));
                    let required = |name: &str| {
                        header(name).with_context(|| format!("no header {name}: {dead_letter:?}"))
                    };
                    let position = (
                        required("partition")?.parse()?,
                        required("offset")?.parse()?,
                    );
                    let headers =
                        ["topic", "timestamp", "reason", "field", "cluster-id"].map(header);
                    for name in ["message", "worker-version"] {
                        ensure!(
                            !required(name)?.is_empty(),
                            "an empty {name}: {dead_letter:?}"
                        );
                    }
                    topic_ids.insert((kind, required("topic-id")?));
                    found.insert(position, (headers, dead_letter.key, dead_letter.value));
                }
                ensure_same(&dead_letters, &expected, &found)
            })
            .await?;
        }
        ensure!(topic_ids.len() == 3, "not one id per topic: {topic_ids:?}");
        let distinct: BTreeSet<_> = topic_ids.iter().map(|(_, id)| id).collect();
        ensure!(
            distinct.len() == 3 && distinct.iter().all(|id| !id.is_empty()),
            "empty or equal ids: {topic_ids:?}"
        );
        Ok(())
    })
}

#[test]
fn the_eight_answers_equal_sql_over_the_live_tables() -> Result<()> {
    SENT.test(async |sent| {
        for kind in Kind::ALL {
            sent.ledger.live_table_is_right(kind).await?;
        }
        let sandbox = &sent.ledger.pipeline.sandbox;
        let report = report(sent).await?;
        for question in &QUESTIONS {
            let expected = question.answer_in_sql(&sandbox.schema()).await?;
            ensure!(
                !expected.is_empty(),
                "{} has no answer in SQL: the samples are too few",
                question.name
            );
            let found = question.answer_in_cassandra(&sandbox.keyspace()).await?;
            ensure!(
                found == expected,
                "{} in Cassandra:\n{found:?}\nin SQL:\n{expected:?}",
                question.name
            );
            let found = question.answer_in_report(&report)?;
            ensure!(
                found == expected,
                "{} in the report:\n{found:?}\nin SQL:\n{expected:?}",
                question.name
            );
        }
        Ok(())
    })
}

async fn report(sent: &Sent) -> Result<Value> {
    let pipeline = &sent.ledger.pipeline;
    let report = objects::last_report(pipeline.sandbox.bucket(), &pipeline.full_name()).await?;
    report.context("no run has published a report")
}
