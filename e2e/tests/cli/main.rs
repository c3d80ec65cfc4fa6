//! `kubectl pinpipe` on a pipeline that has run: status, plan, answers, logs and report, and the
//! commands that look into its data.

mod data;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use pinpipe_e2e::{
    Kind, Pipeline, Sandbox, Spec,
    answers::QUESTIONS,
    cluster, eventually, ingest,
    scenario::{Scenario, SharedScenario},
};
use serde_json::{Value, json};

static FLOW: SharedScenario<Flow> = SharedScenario::new(6);

/// A pipeline with answers, whose pods have a variable that nobody may see.
struct Flow {
    pipeline: Pipeline,
    spec: Spec,
}

/// The value of that variable.
const PLANTED: &str = "planted-value";

impl Scenario for Flow {
    const NAME: &'static str = "cli";

    async fn set_up(sandbox: Sandbox) -> Result<Self> {
        let mut spec = Spec::new()
            .live(&sandbox)
            .archive(&sandbox, 1000)
            .batch_without_sinks();
        spec.0["template"] = json!({"env": [{"name": "PLANTED", "value": PLANTED}]});
        let pipeline = sandbox.apply("flow", &spec).await?;
        pipeline.ready().await?;
        for kind in Kind::ALL {
            let records = fs::read_to_string(format!("../examples/sample/{kind}.json"))?;
            let response = ingest::post(&pipeline, kind.name(), "application/json", records);
            let response = response.await?;
            ensure!(response.status == 202, "{kind}: {response:?}");
        }
        pipeline.start_run("first").await?;
        pipeline.run_completes("first").await?;
        // The operator records it a little later.
        let status = pipeline.ended_run("flow-batch-first").await?;
        ensure!(status["phase"] == "Succeeded", "{status}");
        Ok(Self { pipeline, spec })
    }
}

/// What a command printed.
#[derive(Debug)]
struct Printed {
    status: Option<i32>,
    stdout: String,
    stderr: String,
}

/// Runs a command in a pipeline's namespace.
async fn pinpipe(pipeline: &Pipeline, arguments: &[&str]) -> Result<Printed> {
    let mut command = Command::new(binary()?);
    command
        .args(arguments)
        .args(["--namespace", &pipeline.sandbox.namespace])
        .env("KUBECONFIG", cluster::kubeconfig()?);
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    Ok(Printed {
        status: output.status.code(),
        stdout: String::from_utf8(output.stdout)?,
        stderr: String::from_utf8(output.stderr)?,
    })
}

impl Flow {
    /// Runs a command in the pipeline's namespace.
    async fn pinpipe(&self, arguments: &[&str]) -> Result<Printed> {
        pinpipe(&self.pipeline, arguments).await
    }

    /// Runs a command that succeeds, and returns its output.
    async fn succeeds(&self, arguments: &[&str]) -> Result<String> {
        let Printed {
            status,
            stdout,
            stderr,
        } = self.pinpipe(arguments).await?;
        ensure!(
            status == Some(0),
            "{arguments:?}: {status:?} {stdout} {stderr}"
        );
        Ok(stdout)
    }

    /// Writes a file with this spec.
    fn file(&self, name: &str, spec: &Value) -> Result<String> {
        let manifest = json!({
            "apiVersion": "pinpipe.dev/v1alpha1",
            "kind": "PinterestPipeline",
            "metadata": {"name": self.pipeline.name},
            "spec": spec,
        });
        let path = folder(name)?.join("pipeline.json");
        fs::write(&path, manifest.to_string())?;
        Ok(path.display().to_string())
    }
}

/// The plug-in, which cargo puts beside the folder of the test programs.
fn binary() -> Result<PathBuf> {
    let program = env::current_exe()?;
    let folder = program.parent().and_then(Path::parent);
    let binary = folder
        .context("no folder above the test's")?
        .join("kubectl-pinpipe");
    ensure!(
        binary.is_file(),
        "{} isn't built: cargo build --workspace --bin kubectl-pinpipe",
        binary.display()
    );
    Ok(binary)
}

/// An empty folder of this test program.
fn folder(name: &str) -> Result<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join("cli")
        .join(name);
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

