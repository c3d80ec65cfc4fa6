//! Names of the headers, and functions to read and write them.

use rdkafka::message::{Header, Headers, OwnedHeaders};

pub(super) const TOPIC: &str = "pinpipe.topic";
pub(super) const TOPIC_ID: &str = "pinpipe.topic-id";
pub(super) const CLUSTER_ID: &str = "pinpipe.cluster-id";
pub(super) const PARTITION: &str = "pinpipe.partition";
pub(super) const OFFSET: &str = "pinpipe.offset";
pub(super) const TIMESTAMP: &str = "pinpipe.timestamp";
pub(super) const SINK: &str = "pinpipe.sink";
pub(super) const KEY: &str = "pinpipe.key";
pub(super) const OUTCOME: &str = "pinpipe.outcome";
pub(super) const REASON: &str = "pinpipe.reason";
pub(super) const FIELD: &str = "pinpipe.field";
pub(super) const MESSAGE: &str = "pinpipe.message";
pub(super) const ATTEMPT: &str = "pinpipe.attempt";
pub(super) const WORKER_VERSION: &str = "pinpipe.worker-version";
pub(super) const RUN: &str = "pinpipe.run";
pub(super) const REDRIVEN: &str = "pinpipe.redriven";
pub(super) const ORDER_TIME: &str = "pinpipe.order-time";
pub(super) const ORDER_PARTITION: &str = "pinpipe.order-partition";
pub(super) const ORDER_OFFSET: &str = "pinpipe.order-offset";

/// The value of a header. If the header is repeated, the last one counts.
pub(super) fn find<'a>(headers: &'a impl Headers, name: &str) -> Option<&'a [u8]> {
    headers
        .iter()
        .filter(|header| header.key == name)
        .last()
        .map(|header| header.value.unwrap_or_default())
}

/// The value of a header as UTF-8 text.
pub(super) fn text<'a>(headers: &'a impl Headers, name: &str) -> Option<&'a str> {
    str::from_utf8(find(headers, name)?).ok()
}

/// The value of a header as a number.
pub(super) fn number<T: std::str::FromStr>(headers: &impl Headers, name: &str) -> Option<T> {
    text(headers, name)?.parse().ok()
}

/// Adds a header.
pub(super) fn put(headers: OwnedHeaders, name: &str, value: &str) -> OwnedHeaders {
    headers.insert(Header {
        key: name,
        value: Some(value),
    })
}
