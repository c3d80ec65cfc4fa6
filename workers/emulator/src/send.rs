//! Posts batches until ingest has acknowledged or refused every record.

use std::time::Duration;

use http::{StatusCode, header::RETRY_AFTER};
use pinpipe_core::Kind;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use crate::{
    report::Tally,
    source::Batch,
    target::{Connection, Target},
};

/// The first and the longest backoff.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// The parts of ingest's response that are used.
#[derive(Deserialize)]
struct Answer {
    records: Option<Vec<RecordAnswer>>,
    message: Option<String>,
}

/// The result of one record.
#[derive(Deserialize)]
struct RecordAnswer {
    offset: Option<i64>,
    #[serde(default)]
    retry: bool,
    message: Option<String>,
}

/// The result of one attempt to send a batch.
enum Attempt {
    /// One result per record.
    PerRecord(Vec<RecordAnswer>),
    /// The batch is refused, with ingest's message.
    Refused(String),
    /// The batch has to be sent again, after the given time if ingest asks for it. With the reason.
    Retry(Option<Duration>, String),
}

/// A client of one ingest service, which sends one request at a time.
#[derive(Debug)]
pub struct Sender(Connection);

impl Sender {
    /// Creates a client of `target`.
    #[must_use]
    pub const fn new(target: Target) -> Self {
        Self(Connection::new(target))
    }

    /// Sends a batch until each record is acknowledged or refused, without retries after `stop`.
    pub async fn deliver(&mut self, batch: Batch, tally: &Tally, stop: &CancellationToken) {
        // Records, and whether each is a duplicate.
        let first_repeat = batch.records.len() - batch.repeats;
        let mut left: Vec<(String, bool)> = batch
            .records
            .into_iter()
            .enumerate()
            .map(|(i, record)| (record, i >= first_repeat))
            .collect();
        let mut backoff = BACKOFF.0;
        while !left.is_empty() {
            let (wait, reason) = match self.attempt(batch.kind.as_str(), &left).await {
                Attempt::Refused(message) => {
                    tracing::error!(
                        kind = batch.kind.as_str(),
                        records = left.len(),
                        answer = message,
                        "ingest refused a request"
                    );
                    tally.refused.inc_by(left.len() as u64);
                    return;
                }
                Attempt::Retry(wait, reason) => (wait, reason),
                Attempt::PerRecord(answers) => {
                    let before = left.len();
                    left = settle(batch.kind, left, answers, tally);
                    if left.len() < before {
                        backoff = BACKOFF.0;
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
            tracing::warn!(kind = batch.kind.as_str(), reason, "retrying");
            tokio::select! {
                () = stop.cancelled() => {
                    tally.unsent.inc_by(left.len() as u64);
                    return;
                }
                () = tokio::time::sleep(wait.unwrap_or(backoff)) => {}
            }
            tally.retries.inc();
            backoff = (backoff * 2).min(BACKOFF.1);
        }
    }

    async fn attempt(&mut self, kind: &str, records: &[(String, bool)]) -> Attempt {
        let response = match self.0.post(kind, body(records)).await {
            Ok(response) => response,
            Err(error) => return Attempt::Retry(None, format!("{error:#}")),
        };
        let status = response.status;
        let wait = response
            .headers
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .map(Duration::from_secs);
        let answer = serde_json::from_slice::<Answer>(&response.body).ok();
        let (answers, message) =
            answer.map_or((None, None), |answer| (answer.records, answer.message));
        let message = format!("{status}: {}", message.unwrap_or_default());
        match answers {
            Some(answers) if answers.len() == records.len() => Attempt::PerRecord(answers),
            _ if status.is_server_error()
                || status == StatusCode::TOO_MANY_REQUESTS
                // The tokens are being renewed.
                || status == StatusCode::UNAUTHORIZED
                || status == StatusCode::REQUEST_TIMEOUT =>
            {
                Attempt::Retry(wait, message)
            }
            _ => Attempt::Refused(message),
        }
    }
}

/// The request body: a single record as it is, several as an array.
fn body(records: &[(String, bool)]) -> String {
    if let [(only, _)] = records {
        return only.clone();
    }
    let texts: Vec<&str> = records.iter().map(|(text, _)| text.as_str()).collect();
    format!("[{}]", texts.join(",\n"))
}

/// Counts the settled records and returns those to be sent again.
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
                    answer = answer.message,
                    "ingest refused a record"
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
