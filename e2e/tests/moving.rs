//! The scripts of examples/moving-over: each goes from the data that another set-up left to eight
//! answers, which are those of SQL over the rows that the data is known to have. And an import that
//! fails is in no other run's way.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Write as _},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use chrono::DateTime;
use pinpipe_e2e::{
    Kind, Pipeline, Sandbox, Spec,
    answers::QUESTIONS,
    cluster, eventually, objects, postgres,
    postgres::Row,
    samples::{Sample, Samples},
    scenario::in_sandbox,
};
use serde_json::{Map, Value, json};

/// What begins the names of the old topics.
const ID: &str = "0a1b2c3d4e5f";
/// Numbers of the old records. Some of the new ones have the same keys.
const OLD: std::ops::Range<i64> = 0..80;
/// Numbers of the new records.
const NEW: std::ops::Range<i64> = 60..100;

#[test]
fn from_fastapi_and_kafka_python() -> Result<()> {
    in_sandbox("moving-fastapi", async |sandbox| {
        let moved = Moved::begin(sandbox).await?;
        for sample in &moved.old {
            let (kind, key) = (sample.kind, &sample.key);
            moved
                .put(&format!("events/{kind}/event-{key}.json"), &sample.raw)
                .await?;
        }
        moved.send_and_compare("fastapi-kafka-python", &[]).await
    })
}

#[test]
fn from_a_rest_proxy_and_msk_connect() -> Result<()> {
    in_sandbox("moving-rest-proxy", async |sandbox| {
        let moved = Moved::begin(sandbox).await?;
        moved
            .put_connector_objects(sandbox.bucket(), "partition=0", "")
            .await?;
        moved.send_and_compare("rest-proxy-msk-connect", &[]).await
    })
}

#[test]
fn from_an_api_gateway_and_kinesis() -> Result<()> {
    in_sandbox("moving-kinesis", async |sandbox| {
        let moved = Moved::begin(sandbox).await?;
        for kind in Kind::ALL {
            let rows = moved.old.iter().filter(|sample| sample.kind == kind);
            let lines: Vec<String> = rows
                .map(|sample| exported(kind, &sample.row).to_string() + "\n")
                .collect();
            let key = format!("export/{kind}/part-00000-5a8e0f4b-c000.json");
            moved.put(&key, &lines.concat()).await?;
            moved.put(&format!("export/{kind}/_SUCCESS"), "").await?;
        }
        moved.send_and_compare("api-gateway-kinesis", &[]).await
    })
}

#[test]
fn from_pyspark_and_airflow() -> Result<()> {
    in_sandbox("moving-airflow", async |sandbox| {
        let moved = Moved::begin(sandbox).await?;
        let folder = "year=2026/month=11/day=30";
        moved
            .put_connector_objects(sandbox.bucket(), folder, ".gz")
            .await?;
        moved.import_and_compare("pyspark-airflow", &[]).await
    })
}

#[test]
fn from_databricks() -> Result<()> {
    in_sandbox("moving-databricks", async |sandbox| {
        let moved = Moved::begin(sandbox).await?;
        let mounted = format!("{}-mounted", sandbox.bucket());
        objects::delete_bucket(&mounted).await?;
        objects::create_bucket(&mounted).await?;
        let imported = async {
            moved
                .put_connector_objects(&mounted, "partition=0", "")
                .await?;
            let (id, key) = cluster::S3_KEYS;
            let keys = json!({"accessKeyId": id, "secretAccessKey": key});
            sandbox.secret("mounted", keys).await?;
            let bucket = [
                ("OLD_BUCKET", mounted.as_str()),
                ("OLD_ENDPOINT", cluster::S3_IN_CLUSTER),
                ("OLD_REGION", "us-east-1"),
                ("OLD_SECRET", "mounted"),
            ];
            moved.import_and_compare("databricks", &bucket).await
        };
        let imported = imported.await;
        objects::delete_bucket(&mounted).await?;
        imported
    })
}

