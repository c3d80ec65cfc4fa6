//! Reconciliation of a pipeline: deleted children are recreated, a change rolls only the components
//! it concerns, an unchanged pipeline is not written to, and conditions name what is wrong.

mod conditions;
mod settled;

use anyhow::{Context, Result, ensure};
use pinpipe_e2e::{
    Kind, Spec, eventually, kafka, ledger::Ledger, pipeline::READY_WITHIN, samples::Samples,
    scenario::in_sandbox,
};
use serde_json::json;

#[test]
fn a_reset_emits_one_event_and_an_impossible_one_blocks_nothing() -> Result<()> {
    in_sandbox("reset", async |sandbox| {
        let pipeline = sandbox.apply("flow", &Spec::new().live(sandbox)).await?;
        pipeline.ready().await?;
        let latest = |sink: &str| json!({"reset": {"sink": sink, "to": {"latest": {}}}});
        pipeline.create_run("lake", latest("lake")).await?;
        let refused = pipeline.ended_run("lake").await?;
        ensure!(refused["phase"] == "Refused", "{refused}");
        pipeline.run_succeeds("live", latest("live")).await?;
        pipeline.ready().await?;
        let events = pipeline.events("SinkReset").await?;
        ensure!(
            events.len() == 1 && events[0].contains("the run live"),
            "{events:?}"
        );
        let removed = "pinpipe.dev/reset-sink";
        pipeline.annotate(removed, "live=latest").await?;
        pipeline
            .has_condition("Ready", "False", &[removed, "PinterestRun with spec.reset"])
            .await?;
        pipeline.has_condition("StreamReady", "True", &[]).await
    })
}

#[test]
fn partitions_rise_with_the_spec_and_never_fall() -> Result<()> {
    in_sandbox("raised", async |sandbox| {
        let pipeline = sandbox.apply("flow", &Spec::new()).await?;
        pipeline.ready().await?;
        pipeline
            .change(json!({"broker": {"kafka": {"topics": {"partitions": 5}}}}))
            .await?;
        pipeline.ready().await?;
        for kind in Kind::ALL {
            let partitions = kafka::ends(&pipeline.topic(kind)).await?.len();
            ensure!(partitions == 5, "{kind} has {partitions}");
        }
        let dead_letters = kafka::ends(&format!("{}.dlq", pipeline.topic(Kind::Pin)))
            .await?
            .len();
        ensure!(
            dead_letters == 1,
            "the dead-letter topic has {dead_letters}"
        );
        pipeline
            .change(json!({"broker": {"kafka": {"topics": {"partitions": 2}}}}))
            .await?;
        pipeline
            .has_condition("TopicsReady", "True", &["keeps its 5 partitions, not 2"])
            .await
    })
}

#[test]
fn a_topic_belongs_to_the_older_pipeline_until_that_is_deleted() -> Result<()> {
    in_sandbox("claimed", async |sandbox| {
        let mut spec = Spec::new();
        spec.0["broker"]["kafka"]["topics"]["overrides"] =
            json!({"pin": {"name": format!("{}.shared", sandbox.namespace)}});
        let older = sandbox.apply("first", &spec).await?;
        older.ready().await?;
        let younger = sandbox.apply("second", &spec).await?;
        let owner = format!("{}/first", sandbox.namespace);
        for condition in ["Ready", "TopicsReady"] {
            younger
                .has_condition(condition, "False", &["TopicConflict", &owner])
                .await?;
        }
        younger
            .has_condition("Stalled", "True", &["TopicConflict"])
            .await?;
        let children = younger.children().await?;
        ensure!(children.is_empty(), "the younger has {:?}", children.keys());
        older.ready().await?;
        older.delete().await?;
        younger.ready().await
    })
}

