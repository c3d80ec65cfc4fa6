//! Conditions name what is wrong.
//!
//! These tests run before those of [`crate::settled`], in the order of names. They set up the
//! settled pipeline without touching it, so that it is observed while they run.

use std::time::Duration;

use anyhow::{Result, ensure};
use pinpipe_e2e::{Kind, Sandbox, Spec, cluster, eventually, pipeline::READY_WITHIN, postgres};
use serde_json::json;

use crate::settled::SETTLED;

/// How long the kubelet may take to renew a mounted file, and the worker to notice.
const RENEWED_WITHIN: Duration = Duration::from_mins(3);

/// Waits until the live table has more pins than now.
async fn more_pins_are_stored(sandbox: &Sandbox) -> Result<()> {
    let stored = postgres::count(&sandbox.schema(), Kind::Pin).await?;
    eventually(READY_WITHIN, "records are stored", async || {
        let now = postgres::count(&sandbox.schema(), Kind::Pin).await?;
        ensure!(now > stored, "{now} pins as before");
        Ok(())
    })
    .await
}

#[test]
fn a_broker_that_cannot_be_reached_is_named_in_the_conditions() -> Result<()> {
    SETTLED.test(async |_| {
        Sandbox::with("broker", async |sandbox| {
            let mut spec = Spec::new();
            spec.0["broker"]["kafka"]["bootstrapServers"] = json!("nowhere.invalid:9092");
            let pipeline = sandbox.apply("flow", &spec).await?;
            pipeline
                .has_condition("TopicsReady", "False", &["nowhere.invalid:9092"])
                .await?;
            pipeline
                .has_condition("Ready", "False", &["nowhere.invalid:9092"])
                .await
        })
        .await
    })
}

#[test]
fn working_pods_stay_until_the_operator_has_reached_the_new_broker() -> Result<()> {
    SETTLED.test(async |_| {
        Sandbox::with("moved", async |sandbox| {
            let spec = Spec::new().live(sandbox).emulator(20);
            let pipeline = sandbox.apply("flow", &spec).await?;
            pipeline.ready().await?;
            let workers = ["ingest", "stream-live"];
            let before = [
                pipeline.workers(workers[0]).await?,
                pipeline.workers(workers[1]).await?,
            ];
            let wrong = json!({"broker": {"kafka": {"bootstrapServers": "nowhere.invalid:9092"}}});
            pipeline.change(wrong).await?;
            pipeline
                .has_condition("TopicsReady", "False", &["nowhere.invalid:9092"])
                .await?;
            pipeline
                .has_condition("IngestReady", "True", &["reach Kafka as before"])
                .await?;
            pipeline
                .has_condition("StreamReady", "True", &["reach Kafka as before"])
                .await?;
            more_pins_are_stored(sandbox).await?;
            let right = &spec.0["broker"]["kafka"]["bootstrapServers"];
            let right = json!({"broker": {"kafka": {"bootstrapServers": right}}});
            pipeline.change(right).await?;
            pipeline.ready().await?;
            for (worker, before) in workers.iter().zip(before) {
                ensure!(
                    pipeline.workers(worker).await? == before,
                    "{worker}: another pod"
                );
            }
            Ok(())
        })
        .await
    })
}

#[test]
fn a_missing_secret_is_named_in_the_conditions_and_found_once_it_exists() -> Result<()> {
    SETTLED.test(async |_| {
        Sandbox::with("secret", async |sandbox| {
            let mut spec = Spec::new().live(sandbox);
            spec.0["stream"]["sinks"][0]["postgres"]["urlSecretRef"]["name"] = json!("forgotten");
            let pipeline = sandbox.apply("flow", &spec).await?;
            pipeline
                .has_condition("StreamReady", "False", &["forgotten"])
                .await?;
            pipeline
                .has_condition("Ready", "False", &["forgotten"])
                .await?;
            let status = pipeline.get().await?.data["status"].clone();
            let sink = &status["sinks"][0];
            ensure!(
                sink["name"] == "live" && sink["kind"] == "Postgres" && sink["ready"] == false,
                "{status}"
            );
            ensure!(sink["reason"] == "SecretMissing", "{status}");
            sandbox
                .secret("forgotten", json!({"url": cluster::POSTGRES_IN_CLUSTER}))
                .await?;
            pipeline.ready().await
        })
        .await
    })
}

#[test]
fn a_renewed_secret_is_taken_up_without_a_new_pod() -> Result<()> {
    SETTLED.test(async |_| {
        Sandbox::with("renewed", async |sandbox| {
            let sql = postgres::connect().await?;
            let role = format!("{}_renewed", sandbox.schema());
            let create = format!(
                "DROP ROLE IF EXISTS {role}; \
                 CREATE ROLE {role} LOGIN PASSWORD 'renewed' IN ROLE pinpipe"
            );
            sql.batch_execute(&create).await?;
            sandbox
                .secret("own", json!({"url": cluster::POSTGRES_IN_CLUSTER}))
                .await?;
            let mut spec = Spec::new().live(sandbox).emulator(20);
            spec.0["stream"]["sinks"][0]["postgres"]["urlSecretRef"]["name"] = json!("own");
            let pipeline = sandbox.apply("flow", &spec).await?;
            pipeline.ready().await?;
            let children = pipeline.children().await?;
            let workers = pipeline.workers("stream-live").await?;
            let (user, renewed) = ("pinpipe:pinpipe@", format!("{role}:renewed@"));
            let url = cluster::POSTGRES_IN_CLUSTER.replace(user, &renewed);
            sandbox.renew_secret("own", json!({"url": url})).await?;
            let connections = "SELECT count(*) FROM pg_stat_activity WHERE usename = $1";
            eventually(RENEWED_WITHIN, "the new user is connected", async || {
                let row = sql.query_one(connections, &[&role]).await?;
                ensure!(row.try_get::<_, i64>(0)? > 0, "no connection of {role}");
                Ok(())
            })
            .await?;
            more_pins_are_stored(sandbox).await?;
            pipeline.ready().await?;
            ensure!(
                pipeline.workers("stream-live").await? == workers,
                "another pod"
            );
            let changed = pipeline.changed_since(&children).await?;
            ensure!(changed.is_empty(), "{changed:?}");
            Ok(())
        })
        .await
    })
}

#[test]
fn an_image_that_cannot_be_pulled_is_named_in_the_conditions() -> Result<()> {
    SETTLED.test(async |_| {
        Sandbox::with("image", async |sandbox| {
            let mut spec = Spec::new();
            spec.0["image"] = json!({"registry": "registry.invalid/pinpipe", "tag": "none"});
            let pipeline = sandbox.apply("flow", &spec).await?;
            pipeline
                .has_condition(
                    "IngestReady",
                    "False",
                    &["registry.invalid/pinpipe/ingest:none"],
                )
                .await?;
            pipeline
                .has_condition("Ready", "False", &["registry.invalid/pinpipe/ingest:none"])
                .await
        })
        .await
    })
}