#[test]
fn status_has_conditions_rates_lag_and_the_last_run() -> Result<()> {
    FLOW.test(async |flow| {
        eventually(Duration::from_mins(1), "all records stored", async || {
            let text = flow
                .succeeds(&["status", "flow", "--output", "json"])
                .await?;
            let status: Value = serde_json::from_str(&text)?;
            ensure!(status.get("notes").is_none(), "{status}");
            let components = status["components"].as_array().context("components")?;
            for name in ["ingest", "stream-live", "archive"] {
                let found = components.iter().find(|it| it["component"] == name);
                let component = found.with_context(|| format!("no {name} in {status}"))?;
                ensure!(component["readyPods"] == 1, "{component}");
                ensure!(component["recordsIn"].is_number(), "{component}");
                ensure!(name == "ingest" || component["lag"] == 0.0, "{component}");
            }
            ensure!(status["lastRun"]["phase"] == "Succeeded", "{status}");
            ensure!(status["lastRun"]["read"] == 600, "{status}");
            ensure!(status["answers"]["seconds"].is_number(), "{status}");
            Ok(())
        })
        .await?;
        let screen = flow.succeeds(&["status", "flow"]).await?;
        ensure!(
            screen.contains("Ready") && screen.contains("nothing to do"),
            "{screen}"
        );
        let list = flow.succeeds(&["status"]).await?;
        ensure!(
            list.contains("flow") && list.contains("Succeeded"),
            "{list}"
        );
        let runs = flow.succeeds(&["runs", "flow", "--output", "csv"]).await?;
        ensure!(runs.contains("flow-batch-first,Batch,Succeeded"), "{runs}");
        Ok(())
    })
}

#[test]
fn plan_tells_what_restarts_and_what_can_t_be_changed() -> Result<()> {
    FLOW.test(async |flow| {
        let mut spec = flow.spec.0.clone();
        let same = flow.file("same", &spec)?;
        let text = flow.succeeds(&["plan", "-f", &same]).await?;
        ensure!(text.contains("flow doesn't change"), "{text}");

        spec["ingest"]["limits"] = json!({"maxConnections": 77});
        let changed = flow.file("changed", &spec)?;
        let printed = flow.pinpipe(&["plan", "-f", &changed]).await?;
        let text = printed.stdout;
        ensure!(printed.status == Some(1), "{text} {}", printed.stderr);
        ensure!(
            text.contains("restart ingest: configuration: maxConnections"),
            "{text}"
        );
        ensure!(!text.contains("stream-live"), "{text}");

        spec["archive"]["bucket"] = json!("another-bucket");
        let refused = flow.file("refused", &spec)?;
        let printed = flow.pinpipe(&["plan", "-f", &refused]).await?;
        let text = printed.stdout;
        ensure!(printed.status == Some(2), "{text} {}", printed.stderr);
        let both = format!(
            "\"{}\" → \"another-bucket\"",
            flow.pipeline.sandbox.bucket()
        );
        ensure!(
            text.contains("spec.archive.bucket") && text.contains(&both),
            "{text}"
        );
        Ok(())
    })
}

#[test]
fn answers_and_logs_are_printed() -> Result<()> {
    FLOW.test(async |flow| {
        let text = flow.succeeds(&["answers", "flow"]).await?;
        for question in &QUESTIONS {
            ensure!(text.contains(&format!("\n{}\n", question.name)), "{text}");
        }
        ensure!(!text.contains("no rows"), "{text}");
        for (component, pod) in [("ingest", "[flow-ingest-"), ("batch", "[flow-batch-first-")] {
            let log = flow.succeeds(&["logs", "flow", component]).await?;
            ensure!(!log.is_empty(), "{component} has no log");
            let others = log.lines().find(|line| !line.starts_with(pod));
            ensure!(others.is_none(), "{component}: {others:?}");
        }
        Ok(())
    })
}

#[test]
fn a_report_has_no_secret() -> Result<()> {
    FLOW.test(async |flow| {
        let folder = folder("report")?.join("bundle");
        let path = folder.display().to_string();
        flow.succeeds(&["report", "flow", "--folder", &path])
            .await?;
        let mut files = Vec::new();
        read_all(&folder, &mut files)?;
        for begin in [
            "pipeline.yaml",
            "events.yaml",
            "metrics/flow-ingest",
            "readyz/flow-archive",
        ] {
            let path = folder.join(begin).display().to_string();
            ensure!(
                files.iter().any(|(file, _)| file.starts_with(&path)),
                "no {begin}"
            );
        }
        let (_, key) = cluster::S3_KEYS;
        for secret in [PLANTED, key, "pinpipe:pinpipe@"] {
            let found = files.iter().find(|(_, text)| text.contains(secret));
            ensure!(
                found.is_none(),
                "{secret} is in {:?}",
                found.map(|(file, _)| file)
            );
        }
        Ok(())
    })
}

/// The files below a folder with their texts.
fn read_all(folder: &Path, files: &mut Vec<(String, String)>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            read_all(&path, files)?;
        } else {
            files.push((path.display().to_string(), fs::read_to_string(&path)?));
        }
    }
    Ok(())
}
