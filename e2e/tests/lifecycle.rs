//! A pipeline's life: suspended and resumed, paused, deleted with its topics, and what a user can
//! ask for by annotations.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use chrono::Utc;
use k8s_openapi::api::apps::v1::Deployment;
use kube::api::DeleteParams;
use pinpipe_e2e::{
    Kind, Pipeline, Spec, cluster, ensure_same, eventually,
    flow::{Flow, PREFIX},
    kafka, node, objects,
    pipeline::READY_WITHIN,
    postgres,
    samples::Samples,
    shared::in_space,
    space, throughout,
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
        flow.send(Kind::Pin, make.batch(Kind::Pin, 0..3000, 0), 500)
            .await?;
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
        ensure_same(
            "pin",
            &expected,
            &postgres::live_table(&space.schema(), Kind::Pin).await?,
        )?;
        let (_, archived) =
            objects::raw_count(space.bucket(), PREFIX, &pipeline.topic(Kind::Pin)).await?;
        ensure!(archived == 3000, "{archived} records in raw objects");
        let since = Utc::now();
        throughout(
            Duration::from_secs(90),
            "a suspended pipeline at rest is not written",
            async || {
                let mut writes = node::writes(&space.namespace).await?;
                writes.retain(|w| {
                    w.request_received_timestamp >= since
                        && w.user.username.contains(":pinpipe-system:")
                });
                ensure!(writes.is_empty(), "{writes:#?}");
                Ok(())
            },
        )
        .await?;

        pipeline.change(json!({"suspend": false})).await?;
        pipeline.ready().await?;
        ensure!(
            !pipeline.conditions().await?.contains_key("Suspended"),
            "resumed, and still said to be suspended"
        );
        flow.send(Kind::Pin, make.batch(Kind::Pin, 3000..3500, 0), 500)
            .await?;
        flow.live_table_is_right(Kind::Pin).await
    })
}

/// Whoever suspends a pipeline whose store is away waits for a bounded time, and is told what was
/// left.
#[test]
fn a_sink_that_cannot_catch_up_holds_a_suspension_up_until_the_deadline() -> Result<()> {
    in_space("late", async |space| {
        let mut spec = Spec::new().live(space);
        space
            .secret(
                "nowhere",
                json!({"url": "postgresql://nobody@postgres.invalid:5432/none"}),
            )
            .await?;
        spec.0["stream"]["sinks"][0]["postgres"]["urlSecretRef"] =
            json!({"name": "nowhere", "key": "url"});
        let pipeline = space.apply("flow", &spec).await?;
        pipeline.says("IngestReady", "True", &[]).await?;
        pipeline
            .says(
                "StreamReady",
                "False",
                &["SinkUnavailable", "PostgreSQL can't be reached"],
            )
            .await?;
        ensure!(
            pipeline.events("Ready").await?.is_empty(),
            "said to be ready though its sink was never reached"
        );
        let mut flow = Flow::new(&pipeline);
        flow.send(Kind::Geo, Samples::new(29).batch(Kind::Geo, 0..100, 0), 100)
            .await?;
        pipeline.change(json!({"suspend": true})).await?;
        pipeline.says("Suspended", "False", &["Draining"]).await?;
        eventually(
            cluster::DRAIN_DEADLINE + READY_WITHIN,
            "the deadline",
            async || {
                let conditions = pipeline.conditions().await?;
                let suspended = &conditions["Suspended"];
                let said = suspended["message"].as_str().unwrap_or_default();
                ensure!(
                    suspended["reason"] == "DrainDeadlineExceeded" && said.contains("stream-live"),
                    "{suspended}"
                );
                let replicas = pipeline.replicas().await?;
                ensure!(
                    replicas.values().all(|there| *there == (0, 0)),
                    "{replicas:?}"
                );
                Ok(())
            },
        )
        .await?;
        eventually(Duration::from_secs(30), "ready all the same", async || {
            let ready = pipeline
                .conditions()
                .await?
                .remove("Ready")
                .unwrap_or_default();
            ensure!(
                ready["status"] == "True" && ready["reason"] == "DrainDeadlineExceeded",
                "{ready}"
            );
            let told = pipeline.events("DrainDeadlineExceeded").await?;
            ensure!(told.len() == 1, "{told:?}");
            Ok(())
        })
        .await
    })
}

