//! The life of a pipeline: new, suspended and resumed, paused, deleted, and with topics that were
//! deleted.

mod deletion;
mod suspension;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use pinpipe_e2e::{
    Kind, Spec, eventually, kafka, ledger::Ledger, pipeline::READY_WITHIN, samples::Samples,
    scenario::in_sandbox, throughout,
};
use serde_json::json;

/// kstatus considers an object without a status to be current.
#[test]
fn a_new_pipeline_is_reconciling_before_its_broker_answers() -> Result<()> {
    in_sandbox("new", async |sandbox| {
        let mut spec = Spec::new();
        spec.0["broker"]["kafka"]["bootstrapServers"] = json!("kafka.invalid:9092");
        let pipeline = sandbox.apply("flow", &spec).await?;
        eventually(Duration::from_secs(5), "a status", async || {
            let conditions = pipeline.conditions().await?;
            ensure!(
                conditions
                    .get("Reconciling")
                    .is_some_and(|c| c["status"] == "True"),
                "{conditions:?}"
            );
            ensure!(
                conditions
                    .get("Ready")
                    .is_some_and(|c| c["status"] == "False"),
                "{conditions:?}"
            );
            Ok(())
        })
        .await
    })
}

#[test]
fn a_paused_pipeline_is_not_touched_until_it_is_resumed() -> Result<()> {
    in_sandbox("paused", async |sandbox| {
        let pipeline = sandbox.apply("flow", &Spec::new()).await?;
        pipeline.ready().await?;
        pipeline.annotate("pinpipe.dev/paused", "true").await?;
        let paused = async || {
            let ready = pipeline.get().await?.data["status"]["conditions"][0].clone();
            ensure!(
                ready["status"] == "Unknown" && ready["reason"] == "Paused",
                "{ready}"
            );
            Ok(())
        };
        eventually(READY_WITHIN, "paused", paused).await?;
        let (before, version) = (
            pipeline.children().await?,
            pipeline.get().await?.metadata.resource_version,
        );
        let mut spec = Spec::new();
        spec.0["ingest"]["replicas"] = json!(2);
        spec.0["broker"]["kafka"]["topics"]["partitions"] = json!(5);
        pipeline.apply(&spec).await?;
        let service = before.get("Service/flow-ingest").context("no Service")?;
        pipeline.delete_child(service).await?;
        throughout(
            Duration::from_secs(20),
            "a paused pipeline is not touched",
            async || {
                let now = pipeline.children().await?;
                ensure!(
                    !now.contains_key("Service/flow-ingest"),
                    "a child was recreated"
                );
                ensure!(
                    pipeline
                        .replicas()
                        .await?
                        .values()
                        .all(|(desired, _)| *desired == 1),
                    "it was scaled"
                );
                Ok(())
            },
        )
        .await?;
        let partitions = kafka::ends(&pipeline.topic(Kind::Pin)).await?.len();
        ensure!(
            partitions == 3,
            "the topic of a paused pipeline has {partitions} partitions"
        );
        let object = pipeline.get().await?;
        ensure!(
            object.data["status"]["observedGeneration"] == 1,
            "generation {:?} is observed",
            object.metadata.generation
        );
        paused().await?;
        // The only write since is the test's own of the spec.
        ensure!(
            object.metadata.resource_version != version,
            "the spec was not changed"
        );
        let writers = object.metadata.managed_fields.unwrap_or_default();
        let last = writers
            .iter()
            .filter(|w| w.subresource.as_deref() == Some("status"))
            .filter_map(|w| w.time.clone());
        let ours = writers
            .iter()
            .filter(|w| w.manager.as_deref() == Some("e2e"))
            .filter_map(|w| w.time.clone());
        ensure!(last.max() <= ours.max(), "the status was written again");

        pipeline.annotate("pinpipe.dev/paused", "false").await?;
        pipeline.ready().await?;
        ensure!(
            pipeline
                .replicas()
                .await?
                .values()
                .all(|counts| *counts == (2, 2)),
            "the change made while paused was not applied"
        );
        let partitions = kafka::ends(&pipeline.topic(Kind::Pin)).await?.len();
        ensure!(partitions == 5, "{partitions} partitions");
        Ok(())
    })
}

