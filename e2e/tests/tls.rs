//! The main job over TLS with passwords, which nothing reveals that others may read.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use k8s_openapi::{ByteString, api::core::v1::Pod};
use kube::{
    Api, ResourceExt as _,
    api::{ApiResource, DynamicObject, GroupVersionKind, ListParams, LogParams},
};
use pinpipe_e2e::{
    Kind, Sandbox, SharedScenario, Spec,
    answers::QUESTIONS,
    cluster::{self, Cluster},
    devstack,
    ledger::Ledger,
    node, objects, operator, postgres,
    samples::Samples,
    scenario::Scenario,
};
use rand::Rng as _;
use serde_json::{Value, json};

/// Distinct keys of each kind.
const KEYS: i64 = 600;
/// Records of each kind that give a key other values.
const REPEATS: usize = 30;
/// The user in PostgreSQL. It stays, with another password in each run.
const ROLE: &str = "e2e_tls";
/// The workers of the main job.
const COMPONENTS: [&str; 4] = ["ingest", "stream-live", "archive", "batch"];
/// Kinds of objects that show what a pipeline is and does: group, version, kind.
const SHOWN: [(&str, &str, &str); 9] = [
    ("pinpipe.dev", "v1alpha1", "PinterestPipeline"),
    ("", "v1", "Event"),
    ("", "v1", "ConfigMap"),
    ("", "v1", "Pod"),
    ("apps", "v1", "Deployment"),
    ("apps", "v1", "ReplicaSet"),
    ("batch", "v1", "CronJob"),
    ("batch", "v1", "Job"),
    ("coordination.k8s.io", "v1", "Lease"),
];

/// A pipeline into which records were sent, and whose batch run is complete.
struct Sent {
    ledger: Ledger,
    /// Passwords and keys by what they are for.
    planted: BTreeMap<&'static str, String>,
}

static SENT: SharedScenario<Sent> = SharedScenario::new(2);

impl Scenario for Sent {
    const NAME: &'static str = "tls";

    async fn set_up(sandbox: Sandbox) -> Result<Self> {
        let planted = plant(&sandbox).await?;
        let pipeline = sandbox.apply("flow", &over_tls(&sandbox)).await?;
        pipeline.ready().await?;
        let mut ledger = Ledger::new(&pipeline);
        let mut make = Samples::new(13);
        for kind in Kind::ALL {
            ledger
                .send(kind, make.batch(kind, 0..KEYS, REPEATS), 100)
                .await?;
        }
        pipeline.start_run("first").await?;
        pipeline.run_completes("first").await?;
        Ok(Self { ledger, planted })
    }
}

/// Creates the user in PostgreSQL, and the Secrets that the pipeline refers to. Returns what is
/// secret in them.
async fn plant(sandbox: &Sandbox) -> Result<BTreeMap<&'static str, String>> {
    let servers = devstack::certificates(&sandbox.cluster).await?;
    let of = |key: &str| {
        let value = servers.get(key).cloned();
        value.with_context(|| format!("the servers' Secret has no {key}"))
    };
    let planted = BTreeMap::from([
        ("the password in Kafka", of("kafkaPassword")?),
        ("the S3 access key id", of("accessKeyId")?),
        ("the S3 secret key", of("secretAccessKey")?),
        (
            "the password in PostgreSQL",
            format!("{:032x}", rand::rng().random::<u128>()),
        ),
    ]);
    let password = &planted["the password in PostgreSQL"];
    let client = postgres::connect().await?;
    let create = format!(
        "DO $$ BEGIN CREATE ROLE {ROLE}; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
         ALTER ROLE {ROLE} LOGIN PASSWORD '{password}';
         GRANT CREATE ON DATABASE pinpipe TO {ROLE}"
    );
    client.batch_execute(&create).await?;
    let url = format!(
        "postgresql://{ROLE}:{password}@postgres.devstack.svc:5432/pinpipe?sslmode=verify-full"
    );
    for (name, values) in [
        ("ca", json!({"ca.crt": of("ca.crt")?})),
        (
            "kafka-user",
            json!({"username": "devstack", "password": of("kafkaPassword")?}),
        ),
        (
            "s3-keys",
            json!({
                "accessKeyId": of("accessKeyId")?, "secretAccessKey": of("secretAccessKey")?,
            }),
        ),
        ("warehouse-tls", json!({"url": url})),
    ] {
        sandbox.secret(name, values).await?;
    }
    Ok(planted)
}

/// The main job, with TLS and passwords at each server.
fn over_tls(sandbox: &Sandbox) -> Spec {
    let ca = json!({"name": "ca", "key": "ca.crt"});
    let mut spec = Spec::new()
        .live(sandbox)
        .archive(sandbox, 400)
        .batch_without_sinks()
        .batch_postgres(sandbox);
    let kafka = &mut spec.0["broker"]["kafka"];
    kafka["bootstrapServers"] = json!(cluster::KAFKA_TLS_IN_CLUSTER);
    kafka["tls"] = json!({"caSecretRef": ca});
    kafka["authentication"] = json!({"plain": {"credentialsSecretRef": {"name": "kafka-user"}}});
    for part in ["stream", "batch"] {
        let postgres = &mut spec.0[part]["sinks"][0]["postgres"];
        postgres["urlSecretRef"]["name"] = json!("warehouse-tls");
        postgres["caSecretRef"] = ca.clone();
    }
    let serving = &mut spec.0["batch"]["sinks"];
    *serving = json!([serving[0], {"name": "cassandra", "cassandra": {
        "contactPoints": [cluster::CASSANDRA_IN_CLUSTER],
        "keyspace": sandbox.keyspace(),
        "tls": {"caSecretRef": ca},
    }}]);
    let s3 = &mut spec.0["archive"]["s3"];
    s3["endpoint"] = json!(cluster::S3_TLS_IN_CLUSTER);
    s3["credentialsSecretRef"]["name"] = json!("s3-keys");
    s3["caSecretRef"] = ca;
    spec
}

