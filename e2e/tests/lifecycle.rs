//! The life of a pipeline: suspended and resumed, paused, deleted with its topics, and controlled by
//! annotations.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use chrono::Utc;
use k8s_openapi::api::apps::v1::Deployment;
use kube::api::DeleteParams;
use pinpipe_e2e::{
    Kind, Pipeline, Spec, audit, cluster, ensure_same, eventually, kafka,
    ledger::{Ledger, PREFIX},
    objects,
    pipeline::READY_WITHIN,
    postgres,
    samples::Samples,
    sandbox,
    scenario::in_sandbox,
    throughout,
};
use serde_json::json;

/// How long to check that the operator doesn't write to a pipeline: longer than its resync interval
/// of 30 s with jitter.
const RESYNCED: Duration = Duration::from_secs(45);

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
        throughout(RESYNCED, "no write to a suspended pipeline", async || {
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
                &["SinkUnavailable", "PostgreSQL can't be reached"],
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
        never
            .has_condition("TopicsReady", "False", &["nowhere.invalid"])
            .await?;
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

#[test]
fn a_deleted_topic_is_recreated_by_the_command_in_the_status() -> Result<()> {
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
        let command = "kubectl annotate --overwrite -n";
        pipeline
            .has_condition(
                "TopicsReady",
                "False",
                &[command, &format!("{pin}@"), &format!("{geo}@")],
            )
            .await?;
        let conditions = pipeline.conditions().await?;
        let message = conditions["TopicsReady"]["message"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let value = message
            .split_once("pinpipe.dev/forget-topic=")
            .context("no command")?
            .1;
        let value = value
            .split_once(", and")
            .context("no end of the command")?
            .0;

        pipeline
            .annotate("pinpipe.dev/forget-topic", &format!("{value},nonsense"))
            .await?;
        pipeline.has_condition("TopicsReady", "True", &[]).await?;
        pipeline
            .has_condition("Ready", "False", &["InvalidForget", "`nonsense`"])
            .await?;
        pipeline.annotate("pinpipe.dev/forget-topic", value).await?;
        let status = pipeline.get().await?.data["status"]["topics"].clone();
        for (topic, ours, partitions) in [(&pin, true, 3), (&geo, false, 2)] {
            let found = status
                .as_array()
                .into_iter()
                .flatten()
                .find(|found| found["name"] == topic.as_str());
            let found = found.with_context(|| format!("no {topic} in {status}"))?;
            ensure!(
                found["createdByUs"] == ours && found["partitions"] == partitions,
                "{found}"
            );
        }
        pipeline
            .annotate("pinpipe.dev/reset-sink", "live=earliest")
            .await?;
        pipeline.ready().await?;
        ledger
            .send(Kind::Pin, make.batch(Kind::Pin, 0..100, 0), 100)
            .await?;
        ledger.live_table_is_right(Kind::Pin).await
    })
}