/// The new bucket would lack every record that the old one has, and runs would report success.
#[test]
fn an_archive_that_is_put_back_with_another_bucket_is_refused() -> Result<()> {
    in_sandbox("put-back", async |sandbox| {
        let spec = Spec::new().archive(sandbox, 100).batch(sandbox);
        let pipeline = sandbox.apply("flow", &spec).await?;
        pipeline.ready().await?;
        pipeline.apply(&Spec::new()).await?;
        pipeline.ready().await?;
        let mut moved = spec.clone();
        moved.0["archive"]["bucket"] = json!("another");
        pipeline.apply(&moved).await?;
        let parts = ["InvalidSpec", "`another`", sandbox.bucket(), "flow-record"];
        pipeline.has_condition("Ready", "False", &parts).await?;
        let parts = ["InvalidSpec"];
        pipeline.has_condition("Stalled", "True", &parts).await?;
        let children = pipeline.children().await?;
        ensure!(
            !children.contains_key("Deployment/flow-archive"),
            "the archive was deployed"
        );
        pipeline.apply(&Spec::new()).await?;
        pipeline.apply(&spec).await?;
        pipeline.ready().await
    })
}

#[test]
fn a_deleted_topic_is_recreated_by_the_runs_in_the_status() -> Result<()> {
    in_sandbox("forget", async |sandbox| {
        let pipeline = sandbox.apply("flow", &Spec::new().live(sandbox)).await?;
        pipeline.ready().await?;
        let (mut ledger, mut make) = (Ledger::new(&pipeline), Samples::new(31));
        ledger
            .send(Kind::User, make.batch(Kind::User, 0..50, 0), 50)
            .await?;
        ledger.live_table_is_right(Kind::User).await?;
        let (pin, geo) = (pipeline.topic(Kind::Pin), pipeline.topic(Kind::Geo));
        for topic in [&pin, &geo] {
            kafka::delete_topics(topic).await?;
        }
        eventually(READY_WITHIN, "the topics gone", async || {
            ensure!(
                kafka::ends(&geo).await.is_err() && kafka::ends(&pin).await.is_err(),
                "it still exists"
            );
            Ok(())
        })
        .await?;
        // One stays deleted; the other is recreated by someone else.
        kafka::create(&geo, 2).await?;
        let topics = pipeline.get().await?.data["status"]["topics"].clone();
        let [pin_letters, geo_letters] = [&pin, &geo].map(|topic| format!("{topic}.dlq"));
        for (run, kind, topic) in [
            ("pin", "Pin", &pin),
            ("geo", "Geo", &geo),
            ("pin-letters", "Pin", &pin_letters),
            ("geo-letters", "Geo", &geo_letters),
        ] {
            let known = topics.as_array().into_iter().flatten();
            let mut known = known.filter(|known| known["name"] == topic.as_str());
            let id = known.next().context("not in the status")?["id"].clone();
            let action = format!("topic: {{kind: {kind}, action: Forget, id: ");
            let id_in_text = id.as_str().context("it has no id")?;
            pipeline
                .has_condition("TopicsReady", "False", &[&action, id_in_text])
                .await?;
            let action = json!({"topic": {"kind": kind, "action": "Forget", "id": id}});
            pipeline.run_succeeds(run, action).await?;
        }
        pipeline.has_condition("TopicsReady", "True", &[]).await?;
        let geo_of_another = json!({"kind": "Geo", "action": "Adopt", "id": "another"});
        let adopt = json!({"topic": geo_of_another});
        pipeline.create_run("adopt", adopt).await?;
        let refused = pipeline.ended_run("adopt").await?;
        ensure!(refused["phase"] == "Refused", "{refused}");
        let status = pipeline.get().await?.data["status"]["topics"].clone();
        for (topic, created, partitions) in [(&pin, "Operator", 3), (&geo, "Other", 2)] {
            let found = status
                .as_array()
                .into_iter()
                .flatten()
                .find(|found| found["name"] == topic.as_str());
            let found = found.with_context(|| format!("no {topic} in {status}"))?;
            ensure!(
                found["created"] == created && found["partitions"] == partitions,
                "{found}"
            );
        }
        let earliest = json!({"reset": {"sink": "live", "to": {"earliest": {}}}});
        pipeline.run_succeeds("reset", earliest).await?;
        pipeline.ready().await?;
        ledger
            .send(Kind::Pin, make.batch(Kind::Pin, 0..100, 0), 100)
            .await?;
        ledger.live_table_is_right(Kind::Pin).await
    })
}
