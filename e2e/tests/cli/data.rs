//! The commands that look into data, each by a pod in the pipeline's namespace.

use std::{collections::BTreeSet, fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use pinpipe_e2e::{
    Kind, Pipeline, Spec, eventually, kafka, objects, postgres, samples::Samples,
    scenario::in_sandbox,
};
use serde_json::{Value, json};

use crate::{FLOW, pinpipe};

/// How long sinks may take to store all records.
const STORED_WITHIN: Duration = Duration::from_mins(1);
/// Records of the pipeline that loses some.
const RECORDS: i64 = 200;

#[test]
fn a_record_is_traced_from_its_topic_to_the_answers() -> Result<()> {
    FLOW.test(async |flow| {
        let (pipeline, key) = (&flow.pipeline, a_single_user()?);
        let traced = pinpipe(pipeline, &["trace", "user", &key, "flow", "-o", "json"]).await?;
        ensure!(traced.status == Some(0), "{traced:?}");
        let places: Vec<Value> = serde_json::from_str(&traced.stdout)?;
        for place in ["topic", "rawObject", "liveTable", "state"] {
            let found = |it: &&Value| it["place"] == place && it["state"] == "found";
            ensure!(places.iter().any(|it| found(&it)), "{place}: {places:?}");
        }
        ensure!(
            places.iter().any(|it| it["place"] == "answer"),
            "{places:?}"
        );
        let text = flow.succeeds(&["trace", "USER", &key, "flow"]).await?;
        let begin = format!("topic {}: found\n", pipeline.topic(Kind::User));
        ensure!(
            text.starts_with(&begin) && text.contains("\nraw object s3://"),
            "{text}"
        );

        let nowhere = pinpipe(pipeline, &["trace", "user", "987654321", "flow"]).await?;
        ensure!(nowhere.status == Some(1), "{nowhere:?}");
        let sentence = "no user with the key 987654321 was found";
        ensure!(nowhere.stdout.contains(sentence), "{nowhere:?}");
        has_no_pod(pipeline).await
    })
}

#[test]
fn records_and_dead_letters_are_shown() -> Result<()> {
    FLOW.test(async |flow| {
        let pipeline = &flow.pipeline;
        let text = flow
            .succeeds(&["tail", "flow", "--kind", "pin", "--last", "3"])
            .await?;
        let topic = format!(" {}/", pipeline.topic(Kind::Pin));
        let lines: Vec<_> = text.lines().collect();
        ensure!(lines.len() == 3, "{text}");
        ensure!(lines.iter().all(|line| line.contains(&topic)), "{text}");

        let geo = pipeline.topic(Kind::Geo);
        kafka::write(&geo, &[(None, b"hello".to_vec())]).await?;
        eventually(STORED_WITHIN, "a dead letter", async || {
            let letters = kafka::read(&format!("{geo}.dlq")).await?;
            ensure!(letters.len() == 1, "{letters:?}");
            Ok(())
        })
        .await?;
        let counts = flow
            .succeeds(&["deadletters", "list", "flow", "-o", "json"])
            .await?;
        let counts: Value = serde_json::from_str(&counts)?;
        ensure!(counts.as_array().map(Vec::len) == Some(1), "{counts}");
        for (field, value) in [
            ("kind", json!("geo")),
            ("outcome", json!("rejected")),
            ("reason", json!("not-json")),
            ("letters", json!(1)),
            ("redriven", json!(0)),
        ] {
            ensure!(counts[0][field] == value, "{field}: {counts}");
        }
        let show = [
            "deadletters",
            "show",
            "flow",
            "--reason",
            "not-json",
            "-o",
            "csv",
        ];
        let csv = flow.succeeds(&show).await?;
        ensure!(
            csv.lines().count() == 2 && csv.ends_with(",hello\n"),
            "{csv}"
        );
        let none = flow
            .succeeds(&["deadletters", "list", "flow", "--kind", "pin"])
            .await?;
        ensure!(none == "no dead letters\n", "{none}");
        let letters = flow.succeeds(&["tail", "flow", "--rejected"]).await?;
        ensure!(letters.contains(" geo rejected (not-json"), "{letters}");
        has_no_pod(pipeline).await
    })
}

/// Without batch runs, whose image the pods have then.
#[test]
fn an_object_and_a_row_that_are_gone_are_named() -> Result<()> {
    in_sandbox("verify", async |sandbox| {
        let spec = Spec::new()
            .live(sandbox)
            .write_mode("Append")
            .archive(sandbox, 20);
        let pipeline = sandbox.apply("flow", &spec).await?;
        pipeline.ready().await?;
        let (kind, topic) = (Kind::User, pipeline.topic(Kind::User));
        let mut make = Samples::new(31);
        let records: Vec<_> = (0..RECORDS)
            .map(|number| {
                (
                    Some(number.to_string().into_bytes()),
                    make.make(kind, number, 10).raw.into_bytes(),
                )
            })
            .collect();
        kafka::write(&topic, &records).await?;
        eventually(STORED_WITHIN, "all rows and raw objects", async || {
            let rows = postgres::count(&sandbox.schema(), kind).await?;
            let (_, archived) = objects::raw_count(sandbox.bucket(), "topics", &topic).await?;
            ensure!(rows == RECORDS, "{rows} rows");
            ensure!(
                archived == RECORDS.unsigned_abs(),
                "{archived} records are archived"
            );
            Ok(())
        })
        .await?;
        let whole = pinpipe(&pipeline, &["verify", "flow"]).await?;
        ensure!(whole.status == Some(0), "{whole:?}");
        ensure!(!whole.stdout.contains("next step"), "{whole:?}");

        let client = objects::client();
        let folder = format!("topics/{topic}/partition=0/");
        let keys = objects::keys(&client, sandbox.bucket(), &folder).await?;
        let middle = keys.get(1).filter(|_| keys.len() > 2);
        let middle = middle.with_context(|| format!("too few objects: {keys:?}"))?;
        let delete = client.delete_object().bucket(sandbox.bucket()).key(middle);
        delete.send().await?;
        let table = format!("{}.{}", sandbox.schema(), kind.live_table());
        let delete = format!("DELETE FROM {table} WHERE _partition = 1 AND _offset = 2");
        let deleted = postgres::connect().await?.execute(&delete, &[]).await?;
        ensure!(deleted == 1, "{deleted} rows");

        let json = pinpipe(&pipeline, &["verify", "flow", "--output", "json"]).await?;
        ensure!(json.status == Some(1), "{json:?}");
        let findings: Vec<Value> = serde_json::from_str(&json.stdout)?;
        let wrong = findings.iter().filter(|it| it["outcome"] == "problem");
        let wrong: BTreeSet<_> = wrong
            .map(|it| [&it["check"], &it["topic"], &it["partition"]].map(Value::to_string))
            .collect();
        let expected = [("\"rawObjects\"", "0"), ("\"liveRows\"", "1")];
        let expected = expected.map(|(check, partition)| {
            [
                check.to_owned(),
                json!(topic).to_string(),
                partition.to_owned(),
            ]
        });
        ensure!(wrong == expected.into(), "{findings:?}");
        let row = findings
            .iter()
            .find(|it| it["check"] == "liveRows" && it["outcome"] == "problem");
        ensure!(
            row.is_some_and(|row| row["from"] == 2 && row["count"] == 1),
            "{row:?}"
        );
        let text = pinpipe(&pipeline, &["verify", "flow"]).await?;
        let reset = format!(
            "kubectl pinpipe reset -n {} flow live --to earliest",
            sandbox.namespace
        );
        ensure!(
            text.stdout.contains("PROBLEM") && text.stdout.contains(&reset),
            "{text:?}"
        );
        has_no_pod(&pipeline).await
    })
}

/// The key of a user that the examples have once.
fn a_single_user() -> Result<String> {
    let text = fs::read_to_string("../examples/sample/user.json")?;
    let users: Vec<Value> = serde_json::from_str(&text)?;
    let number = |user: &Value| match &user["ind"] {
        Value::String(text) => text.trim().parse::<f64>().ok(),
        number => number.as_f64(),
    };
    let numbers: Vec<f64> = users.iter().filter_map(number).collect();
    let once = |user: &&Value| {
        let same = numbers.iter().filter(|other| Some(**other) == number(user));
        user["ind"].is_i64() && same.count() == 1
    };
    let single = users
        .iter()
        .find(once)
        .context("each user is there twice")?;
    Ok(single["ind"].to_string())
}

/// Waits until the pods that looked are deleted.
async fn has_no_pod(pipeline: &Pipeline) -> Result<()> {
    let sandbox = &pipeline.sandbox;
    let pods = sandbox.cluster.api::<Pod>(&sandbox.namespace);
    let labels = ListParams::default().labels("app.kubernetes.io/component=inspect");
    eventually(Duration::from_mins(1), "no pod that looks", async || {
        let left = pods.list(&labels).await?.items;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
    .await
}