/// kstatus takes an object without a status for one that is as it should be.
#[test]
fn a_new_pipeline_says_that_it_is_worked_on_before_its_broker_answers() -> Result<()> {
    in_space("new", async |space| {
        let mut spec = Spec::new();
        spec.0["broker"]["kafka"]["bootstrapServers"] = json!("kafka.invalid:9092");
        let pipeline = space.apply("flow", &spec).await?;
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
fn a_paused_pipeline_is_left_alone_until_it_goes_on() -> Result<()> {
    in_space("paused", async |space| {
        let pipeline = space.apply("flow", &Spec::new()).await?;
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
        eventually(READY_WITHIN, "said to be paused", paused).await?;
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
            "a paused pipeline is left alone",
            async || {
                let now = pipeline.children().await?;
                ensure!(!now.contains_key("Service/flow-ingest"), "a child was made");
                ensure!(
                    pipeline
                        .replicas()
                        .await?
                        .values()
                        .all(|(wanted, _)| *wanted == 1),
                    "it was scaled"
                );
                Ok(())
            },
        )
        .await?;
        let partitions = kafka::ends(&pipeline.topic(Kind::Pin)).await?.len();
        ensure!(
            partitions == 3,
            "a paused pipeline's topic has {partitions} partitions"
        );
        let object = pipeline.get().await?;
        ensure!(
            object.data["status"]["observedGeneration"] == 1,
            "nobody looked at {:?}",
            object.metadata.generation
        );
        paused().await?;
        // One write since: ours of the spec.
        ensure!(
            object.metadata.resource_version != version,
            "the spec was not written"
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
                .all(|there| *there == (2, 2)),
            "what was put off was not done"
        );
        let partitions = kafka::ends(&pipeline.topic(Kind::Pin)).await?.len();
        ensure!(partitions == 5, "{partitions} partitions");
        Ok(())
    })
}

/// Waits until a pipeline is gone, and all its children.
async fn gone(pipeline: &Pipeline, within: Duration) -> Result<()> {
    eventually(within, &format!("{} gone", pipeline.name), async || {
        if let Ok(there) = pipeline.get().await {
            bail!(
                "{:?}: {}",
                there.metadata.finalizers,
                there.data["status"]["conditions"][0]
            );
        }
        let children = pipeline.children().await?;
        ensure!(children.is_empty(), "{:?}", children.keys());
        Ok(())
    })
    .await
}

fn taking_its_topics() -> Spec {
    let mut spec = Spec::new();
    spec.0["broker"]["kafka"]["topics"]["deletionPolicy"] = json!("Delete");
    spec
}

#[test]
fn a_pipeline_takes_along_the_topics_it_created_and_no_others() -> Result<()> {
    in_space("topics", async |space| {
        // One of the topics is there before the pipeline, and another is made anew behind its back.
        let theirs = format!("{}.theirs", space.namespace);
        kafka::create(&theirs, 3).await?;
        let mut spec = taking_its_topics().live(space);
        spec.0["broker"]["kafka"]["topics"]["overrides"] = json!({"user": {"name": theirs}});
        let pipeline = space.apply("flow", &spec).await?;
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
            ensure!(kafka::ends(&geo).await.is_err(), "still there");
            Ok(())
        })
        .await?;
        kafka::create(&geo, 1).await?;
        pipeline.delete().await?;
        gone(&pipeline, READY_WITHIN).await?;
        for topic in [&geo, &theirs] {
            kafka::ends(topic)
                .await
                .context("a topic that wasn't the pipeline's")?;
        }
        for topic in [pin.clone(), format!("{pin}.dlq"), format!("{theirs}.dlq")] {
            ensure!(
                kafka::ends(&topic).await.is_err(),
                "{topic} was created by the pipeline and is left"
            );
        }
        Ok(())
    })
}

