//! Suspension and resumption of pipelines.

use std::time::Duration;

use anyhow::{Result, ensure};
use chrono::Utc;
use pinpipe_e2e::{
    Kind, Spec, audit, cluster, ensure_same, eventually,
    ledger::{Ledger, PREFIX},
    objects,
    pipeline::READY_WITHIN,
    postgres,
    samples::Samples,
    scenario::in_sandbox,
    throughout,
};
use serde_json::json;

/// How long to check that a suspended pipeline isn't written to: past the drain deadline and at
/// least one resync, which comes every 30 s with jitter.
const UNWRITTEN: Duration = cluster::DRAIN_DEADLINE.saturating_add(Duration::from_secs(15));

#[test]
fn a_suspended_pipeline_has_stored_everything_and_continues_when_resumed() -> Result<()> {
    in_sandbox("suspend", async |sandbox| {
        let mut spec = Spec::new().live(sandbox).archive(sandbox, 100_000);
        // Unless it is drained, the archive writes nothing for half an hour.
        spec.0["archive"]["rotate"]["interval"] = json!("30m");
        let pipeline = sandbox.apply("flow", &spec).await?;
        pipeline.ready().await?;
        let (mut ledger, mut make) = (Ledger::new(&pipeline), Samples::new(23));
        ledger
            .send(Kind::Pin, make.batch(Kind::Pin, 0..3000, 0), 500)
            .await?;
        pipeline.change(json!({"suspend": true})).await?;
        pipeline
            .has_condition("Ready", "True", &["Suspended"])
            .await?;
        pipeline
            .has_condition("Suspended", "True", &["Suspended"])
            .await?;
        eventually(READY_WITHIN, "no pods left", async || {
            for component in ["ingest", "stream-live", "archive"] {
                let pods = pipeline.pods(component).await?.len();
                ensure!(pods == 0, "{pods} pods of {component}");
            }
            Ok(())
        })
        .await?;
        // No worker runs any more, so everything must be stored by now.
        let expected = ledger.log(Kind::Pin).await?.latest();
        ensure_same(
            "pin",
            &expected,
            &postgres::live_table(&sandbox.schema(), Kind::Pin).await?,
        )?;
        let (_, archived) =
            objects::raw_count(sandbox.bucket(), PREFIX, &pipeline.topic(Kind::Pin)).await?;
        ensure!(archived == 3000, "{archived} records in raw objects");
        let since = Utc::now();
        throughout(UNWRITTEN, "no write to a suspended pipeline", async || {
            let mut writes = audit::writes(&sandbox.namespace).await?;
            writes.retain(|w| {
                w.request_received_timestamp >= since
                    && w.user.username.contains(":pinpipe-system:")
            });
            ensure!(writes.is_empty(), "{writes:#?}");
            Ok(())
        })
        .await?;

        pipeline.change(json!({"suspend": false})).await?;
        pipeline.ready().await?;
        ensure!(
            !pipeline.conditions().await?.contains_key("Suspended"),
            "resumed, and the condition Suspended is still there"
        );
        ledger
            .send(Kind::Pin, make.batch(Kind::Pin, 3000..3500, 0), 500)
            .await?;
        ledger.live_table_is_right(Kind::Pin).await
    })
}

/// A suspension takes a bounded time even when a store is unavailable, and the condition names what
/// was not drained.
#[test]
fn a_sink_that_cannot_drain_delays_a_suspension_until_the_deadline() -> Result<()> {
    in_sandbox("late", async |sandbox| {
        let mut spec = Spec::new().live(sandbox);
        sandbox
            .secret(
                "nowhere",
                json!({"url": "postgresql://nobody@postgres.invalid:5432/none"}),
            )
            .await?;
        spec.0["stream"]["sinks"][0]["postgres"]["urlSecretRef"] =
            json!({"name": "nowhere", "key": "url"});
        let pipeline = sandbox.apply("flow", &spec).await?;
        pipeline.has_condition("IngestReady", "True", &[]).await?;
        pipeline
            .has_condition(
                "StreamReady",
                "False",
                &["SinkUnavailable", "can't be reached"],
            )
            .await?;
        ensure!(
            pipeline.events("Ready").await?.is_empty(),
            "an event Ready though the sink was never reached"
        );
        let mut ledger = Ledger::new(&pipeline);
        ledger
            .send(Kind::Geo, Samples::new(29).batch(Kind::Geo, 0..100, 0), 100)
            .await?;
        pipeline.change(json!({"suspend": true})).await?;
        pipeline
            .has_condition("Suspended", "False", &["Draining"])
            .await?;
        eventually(
            cluster::DRAIN_DEADLINE + READY_WITHIN,
            "the deadline",
            async || {
                let conditions = pipeline.conditions().await?;
                let suspended = &conditions["Suspended"];
                let message = suspended["message"].as_str().unwrap_or_default();
                ensure!(
                    suspended["reason"] == "DrainDeadlineExceeded"
                        && message.contains("stream-live"),
                    "{suspended}"
                );
                let replicas = pipeline.replicas().await?;
                ensure!(
                    replicas.values().all(|counts| *counts == (0, 0)),
                    "{replicas:?}"
                );
                Ok(())
            },
        )
        .await?;
        eventually(
            Duration::from_secs(30),
            "ready after the deadline",
            async || {
                let ready = pipeline
                    .conditions()
                    .await?
                    .remove("Ready")
                    .unwrap_or_default();
                ensure!(
                    ready["status"] == "True" && ready["reason"] == "DrainDeadlineExceeded",
                    "{ready}"
                );
                let events = pipeline.events("DrainDeadlineExceeded").await?;
                ensure!(events.len() == 1, "{events:?}");
                Ok(())
            },
        )
        .await
    })
}
