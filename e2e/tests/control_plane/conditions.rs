//! Conditions name what is wrong.
//!
//! These tests run before those of [`crate::settled`], in the order of names. They set up the
//! settled pipeline without touching it, so that it is observed while they run.

use anyhow::{Result, ensure};
use pinpipe_e2e::{Sandbox, Spec, cluster};
use serde_json::json;

use crate::settled::SETTLED;

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