#[test]
fn a_bad_import_fails_alone() -> Result<()> {
    in_sandbox("bad-import", async |sandbox| {
        let mut spec = Spec::new().archive(sandbox, 1000).batch_without_sinks();
        spec.0["batch"]["quality"] = json!({"maxRejected": "5%"});
        let pipeline = sandbox.apply("flow", &spec.batch_postgres(sandbox)).await?;
        pipeline.ready().await?;
        eventually_put(sandbox, "bad/x.json", "not json").await?;
        let import = |bucket: Option<&str>, secret: Option<&str>| {
            let s3 = secret.map(|name| json!({"credentialsSecretRef": {"name": name}}));
            let mut import = json!({"layout": "Objects", "kind": "Pin", "prefix": "bad"});
            for (field, value) in [("bucket", json!(bucket)), ("s3", json!(s3))] {
                if !value.is_null() {
                    import[field] = value;
                }
            }
            json!({"import": import})
        };
        for (run, action, at_fault) in [
            ("bad-objects", import(None, None), "spec.batch.quality"),
            (
                "bad-bucket",
                import(Some("no-such-bucket"), None),
                "import.bucket",
            ),
            (
                "bad-secret",
                import(Some("x-y-z"), Some("missing")),
                "import.s3.credentialsSecretRef",
            ),
        ] {
            let status = pipeline.run_fails(run, action).await?;
            let message = status["message"].as_str().unwrap_or_default();
            ensure!(message.contains(at_fault), "{run}: {message}");
        }
        pipeline.start_run("daily").await?;
        pipeline.run_completes("daily").await
    })
}

#[test]
fn an_import_that_a_sink_refuses_is_abandoned() -> Result<()> {
    in_sandbox("refused-import", async |sandbox| {
        let spec = Spec::new().archive(sandbox, 1000).batch_without_sinks();
        let spec = spec.batch_postgres(sandbox);
        let pipeline = sandbox.apply("flow", &spec).await?;
        pipeline.ready().await?;
        let pin = |number: u32, category: &str| {
            let pin = json!({"unique_id": format!("u{number}"), "index": 1, "category": category});
            pin.to_string() + "\n"
        };
        let good: String = (0..5).map(|number| pin(number, "art")).collect();
        eventually_put(sandbox, "good/pins.ndjson", &good).await?;
        let bad: String = (0..300).map(|number| pin(number, "refused")).collect();
        eventually_put(sandbox, "bad/pins.ndjson", &bad).await?;
        let import = |prefix: &str| {
            let import = json!({"layout": "Objects", "kind": "Pin", "prefix": prefix});
            json!({"import": import})
        };
        pipeline.run_succeeds("good", import("good")).await?;

        let table = format!("{}.pinterest_batch", sandbox.schema());
        let client = postgres::connect().await?;
        client
            .batch_execute(&format!(
                "ALTER TABLE {table} ADD CHECK (category IS DISTINCT FROM 'refused')"
            ))
            .await?;
        let status = pipeline.run_fails("bad", import("bad")).await?;
        let message = status["message"].as_str().unwrap_or_default();
        ensure!(message.contains("abandoned"), "{message}");
        let id = status["id"].as_str().context("no id")?;
        let run = format!("runs/{}/{id}/", pipeline.full_name());
        let keys = objects::keys(&objects::client(), sandbox.bucket(), &run).await?;
        ensure!(keys.contains(&format!("{run}abandoned.json")), "{keys:?}");

        pipeline.start_run("daily").await?;
        pipeline.run_completes("daily").await?;
        let rows = postgres::objects(&format!("SELECT unique_id, category FROM {table}")).await?;
        ensure!(
            rows.len() == 5 && rows.iter().all(|row| row["category"] == "art"),
            "{rows:?}"
        );
        let report = objects::last_report(sandbox.bucket(), &pipeline.full_name()).await?;
        let report = report.context("no run was published")?;
        ensure!(
            report["sinks"]["serving"]["loaded"] == "whole",
            "{}",
            report["sinks"]
        );
        Ok(())
    })
}

/// A pipeline, the records that an older set-up had, and those that are sent to the new one.
struct Moved<'a> {
    sandbox: &'a Sandbox,
    pipeline: Pipeline,
    old: Vec<Sample>,
    new: Vec<Sample>,
}

impl<'a> Moved<'a> {
    async fn begin(sandbox: &'a Sandbox) -> Result<Self> {
        let spec = Spec::new().archive(sandbox, 1000).batch_without_sinks();
        let pipeline = sandbox.apply("flow", &spec).await?;
        pipeline.ready().await?;
        let mut make = Samples::new(11);
        let mut of = |numbers: std::ops::Range<i64>| -> Vec<Sample> {
            Kind::ALL
                .into_iter()
                .flat_map(|kind| make.batch(kind, numbers.clone(), 0))
                .collect()
        };
        let (old, new) = (of(OLD), of(NEW));
        Ok(Self {
            sandbox,
            pipeline,
            old,
            new,
        })
    }

