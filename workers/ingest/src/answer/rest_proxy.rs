//! The answer of the Kafka REST proxy, version 2.

use std::borrow::Cow;

use pinpipe_core::Rejection;
use serde::Serialize;

use super::{Answer, Outcome, Refusal};

/// The value can't be converted.
const CONVERSION: u16 = 42203;
/// The payload is invalid.
const PAYLOAD: u16 = 42206;
/// An error of Kafka that no repetition helps against.
const KAFKA: u16 = 50002;
/// An error that a repetition helps against.
const RETRIABLE: u16 = 50003;

/// The body. There are no schemas, so their ids are null.
#[derive(Serialize)]
pub(super) struct Produced<'a> {
    offsets: Vec<Entry<'a>>,
    key_schema_id: Option<i32>,
    value_schema_id: Option<i32>,
}

#[derive(Serialize)]
struct Entry<'a> {
    partition: Option<i32>,
    offset: Option<i64>,
    error_code: Option<u16>,
    error: Option<Cow<'a, str>>,
}

impl Answer<'_> {
    /// The body, in the order of the request.
    pub(super) fn offsets(&self) -> Produced<'_> {
        let failed = |code, error| Entry {
            partition: None,
            offset: None,
            error_code: Some(code),
            error: Some(error),
        };
        let offsets = self.outcomes.iter().map(|outcome| match outcome {
            Outcome::Accepted { partition, offset } => Entry {
                partition: Some(*partition),
                offset: Some(*offset),
                error_code: None,
                error: None,
            },
            Outcome::Refused(refusal) => failed(code(refusal), refusal.message()),
            Outcome::Unconfirmed(reason) => failed(RETRIABLE, Cow::Owned(reason.to_string())),
        });
        Produced {
            offsets: offsets.collect(),
            key_schema_id: None,
            value_schema_id: None,
        }
    }
}

const fn code(refusal: &Refusal) -> u16 {
    match refusal {
        Refusal::Record {
            rejection: Rejection::NotUtf8 | Rejection::NotJson | Rejection::NotAnObject,
            ..
        } => CONVERSION,
        Refusal::Record { .. } | Refusal::NoRecord(_) => PAYLOAD,
        Refusal::Broker(_) => KAFKA,
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::types::RDKafkaErrorCode;
    use serde_json::{Value, json};

    use super::*;
    use crate::{envelope::NoRecord, producer::Unconfirmed};

    #[test]
    fn entries_have_offsets_or_errors_in_the_order_of_the_request() {
        let rejected = |rejection| {
            let detail = None;
            Outcome::Refused(Refusal::Record { rejection, detail })
        };
        let (partition, offset) = (2, 7);
        let answer = Answer {
            topic: "t",
            outcomes: vec![
                Outcome::Accepted { partition, offset },
                rejected(Rejection::KeyMissing { field: "ind" }),
                rejected(Rejection::NotAnObject),
                Outcome::Refused(Refusal::NoRecord(NoRecord::NoValue)),
                Outcome::Refused(Refusal::Broker(RDKafkaErrorCode::MessageSizeTooLarge)),
                Outcome::Unconfirmed(Unconfirmed::Timeout),
            ],
        };
        let body = serde_json::to_value(answer.offsets()).unwrap();
        let stored = json!({"partition": 2, "offset": 7, "error_code": null, "error": null});
        assert_eq!(body["offsets"][0], stored);
        let entries = body["offsets"].as_array().unwrap();
        let codes: Vec<_> = entries.iter().map(|entry| &entry["error_code"]).collect();
        assert_eq!(
            json!(codes),
            json!([null, 42206, 42203, 42206, 50002, 50003])
        );
        assert!(entries[1..].iter().all(|entry| entry["offset"].is_null()));
        assert!(entries[1..].iter().all(|entry| entry["error"].is_string()));
        assert_eq!(body["key_schema_id"], Value::Null);
        assert_eq!(body.as_object().unwrap().len(), 3);
    }
}
