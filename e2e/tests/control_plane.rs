//! What the operator does with a pipeline: children that come back, changes that roll what they
//! concern, no write while nothing changes, sentences about what is wrong, and what stays when a
//! pipeline goes.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, TimeDelta, Utc};
use pinpipe_e2e::{
    Kind, Pipeline, Shared, Space, Spec, cluster, eventually,
    flow::Flow,
    kafka, node,
    pipeline::READY_WITHIN,
    postgres,
    samples::Samples,
    shared::{Scenario, in_space},
};
use serde_json::json;
use tokio::sync::OnceCell;

/// The annotation that resets sinks.
const RESET: &str = "pinpipe.dev/reset-sink";
/// How long a settled pipeline is watched.
const WATCHED: TimeDelta = TimeDelta::minutes(2);

/// A pipeline with every section, into which its emulator posts.
struct Settled {
    pipeline: Pipeline,
    /// Since when nothing has been asked of it.
    since: DateTime<Utc>,
    /// Rows when the watch began.
    rows: i64,
    watched: OnceCell<()>,
}

static SETTLED: Shared<Settled> = Shared::new(7);

impl Scenario for Settled {
    const NAME: &'static str = "settled";

    async fn set_up(space: Space) -> Result<Self> {
        let spec = Spec::new()
            .live(&space)
            .archive(&space, 1_000)
            .batch(&space)
            .emulator(30);
        let pipeline = space.apply("flow", &spec).await?;
        pipeline.ready().await?;
        let rows = eventually(
            Duration::from_mins(1),
            "the emulator's first rows",
            async || {
                let rows = postgres::count(&space.schema(), Kind::Pin).await?;
                ensure!(rows > 0, "no row");
                Ok(rows)
            },
        )
        .await?;
        Ok(Self {
            pipeline,
            since: Utc::now(),
            rows,
            watched: OnceCell::new(),
        })
    }
}

impl Settled {
    /// Lets the two minutes pass, once: only then may a test change anything.
    async fn watched(&self) -> Result<()> {
        self.watched
            .get_or_try_init(async || {
                eventually(
                    (WATCHED + TimeDelta::seconds(30)).to_std()?,
                    "two minutes of quiet",
                    async || {
                        let passed = Utc::now() - self.since;
                        ensure!(passed >= WATCHED, "{passed}");
                        Ok(())
                    },
                )
                .await?;
                let namespace = &self.pipeline.space.namespace;
                let workers = format!("system:serviceaccount:{namespace}:");
                let mut writes = node::writes(namespace).await?;
                writes.retain(|write| {
                    let who = &write.user.username;
                    who.starts_with("system:serviceaccount:pinpipe-system:")
                        || who.starts_with(&workers)
                });
                ensure!(
                    !writes.is_empty(),
                    "the audit log does not even tell that the pipeline was made"
                );
                writes.retain(|write| write.request_received_timestamp >= self.since);
                ensure!(
                    writes.is_empty(),
                    "{} writes in {WATCHED}: {:#?}",
                    writes.len(),
                    &writes[..writes.len().min(5)]
                );
                let rows = postgres::count(&self.pipeline.space.schema(), Kind::Pin).await?;
                ensure!(
                    rows > self.rows + 300,
                    "records did not flow: {} rows, then {rows}",
                    self.rows
                );
                Ok(())
            })
            .await
            .copied()
    }
}

// Tests run in the order of their names: those before `each_child…` leave the settled pipeline
// alone while it is watched.

#[test]
fn a_broker_that_is_not_there_is_named_in_a_sentence() -> Result<()> {
    SETTLED.test(async |_| {
        Space::with("broker", async |space| {
            let mut spec = Spec::new();
            spec.0["broker"]["kafka"]["bootstrapServers"] = json!("nowhere.invalid:9092");
            let pipeline = space.apply("flow", &spec).await?;
            pipeline
                .says("TopicsReady", "False", &["nowhere.invalid:9092"])
                .await?;
            pipeline
                .says("Ready", "False", &["nowhere.invalid:9092"])
                .await
        })
        .await
    })
}

