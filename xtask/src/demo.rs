//! `cargo xtask demo`: the main job, end to end, on a real cluster.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::context::Context;
use crate::step::step;
use crate::workers::WorkerImages;
use crate::{compile, operator, stack, times};

const EXAMPLE: &str = "examples/pinterest.yaml";
/// The namespace of the example.
pub const NAMESPACE: &str = "data";
const PIPELINE: &str = "pinterest";
/// The number of users the emulator simulates, which is the number of records of each kind.
const USERS: u32 = 10_000;
const KINDS: [&str; 3] = ["pin", "geo", "user"];

pub fn run(context: &Context) -> Result<()> {
    let (images, _) = stack::up(context, || compile::demo(context))?;
    operator::install(context, &images)?;
    apply(context)?;
    let stamp = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let acknowledged = emulate(context, &images, stamp)?;
    batch(context, stamp)?;
    println!(
        "\nThe pipeline {NAMESPACE}/{PIPELINE}: records acknowledged in this run, and what each \
         store has after it\n"
    );
    times::of("counts and answers", || {
        report(context, &images, &acknowledged)
    })?;
    println!(
        "\nHow long it took, minutes and seconds\n{}",
        times::table()
    );
    look_further(context);
    Ok(())
}

fn apply(context: &Context) -> Result<()> {
    let hint = format!(
        "kubectl --namespace {NAMESPACE} describe pinterestpipeline {PIPELINE}: its conditions \
         show what is wrong"
    );
    step(context, &format!("apply {EXAMPLE}"), &hint, |log| {
        log.run(
            context
                .command("kubectl")
                .args(["apply", "--filename", EXAMPLE]),
        )?;
        let mut wait = in_namespace(
            context,
            &["wait", "--for=condition=Ready", "--timeout=300s"],
        );
        let ready = log.run(wait.arg(format!("pinterestpipeline/{PIPELINE}")));
        if ready.is_err() {
            let conditions = "--output=jsonpath={range .status.conditions[*]}\
                              {.type}={.status}: {.message}{\"\\n\"}{end}";
            log.run(
                in_namespace(context, &["get", "pinterestpipeline", PIPELINE, conditions])
                    .arg("--request-timeout=10s"),
            )?;
        }
        ready
    })
}

/// Runs the emulator, which posts its records through the ingest Service. Returns the numbers of
/// acknowledged records in the order of [`KINDS`].
fn emulate(context: &Context, images: &WorkerImages, stamp: u64) -> Result<[u64; 3]> {
    let name = format!("demo-emulator-{stamp}");
    let hint = format!("kubectl --namespace {NAMESPACE} logs job/{name}");
    step(context, "post records", &hint, |log| {
        let file = context.temporary_folder("emulator")?.join("job.yaml");
        fs::write(&file, emulator_job(&name, images)).context("writing the emulator's Job")?;
        log.run(
            context
                .command("kubectl")
                .args(["apply", "--filename"])
                .arg(&file),
        )?;
        finish(context, log, &name, "600s")?;
        let output = log.output(&mut in_namespace(
            context,
            &["logs", &format!("job/{name}")],
        ))?;
        let mut report = output
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let report = report.rfind(|line| line["acknowledged"].is_object());
        let report = report.context("the emulator's log has no report of acknowledged records")?;
        Ok(KINDS.map(|kind| report["acknowledged"][kind].as_u64().unwrap_or(0)))
    })
}

fn emulator_job(name: &str, images: &WorkerImages) -> String {
    let WorkerImages { registry, tag, .. } = images;
    format!(
        "apiVersion: batch/v1
kind: Job
metadata: {{name: {name}, namespace: {NAMESPACE}}}
spec:
  backoffLimit: 0
  ttlSecondsAfterFinished: 86400
  template:
    spec:
      restartPolicy: Never
      securityContext: {{runAsNonRoot: true, seccompProfile: {{type: RuntimeDefault}}}}
      containers:
      - name: emulator
        image: {registry}/emulator:{tag}
        args: [--target, 'http://{PIPELINE}-ingest.{NAMESPACE}.svc:8080', --count, '{USERS}',
          --rate, '0', --log-format, plain]
        securityContext:
          allowPrivilegeEscalation: false
          readOnlyRootFilesystem: true
          capabilities: {{drop: [ALL]}}
"
    )
}

/// Starts a batch run from the `CronJob`, as its schedule would.
fn batch(context: &Context, stamp: u64) -> Result<()> {
    let name = format!("demo-batch-{stamp}");
    let hint = format!("kubectl --namespace {NAMESPACE} logs job/{name}");
    step(context, "run the batch", &hint, |log| {
        let from = format!("cronjob/{PIPELINE}-batch");
        log.run(&mut in_namespace(
            context,
            &["create", "job", &name, "--from", &from],
        ))?;
        finish(context, log, &name, "600s")
    })
}

/// The condition of a Job that can no longer fail.
const SUCCEEDED: &str = "SuccessCriteriaMet";

/// Waits for a Job to complete, or to fail.
fn finish(context: &Context, log: &crate::step::Log, job: &str, timeout: &str) -> Result<()> {
    let object = format!("job/{job}");
    let timeout = format!("--timeout={timeout}");
    let true_conditions = "jsonpath={.status.conditions[?(@.status==\"True\")].type}";
    let ended = log.run(&mut in_namespace(
        context,
        &[
            "wait",
            &format!("--for={true_conditions}"),
            &timeout,
            &object,
        ],
    ));
    let mut conditions = in_namespace(
        context,
        &["get", &object, &format!("--output={true_conditions}")],
    );
    // This condition is set before `Complete` and the rest of the status.
    if ended.is_err() || !log.output(&mut conditions)?.contains(SUCCEEDED) {
        log.run(&mut in_namespace(
            context,
            &["get", "pods", "--selector", &format!("job-name={job}")],
        ))?;
        log.run(&mut in_namespace(context, &["logs", "--tail=15", &object]))?;
        bail!("the Job {job} did not succeed");
    }
    Ok(())
}

fn report(context: &Context, images: &WorkerImages, acknowledged: &[u64; 3]) -> Result<()> {
    let mut report = context.command(&images.folder.join("demo-report").display().to_string());
    report.args(["--namespace", NAMESPACE, "--pipeline", PIPELINE]);
    for (kind, count) in KINDS.iter().zip(acknowledged) {
        report.args([format!("--acknowledged-{kind}"), count.to_string()]);
    }
    let status = report.status().context("starting demo-report")?;
    if !status.success() {
        bail!("demo-report ended with {status}");
    }
    Ok(())
}

fn look_further(context: &Context) {
    println!("\nTo look further\n{}", context.exports());
    println!(
        "  kubectl --namespace {NAMESPACE} get pinterestpipelines,pods
  kubectl --namespace {NAMESPACE} describe pinterestpipeline {PIPELINE}
  kubectl --namespace {NAMESPACE} logs deployment/{PIPELINE}-stream-live
  kubectl --namespace devstack exec postgres-0 -- psql -U pinpipe \\
    -c 'SELECT category, count(*) FROM pin GROUP BY 1 ORDER BY 2 DESC'
  kubectl explain pinterestpipeline.spec --recursive
  cargo xtask cluster down    # removes everything"
    );
}

fn in_namespace(context: &Context, arguments: &[&str]) -> std::process::Command {
    let mut kubectl = context.command("kubectl");
    kubectl.args(["--namespace", NAMESPACE]).args(arguments);
    kubectl
}