    async fn put(&self, key: &str, body: &str) -> Result<()> {
        eventually_put(self.sandbox, key, body).await
    }

    /// The objects of an S3 sink connector for the topics of the old set-up, 20 records each.
    async fn put_connector_objects(
        &self,
        bucket: &str,
        folder: &str,
        compression: &str,
    ) -> Result<()> {
        for kind in Kind::ALL {
            let of_kind: Vec<&Sample> = self.old.iter().filter(|s| s.kind == kind).collect();
            for (number, samples) in of_kind.chunks(20).enumerate() {
                let lines: Vec<String> = samples
                    .iter()
                    .map(|sample| sample.raw.replace(['\n', '\r'], " ") + "\n")
                    .collect();
                let mut body = lines.concat().into_bytes();
                if compression == ".gz" {
                    let level = flate2::Compression::default();
                    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), level);
                    gzip.write_all(&body)?;
                    body = gzip.finish()?;
                }
                let topic = format!("{ID}.{kind}");
                let first = number * 20;
                let key =
                    format!("topics/{topic}/{folder}/{topic}+0+{first:010}.json{compression}");
                objects::put(bucket, &key, body).await?;
            }
        }
        Ok(())
    }

    /// Runs a script that imports the old records and sends the new ones.
    async fn send_and_compare(&self, script: &str, variables: &[(&str, &str)]) -> Result<()> {
        let folder = std::env::temp_dir().join(&self.sandbox.namespace);
        std::fs::create_dir_all(&folder)?;
        for kind in Kind::ALL {
            let of_kind = self.new.iter().filter(|sample| sample.kind == kind);
            let lines: Vec<String> = of_kind
                .map(|sample| sample.raw.replace(['\n', '\r'], " ") + "\n")
                .collect();
            std::fs::write(folder.join(format!("{kind}.ndjson")), lines.concat())?;
        }
        let proxy = ApiProxy::start()?;
        let ingest = format!(
            "http://127.0.0.1:{}/api/v1/namespaces/{}/services/{}-ingest:8080/proxy",
            proxy.port, self.sandbox.namespace, self.pipeline.name
        );
        let records = folder.to_string_lossy();
        let mut all = vec![("INGEST", ingest.as_str()), ("RECORDS", &records)];
        all.extend(variables);
        let ran = self.run_script(script, &all).await;
        std::fs::remove_dir_all(&folder)?;
        ran?;
        self.compare(&self.new).await
    }

    /// Runs a script that imports the old records.
    async fn import_and_compare(&self, script: &str, variables: &[(&str, &str)]) -> Result<()> {
        self.run_script(script, variables).await?;
        self.compare(&[]).await
    }

    async fn run_script(&self, script: &str, variables: &[(&str, &str)]) -> Result<()> {
        let mut bash = Command::new("bash");
        bash.arg(PathBuf::from(format!(
            "../examples/moving-over/{script}.sh"
        )))
        .env("NAMESPACE", &self.sandbox.namespace)
        .env("PIPELINE", &self.pipeline.name)
        .envs(variables.iter().copied());
        let output = tokio::task::spawn_blocking(move || bash.output()).await??;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (printed, errors) = (text(&output.stdout), text(&output.stderr));
        ensure!(output.status.success(), "{script}: {printed}\n{errors}");
        for question in &QUESTIONS {
            ensure!(
                printed.contains(question.name),
                "{} is not printed: {printed}",
                question.name
            );
        }
        Ok(())
    }

    /// Compares the answers of the last run with those of SQL over the rows that the old records
    /// have, and the later ones.
    async fn compare(&self, later: &[Sample]) -> Result<()> {
        let mut rows: BTreeMap<(&str, &str), &Row> = BTreeMap::new();
        for sample in self.old.iter().chain(later) {
            rows.insert((sample.kind.name(), &sample.key), &sample.row);
        }
        store(&self.sandbox.schema(), &rows).await?;
        let (bucket, pipeline) = (self.sandbox.bucket(), self.pipeline.full_name());
        let mut read = 0;
        for run in self.pipeline.runs_that_import().await? {
            let total = &run["total"];
            ensure!(total["rejected"] == 0, "{run}");
            read += total["read"].as_u64().unwrap_or_default();
        }
        ensure!(read > 0, "nothing was imported");
        let report = objects::last_report(bucket, &pipeline).await?;
        let report = report.context("no run was published")?;
        ensure!(report["rejected"] == 0, "{}", report["rejectedByReason"]);
        for question in &QUESTIONS {
            let reported = question.answer_in_report(&report)?;
            let expected = question.answer_in_sql(&self.sandbox.schema()).await?;
            ensure!(!expected.is_empty(), "{} is empty", question.name);
            ensure!(
                reported == expected,
                "{}: reported {reported:?}, expected {expected:?}",
                question.name
            );
        }
        Ok(())
    }
}

