//! A settled pipeline: observed while nothing changes, and then changed.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, TimeDelta, Utc};
use pinpipe_e2e::{
    Kind, Pipeline, Sandbox, SharedScenario, Spec, audit, eventually, pipeline::READY_WITHIN,
    postgres, scenario::Scenario,
};
use serde_json::json;
use tokio::sync::OnceCell;

/// How long a settled pipeline is observed.
const OBSERVED: TimeDelta = TimeDelta::minutes(2);

/// A pipeline with every section and records from its emulator.
pub struct Settled {
    pipeline: Pipeline,
    /// When it became ready; nothing is changed from then on.
    since: DateTime<Utc>,
    /// Rows at that time.
    rows: i64,
    observed: OnceCell<()>,
}

/// Four tests of [`super::conditions`] use it, too.
pub static SETTLED: SharedScenario<Settled> = SharedScenario::new(9);

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
