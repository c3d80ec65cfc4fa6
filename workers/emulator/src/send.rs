//! Posting batches until ingest has acknowledged every record of them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pinpipe_core::Kind;
use reqwest::{
    Client, StatusCode,
    header::{CONTENT_TYPE, RETRY_AFTER},
};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use crate::{report::Tally, source::Batch};

/// How long ingest may take to answer: more than its own delivery timeout.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// The first and the longest pause before a request is sent again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// Ingest's answer, as far as it concerns us.
#[derive(Deserialize)]
struct Answer {
    records: Option<Vec<RecordAnswer>>,
    message: Option<String>,
}

/// What became of one record.
#[derive(Deserialize)]
struct RecordAnswer {
    offset: Option<i64>,
    #[serde(default)]
    retry: bool,
    message: Option<String>,
}

/// What became of a batch in one attempt.
enum Attempt {
    /// One answer per record.
    PerRecord(Vec<RecordAnswer>),
    /// The whole batch can't be taken, and why.
    Refused(String),
    /// The whole batch has to be sent again, at the earliest after this, and why.
    Again(Option<Duration>, String),
}

/// Posts to one ingest service.
#[derive(Clone, Debug)]
pub struct Sender {
    client: Client,
    target: String,
}

impl Sender {
    /// `target` is ingest's base URL, `http://host:port`.
    pub fn new(target: &str) -> Result<Self> {
        ensure!(
            target.starts_with("http://"),
            "the target `{target}` is no http:// URL: name ingest's address, such as http://127.0.0.1:8080"
        );
        let client = Client::builder()
            .timeout(REQUEST_TIMEOUT)
            .connect_timeout(Duration::from_secs(5))
            .tcp_nodelay(true)
            .build()
            .context("the HTTP client can't be set up")?;
        Ok(Self {
            client,
            target: target.trim_end_matches('/').to_owned(),
        })
    }

    /// Sends a batch, again and again until each record is acknowledged or refused; after `stop` it
    /// isn't sent again.
    pub async fn deliver(&self, batch: Batch, tally: &Tally, stop: &CancellationToken) {
        // A record, and whether it is a repeat.
        let first_repeat = batch.records.len() - batch.repeats;
        let mut left: Vec<(String, bool)> = batch
            .records
            .into_iter()
            .enumerate()
            .map(|(i, record)| (record, i >= first_repeat))
            .collect();
        let mut pause = PAUSE.0;
        while !left.is_empty() {
            let (wait, reason) = match self.attempt(batch.kind.as_str(), &left).await {
                Attempt::Refused(message) => {
                    tracing::error!(
                        kind = batch.kind.as_str(),
                        records = left.len(),
                        message,
                        "ingest refuses a request"
                    );
                    tally.refused.inc_by(left.len() as u64);
                    return;
                }
                Attempt::Again(wait, reason) => (wait, reason),
                Attempt::PerRecord(answers) => {
                    let before = left.len();
                    left = settle(batch.kind, left, answers, tally);
                    if left.len() < before {
                        pause = PAUSE.0;
                    }
                    (
                        None,
                        format!("{} of {before} records were not confirmed", left.len()),
                    )
                }
            };
            if left.is_empty() {
                return;
            }
            tracing::warn!(kind = batch.kind.as_str(), reason, "sending again");
            tokio::select! {
                () = stop.cancelled() => {
                    tally.unsent.inc_by(left.len() as u64);
                    return;
                }
                () = tokio::time::sleep(wait.unwrap_or(pause)) => {}
            }
            tally.retries.inc();
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    async fn attempt(&self, kind: &str, records: &[(String, bool)]) -> Attempt {
        let request = self
            .client
            .post(format!("{}/{kind}", self.target))
            .header(CONTENT_TYPE, "application/json")
            .body(body(records));
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => return Attempt::Again(None, format!("{:#}", anyhow::Error::new(error))),
        };
        let status = response.status();
        let wait = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .map(Duration::from_secs);
        let answer = match response.bytes().await {
            Ok(bytes) => serde_json::from_slice::<Answer>(&bytes).ok(),
            Err(error) => return Attempt::Again(wait, format!("{:#}", anyhow::Error::new(error))),
        };
        let (answers, message) =
            answer.map_or((None, None), |answer| (answer.records, answer.message));
        let message = format!("{status}: {}", message.unwrap_or_default());
        match answers {
            Some(answers) if answers.len() == records.len() => Attempt::PerRecord(answers),
            _ if status.is_server_error()
                || status == StatusCode::TOO_MANY_REQUESTS
                || status == StatusCode::REQUEST_TIMEOUT =>
            {
                Attempt::Again(wait, message)
            }
            _ => Attempt::Refused(message),
        }
    }
}

/// One record as it is, several as an array.
fn body(records: &[(String, bool)]) -> String {
    if let [(only, _)] = records {
        return only.clone();
    }
    let texts: Vec<&str> = records.iter().map(|(text, _)| text.as_str()).collect();
    format!("[{}]", texts.join(",\n"))
}

/// Counts what is settled; gives what has to be sent again.
fn settle(
    kind: Kind,
    sent: Vec<(String, bool)>,
    answers: Vec<RecordAnswer>,
    tally: &Tally,
) -> Vec<(String, bool)> {
    let (mut acknowledged, mut repeated) = (0, 0);
    let left = sent
        .into_iter()
        .zip(answers)
        .filter_map(|((record, repeat), answer)| {
            if answer.offset.is_some() {
                acknowledged += u64::from(!repeat);
                repeated += u64::from(repeat);
            } else if answer.retry {
                return Some((record, repeat));
            } else {
                tracing::error!(
                    kind = kind.as_str(),
                    record,
                    message = answer.message,
                    "ingest refuses a record"
                );
                tally.refused.inc();
            }
            None
        })
        .collect();
    tally.acknowledged(kind).inc_by(acknowledged);
    tally.repeated.inc_by(repeated);
    left
}
