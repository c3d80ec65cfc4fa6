//! Runs queue, start once and survive whatever happens to the operator: a run that is applied
//! before its pipeline, one behind another, a restart, the same manifest again, a lost status, and
//! a restore. Jobs of the schedule are recorded, and old records deleted.

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::{
    batch::v1::{CronJob, Job},
    core::v1::ConfigMap,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams},
};
use pinpipe_crds::{PinterestRun, RunPhase};
use pinpipe_plan::run;
use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, RELEASE},
    operator::Operator,
    pipeline::{Pipeline, SETTLES},
    specs,
    wait::until,
};

const NAMESPACE: &str = "runs";

struct Proof<'a> {
    cluster: &'a Cluster,
    operator: &'a Operator,
    runs: Api<PinterestRun>,
    jobs: Api<Job>,
}

pub async fn run(cluster: &Cluster) -> Result<String> {
    let operator = cluster.operator().await?;
    cluster.namespace_with_secrets(NAMESPACE).await?;
    let arguments = ["--namespace", NAMESPACE];
    operator.start(&arguments)?;
    let proof = Proof {
        cluster,
        operator: &operator,
        runs: Api::namespaced(cluster.admin.clone(), NAMESPACE),
        jobs: Api::namespaced(cluster.admin.clone(), NAMESPACE),
    };
    let first = json!({"batch": {"full": true}});
    proof.apply("first", &first).await?;
    proof
        .reaches("first", RunPhase::Queued, "there is no PinterestPipeline")
        .await?;

    let pipeline = Pipeline::new(&cluster.admin, NAMESPACE, "pinterest");
    let mut spec = specs::whole(&operator.bootstrap_servers);
    pipeline.create(&spec).await?;
    proof
        .reaches("first", RunPhase::Running, "under way")
        .await?;
    proof.reports_progress(&pipeline).await?;
    proof.apply("second", &json!({"redrive": {}})).await?;
    proof
        .reaches("second", RunPhase::Queued, "the run first")
        .await?;
    ensure!(proof.names().await? == [proof.id("first").await?]);

    // The same manifests, to an operator that knows nothing yet.
    operator.traffic.kill();
    proof.apply("first", &first).await?;
    operator.start(&arguments)?;
    operator.wait_for_reconciles(1.0).await?;
    pipeline.settle(&operator).await?;
    ensure!(proof.names().await? == [proof.id("first").await?]);

    proof.end(&proof.id("first").await?, 1).await?;
    proof.reaches("first", RunPhase::Succeeded, "").await?;
    proof
        .reaches("second", RunPhase::Running, "under way")
        .await?;
    let before = proof.jobs.get(&proof.id("first").await?).await?;

    // A status that is lost is found again by the Job that is left.
    let lost = Patch::Merge(json!({"status": null}));
    let api = &proof.runs;
    api.patch_status("first", &PatchParams::default(), &lost)
        .await?;
    proof.reaches("first", RunPhase::Succeeded, "").await?;
    let after = proof.jobs.get(&proof.id("first").await?).await?;
    ensure!(after.uid() == before.uid(), "it was started again");

    replaced(&proof, &pipeline, &mut spec).await?;
    restored(&proof, &first).await?;
    reset(&proof).await?;
    recorded(&proof).await?;
    pipeline.settle(&operator).await?;
    operator.traffic.begin(None);
    let reconciles = operator.reconciles().await?;
    pipeline
        .annotate("example.com/irrelevant", "touched")
        .await?;
    operator.wait_for_reconciles(reconciles + 1.0).await?;
    let again = operator.traffic.attempts();
    ensure!(again.is_empty(), "settled, and written to: {again:?}");
    pipeline.delete().await?;
    until("runs are gone with their pipeline", SETTLES, async || {
        let left = proof.runs.list(&ListParams::default()).await?.items;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
    .await?;
    Ok("queued, started once each, recorded, and gone with the pipeline".to_owned())
}

/// Re-drives, resets and runs about topics take rights of their own, a batch run doesn't.
pub async fn rights(cluster: &Cluster) -> Result<String> {
    let namespace = "rights";
    cluster.namespace(namespace).await?;
    let [edit, redrive] = ["edit", "runs"].map(|role| format!("{RELEASE}-{role}"));
    let editor = cluster.client_with(namespace, &[&edit]).await?;
    let admin = cluster.client_with(namespace, &[&edit, &redrive]).await?;
    let create = async |client: &Client, action: Value| {
        let mut spec = action;
        spec["pipelineRef"] = json!({"name": "pinterest"});
        let run = serde_json::from_value(json!({"metadata": {"generateName": "r-"}, "spec": spec}));
        let api: Api<PinterestRun> = Api::namespaced(client.clone(), namespace);
        anyhow::Ok(api.create(&PostParams::default(), &run?).await)
    };
    let reset = json!({"reset": {"sink": "live", "to": {"latest": {}}}});
    let topic = json!({"topic": {"kind": "Pin", "action": "Adopt", "id": "a"}});
    for (verb, action) in [
        ("redrive", &json!({"redrive": {}})),
        ("reset", &reset),
        ("adopt", &topic),
    ] {
        until(&format!("{verb} is refused"), SETTLES, async || {
            let refused = create(&editor, action.clone()).await?;
            let Err(error) = refused else {
                bail!("it is accepted");
            };
            let message = error.to_string();
            let granted = format!("grant the verb {verb}");
            ensure!(message.contains(&granted), "{message}");
            Ok(())
        })
        .await?;
    }
    create(&admin, reset).await??;
    create(&admin, topic).await??;
    create(&editor, json!({"batch": {"full": true}})).await??;
    create(&admin, json!({"redrive": {"dryRun": true}})).await??;
    Ok("re-drives, resets and runs about topics take verbs of their own".to_owned())
}

/// A run whose Job can't start is started again as the pipeline is now.
async fn replaced(proof: &Proof<'_>, pipeline: &Pipeline, spec: &mut Value) -> Result<()> {
    let name = proof.id("second").await?;
    let before = proof.jobs.get(&name).await?;
    let waits = json!({"status": {"startTime": "2026-01-01T00:00:00Z"}});
    let (params, waits) = (PatchParams::default(), Patch::Merge(&waits));
    proof.jobs.patch_status(&name, &params, &waits).await?;
    spec["batch"]["template"] = json!({"resources": {"requests": {"memory": "64Mi"}}});
    pipeline.replace(&json!({}), spec).await?;
    until("the run's Job is replaced", SETTLES, async || {
        let now = proof.jobs.get(&name).await?;
        ensure!(now.uid() != before.uid(), "it is still the old Job");
        Ok(())
    })
    .await
    .with_context(|| proof.operator.log_end())?;
    proof
        .reaches("second", RunPhase::Running, "under way")
        .await?;
    proof.end(&name, 2).await?;
    proof.reaches("second", RunPhase::Succeeded, "").await
}

/// A run that is deleted and created again, as by a restore, has the same id, by which the worker
/// finds in its store that it was done.
async fn restored(proof: &Proof<'_>, spec: &Value) -> Result<()> {
    let id = proof.id("first").await?;
    proof.runs.delete("first", &DeleteParams::default()).await?;
    until("the Job is gone with its run", SETTLES, async || {
        ensure!(!proof.names().await?.contains(&id), "it is still there");
        Ok(())
    })
    .await?;
    proof.apply("first", spec).await?;
    proof
        .reaches("first", RunPhase::Running, "under way")
        .await?;
    ensure!(proof.id("first").await? == id && proof.names().await?.contains(&id));
    proof.end(&id, 3).await?;
    proof.reaches("first", RunPhase::Succeeded, "").await
}

/// A reset stands in the configuration of the sink's worker while it is under way, and holds other
/// runs back. There are no workers here that carry it out.
async fn reset(proof: &Proof<'_>) -> Result<()> {
    let action = json!({"reset": {"sink": "live", "to": {"earliest": {}}}});
    let lake = json!({"reset": {"sink": "lake", "to": {"earliest": {}}}});
    proof.apply("lake", &lake).await?;
    let refused = "spec.reset.sink: the pipeline has no sink lake";
    proof.reaches("lake", RunPhase::Refused, refused).await?;
    proof.apply("reset", &action).await?;
    let going = "no worker of the sink";
    proof.reaches("reset", RunPhase::Running, going).await?;
    let id = proof.id("reset").await?;
    proof.configuration_has(&id, true).await?;
    proof.apply("behind", &json!({"batch": {}})).await?;
    proof
        .reaches("behind", RunPhase::Queued, "the run reset")
        .await?;
    for run in ["behind", "reset"] {
        proof.runs.delete(run, &DeleteParams::default()).await?;
    }
    proof.configuration_has(&id, false).await
}

/// Jobs of the schedule are recorded; only the last of their records are kept.
async fn recorded(proof: &Proof<'_>) -> Result<()> {
    for minute in 1..6 {
        let name = format!("pinterest-batch-{minute}");
        proof.schedule(&name).await?;
        proof.reaches(&name, RunPhase::Running, "under way").await?;
        proof.end(&name, 10 + minute).await?;
        proof.reaches(&name, RunPhase::Succeeded, "").await?;
    }
    // The CronJob controller keeps the last three; a record stays as long as its Job.
    for minute in [1, 2] {
        let name = format!("pinterest-batch-{minute}");
        let background = DeleteParams::background();
        proof.jobs.delete(&name, &background).await?;
    }
    until("old records are deleted", SETTLES, async || {
        let records = ListParams::default().labels("pinpipe.dev/started-by=schedule");
        let records = proof.runs.list(&records).await?.items;
        let names: Vec<_> = records.iter().map(ResourceExt::name_any).collect();
        let last = [3, 4, 5].map(|minute| format!("pinterest-batch-{minute}"));
        ensure!(names == last, "{names:?}");
        Ok(())
    })
    .await
    .with_context(|| proof.operator.log_end())?;
    for own in ["first", "second"] {
        proof.runs.get(own).await?;
    }
    Ok(())
}

impl Proof<'_> {
    /// Applies a run, as `kubectl apply --server-side` does.
    async fn apply(&self, name: &str, action: &Value) -> Result<()> {
        let mut spec = action.clone();
        spec["pipelineRef"] = json!({"name": "pinterest"});
        let body = json!({"apiVersion": "pinpipe.dev/v1alpha1", "kind": "PinterestRun",
            "metadata": {"name": name}, "spec": spec});
        let params = PatchParams::apply("a-user");
        self.runs.patch(name, &params, &Patch::Apply(&body)).await?;
        Ok(())
    }

    /// What a run writes into its `ConfigMap` is in its status.
    async fn reports_progress(&self, pipeline: &Pipeline) -> Result<()> {
        let id = self.id("first").await?;
        let client = self.cluster.admin.clone();
        let config_maps: Api<ConfigMap> = Api::namespaced(client, NAMESPACE);
        let progress = json!({"step": "Clean", "read": 5, "of": 9}).to_string();
        let written = Patch::Merge(json!({"data": {"progress": progress}}));
        config_maps
            .patch(&id, &PatchParams::default(), &written)
            .await?;
        pipeline
            .annotate("example.com/irrelevant", "looked at")
            .await?;
        self.reaches("first", RunPhase::Running, "Clean: 5 of 9")
            .await
    }

    /// Waits until the configuration of the worker of the sink live has a reset or not.
    async fn configuration_has(&self, id: &str, expected: bool) -> Result<()> {
        let client = self.cluster.admin.clone();
        let config_maps: Api<ConfigMap> = Api::namespaced(client, NAMESPACE);
        let what = format!("a configuration has the reset {id}: {expected}");
        until(&what, SETTLES, async || {
            let found = config_maps.list(&ListParams::default()).await?.items;
            let mut data = found.iter().filter_map(|found| found.data.as_ref());
            let has_it = data.any(|data| data.values().any(|yaml| yaml.contains(id)));
            ensure!(has_it == expected, "it is otherwise");
            Ok(())
        })
        .await
        .with_context(|| self.operator.log_end())
    }

    async fn id(&self, run: &str) -> Result<String> {
        Ok(run::id(&self.runs.get(run).await?))
    }

    /// Names of all Jobs.
    async fn names(&self) -> Result<Vec<String>> {
        let jobs = self.jobs.list(&ListParams::default()).await?.items;
        Ok(jobs.iter().map(ResourceExt::name_any).collect())
    }

    async fn reaches(&self, run: &str, phase: RunPhase, part: &str) -> Result<()> {
        let what = format!("the run {run} is {phase:?}");
        until(&what, SETTLES, async || {
            let status = self.runs.get(run).await?.status.unwrap_or_default();
            let message = status.message.as_deref().unwrap_or_default();
            ensure!(
                status.phase == Some(phase) && message.contains(part),
                "{status:?}"
            );
            Ok(())
        })
        .await
        .with_context(|| self.operator.log_end())
    }

    /// Ends a Job as the Job controller does when its pod has succeeded.
    async fn end(&self, job: &str, minute: u8) -> Result<()> {
        let time = format!("2026-01-01T10:{minute:02}:00Z");
        let condition = |type_: &str| {
            json!({"type": type_, "status": "True", "lastProbeTime": time,
                "lastTransitionTime": time})
        };
        let status = Patch::Merge(json!({"status": {
            "startTime": "2026-01-01T00:00:00Z",
            "completionTime": time,
            "succeeded": 1,
            "conditions": [condition("SuccessCriteriaMet"), condition("Complete")],
        }}));
        let params = PatchParams::default();
        let written = self.jobs.patch_status(job, &params, &status);
        written.await.with_context(|| format!("ending {job}"))?;
        Ok(())
    }

    /// Creates a Job as the `CronJob` controller does.
    async fn schedule(&self, name: &str) -> Result<()> {
        let cron_jobs: Api<CronJob> = Api::namespaced(self.cluster.admin.clone(), NAMESPACE);
        let cron_job = cron_jobs.get("pinterest-batch").await?;
        let owner = json!({"apiVersion": "batch/v1", "kind": "CronJob", "name": "pinterest-batch",
            "uid": cron_job.uid(), "controller": true});
        let template = cron_job.spec.context("no spec")?.job_template;
        let job = Job {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                owner_references: Some(vec![serde_json::from_value(owner)?]),
                ..template.metadata.unwrap_or_default()
            },
            spec: template.spec,
            status: None,
        };
        self.jobs.create(&PostParams::default(), &job).await?;
        Ok(())
    }
}
