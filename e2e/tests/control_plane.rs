//! Reconciliation of a pipeline: deleted children are recreated, a change rolls only the components
//! it concerns, an unchanged pipeline is not written to, and conditions name what is wrong.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, TimeDelta, Utc};
use pinpipe_e2e::{
    Kind, Pipeline, Sandbox, SharedScenario, Spec, audit, cluster, eventually, kafka,
    ledger::Ledger,
    pipeline::READY_WITHIN,
    postgres,
    samples::Samples,
    scenario::{Scenario, in_sandbox},
};
use serde_json::json;
use tokio::sync::OnceCell;

/// The annotation that resets sinks.
const RESET: &str = "pinpipe.dev/reset-sink";
/// How long a settled pipeline is observed.
const OBSERVED: TimeDelta = TimeDelta::minutes(2);

/// A pipeline with every section and records from its emulator.
struct Settled {
    pipeline: Pipeline,
    /// When it became ready; nothing is changed from then on.
    since: DateTime<Utc>,
    /// Rows at that time.
    rows: i64,
    observed: OnceCell<()>,
}

static SETTLED: SharedScenario<Settled> = SharedScenario::new(7);

impl Scenario for Settled {
    const NAME: &'static str = "settled";

    async fn set_up(sandbox: Sandbox) -> Result<Self> {
        let spec = Spec::new()
            .live(&sandbox)
            .archive(&sandbox, 1_000)
            .batch(&sandbox)
            .emulator(30);
        let pipeline = sandbox.apply("flow", &spec).await?;
        pipeline.ready().await?;
        let rows = eventually(
            Duration::from_mins(1),
            "the emulator's first rows",
            async || {
                let rows = postgres::count(&sandbox.schema(), Kind::Pin).await?;
                ensure!(rows > 0, "no row");
                Ok(rows)
            },
        )
        .await?;
        Ok(Self {
            pipeline,
            since: Utc::now(),
            rows,
            observed: OnceCell::new(),
        })
    }
}

impl Settled {
    /// Observes the pipeline for [`OBSERVED`], once. Only then may a test change anything.
    async fn observed(&self) -> Result<()> {
        self.observed
            .get_or_try_init(async || {
                eventually(
                    (OBSERVED + TimeDelta::seconds(30)).to_std()?,
                    "observation time",
                    async || {
                        let elapsed = Utc::now() - self.since;
                        ensure!(elapsed >= OBSERVED, "{elapsed}");
                        Ok(())
                    },
                )
                .await?;
                let namespace = &self.pipeline.sandbox.namespace;
                let workers = format!("system:serviceaccount:{namespace}:");
                let mut writes = audit::writes(namespace).await?;
                writes.retain(|write| {
                    let account = &write.user.username;
                    account.starts_with("system:serviceaccount:pinpipe-system:")
                        || account.starts_with(&workers)
                });
                ensure!(
                    !writes.is_empty(),
                    "the audit log lacks the writes that created the pipeline"
                );
                writes.retain(|write| write.request_received_timestamp >= self.since);
                ensure!(
                    writes.is_empty(),
                    "{} writes in {OBSERVED}: {:#?}",
                    writes.len(),
                    &writes[..writes.len().min(5)]
                );
                let rows = postgres::count(&self.pipeline.sandbox.schema(), Kind::Pin).await?;
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

// Tests run in the order of their names. Those before `each_child…` don't touch the settled pipeline,
// so it is observed while they run.

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

#[test]
fn no_write_to_a_settled_pipeline_while_records_flow() -> Result<()> {
    SETTLED.test(async |settled| settled.observed().await)
}

#[test]
fn each_deleted_child_is_recreated() -> Result<()> {
    SETTLED.test(async |settled| {
        settled.observed().await?;
        let pipeline = &settled.pipeline;
        let before = pipeline.needed_children().await?;
        ensure!(before.len() >= 10, "too few children: {:?}", before.keys());
        for child in before.values() {
            pipeline.delete_child(child).await?;
        }
        eventually(READY_WITHIN, "every child recreated", async || {
            let now = pipeline.children().await?;
            let missing: Vec<_> = before
                .iter()
                .filter(|(id, old)| now.get(*id).is_none_or(|new| new.uid() == old.uid()))
                .map(|(id, _)| id)
                .collect();
            ensure!(missing.is_empty(), "not recreated: {missing:?}");
            Ok(())
        })
        .await?;
        pipeline.ready().await
    })
}

#[test]
fn one_changed_field_rolls_its_component_and_nothing_else() -> Result<()> {
    SETTLED.test(async |settled| {
        settled.observed().await?;
        let pipeline = &settled.pipeline;
        for (change, expected) in [
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
            // Ready for the changed spec, so the operator has applied everything.
            pipeline.ready().await?;
            let changed = pipeline.changed_since(&before).await?;
            let expected: BTreeSet<_> = expected.iter().map(|id| (*id).to_owned()).collect();
            ensure!(
                changed == expected,
                "{change} changed {changed:?}, not {expected:?}"
            );
        }
        Ok(())
    })
}

#[test]
fn suspend_scales_every_worker_to_zero_and_back() -> Result<()> {
    SETTLED.test(async |settled| {
        settled.observed().await?;
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
        pipeline
            .has_condition("Ready", "True", &["suspended"])
            .await?;
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
        eventually(READY_WITHIN, "workers running again", async || {
            let replicas = pipeline.replicas().await?;
            ensure!(
                replicas.values().all(|(_, actual)| *actual > 0),
                "{replicas:?}"
            );
            Ok(())
        })
        .await?;
        pipeline.ready().await
    })
}

#[test]
fn a_reset_emits_one_event_and_an_invalid_one_blocks_nothing() -> Result<()> {
    in_sandbox("reset", async |sandbox| {
        let pipeline = sandbox.apply("flow", &Spec::new().live(sandbox)).await?;
        pipeline.ready().await?;
        let before = pipeline.children().await?;
        pipeline
            .annotate(RESET, "lake=earliest, live/pin=latest#1")
            .await?;
        pipeline
            .has_condition("Ready", "False", &[RESET, "`lake=earliest`", "live"])
            .await?;
        pipeline.has_condition("StreamReady", "True", &[]).await?;
        pipeline.annotate(RESET, "live/pin=latest#1").await?;
        pipeline.ready().await?;
        let changed = pipeline.changed_since(&before).await?;
        let expected = BTreeSet::from(
            ["Deployment/flow-stream-live", "ConfigMap/flow-stream-live"].map(str::to_owned),
        );
        ensure!(changed == expected, "the reset changed {changed:?}");
        let events = pipeline.events("SinkReset").await?;
        ensure!(
            events.len() == 1 && events[0].contains("live/pin=latest#1"),
            "{events:?}"
        );
        Ok(())
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
            .has_condition("StreamReady", "True", &["sink live has 3 pods, not 5"])
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
