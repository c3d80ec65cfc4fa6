//! Deletion of pipelines and their topics.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use kube::api::DeleteParams;
use pinpipe_e2e::{
    Kind, Pipeline, Spec, cluster, eventually, kafka, pipeline::READY_WITHIN, sandbox,
    scenario::in_sandbox,
};
use serde_json::json;

/// Waits until a pipeline and its children are gone.
async fn gone(pipeline: &Pipeline, within: Duration) -> Result<()> {
    eventually(within, &format!("{} gone", pipeline.name), async || {
        if let Ok(found) = pipeline.get().await {
            bail!(
                "{:?}: {}",
                found.metadata.finalizers,
                found.data["status"]["conditions"][0]
            );
        }
        let children = pipeline.children().await?;
        ensure!(children.is_empty(), "{:?}", children.keys());
        Ok(())
    })
    .await
}

fn deleting_topics() -> Spec {
    let mut spec = Spec::new();
    spec.0["broker"]["kafka"]["topics"]["deletionPolicy"] = json!("Delete");
    spec
}

#[test]
fn a_deleted_pipeline_deletes_only_the_topics_it_created() -> Result<()> {
    in_sandbox("topics", async |sandbox| {
        // One topic exists before the pipeline, and another is recreated by someone else.
        let foreign = format!("{}.foreign", sandbox.namespace);
        kafka::create(&foreign, 3).await?;
        let mut spec = deleting_topics().live(sandbox);
        spec.0["broker"]["kafka"]["topics"]["overrides"] = json!({"user": {"name": foreign}});
        let pipeline = sandbox.apply("flow", &spec).await?;
        pipeline.ready().await?;
        let finalizers = pipeline
            .get()
            .await?
            .metadata
            .finalizers
            .unwrap_or_default();
        ensure!(finalizers == ["pinpipe.dev/topics"], "{finalizers:?}");
        let (pin, geo) = (pipeline.topic(Kind::Pin), pipeline.topic(Kind::Geo));
        kafka::delete_topics(&geo).await?;
        eventually(READY_WITHIN, "the topic gone", async || {
            ensure!(kafka::ends(&geo).await.is_err(), "it still exists");
            Ok(())
        })
        .await?;
        kafka::create(&geo, 1).await?;
        pipeline.delete().await?;
        gone(&pipeline, READY_WITHIN).await?;
        for topic in [&geo, &foreign] {
            kafka::ends(topic)
                .await
                .context("a topic that the pipeline did not create")?;
        }
        for topic in [pin.clone(), format!("{pin}.dlq"), format!("{foreign}.dlq")] {
            ensure!(
                kafka::ends(&topic).await.is_err(),
                "{topic} was created by the pipeline and still exists"
            );
        }
        Ok(())
    })
}

/// A pipeline can be deleted, within the deadline, when it was never ready, is suspended, lacks its
/// Secret, is paused, can't reach its broker, or when its workers are orphaned.
#[test]
fn a_deletion_ends_in_every_state() -> Result<()> {
    in_sandbox("states", async |sandbox| {
        let without_broker = || {
            let mut spec = deleting_topics();
            spec.0["broker"]["kafka"]["bootstrapServers"] = json!("nowhere.invalid:9092");
            spec
        };
        let never = sandbox.apply("never", &without_broker()).await?;
        let suspended = sandbox.apply("suspended", &deleting_topics()).await?;
        let secret = sandbox
            .apply("secret", &deleting_topics().live(sandbox))
            .await?;
        let paused = sandbox.apply("paused", &deleting_topics()).await?;
        let unreachable = sandbox.apply("unreachable", &deleting_topics()).await?;
        let orphaned = sandbox.apply("orphaned", &deleting_topics()).await?;
        for pipeline in [&suspended, &secret, &paused, &unreachable, &orphaned] {
            pipeline.ready().await?;
        }
        never
            .has_condition("TopicsReady", "False", &["nowhere.invalid"])
            .await?;
        suspended.change(json!({"suspend": true})).await?;
        suspended.has_condition("Suspended", "True", &[]).await?;
        sandbox.delete_secret(sandbox::POSTGRES_SECRET).await?;
        secret
            .has_condition("StreamReady", "False", &["SecretMissing"])
            .await?;
        unreachable
            .change(json!({"broker": {"kafka": {"bootstrapServers": "nowhere.invalid:9092"}}}))
            .await?;
        paused.annotate("pinpipe.dev/paused", "true").await?;
        for pipeline in [&never, &suspended, &secret, &paused, &unreachable] {
            pipeline.delete().await?;
        }
        orphaned.orphan().await?;
        for pipeline in [&never, &suspended, &secret, &paused] {
            gone(pipeline, READY_WITHIN).await?;
        }
        for pipeline in [&unreachable, &orphaned] {
            gone(pipeline, cluster::DELETION_DEADLINE + READY_WITHIN).await?;
        }
        let workers = orphaned.workers("ingest").await?.len();
        ensure!(
            workers == 1,
            "{workers} workers are left of a pipeline that orphaned one"
        );
        for (pipeline, topics_left) in [
            (&never, false),
            (&suspended, false),
            (&secret, false),
            (&paused, true),
            (&unreachable, true),
            (&orphaned, true),
        ] {
            let found = kafka::ends(&pipeline.topic(Kind::Pin)).await.is_ok();
            ensure!(found == topics_left, "topics of {}: {found}", pipeline.name);
            let events = pipeline.events("TopicsLeft").await?;
            let named = events
                .iter()
                .any(|note| note.contains(&pipeline.topic(Kind::Pin)));
            ensure!(
                events.len() == usize::from(topics_left) && named == topics_left,
                "{}: {events:?}",
                pipeline.name
            );
        }
        let deployments = sandbox.cluster.api::<Deployment>(&sandbox.namespace);
        deployments
            .delete("orphaned-ingest", &DeleteParams::background())
            .await?;
        Ok(())
    })
}

#[test]
fn deleting_a_namespace_deletes_its_pipeline_and_topics() -> Result<()> {
    in_sandbox("terminating", async |sandbox| {
        let pipeline = sandbox.apply("flow", &deleting_topics()).await?;
        pipeline.ready().await?;
        let pin = pipeline.topic(Kind::Pin);
        sandbox.delete_namespace().await?;
        eventually(READY_WITHIN, "pipeline and topics gone", async || {
            ensure!(pipeline.get().await.is_err(), "the pipeline still exists");
            ensure!(kafka::ends(&pin).await.is_err(), "{pin} still exists");
            Ok(())
        })
        .await
    })
}
