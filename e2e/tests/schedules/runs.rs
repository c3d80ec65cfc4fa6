//! Runs as resources: queued, done one after the other and once.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::ConfigMap;
use pinpipe_e2e::{Kind, objects, scenario::in_sandbox};
use serde_json::json;

use super::filled;

#[test]
fn runs_are_done_one_after_the_other_and_once() -> Result<()> {
    in_sandbox("runs", async |sandbox| {
        let ledger = filled(sandbox).await?;
        let pipeline = &ledger.pipeline;
        let full = json!({"batch": {"full": true}});
        pipeline.create_run("full", full.clone()).await?;
        pipeline.create_run("more", json!({"batch": {}})).await?;
        let redrive = json!({"redrive": {"dryRun": true}});
        pipeline.create_run("try", redrive).await?;
        let [first, second, third] = [
            pipeline.ended_run("full").await?,
            pipeline.ended_run("more").await?,
            pipeline.ended_run("try").await?,
        ];
        for status in [&first, &second, &third] {
            ensure!(status["phase"] == "Succeeded", "{status}");
        }
        let users = &first["total"];
        ensure!(users["read"] == 200 && users["clean"] == 200, "{first}");
        ensure!(third["total"]["read"] == 0, "{third}");
        for (before, after) in [(&first, &second), (&second, &third)] {
            let (end, start) = (&before["completionTime"], &after["startTime"]);
            ensure!(end.as_str() <= start.as_str(), "{before} {after}");
        }
        ledger.batch_table_is_right(Kind::User).await?;
        let config_maps = sandbox.cluster.api::<ConfigMap>(&sandbox.namespace);
        let output = first["report"]["configMap"].as_str();
        config_maps.get(output.context("no ConfigMap")?).await?;

        // As by a restore, which has no status.
        let last = objects::last_report(sandbox.bucket(), &pipeline.full_name()).await?;
        pipeline.delete_run("full").await?;
        pipeline.create_run("full", full).await?;
        let again = pipeline.ended_run("full").await?;
        ensure!(
            again["phase"] == "Succeeded" && again["total"] == first["total"],
            "{again}"
        );
        let now = objects::last_report(sandbox.bucket(), &pipeline.full_name()).await?;
        let run = |report: &Option<serde_json::Value>| report.as_ref().map(|r| r["run"].clone());
        ensure!(run(&now) == run(&last), "it was done again: {now:?}");
        pipeline.ready().await
    })
}
