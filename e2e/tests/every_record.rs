//! Every record that was acknowledged is in every store, once and right; every one that can't be
//! keyed is in the dead letters; and the eight answers are those one gets by asking the live tables
//! in SQL.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use pinpipe_e2e::{
    Kind, Shared, Space, Spec, answers::QUESTIONS, broken, ensure_same, eventually, flow::Flow,
    kafka, objects, samples::Samples, shared::Scenario,
};
use serde_json::{Value, json};

/// Distinct keys of each kind.
const KEYS: i64 = 3_000;
/// Records of each kind sent once more with other values: 5%.
const REPEATS: usize = 150;
/// Broken records of each kind: 2%.
const BROKEN: usize = 60;
/// The size limit of a record, bytes.
const LIMIT: usize = 8_192;

/// A pipeline into which all of that has been sent, and that has run its batch.
struct Sent {
    flow: Flow,
}

static SENT: Shared<Sent> = Shared::new(5);

impl Scenario for Sent {
    const NAME: &'static str = "every-record";

    async fn set_up(space: Space) -> Result<Self> {
        let spec = Spec::new()
            .max_record_bytes(LIMIT)
            .live(&space)
            .archive(&space, 400)
            .batch(&space);
        let pipeline = space.apply("flow", &spec).await?;
        pipeline.ready().await?;
        let mut flow = Flow::new(&pipeline);
        let mut make = Samples::new(3);
        for kind in Kind::ALL {
            let mut samples = make.batch(kind, 0..KEYS, REPEATS);
            let rest = samples.split_off(samples.len() / 2);
            flow.send(kind, samples, 100).await?;
            flow.send_broken(kind, broken::records(kind, BROKEN, LIMIT))
                .await?;
            flow.send(kind, rest, 100).await?;
        }
        // The barrier of a run waits for all of it, so no test has to.
        pipeline.start_run("first").await?;
        pipeline.run_ends("first").await?;
        Ok(Self { flow })
    }
}

#[test]
fn every_acknowledged_record_is_in_the_raw_objects_once() -> Result<()> {
    SENT.test(async |sent| {
        let records = 3 * (usize::try_from(KEYS)? + REPEATS);
        ensure!(
            sent.flow.acknowledged() == records,
            "{} of {records} acknowledged",
            sent.flow.acknowledged()
        );
        for kind in Kind::ALL {
            sent.flow.raw_objects_are_right(kind).await?;
        }
        Ok(())
    })
}

#[test]
fn every_key_is_in_the_live_tables_with_its_latest_record() -> Result<()> {
    SENT.test(async |sent| {
        for kind in Kind::ALL {
            sent.flow.live_table_is_right(kind).await?;
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
            sent.flow.batch_table_is_right(kind).await?;
            let log = sent.flow.log(kind).await?;
            let rejected = log.broken.iter().filter(|(_, broken)| broken.is_archived()).count();
            let repaired = log.good.iter().filter(|(_, sample)| sample.repaired).count();
            for (name, count) in [
                ("read", log.good.len() + rejected),
                ("clean", log.good.len()),
                ("repaired", repaired),
                ("rejected", rejected),
            ] {
                expected[name] = json!(expected[name].as_u64().unwrap_or(0) + u64::try_from(count)?);
            }
        }
        let found = json!({"read": report["read"], "clean": report["clean"], "repaired": report["repaired"],
            "rejected": report["rejected"]});
        ensure!(found == expected, "the report counts {found}, expected {expected}");
        Ok(())
    })
}

#[test]
fn every_broken_record_is_a_dead_letter_that_says_where_it_came_from_and_why() -> Result<()> {
    SENT.test(async |sent| {
        let cluster = kafka::cluster_id().await?;
        let mut topic_ids = BTreeSet::new();
        for kind in Kind::ALL {
            let topic = sent.flow.pipeline.topic(kind);
            let mut expected = BTreeMap::new();
            for (message, broken) in sent.flow.log(kind).await?.broken {
                let facts = [
                    Some(topic.clone()),
                    Some(message.time.to_string()),
                    Some(broken.reason.to_owned()),
                    broken.field.map(str::to_owned),
                    Some(cluster.clone()),
                ];
                expected.insert(
                    (message.partition, message.offset),
                    (facts, broken.key, broken.raw),
                );
            }
            let dead_letters = format!("{topic}.dlq");
            eventually(Duration::from_mins(1), &dead_letters, async || {
                let mut found = BTreeMap::new();
                for letter in kafka::read(&dead_letters).await? {
                    let header = |name: &str| letter.header(&format!("pinpipe.{name}"));
                    let number = |name: &str| {
                        header(name).with_context(|| format!("no header {name}: {letter:?}"))
                    };
                    let place = (number("partition")?.parse()?, number("offset")?.parse()?);
                    let facts = ["topic", "timestamp", "reason", "field", "cluster-id"].map(header);
                    for name in ["message", "worker-version"] {
                        ensure!(!number(name)?.is_empty(), "an empty {name}: {letter:?}");
                    }
                    topic_ids.insert((kind, number("topic-id")?));
                    found.insert(place, (facts, letter.key, letter.value));
                }
                ensure_same(&dead_letters, &expected, &found)
            })
            .await?;
        }
        ensure!(topic_ids.len() == 3, "one id a topic: {topic_ids:?}");
        let distinct: BTreeSet<_> = topic_ids.iter().map(|(_, id)| id).collect();
        ensure!(
            distinct.len() == 3 && distinct.iter().all(|id| !id.is_empty()),
            "ids differ: {topic_ids:?}"
        );
        Ok(())
    })
}

#[test]
fn the_eight_answers_are_those_of_sql_over_the_live_tables() -> Result<()> {
    SENT.test(async |sent| {
        for kind in Kind::ALL {
            sent.flow.live_table_is_right(kind).await?;
        }
        let space = &sent.flow.pipeline.space;
        let report = report(sent).await?;
        for question in &QUESTIONS {
            let expected = question.asked_in_sql(&space.schema()).await?;
            ensure!(
                !expected.is_empty(),
                "{} has no answer in SQL: the samples are too few",
                question.name
            );
            let found = question.in_cassandra(&space.keyspace()).await?;
            ensure!(
                found == expected,
                "{} in Cassandra:\n{found:?}\nin SQL:\n{expected:?}",
                question.name
            );
            let found = question.in_report(&report)?;
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
    let pipeline = &sent.flow.pipeline;
    let report = objects::last_report(pipeline.space.bucket(), &pipeline.full_name()).await?;
    report.context("no run has been published")
}