#[test]
fn a_missing_secret_is_named_in_a_sentence_and_found_once_it_is_there() -> Result<()> {
    SETTLED.test(async |_| {
        Space::with("secret", async |space| {
            let mut spec = Spec::new().live(space);
            spec.0["stream"]["sinks"][0]["postgres"]["urlSecretRef"]["name"] = json!("forgotten");
            let pipeline = space.apply("flow", &spec).await?;
            pipeline
                .says("StreamReady", "False", &["forgotten"])
                .await?;
            pipeline.says("Ready", "False", &["forgotten"]).await?;
            space
                .secret("forgotten", json!({"url": cluster::POSTGRES_IN_CLUSTER}))
                .await?;
            pipeline.ready().await
        })
        .await
    })
}

#[test]
fn an_image_that_cannot_be_pulled_is_named_in_a_sentence() -> Result<()> {
    SETTLED.test(async |_| {
        Space::with("image", async |space| {
            let mut spec = Spec::new();
            spec.0["image"] = json!({"registry": "registry.invalid/pinpipe", "tag": "none"});
            let pipeline = space.apply("flow", &spec).await?;
            pipeline
                .says(
                    "IngestReady",
                    "False",
                    &["registry.invalid/pinpipe/ingest:none"],
                )
                .await?;
            pipeline
                .says("Ready", "False", &["registry.invalid/pinpipe/ingest:none"])
                .await
        })
        .await
    })
}

#[test]
fn no_write_comes_of_a_settled_pipeline_while_records_flow() -> Result<()> {
    SETTLED.test(async |settled| settled.watched().await)
}

#[test]
fn each_child_deleted_comes_back() -> Result<()> {
    SETTLED.test(async |settled| {
        settled.watched().await?;
        let pipeline = &settled.pipeline;
        let before = pipeline.needed_children().await?;
        ensure!(before.len() >= 10, "too few children: {:?}", before.keys());
        for child in before.values() {
            pipeline.delete_child(child).await?;
        }
        eventually(READY_WITHIN, "every child back", async || {
            let now = pipeline.children().await?;
            let missing: Vec<_> = before
                .iter()
                .filter(|(id, old)| now.get(*id).is_none_or(|new| new.uid() == old.uid()))
                .map(|(id, _)| id)
                .collect();
            ensure!(missing.is_empty(), "not back: {missing:?}");
            Ok(())
        })
        .await?;
        pipeline.ready().await
    })
}

#[test]
fn one_changed_field_rolls_its_component_and_nothing_else() -> Result<()> {
    SETTLED.test(async |settled| {
        settled.watched().await?;
        let pipeline = &settled.pipeline;
        for (change, concerned) in [
            (
                json!({"emulator": {"recordsPerSecond": 31}}),
                &["Deployment/flow-emulator", "ConfigMap/flow-emulator"][..],
            ),
            (
                json!({"archive": {"rotate": {"records": 999}}}),
                &["Deployment/flow-archive", "ConfigMap/flow-archive"],
            ),
            (
                json!({"ingest": {"replicas": 2}}),
                &["Deployment/flow-ingest", "PodDisruptionBudget/flow-ingest"],
            ),
            (
                json!({"batch": {"schedule": "5 10 1 1 *"}}),
                &["CronJob/flow-batch"],
            ),
        ] {
            pipeline.ready().await?;
            let before = pipeline.children().await?;
            pipeline.change(change.clone()).await?;
            // Ready about the changed spec: the operator has sent what it had to.
            pipeline.ready().await?;
            let changed = pipeline.changed_since(&before).await?;
            let concerned: BTreeSet<_> = concerned.iter().map(|id| (*id).to_owned()).collect();
            ensure!(
                changed == concerned,
                "{change} changed {changed:?}, not {concerned:?}"
            );
        }
        Ok(())
    })
}

