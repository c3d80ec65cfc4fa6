//! Settings of Kafka clients that users may choose.
//!
//! None of them affects which records are delivered, in which order, or how clients authenticate.
//! Names and meaning are librdkafka's. Bounds are librdkafka's or narrower, so that no client can
//! refuse a value, whatever else is set, and none takes up a worker's memory.

use std::collections::BTreeMap;

/// Which clients have a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientRole {
    /// All of them.
    Any,
    /// Consumers: of stream workers, the archive and re-drives.
    Consumer,
    /// Producers: of ingest, of dead letters and of re-drives.
    Producer,
}

/// Values of a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Values {
    /// An integer from the first to the second, both included.
    Integer(i64, i64),
    /// One of these.
    OneOf(&'static [&'static str]),
    /// Letters, digits, `.`, `_` and `-`.
    Name,
}

/// A setting that users may choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KafkaSetting {
    /// The name.
    pub name: &'static str,
    /// The clients that have it.
    pub role: ClientRole,
    /// Its values.
    pub values: Values,
}

const BOOLEAN: Values = Values::OneOf(&["true", "false"]);

/// All settings that users may choose, sorted by name.
pub const KAFKA_SETTINGS: [KafkaSetting; 26] = {
    use ClientRole::{Any, Consumer, Producer};
    use Values::{Integer, Name, OneOf};
    [
        setting("batch.num.messages", Producer, Integer(1, 1_000_000)),
        setting("batch.size", Producer, Integer(1024, 16_777_216)),
        setting("broker.address.family", Any, OneOf(&["any", "v4", "v6"])),
        setting("broker.address.ttl", Any, Integer(0, 86_400_000)),
        setting(
            "client.dns.lookup",
            Any,
            OneOf(&[
                "use_all_dns_ips",
                "resolve_canonical_bootstrap_servers_only",
            ]),
        ),
        setting("client.rack", Any, Name),
        setting("compression.level", Producer, Integer(-1, 12)),
        setting(
            "compression.type",
            Producer,
            OneOf(&["none", "gzip", "snappy", "lz4", "zstd"]),
        ),
        setting("connections.max.idle.ms", Any, Integer(0, 2_147_483_647)),
        setting("fetch.error.backoff.ms", Consumer, Integer(0, 300_000)),
        // Not below message.max.bytes of a consumer.
        setting("fetch.max.bytes", Consumer, Integer(1_000_000, 52_428_800)),
        setting(
            "fetch.message.max.bytes",
            Consumer,
            Integer(1024, 16_777_216),
        ),
        setting("fetch.min.bytes", Consumer, Integer(1, 52_428_800)),
        // A second below socket.timeout.ms, which in turn is within a transaction's.
        setting("fetch.wait.max.ms", Consumer, Integer(0, 5000)),
        setting("linger.ms", Producer, Integer(0, 1000)),
        setting("metadata.max.age.ms", Any, Integer(1000, 86_400_000)),
        setting("reconnect.backoff.max.ms", Any, Integer(1000, 60_000)),
        setting("reconnect.backoff.ms", Any, Integer(0, 1000)),
        setting("retry.backoff.max.ms", Any, Integer(1000, 60_000)),
        setting("retry.backoff.ms", Any, Integer(1, 1000)),
        setting("socket.keepalive.enable", Any, BOOLEAN),
        setting("socket.max.fails", Any, Integer(0, 1_000_000)),
        setting("socket.nagle.disable", Any, BOOLEAN),
        setting("socket.receive.buffer.bytes", Any, Integer(0, 100_000_000)),
        setting("socket.send.buffer.bytes", Any, Integer(0, 100_000_000)),
        setting("socket.timeout.ms", Any, Integer(6000, 60_000)),
    ]
};

const fn setting(name: &'static str, role: ClientRole, values: Values) -> KafkaSetting {
    KafkaSetting { name, role, values }
}

/// What is wrong with a setting, and what may be set. `None` if users may set it to the value.
#[must_use]
pub fn kafka_setting_problem(name: &str, value: &str) -> Option<String> {
    let Some(setting) = find(name) else {
        let names: Vec<_> = KAFKA_SETTINGS.iter().map(|setting| setting.name).collect();
        return Some(format!(
            "{name} can't be set: these settings can be: {}",
            names.join(", ")
        ));
    };
    match setting.values {
        Values::Integer(least, most) => {
            let is_within = value
                .parse::<i64>()
                .is_ok_and(|number| (least..=most).contains(&number));
            let problem =
                || format!("{name} must be an integer from {least} to {most}, not `{value}`");
            (!is_within).then(problem)
        }
        Values::OneOf(values) => {
            let problem = || format!("{name} must be one of {}, not `{value}`", values.join(", "));
            (!values.contains(&value)).then(problem)
        }
        Values::Name => {
            let is_name = !value.is_empty()
                && value
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
            let problem = || {
                format!("{name} must consist of letters, digits, '.', '_' and '-', not `{value}`")
            };
            (!is_name).then(problem)
        }
    }
}

/// The settings that clients of a role have.
pub fn of_role(
    settings: &BTreeMap<String, String>,
    role: ClientRole,
) -> impl Iterator<Item = (&str, &str)> {
    let has = move |name: &str| {
        find(name).is_some_and(|setting| setting.role == role || setting.role == ClientRole::Any)
    };
    settings
        .iter()
        .filter(move |(name, _)| has(name))
        .map(|(name, value)| (name.as_str(), value.as_str()))
}

fn find(name: &str) -> Option<&'static KafkaSetting> {
    KAFKA_SETTINGS.iter().find(|setting| setting.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_not_be_set_is_named_with_what_may_be() {
        for (name, value, expected) in [
            ("linger.ms", "20", None),
            ("compression.type", "zstd", None),
            ("client.rack", "eu-west-1a", None),
            ("socket.nagle.disable", "false", None),
            (
                "acks",
                "1",
                Some("acks can't be set: these settings can be: batch.num.messages, "),
            ),
            (
                "enable.idempotence",
                "false",
                Some("enable.idempotence can't be set"),
            ),
            ("sasl.password", "x", Some("sasl.password can't be set")),
            (
                "linger.ms",
                "1001",
                Some("linger.ms must be an integer from 0 to 1000, not `1001`"),
            ),
            ("linger.ms", "soon", Some("linger.ms must be an integer")),
            (
                "compression.type",
                "brotli",
                Some("compression.type must be one of none, gzip, snappy, lz4, zstd, not `brotli`"),
            ),
            ("client.rack", "", Some("client.rack must consist of")),
        ] {
            let found = kafka_setting_problem(name, value);
            match expected {
                None => assert_eq!(found, None),
                Some(begin) => assert!(found.unwrap().starts_with(begin), "{name}={value}"),
            }
        }
    }

    #[test]
    fn each_client_gets_the_settings_that_it_has() {
        let settings = ["linger.ms", "fetch.min.bytes", "client.rack", "unknown"];
        let settings = settings
            .map(|name| (name.to_owned(), "1".to_owned()))
            .into();
        for (role, expected) in [
            (ClientRole::Any, &["client.rack"][..]),
            (ClientRole::Producer, &["client.rack", "linger.ms"]),
            (ClientRole::Consumer, &["client.rack", "fetch.min.bytes"]),
        ] {
            let found: Vec<_> = of_role(&settings, role).map(|(name, _)| name).collect();
            assert_eq!(found, expected, "{role:?}");
        }
        assert!(KAFKA_SETTINGS.is_sorted_by_key(|setting| setting.name));
    }
}
