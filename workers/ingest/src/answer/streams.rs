//! Kinesis's answers.

use std::borrow::Cow;

use axum::http::StatusCode;
use serde::Serialize;

use super::{Answer, Outcome};

/// The exception for a record that is refused for good.
const INVALID: &str = "InvalidArgumentException";
/// The exception for a record that has to be sent again.
const UNAVAILABLE: &str = "ServiceUnavailable";

/// The id of a partition as a shard.
#[must_use]
pub fn shard(partition: i32) -> String {
    format!("shardId-{partition:012}")
}

/// Where a record is stored.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Stored {
    shard_id: String,
    sequence_number: String,
}

impl Stored {
    fn at(partition: i32, offset: i64) -> Self {
        Self {
            shard_id: shard(partition),
            sequence_number: offset.to_string(),
        }
    }
}

/// The body of the answer to one record.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum PutRecord<'a> {
    Stored(Stored),
    Failed {
        #[serde(rename = "__type")]
        exception: &'static str,
        message: Cow<'a, str>,
    },
}

/// The body of the answer to several records.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct PutRecords<'a> {
    failed_record_count: usize,
    records: Vec<Entry<'a>>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Entry<'a> {
    Stored(Stored),
    #[serde(rename_all = "PascalCase")]
    Failed {
        error_code: &'static str,
        error_message: Cow<'a, str>,
    },
}

/// Where a record is stored, or the exception and the message.
fn stored(outcome: &Outcome) -> Result<Stored, (&'static str, Cow<'_, str>)> {
    match outcome {
        Outcome::Accepted { partition, offset } => Ok(Stored::at(*partition, *offset)),
        Outcome::Refused(refusal) => Err((INVALID, refusal.message())),
        Outcome::Unconfirmed(reason) => Err((UNAVAILABLE, Cow::Owned(reason.to_string()))),
    }
}

impl Answer<'_> {
    /// Status and body of the answer to a request with one record.
    pub(super) fn put_record(&self) -> (StatusCode, PutRecord<'_>) {
        let status = match self.outcomes.first() {
            Some(Outcome::Refused(_)) => StatusCode::BAD_REQUEST,
            Some(Outcome::Unconfirmed(_)) | None => StatusCode::SERVICE_UNAVAILABLE,
            Some(Outcome::Accepted { .. }) => StatusCode::OK,
        };
        let body = match self.outcomes.first().map(stored) {
            Some(Ok(stored)) => PutRecord::Stored(stored),
            Some(Err((exception, message))) => PutRecord::Failed { exception, message },
            None => PutRecord::Failed {
                exception: UNAVAILABLE,
                message: Cow::Borrowed("the record has no result: send it again"),
            },
        };
        (status, body)
    }

    /// The body of the answer to a request with several records, in their order.
    pub(super) fn put_records(&self) -> PutRecords<'_> {
        let records: Vec<_> = self
            .outcomes
            .iter()
            .map(|outcome| match stored(outcome) {
                Ok(stored) => Entry::Stored(stored),
                Err((error_code, error_message)) => Entry::Failed {
                    error_code,
                    error_message,
                },
            })
            .collect();
        let failed = |entry: &&Entry<'_>| matches!(entry, Entry::Failed { .. });
        PutRecords {
            failed_record_count: records.iter().filter(failed).count(),
            records,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{answer::Refusal, envelope::NoRecord, producer::Unconfirmed};

    fn outcomes() -> Vec<Outcome> {
        vec![
            Outcome::Accepted {
                partition: 12,
                offset: 7,
            },
            Outcome::Refused(Refusal::NoRecord(NoRecord::NoData)),
            Outcome::Unconfirmed(Unconfirmed::QueueFull),
        ]
    }

    #[test]
    fn one_record_has_a_status_of_its_own() {
        let stored = json!({"ShardId": "shardId-000000000012", "SequenceNumber": "7"});
        let refused = json!({"__type": INVALID, "message": NoRecord::NoData.to_string()});
        let again = json!({"__type": UNAVAILABLE, "message": Unconfirmed::QueueFull.to_string()});
        let expected = [(200, stored), (400, refused), (503, again)];
        for (outcome, (status, body)) in outcomes().into_iter().zip(expected) {
            let answer = Answer {
                topic: "t",
                outcomes: vec![outcome],
            };
            let (found, found_body) = answer.put_record();
            assert_eq!(found.as_u16(), status);
            assert_eq!(serde_json::to_value(found_body).unwrap(), body);
        }
    }

    #[test]
    fn several_records_have_entries_in_the_order_of_the_request() {
        let answer = Answer {
            topic: "t",
            outcomes: outcomes(),
        };
        let body = serde_json::to_value(answer.put_records()).unwrap();
        let expected = json!({"FailedRecordCount": 2, "Records": [
            {"ShardId": "shardId-000000000012", "SequenceNumber": "7"},
            {"ErrorCode": INVALID, "ErrorMessage": NoRecord::NoData.to_string()},
            {"ErrorCode": UNAVAILABLE, "ErrorMessage": Unconfirmed::QueueFull.to_string()},
        ]});
        assert_eq!(body, expected);
    }
}