#[test]
fn suspend_scales_every_worker_to_zero_and_back() -> Result<()> {
    SETTLED.test(async |settled| {
        settled.watched().await?;
        let pipeline = &settled.pipeline;
        pipeline.change(json!({"suspend": true})).await?;
        eventually(READY_WITHIN, "every worker gone", async || {
            let replicas = pipeline.replicas().await?;
            ensure!(
                replicas.len() == 4 && replicas.values().all(|r| *r == (0, 0)),
                "{replicas:?}"
            );
            Ok(())
        })
        .await?;
        pipeline.says("Ready", "True", &["suspended"]).await?;
        let cron = pipeline
            .children()
            .await?
            .remove("CronJob/flow-batch")
            .context("no CronJob")?;
        ensure!(
            cron.object.data["spec"]["suspend"] == true,
            "{}",
            cron.object.data["spec"]
        );
        pipeline.change(json!({"suspend": false})).await?;
        eventually(READY_WITHIN, "workers back", async || {
            let replicas = pipeline.replicas().await?;
            ensure!(
                replicas.values().all(|(_, there)| *there > 0),
                "{replicas:?}"
            );
            Ok(())
        })
        .await?;
        pipeline.ready().await
    })
}

#[test]
fn a_reset_is_told_once_and_one_that_cannot_be_done_holds_nothing_up() -> Result<()> {
    in_space("reset", async |space| {
        let pipeline = space.apply("flow", &Spec::new().live(space)).await?;
        pipeline.ready().await?;
        let before = pipeline.children().await?;
        pipeline
            .annotate(RESET, "lake=earliest, live/pin=latest#1")
            .await?;
        pipeline
            .says("Ready", "False", &[RESET, "`lake=earliest`", "live"])
            .await?;
        pipeline.says("StreamReady", "True", &[]).await?;
        pipeline.annotate(RESET, "live/pin=latest#1").await?;
        pipeline.ready().await?;
        let changed = pipeline.changed_since(&before).await?;
        let concerned = BTreeSet::from(
            ["Deployment/flow-stream-live", "ConfigMap/flow-stream-live"].map(str::to_owned),
        );
        ensure!(changed == concerned, "the reset changed {changed:?}");
        let told = pipeline.events("SinkReset").await?;
        ensure!(
            told.len() == 1 && told[0].contains("live/pin=latest#1"),
            "{told:?}"
        );
        Ok(())
    })
}

#[test]
fn partitions_rise_with_the_spec_and_never_fall() -> Result<()> {
    in_space("raised", async |space| {
        let pipeline = space.apply("flow", &Spec::new()).await?;
        pipeline.ready().await?;
        pipeline
            .change(json!({"broker": {"kafka": {"topics": {"partitions": 5}}}}))
            .await?;
        pipeline.ready().await?;
        for kind in Kind::ALL {
            let partitions = kafka::ends(&pipeline.topic(kind)).await?.len();
            ensure!(partitions == 5, "{kind} has {partitions}");
        }
        let letters = kafka::ends(&format!("{}.dlq", pipeline.topic(Kind::Pin)))
            .await?
            .len();
        ensure!(letters == 1, "the dead-letter topic has {letters}");
        pipeline
            .change(json!({"broker": {"kafka": {"topics": {"partitions": 2}}}}))
            .await?;
        pipeline
            .says("TopicsReady", "True", &["keeps its 5 partitions, not 2"])
            .await
    })
}

#[test]
fn a_topic_stays_the_older_pipelines_until_that_is_gone() -> Result<()> {
    in_space("claimed", async |space| {
        let mut spec = Spec::new();
        spec.0["broker"]["kafka"]["topics"]["overrides"] =
            json!({"pin": {"name": format!("{}.shared", space.namespace)}});
        let older = space.apply("first", &spec).await?;
        older.ready().await?;
        let younger = space.apply("second", &spec).await?;
        let owner = format!("{}/first", space.namespace);
        for condition in ["Ready", "TopicsReady"] {
            younger
                .says(condition, "False", &["TopicConflict", &owner])
                .await?;
        }
        younger.says("Stalled", "True", &["TopicConflict"]).await?;
        let children = younger.children().await?;
        ensure!(children.is_empty(), "the younger has {:?}", children.keys());
        older.ready().await?;
        older.delete().await?;
        younger.ready().await
    })
}

