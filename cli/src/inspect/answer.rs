//! The answer of an inspection's pod: its log from the start to the line that ends it.

use futures::TryStreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::api::LogParams;
use pinpipe_config::inspect::Done;
use pinpipe_plan::build::INSPECTION;
use serde::de::DeserializeOwned;
use tokio::time::sleep;

use super::{
    lines::{Read, read},
    starting::{self, BETWEEN_LOOKS, state},
};
use crate::{
    cluster::Cluster,
    failure::Failure,
    output::{reader_is_gone, visible},
    pods,
};

/// Attempts in a row to read the log that may fail.
const MOST_FAILURES: u32 = 10;

/// A pod that was created.
pub(super) struct Inspected<'a> {
    pub(super) cluster: &'a Cluster,
    /// The same cluster, for a log that may be silent.
    pub(super) log: &'a Cluster,
    pub(super) pod: &'a str,
    /// How long it may take to start, and then to answer, seconds.
    pub(super) timeout: i64,
    /// Whether nobody misses the end of the answer.
    pub(super) endless: bool,
}

/// What was read of the log.
#[derive(Default)]
struct Progress {
    /// Lines, so that a log that was cut off is read on behind them.
    lines: usize,
    /// The last one that is no result.
    last: String,
}

impl Inspected<'_> {
    /// Waits for the pod, and hands over each result.
    pub(super) async fn answer<T: DeserializeOwned>(
        &self,
        mut each: impl FnMut(T) -> Result<(), Failure>,
    ) -> Result<Done, Failure> {
        starting::wait(self.cluster, self.pod, self.timeout).await?;
        let (mut progress, mut failures) = (Progress::default(), 0);
        loop {
            let before = progress.lines;
            let cut_off = match self.read_on(&mut progress, &mut each).await {
                Ok(Some(done)) => return Ok(done),
                Ok(None) => None,
                Err(Stopped::For(failure)) => return Err(failure),
                Err(Stopped::CutOff(failure)) => Some(failure),
            };
            let pod = starting::get(self.cluster, self.pod).await?;
            let ended = self.failure(&pod, &progress.last);
            // Nothing is lost only if the log was read to its end after the container's.
            if cut_off.is_none()
                && let Some(failure) = ended
            {
                return self.last_look(progress, each, failure).await;
            }
            failures = if progress.lines > before {
                0
            } else {
                failures + 1
            };
            if let Some(failure) = cut_off.filter(|_| failures > MOST_FAILURES) {
                return Err(failure);
            }
            sleep(BETWEEN_LOOKS).await;
        }
    }

    /// Reads the rest of an ended container's log, which has the end of the answer or none.
    async fn last_look<T: DeserializeOwned>(
        &self,
        mut progress: Progress,
        mut each: impl FnMut(T) -> Result<(), Failure>,
        failure: String,
    ) -> Result<Done, Failure> {
        match self.read_on(&mut progress, &mut each).await {
            Ok(Some(done)) => Ok(done),
            Ok(None) => Err(Failure::Cluster(failure)),
            Err(Stopped::For(failure) | Stopped::CutOff(failure)) => Err(failure),
        }
    }

    /// Reads the log behind what was read of it before. None: it has ended without the line that
    /// ends an answer.
    async fn read_on<T: DeserializeOwned>(
        &self,
        progress: &mut Progress,
        each: &mut impl FnMut(T) -> Result<(), Failure>,
    ) -> Result<Option<Done>, Stopped> {
        let params = LogParams {
            container: Some(INSPECTION.to_owned()),
            follow: true,
            ..LogParams::default()
        };
        let log = self.log.api::<Pod>().log_stream(self.pod, &params).await;
        let log = log.map_err(|error| {
            let failure = self.cluster.failure("get pods/log", &error);
            match error {
                kube::Error::Api(status) if matches!(status.code, 401 | 403) => {
                    Stopped::For(failure)
                }
                _ => Stopped::CutOff(failure),
            }
        })?;
        let mut lines = Box::pin(pods::lines(log));
        let mut number = 0;
        loop {
            let line = lines.try_next().await.map_err(|error| {
                let pod = self.pod;
                Stopped::CutOff(Failure::Cluster(format!(
                    "the log of pod {pod} was cut off: {error}"
                )))
            })?;
            let Some(line) = line else {
                return Ok(None);
            };
            number += 1;
            if number <= progress.lines {
                continue;
            }
            progress.lines = number;
            let read = read(&line);
            match read.map_err(|message| Stopped::For(Failure::Cluster(message)))? {
                Read::Result(result) => each(result).map_err(Stopped::For)?,
                Read::Done(done) => return Ok(Some(done)),
                Read::Log(line) => {
                    eprintln!("{line}");
                    progress.last = line;
                }
            }
            if self.endless && reader_is_gone() {
                return Ok(Some(Done::default()));
            }
        }
    }

    /// Why a pod that has ended has no whole answer. None: it goes on.
    fn failure(&self, pod: &Pod, last: &str) -> Option<String> {
        let status = pod.status.as_ref();
        let reason = status.and_then(|status| status.reason.as_deref());
        let name = self.pod;
        if reason == Some("DeadlineExceeded") {
            let what = if self.endless {
                "was followed for"
            } else {
                "has no whole answer within"
            };
            let timeout = self.timeout;
            return Some(format!("pod {name} {what} {timeout} s: raise --timeout"));
        }
        let terminated = state(pod).and_then(|state| state.terminated.clone());
        let Some(terminated) = terminated else {
            let failed = status.and_then(|status| status.phase.as_deref()) == Some("Failed");
            let message = status.and_then(|status| status.message.as_deref());
            return failed.then(|| {
                format!(
                    "pod {name} was ended by the cluster ({}): {}: try again",
                    reason.unwrap_or("Failed"),
                    message.unwrap_or("it has not said why")
                )
            });
        };
        if terminated.reason.as_deref() == Some("OOMKilled") {
            return Some(format!("pod {name} needs more memory: raise --memory"));
        }
        let message = terminated.message.as_deref().unwrap_or_default();
        let message = sentence(message).unwrap_or_else(|| last.to_owned());
        if message.contains("unrecognized subcommand") {
            return Some(format!(
                "the batch image can't look into data ({message}): it is older than kubectl \
                 pinpipe: upgrade the operator, or remove spec.image.tag"
            ));
        }
        if message.is_empty() {
            let code = terminated.exit_code;
            return Some(format!(
                "pod {name} ended with exit code {code} and no answer"
            ));
        }
        Some(message)
    }
}

/// Why the log isn't read on.
enum Stopped {
    /// For good.
    For(Failure),
    /// The connection ended.
    CutOff(Failure),
}

/// The last line of a termination message that is a sentence, not a result.
fn sentence(message: &str) -> Option<String> {
    let lines = message.lines().map(str::trim);
    let mut lines = lines.filter(|line| !line.is_empty() && !line.starts_with('{'));
    let first = lines.next()?;
    // clap's error comes first, its usage last.
    let told = if first.starts_with("error: ") {
        first
    } else {
        lines.next_back().unwrap_or(first)
    };
    Some(visible(told.trim_start_matches("error: ")))
}
