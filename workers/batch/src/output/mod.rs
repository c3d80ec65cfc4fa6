//! What a run writes for the operator into a `ConfigMap`: how far it is and, once it has ended, its
//! report and the answers.
//!
//! The object exists beforehand. A run that can't write to it goes on all the same.

mod document;
#[cfg(test)]
mod server_tests;

use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use tokio::{
    task::JoinHandle,
    time::{MissedTickBehavior, interval, timeout},
};
use tracing::warn;

use crate::progress::Progress;

/// How often progress is written, at most.
const EVERY: Duration = Duration::from_secs(10);
/// How long one request to the API server may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(4);
/// How often the end of a run is written, at most.
const ATTEMPTS: u32 = 3;
/// The pause between two attempts.
const PAUSE: Duration = Duration::from_secs(1);

/// The `ConfigMap` that a run writes to.
#[derive(Clone)]
pub struct Output {
    api: Api<ConfigMap>,
    name: String,
    run: String,
}

impl Output {
    /// What the run `run` writes into the object `name`.
    pub fn new(client: Client, namespace: &str, name: &str, run: &str) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            name: name.to_owned(),
            run: run.to_owned(),
        }
    }

    /// Writes how far the run is while it works, and how it ended with [`Reporting::end`].
    pub fn report(&self, progress: Progress) -> Reporting {
        let output = self.clone();
        let writing = tokio::spawn(async move { output.write_progress(&progress).await });
        Reporting {
            output: self.clone(),
            writing,
        }
    }

    async fn write_progress(&self, progress: &Progress) {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut written, mut has_failed) = (None, false);
        loop {
            ticks.tick().await;
            let now = Some(progress.now());
            if now == written {
                continue;
            }
            let data = json!({"run": self.run, "progress": json!(now).to_string()});
            match self.patch(&data).await {
                Ok(()) => (written, has_failed) = (now, false),
                Err(problem) if !has_failed => {
                    warn!("the run's progress isn't shown: {problem}");
                    has_failed = true;
                }
                Err(_) => {}
            }
        }
    }

    /// Writes how a run ended: its report, which may have `answers`.
    pub async fn end(&self, report: Value) {
        let (report, answers) = document::split(report);
        let data = json!({
            "run": self.run, "progress": null, "report": report, "answers": answers,
        });
        for attempt in 1.. {
            match self.patch(&data).await {
                Ok(()) => return,
                Err(Problem { is_final, .. }) if !is_final && attempt < ATTEMPTS => {
                    tokio::time::sleep(PAUSE).await;
                }
                Err(problem) => {
                    warn!("the run's report isn't shown: {problem}");
                    return;
                }
            }
        }
    }

    async fn patch(&self, data: &Value) -> Result<(), Problem> {
        let (patch, parameters) = (Patch::Merge(json!({"data": data})), PatchParams::default());
        let patched = self.api.patch(&self.name, &parameters, &patch);
        let (cause, is_final) = match timeout(REQUEST_TIMEOUT, patched).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(kube::Error::Api(status))) => {
                let hint = match status.code {
                    403 => " (the ServiceAccount needs patch on it: check its Role)",
                    404 => " (the operator makes it: check that it runs)",
                    _ => "",
                };
                let is_final = matches!(status.code, 400..=499) && status.code != 429;
                (format!("{}{hint}", status.message), is_final)
            }
            Ok(Err(error)) => (error.to_string(), false),
            Err(_) => ("the API server does not respond".to_owned(), false),
        };
        Err(Problem {
            config_map: self.name.clone(),
            cause,
            is_final,
        })
    }
}

/// Why the object can't be written.
#[derive(Debug, thiserror::Error)]
#[error("the ConfigMap {config_map} can't be written: {cause}")]
struct Problem {
    config_map: String,
    cause: String,
    /// Whether the API server refuses the request.
    is_final: bool,
}

/// A run that works and writes how far it is.
pub struct Reporting {
    output: Output,
    writing: JoinHandle<()>,
}

impl Reporting {
    /// Writes how the run ended.
    pub async fn end(self, report: Value) {
        self.writing.abort();
        self.output.end(report).await;
    }
}

impl Drop for Reporting {
    fn drop(&mut self) {
        self.writing.abort();
    }
}