/// Never ready, suspended, its Secret gone, paused, without a broker, its workers orphaned: each
/// goes, and in time.
#[test]
fn a_deletion_ends_in_every_state() -> Result<()> {
    in_space("states", async |space| {
        let nowhere = || {
            let mut spec = taking_its_topics();
            spec.0["broker"]["kafka"]["bootstrapServers"] = json!("nowhere.invalid:9092");
            spec
        };
        let never = space.apply("never", &nowhere()).await?;
        never
            .says("TopicsReady", "False", &["nowhere.invalid"])
            .await?;
        let suspended = space.apply("suspended", &taking_its_topics()).await?;
        let secret = space
            .apply("secret", &taking_its_topics().live(space))
            .await?;
        let paused = space.apply("paused", &taking_its_topics()).await?;
        let away = space.apply("away", &taking_its_topics()).await?;
        let orphaned = space.apply("orphaned", &taking_its_topics()).await?;
        for pipeline in [&suspended, &secret, &paused, &away, &orphaned] {
            pipeline.ready().await?;
        }
        suspended.change(json!({"suspend": true})).await?;
        suspended.says("Suspended", "True", &[]).await?;
        space.delete_secret(space::POSTGRES_SECRET).await?;
        secret
            .says("StreamReady", "False", &["SecretMissing"])
            .await?;
        away.change(json!({"broker": {"kafka": {"bootstrapServers": "nowhere.invalid:9092"}}}))
            .await?;
        paused.annotate("pinpipe.dev/paused", "true").await?;
        for pipeline in [&never, &suspended, &secret, &paused, &away] {
            pipeline.delete().await?;
        }
        orphaned.orphan().await?;
        for pipeline in [&never, &suspended, &secret, &paused] {
            gone(pipeline, READY_WITHIN).await?;
        }
        for pipeline in [&away, &orphaned] {
            gone(pipeline, cluster::DELETION_DEADLINE + READY_WITHIN).await?;
        }
        let workers = orphaned.workers("ingest").await?.len();
        ensure!(
            workers == 1,
            "{workers} workers outlive a pipeline that was to leave them"
        );
        for (pipeline, left) in [
            (&never, false),
            (&suspended, false),
            (&secret, false),
            (&paused, true),
            (&away, true),
            (&orphaned, true),
        ] {
            let there = kafka::ends(&pipeline.topic(Kind::Pin)).await.is_ok();
            ensure!(there == left, "topics of {}: {there}", pipeline.name);
            let told = pipeline.events("TopicsLeft").await?;
            let named = told
                .iter()
                .any(|note| note.contains(&pipeline.topic(Kind::Pin)));
            ensure!(
                told.len() == usize::from(left) && named == left,
                "{}: {told:?}",
                pipeline.name
            );
        }
        let deployments = space.cluster.api::<Deployment>(&space.namespace);
        deployments
            .delete("orphaned-ingest", &DeleteParams::background())
            .await?;
        Ok(())
    })
}

#[test]
fn a_namespace_that_is_deleted_takes_its_pipeline_and_its_topics_along() -> Result<()> {
    in_space("terminating", async |space| {
        let pipeline = space.apply("flow", &taking_its_topics()).await?;
        pipeline.ready().await?;
        let pin = pipeline.topic(Kind::Pin);
        space.delete_namespace().await?;
        eventually(READY_WITHIN, "pipeline and topics gone", async || {
            ensure!(pipeline.get().await.is_err(), "the pipeline is there");
            ensure!(kafka::ends(&pin).await.is_err(), "{pin} is there");
            Ok(())
        })
        .await
    })
}

#[test]
fn a_topic_that_was_deleted_is_made_anew_by_the_command_in_the_status() -> Result<()> {
    in_space("forget", async |space| {
        let pipeline = space.apply("flow", &Spec::new().live(space)).await?;
        pipeline.ready().await?;
        let (mut flow, mut make) = (Flow::new(&pipeline), Samples::new(31));
        flow.send(Kind::User, make.batch(Kind::User, 0..50, 0), 50)
            .await?;
        flow.live_table_is_right(Kind::User).await?;
        let (pin, geo) = (pipeline.topic(Kind::Pin), pipeline.topic(Kind::Geo));
        for topic in [&pin, &geo] {
            kafka::delete_topics(topic).await?;
        }
        // The one is gone, of the other there is another one.
        eventually(READY_WITHIN, "the topics gone", async || {
            ensure!(
                kafka::ends(&geo).await.is_err() && kafka::ends(&pin).await.is_err(),
                "still there"
            );
            Ok(())
        })
        .await?;
        kafka::create(&geo, 2).await?;
        let command = "kubectl annotate --overwrite -n";
        pipeline
            .says(
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
        pipeline.says("TopicsReady", "True", &[]).await?;
        pipeline
            .says("Ready", "False", &["InvalidForget", "`nonsense`"])
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
        flow.send(Kind::Pin, make.batch(Kind::Pin, 0..100, 0), 100)
            .await?;
        flow.live_table_is_right(Kind::Pin).await
    })
}
