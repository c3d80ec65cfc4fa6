//! A pipeline's life: suspended and resumed, paused, deleted with its topics, and what a user can ask for by annotations.

use std::time::Duration;

use anyhow::{Result, ensure};
use pinpipe_e2e::{
    Kind, Spec, cluster, ensure_same, eventually,
    flow::{Flow, PREFIX},
    objects,
    pipeline::READY_WITHIN,
    postgres,
    samples::Samples,
    shared::in_space,
};
use serde_json::json;

#[test]
fn a_suspended_pipeline_has_read_everything_and_goes_on_when_it_is_resumed() -> Result<()> {
    in_space("suspend", async |space| {
        let mut spec = Spec::new().live(space).archive(space, 100_000);
        // By itself the archive would write nothing before half an hour has passed.
        spec.0["archive"]["rotate"]["interval"] = json!("30m");
        let pipeline = space.apply("flow", &spec).await?;
        pipeline.ready().await?;
        let (mut flow, mut make) = (Flow::new(&pipeline), Samples::new(23));
        flow.send(Kind::Pin, make.batch(Kind::Pin, 0..3000, 0), 500).await?;
        pipeline.change(json!({"suspend": true})).await?;
        pipeline.says("Ready", "True", &["Suspended"]).await?;
        pipeline.says("Suspended", "True", &["Suspended"]).await?;
        eventually(READY_WITHIN, "no pod left", async || {
            for component in ["ingest", "stream-live", "archive"] {
                let pods = pipeline.pods(component).await?.len();
                ensure!(pods == 0, "{pods} pods of {component}");
            }
            Ok(())
        })
        .await?;
        // With nobody at work any more, everything is there already.
        let expected = flow.log(Kind::Pin).await?.latest();
        ensure_same("pin", &expected, &postgres::live_table(&space.schema(), Kind::Pin).await?)?;
        let (_, archived) = objects::raw_count(space.bucket(), PREFIX, &pipeline.topic(Kind::Pin)).await?;
        ensure!(archived == 3000, "{archived} records in raw objects");

        pipeline.change(json!({"suspend": false})).await?;
        pipeline.ready().await?;
        ensure!(!pipeline.conditions().await?.contains_key("Suspended"), "resumed, and still said to be suspended");
        flow.send(Kind::Pin, make.batch(Kind::Pin, 3000..3500, 0), 500).await?;
        flow.live_table_is_right(Kind::Pin).await
    })
}

/// Whoever suspends a pipeline whose store is away waits for a bounded time, and is told what was left.
#[test]
fn a_sink_that_cannot_catch_up_holds_a_suspension_up_until_the_deadline() -> Result<()> {
    in_space("late", async |space| {
        let mut spec = Spec::new().live(space);
        space.secret("nowhere", json!({"url": "postgresql://nobody@postgres.invalid:5432/none"})).await?;
        spec.0["stream"]["sinks"][0]["postgres"]["urlSecretRef"] = json!({"name": "nowhere", "key": "url"});
        let pipeline = space.apply("flow", &spec).await?;
        pipeline.says("IngestReady", "True", &[]).await?;
        let mut flow = Flow::new(&pipeline);
        flow.send(Kind::Geo, Samples::new(29).batch(Kind::Geo, 0..100, 0), 100).await?;
        pipeline.change(json!({"suspend": true})).await?;
        pipeline.says("Suspended", "False", &["Draining"]).await?;
        eventually(cluster::DRAIN_DEADLINE + READY_WITHIN, "the deadline", async || {
            let conditions = pipeline.conditions().await?;
            let suspended = &conditions["Suspended"];
            let said = suspended["message"].as_str().unwrap_or_default();
            ensure!(suspended["reason"] == "DrainDeadlineExceeded" && said.contains("stream-live"), "{suspended}");
            let replicas = pipeline.replicas().await?;
            ensure!(replicas.values().all(|there| *there == (0, 0)), "{replicas:?}");
            Ok(())
        })
        .await?;
        let told = pipeline.events("DrainDeadlineExceeded").await?;
        ensure!(told.len() == 1, "{told:?}");
        eventually(Duration::from_secs(30), "ready all the same", async || {
            let ready = pipeline.conditions().await?.remove("Ready").unwrap_or_default();
            ensure!(ready["status"] == "True" && ready["reason"] == "DrainDeadlineExceeded", "{ready}");
            Ok(())
        })
        .await
    })
}