#[test]
fn the_main_job_runs_over_tls_with_passwords() -> Result<()> {
    SENT.test(async |sent| {
        let sandbox = &sent.ledger.pipeline.sandbox;
        for kind in Kind::ALL {
            sent.ledger.live_table_is_right(kind).await?;
            sent.ledger.raw_objects_are_right(kind).await?;
        }
        let report = report(sent).await?;
        for question in &QUESTIONS {
            let expected = question.answer_in_sql(&sandbox.schema()).await?;
            ensure!(!expected.is_empty(), "{} is empty", question.name);
            let stored = question.answer_in_postgres(&sandbox.schema()).await?;
            let in_cassandra = question.answer_in_cassandra(&sandbox.keyspace()).await?;
            let reported = question.answer_in_report(&report)?;
            ensure!(
                stored == expected && in_cassandra == expected && reported == expected,
                "{}: expected {expected:?}, in PostgreSQL {stored:?}, in Cassandra \
                 {in_cassandra:?}, reported {reported:?}",
                question.name
            );
        }
        let sessions = format!(
            "SELECT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename = '{ROLE}'"
        );
        let sessions = postgres::objects(&sessions).await?;
        ensure!(
            !sessions.is_empty() && sessions.iter().all(|session| session["ssl"] == true),
            "sessions in PostgreSQL: {sessions:?}"
        );
        Ok(())
    })
}

#[test]
fn no_object_log_or_process_shows_a_password_or_a_key() -> Result<()> {
    SENT.test(async |sent| {
        let pipeline = &sent.ledger.pipeline;
        let cluster = &pipeline.sandbox.cluster;
        let mut texts = vec![("report".to_owned(), report(sent).await?.to_string())];
        for namespace in [&pipeline.sandbox.namespace, operator::NAMESPACE] {
            texts.extend(objects_shown(cluster, namespace).await?);
            texts.extend(pods_shown(cluster, namespace).await?);
        }
        let found = |what: &str, part: &str| {
            let of = |(shown, text): &(String, String)| shown.contains(what) && text.contains(part);
            texts.iter().any(of)
        };
        // What isn't there would show nothing.
        for component in COMPONENTS {
            let started = format!("processes of flow-{component}-");
            ensure!(found(&started, "/worker"), "{started}: no command line");
            let log = format!("log of flow-{component}-");
            ensure!(found(&log, "\n"), "{log}: empty");
        }
        ensure!(found("PinterestPipeline", "\"conditions\""), "no status");
        ensure!(found("Event", "\"reason\""), "no event");
        ensure!(
            found("ConfigMap", cluster::KAFKA_TLS_IN_CLUSTER),
            "no configuration"
        );
        for (name, secret) in &sent.planted {
            let encoded = serde_json::to_value(ByteString(secret.clone().into_bytes()))?;
            let encoded = encoded.as_str().unwrap_or_default().trim_end_matches('=');
            for (what, text) in &texts {
                let shown = text
                    .lines()
                    .find(|line| [secret, encoded].iter().any(|part| line.contains(part)));
                ensure!(
                    shown.is_none(),
                    "{what} shows {name}: {}",
                    shown.unwrap_or_default()
                );
            }
        }
        Ok(())
    })
}

/// The objects of a namespace, as JSON by kind and name.
async fn objects_shown(cluster: &Cluster, namespace: &str) -> Result<Vec<(String, String)>> {
    let mut texts = Vec::new();
    for (group, version, kind) in SHOWN {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        let api = Api::<DynamicObject>::namespaced_with(cluster.client(), namespace, &resource);
        for object in api.list(&ListParams::default()).await? {
            let name = format!("{kind} {}", object.name_any());
            texts.push((name, serde_json::to_string_pretty(&object)?));
        }
    }
    Ok(texts)
}

/// What the pods of a namespace log, and what their processes were started with.
async fn pods_shown(cluster: &Cluster, namespace: &str) -> Result<Vec<(String, String)>> {
    let pods = cluster.api::<Pod>(namespace);
    let mut texts = Vec::new();
    for pod in pods.list(&ListParams::default()).await? {
        let name = pod.name_any();
        let node = pod
            .spec
            .and_then(|spec| spec.node_name)
            .context("no node")?;
        let status = pod.status.unwrap_or_default();
        for container in status.container_statuses.unwrap_or_default() {
            for previous in [false, true] {
                if previous && container.restart_count == 0 {
                    continue;
                }
                let all = LogParams {
                    previous,
                    ..LogParams::default()
                };
                texts.push((format!("log of {name}"), pods.logs(&name, &all).await?));
            }
            let id = container
                .container_id
                .with_context(|| format!("{name} never ran"))?;
            let started = node::started_with(&node, &id).await?;
            texts.push((format!("processes of {name}"), started));
        }
    }
    Ok(texts)
}

async fn report(sent: &Sent) -> Result<Value> {
    let pipeline = &sent.ledger.pipeline;
    let report = objects::last_report(pipeline.sandbox.bucket(), &pipeline.full_name()).await?;
    report.context("no run has published a report")
}