/// Writes an object as soon as the archive has created the bucket.
async fn eventually_put(sandbox: &Sandbox, key: &str, body: &str) -> Result<()> {
    eventually(pinpipe_e2e::pipeline::READY_WITHIN, key, async || {
        objects::put(sandbox.bucket(), key, body.into()).await
    })
    .await
}

/// A row as Spark exports the table of a notebook: the cleaned values, without nulls, under the
/// names that raw records have.
fn exported(kind: Kind, row: &Row) -> Value {
    let time = |value: &Value| -> Value {
        let time = value.as_i64().and_then(DateTime::from_timestamp_micros);
        time.map_or(Value::Null, |time| time.to_rfc3339().into())
    };
    let mut record = Map::new();
    for (column, value) in kind.columns().iter().zip(row) {
        match *column {
            "index_id" => record.insert("index".into(), value.clone()),
            "user_name" => record.insert("first_name".into(), value.clone()),
            "coordinates" => {
                record.insert("latitude".into(), value[0].clone());
                record.insert("longitude".into(), value[1].clone())
            }
            "timestamp" | "date_joined" => record.insert((*column).into(), time(value)),
            column => record.insert(column.into(), value.clone()),
        };
    }
    record.retain(|_, value| !value.is_null());
    Value::Object(record)
}

/// Creates tables like those of a sink with what the questions ask for.
async fn store(schema: &str, rows: &BTreeMap<(&str, &str), &Row>) -> Result<()> {
    let of = |kind: Kind| {
        let rows = rows.iter().filter(|((name, _), _)| *name == kind.name());
        json!(rows.map(|(_, row)| row).collect::<Vec<_>>()).to_string()
    };
    let client = postgres::connect().await?;
    client
        .batch_execute(&format!("CREATE SCHEMA {schema}"))
        .await?;
    for (kind, columns) in [
        (
            Kind::Pin,
            "(r->>1)::bigint AS index_id, r->>3 AS category, r->>5 AS poster_name, \
             (r->>6)::bigint AS follower_count",
        ),
        (
            Kind::Geo,
            "(r->>0)::bigint AS ind, r->>1 AS country, \
             to_timestamp((r->>3)::float8 / 1000000) AS \"timestamp\"",
        ),
        (
            Kind::User,
            "(r->>0)::bigint AS ind, (r->>2)::int AS age, \
             to_timestamp((r->>3)::float8 / 1000000) AS date_joined",
        ),
    ] {
        // A statement that creates a table takes no parameters.
        let json = of(kind).replace('\'', "''");
        let table = format!("{schema}.{}", kind.live_table());
        client
            .batch_execute(&format!(
                "CREATE TABLE {table} AS SELECT {columns} FROM json_array_elements('{json}') r"
            ))
            .await?;
    }
    Ok(())
}

/// A proxy of the API server on this machine, which ends with the test.
struct ApiProxy {
    kubectl: Child,
    port: u16,
}

impl ApiProxy {
    fn start() -> Result<Self> {
        let mut kubectl = Command::new("kubectl");
        kubectl
            .args(["proxy", "--port=0"])
            .stdout(Stdio::piped())
            .stdin(Stdio::null());
        let mut kubectl = kubectl.spawn().context("kubectl can't be run")?;
        let mut line = String::new();
        let output = kubectl.stdout.take().context("kubectl has no output")?;
        BufReader::new(output).read_line(&mut line)?;
        // Starting to serve on 127.0.0.1:34567
        let port = line
            .trim_end()
            .rsplit(':')
            .next()
            .and_then(|port| port.parse().ok());
        let port = port.with_context(|| format!("kubectl proxy says {line}"));
        match port {
            Ok(port) => Ok(Self { kubectl, port }),
            Err(error) => {
                kubectl.kill()?;
                Err(error)
            }
        }
    }
}

impl Drop for ApiProxy {
    fn drop(&mut self) {
        let _ = self.kubectl.kill();
        let _ = self.kubectl.wait();
    }
}