#[test]
fn whatever_scales_a_deployment_has_the_say_about_its_pods() -> Result<()> {
    in_space("scaled", async |space| {
        let mut spec = Spec::new().live(space);
        spec.0["ingest"]["replicas"] = json!(2);
        let pipeline = space.apply("flow", &spec).await?;
        pipeline.ready().await?;
        let drop = |part: &mut serde_json::Value| {
            part.as_object_mut()
                .and_then(|part| part.remove("replicas"))
        };
        drop(&mut spec.0["ingest"]).context("replicas of ingest")?;
        drop(&mut spec.0["stream"]["sinks"][0]).context("replicas of the sink")?;
        spec.0["ingest"]["autoscaling"] = json!({"minReplicas": 1, "maxReplicas": 3});
        spec.0["stream"]["sinks"][0]["autoscaling"] = json!({});
        pipeline.apply(&spec).await?;
        pipeline.ready().await?;
        let replicas = pipeline.replicas().await?;
        ensure!(
            replicas["flow-ingest"].0 == 2,
            "turning autoscaling on took pods away: {replicas:?}"
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
        // A pass over the changed spec leaves both as they are.
        pipeline
            .change(json!({"deadLetters": {"mode": "Reject"}}))
            .await?;
        pipeline.ready().await?;
        let replicas = pipeline.replicas().await?;
        ensure!(
            (replicas["flow-ingest"].0, replicas["flow-stream-live"].0) == (3, 2),
            "{replicas:?}"
        );

        pipeline.change(json!({"suspend": true})).await?;
        pipeline.says("Ready", "True", &["Suspended"]).await?;
        let replicas = pipeline.replicas().await?;
        ensure!(
            replicas.values().all(|(wanted, _)| *wanted == 0),
            "{replicas:?}"
        );
        pipeline.change(json!({"suspend": false})).await?;
        pipeline.ready().await?;
        let replicas = pipeline.replicas().await?;
        ensure!(
            replicas
                .values()
                .all(|(wanted, there)| (*wanted, *there) == (1, 1)),
            "resumed with {replicas:?}"
        );
        Ok(())
    })
}

#[test]
fn a_sink_has_no_more_pods_than_partitions_and_says_so() -> Result<()> {
    in_space("capped", async |space| {
        let mut spec = Spec::new().live(space);
        spec.0["broker"]["kafka"]["topics"]["partitions"] = json!(1);
        spec.0["stream"]["sinks"][0]["replicas"] = json!(5);
        let pipeline = space.apply("flow", &spec).await?;
        pipeline.ready().await?;
        pipeline
            .says("StreamReady", "True", &["sink live has 3 pods, not 5"])
            .await?;
        let replicas = pipeline.replicas().await?;
        ensure!(replicas["flow-stream-live"] == (3, 3), "{replicas:?}");
        Ok(())
    })
}

#[test]
fn a_deleted_pipeline_takes_its_children_along_and_keeps_topics_and_data() -> Result<()> {
    in_space("deleted", async |space| {
        let pipeline = space
            .apply("flow", &Spec::new().live(space).archive(space, 100))
            .await?;
        pipeline.ready().await?;
        let mut flow = Flow::new(&pipeline);
        let samples = Samples::new(5).batch(Kind::User, 0..100, 0);
        flow.send(Kind::User, samples, 100).await?;
        flow.live_table_is_right(Kind::User).await?;
        flow.raw_objects_are_right(Kind::User).await?;
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
        // The log itself says that the topic and its records are there.
        flow.live_table_is_right(Kind::User).await?;
        flow.raw_objects_are_right(Kind::User).await?;
        let log = flow.log(Kind::User).await?;
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