#[test]
fn with_autoscaling_the_operator_keeps_replicas_set_by_others() -> Result<()> {
    in_sandbox("scaled", async |sandbox| {
        let mut spec = Spec::new().live(sandbox);
        spec.0["ingest"]["replicas"] = json!(2);
        let pipeline = sandbox.apply("flow", &spec).await?;
        pipeline.ready().await?;
        let remove_replicas = |section: &mut serde_json::Value| {
            section
                .as_object_mut()
                .and_then(|section| section.remove("replicas"))
        };
        remove_replicas(&mut spec.0["ingest"]).context("replicas of ingest")?;
        remove_replicas(&mut spec.0["stream"]["sinks"][0]).context("replicas of the sink")?;
        spec.0["ingest"]["autoscaling"] = json!({"minReplicas": 1, "maxReplicas": 3});
        spec.0["stream"]["sinks"][0]["autoscaling"] = json!({});
        pipeline.apply(&spec).await?;
        pipeline.ready().await?;
        let replicas = pipeline.replicas().await?;
        ensure!(
            replicas["flow-ingest"].0 == 2,
            "turning autoscaling on removed pods: {replicas:?}"
        );
        let children = pipeline.children().await?;
        ensure!(
            children.contains_key("HorizontalPodAutoscaler/flow-ingest"),
            "{:?}",
            children.keys()
        );
        ensure!(
            !children.contains_key("HorizontalPodAutoscaler/flow-stream-live"),
            "{:?}",
            children.keys()
        );

        pipeline.scale("ingest", 3).await?;
        pipeline.scale("stream-live", 2).await?;
        for (component, wanted) in [("flow-ingest", 3), ("flow-stream-live", 2)] {
            eventually(
                READY_WITHIN,
                &format!("{wanted} pods of {component}"),
                async || {
                    let replicas = pipeline.replicas().await?;
                    ensure!(
                        replicas.get(component) == Some(&(wanted, wanted)),
                        "{replicas:?}"
                    );
                    Ok(())
                },
            )
            .await?;
        }
        // Reconciling a changed spec leaves both as they are.
        pipeline.change(json!({"drainDeadline": "4m"})).await?;
        pipeline.ready().await?;
        let replicas = pipeline.replicas().await?;
        ensure!(
            (replicas["flow-ingest"].0, replicas["flow-stream-live"].0) == (3, 2),
            "{replicas:?}"
        );

        pipeline.change(json!({"suspend": true})).await?;
        pipeline
            .has_condition("Ready", "True", &["Suspended"])
            .await?;
        let replicas = pipeline.replicas().await?;
        ensure!(
            replicas.values().all(|(desired, _)| *desired == 0),
            "{replicas:?}"
        );
        pipeline.change(json!({"suspend": false})).await?;
        pipeline.ready().await?;
        let replicas = pipeline.replicas().await?;
        ensure!(
            replicas
                .values()
                .all(|(desired, actual)| (*desired, *actual) == (1, 1)),
            "resumed with {replicas:?}"
        );
        Ok(())
    })
}

#[test]
fn a_sink_has_no_more_pods_than_partitions_and_reports_it() -> Result<()> {
    in_sandbox("capped", async |sandbox| {
        let mut spec = Spec::new().live(sandbox);
        spec.0["broker"]["kafka"]["topics"]["partitions"] = json!(1);
        spec.0["stream"]["sinks"][0]["replicas"] = json!(5);
        let pipeline = sandbox.apply("flow", &spec).await?;
        pipeline.ready().await?;
        pipeline
            .has_condition("StreamReady", "True", &["sink live: it has 3 pods, not 5"])
            .await?;
        let replicas = pipeline.replicas().await?;
        ensure!(replicas["flow-stream-live"] == (3, 3), "{replicas:?}");
        Ok(())
    })
}

#[test]
fn deleting_a_pipeline_deletes_its_children_and_keeps_topics_and_data() -> Result<()> {
    in_sandbox("deleted", async |sandbox| {
        let pipeline = sandbox
            .apply("flow", &Spec::new().live(sandbox).archive(sandbox, 100))
            .await?;
        pipeline.ready().await?;
        let mut ledger = Ledger::new(&pipeline);
        let samples = Samples::new(5).batch(Kind::User, 0..100, 0);
        ledger.send(Kind::User, samples, 100).await?;
        ledger.live_table_is_right(Kind::User).await?;
        ledger.raw_objects_are_right(Kind::User).await?;
        pipeline.delete().await?;
        eventually(READY_WITHIN, "children and pods gone", async || {
            let children = pipeline.children().await?;
            ensure!(children.is_empty(), "{:?}", children.keys());
            for component in ["ingest", "stream-live", "archive"] {
                let pods = pipeline.pods(component).await?.len();
                ensure!(pods == 0, "{pods} pods of {component}");
            }
            Ok(())
        })
        .await?;
        // The ledger reads the topic, so these fail if it is gone.
        ledger.live_table_is_right(Kind::User).await?;
        ledger.raw_objects_are_right(Kind::User).await?;
        let log = ledger.log(Kind::User).await?;
        ensure!(
            log.good.len() == 100,
            "{} records in the topic",
            log.good.len()
        );
        kafka::ends(&format!("{}.dlq", pipeline.topic(Kind::User)))
            .await
            .map(drop)
    })
}
