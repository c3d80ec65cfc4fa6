//! The barrier: waits until everything now in the topics is in raw objects.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use pinpipe_config::Batch;
use pinpipe_runtime::kafka::{self, Access, Behind, Positions, Progress, behind, list};
use reqwest::StatusCode;
use tracing::{info, warn};

/// Timeout of one request to the broker.
const BROKER_TIMEOUT: Duration = Duration::from_secs(10);
/// Timeout of one flush request.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);
/// Interval of flush requests: the archive may buffer more records after the first one.
const FLUSH_EVERY: Duration = Duration::from_secs(3);
/// Interval at which the archive's committed offsets are polled.
const POLL_EVERY: Duration = Duration::from_millis(300);
/// Interval of progress log lines.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// Waits until the archive has reached the topics' end offsets at the time of the call, and returns
/// them.
pub async fn wait(config: &Batch) -> Result<Positions> {
    let deadline = Instant::now() + Duration::from_secs(config.barrier_timeout_seconds);
    let mut archive = Archive::new(config, Access::read(&config.kafka)?)?;
    let topics = &config.topics;
    let topics = [&topics.pin, &topics.geo, &topics.user].map(|topic| topic.name.clone());
    let ends = retry_until(deadline, "can't read the topics' end offsets", async || {
        let topics = topics.clone();
        archive.query(move |archive| archive.ends(&topics)).await
    })
    .await?;
    let sum: i64 = ends.values().flat_map(BTreeMap::values).sum();
    info!(
        offsets = sum,
        "waiting for the archive to reach the topics' end offsets"
    );

    let http = reqwest::Client::builder().timeout(FLUSH_TIMEOUT).build()?;
    let (mut flushed, mut last_logged) = (None::<Instant>, Instant::now());
    let mut flush_error = None;
    loop {
        let target = ends.clone();
        let behind = retry_until(
            deadline,
            "can't read the archive's committed offsets",
            async || {
                let target = target.clone();
                let query =
                    move |archive: &Progress| Ok(behind(&target, &archive.committed(&target)?));
                archive.query(query).await
            },
        )
        .await?;
        if behind.is_empty() {
            return Ok(ends);
        }
        if Instant::now() >= deadline {
            bail!(timeout_message(config, &behind, flush_error.as_deref()));
        }
        if flushed.is_none_or(|at| at.elapsed() >= FLUSH_EVERY) {
            flush_error = flush(&http, &config.archive_control)
                .await
                .err()
                .map(|error| format!("{error:#}"));
            if let Some(error) = &flush_error {
                warn!(error, "can't flush the archive");
            }
            flushed = Some(Instant::now());
        }
        if last_logged.elapsed() >= LOG_EVERY {
            info!(behind = list(&behind), "waiting for the archive");
            last_logged = Instant::now();
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
}

/// The archive's progress, as the brokers know it.
struct Archive<'a> {
    config: &'a Batch,
    access: Access,
    progress: Arc<Progress>,
    has_failed: bool,
}

impl<'a> Archive<'a> {
    /// Doesn't wait for a broker.
    fn new(config: &'a Batch, access: Access) -> Result<Self> {
        let group = &config.archive_group;
        let progress = Progress::new(&access, "pinpipe-batch", group, BROKER_TIMEOUT)?;
        Ok(Self {
            config,
            access,
            progress: Arc::new(progress),
            has_failed: false,
        })
    }

    /// Asks the brokers. After an error the next query uses Secrets that were renewed since.
    async fn query<T: Send + 'static>(
        &mut self,
        query: impl FnOnce(&Progress) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        if self.has_failed
            && let Ok(access) = Access::read(&self.config.kafka)
            && access != self.access
            && let Ok(renewed) = Self::new(self.config, access)
        {
            let earlier = std::mem::replace(self, renewed);
            kafka::close(earlier.progress);
        }
        let answer = query_broker(&self.progress, query).await;
        self.has_failed = answer.is_err();
        answer
    }
}

/// Repeats `attempt` until it succeeds or `deadline` has passed.
async fn retry_until<T>(
    deadline: Instant,
    problem: &str,
    mut attempt: impl AsyncFnMut() -> Result<T>,
) -> Result<T> {
    loop {
        match attempt().await {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() >= deadline => {
                return Err(error.context(problem.to_owned()));
            }
            Err(error) => warn!(error = format!("{error:#}"), "{problem}, retrying"),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Runs a blocking query to the broker.
async fn query_broker<T: Send + 'static>(
    archive: &Arc<Progress>,
    query: impl FnOnce(&Progress) -> Result<T> + Send + 'static,
) -> Result<T> {
    let archive = Arc::clone(archive);
    tokio::task::spawn_blocking(move || query(&archive)).await?
}

/// Requests every pod of the archive to write its buffered records. Succeeds if one of them does.
async fn flush(http: &reqwest::Client, control: &str) -> Result<()> {
    let addresses: Vec<_> = tokio::net::lookup_host(control)
        .await
        .with_context(|| format!("{control} has no address: the archive has no ready pod"))?
        .collect();
    let mut flushed = 0;
    let mut failure = None;
    for address in addresses {
        match http.post(format!("http://{address}/flush")).send().await {
            // Another client has just requested one.
            Ok(response) if response.status() == StatusCode::TOO_MANY_REQUESTS => flushed += 1,
            Ok(response) => match response.error_for_status() {
                Ok(_) => flushed += 1,
                Err(error) => failure = Some(error),
            },
            Err(error) => failure = Some(error),
        }
    }
    match failure {
        Some(error) if flushed == 0 => {
            Err(error).with_context(|| format!("no pod of the archive responds at {control}"))
        }
        _ => Ok(()),
    }
}

fn timeout_message(config: &Batch, behind: &[Behind], flush_error: Option<&str>) -> String {
    let pipeline = &config.pipeline;
    let mut text = format!(
        "the archive has not reached the topics' ends within {} s: {}. Check that its pod runs \
         (kubectl -n {} get pods -l \
         app.kubernetes.io/instance={},app.kubernetes.io/component=archive) and that its log has \
         no errors of the object store; if the pipeline is suspended, set spec.suspend to false",
        config.barrier_timeout_seconds,
        list(behind),
        pipeline.namespace,
        pipeline.name
    );
    if let Some(error) = flush_error {
        let _ = write!(text, "; the last flush request failed: {error}");
    }
    text
}

#[cfg(test)]
mod server_tests;
