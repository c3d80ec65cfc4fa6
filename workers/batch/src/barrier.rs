//! The barrier: everything in the topics now is in the raw objects before the run begins.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use pinpipe_config::Batch;
use pinpipe_runtime::kafka::{Behind, Positions, Progress, behind, list};
use tracing::{info, warn};

/// How long one question to the broker may take.
const BROKER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an archive pod may take to answer.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the archive is asked to flush: records may have come into its buffers after the first
/// request.
const FLUSH_EVERY: Duration = Duration::from_secs(3);
/// How often the archive's committed offsets are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// How often the log says how far the archive is.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// The topics' ends at the time of the call, once the archive has reached them.
pub async fn wait(config: &Batch) -> Result<Positions> {
    let deadline = Instant::now() + Duration::from_secs(config.barrier_timeout_seconds);
    let archive = Progress::new(
        &config.kafka,
        "pinpipe-batch",
        &config.archive_group,
        BROKER_TIMEOUT,
    )?;
    let archive = Arc::new(archive);
    let topics = &config.topics;
    let topics = [&topics.pin, &topics.geo, &topics.user].map(|topic| topic.name.clone());
    let ends = until(deadline, "the topics' end offsets can't be had", || {
        let topics = topics.clone();
        ask(&archive, move |archive| archive.ends(&topics))
    })
    .await?;
    let records: i64 = ends.values().flat_map(BTreeMap::values).sum();
    info!(
        offsets = records,
        "the topics' ends are taken, waiting for the archive to reach them"
    );

    let http = reqwest::Client::builder().timeout(FLUSH_TIMEOUT).build()?;
    let (mut flushed, mut told) = (None::<Instant>, Instant::now());
    let mut flush_problem = None;
    loop {
        let wanted = ends.clone();
        let behind = until(
            deadline,
            "the archive's committed offsets can't be had",
            || {
                let wanted = wanted.clone();
                ask(&archive, move |archive| {
                    Ok(behind(&wanted, &archive.committed(&wanted)?))
                })
            },
        )
        .await?;
        if behind.is_empty() {
            return Ok(ends);
        }
        if Instant::now() >= deadline {
            bail!(failure(config, &behind, flush_problem.as_deref()));
        }
        if flushed.is_none_or(|at| at.elapsed() >= FLUSH_EVERY) {
            flush_problem = flush(&http, &config.archive_admin)
                .await
                .err()
                .map(|error| format!("{error:#}"));
            if let Some(problem) = &flush_problem {
                warn!(problem, "the archive could not be asked to flush");
            }
            flushed = Some(Instant::now());
        }
        if told.elapsed() >= TELL_EVERY {
            info!(behind = list(&behind), "waiting for the archive");
            told = Instant::now();
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Asks again until there is an answer or `deadline` has passed.
async fn until<T, F: Future<Output = Result<T>>>(
    deadline: Instant,
    problem: &str,
    ask: impl Fn() -> F,
) -> Result<T> {
    loop {
        match ask().await {
            Ok(answer) => return Ok(answer),
            Err(error) if Instant::now() >= deadline => {
                return Err(error.context(problem.to_owned()));
            }
            Err(error) => warn!(error = format!("{error:#}"), "{problem}, trying again"),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Asks the broker where blocking is allowed.
async fn ask<T: Send + 'static>(
    archive: &Arc<Progress>,
    question: impl FnOnce(&Progress) -> Result<T> + Send + 'static,
) -> Result<T> {
    let archive = Arc::clone(archive);
    tokio::task::spawn_blocking(move || question(&archive)).await?
}

/// Asks every pod of the archive to write what it holds.
async fn flush(http: &reqwest::Client, admin: &str) -> Result<()> {
    let addresses: Vec<_> = tokio::net::lookup_host(admin)
        .await
        .with_context(|| format!("{admin} has no address: the archive has no ready pod"))?
        .collect();
    let mut asked = 0;
    let mut problem = None;
    for address in addresses {
        match http
            .post(format!("http://{address}/flush"))
            .send()
            .await
            .and_then(reqwest::Response::error_for_status)
        {
            Ok(_) => asked += 1,
            Err(error) => problem = Some(error),
        }
    }
    match problem {
        Some(error) if asked == 0 => {
            Err(error).with_context(|| format!("no pod of the archive answers at {admin}"))
        }
        _ => Ok(()),
    }
}

/// What to say when the deadline has passed.
fn failure(config: &Batch, behind: &[Behind], flush_problem: Option<&str>) -> String {
    let pipeline = &config.pipeline;
    let mut text = format!(
        "the archive has not reached the topics' ends within {} s: {}. Check that its pod runs (kubectl -n {} get pods -l \
         app.kubernetes.io/instance={},app.kubernetes.io/component=archive) and that its log tells of no trouble with the object store",
        config.barrier_timeout_seconds,
        list(behind),
        pipeline.namespace,
        pipeline.name
    );
    if let Some(problem) = flush_problem {
        let _ = write!(text, "; the last request to flush failed: {problem}");
    }
    text
}
