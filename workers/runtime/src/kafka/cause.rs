//! Chooses the sentence that explains an outage from librdkafka's log of failed connections. Pure.

use std::{
    fmt,
    time::{Duration, Instant},
};

/// How long a sentence explains failures. librdkafka reconnects every few seconds, and logs a
/// failure that repeats at least every 30 seconds.
const RECENT: Duration = Duration::from_mins(2);

/// The cause of an outage.
///
/// It ends up in conditions and events, so it must not change while the cause stays the same: a
/// sentence is replaced only by one that says more, or once it has not been logged for two minutes.
#[derive(Debug, Default)]
pub(super) struct Cause(Option<Sentence>);

#[derive(Debug)]
struct Sentence {
    text: String,
    detail: Detail,
    logged: Instant,
}

/// How much a sentence says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Detail {
    /// That a connection timed out or ended, which may have any cause.
    Symptom,
    /// Why it failed.
    Reason,
}

impl Cause {
    /// Takes in a message about a failed connection.
    pub(super) fn log(&mut self, now: Instant, message: &str) {
        let text = sentence(message);
        let detail = detail(&text);
        let keeps = |kept: &Sentence| {
            now.duration_since(kept.logged) < RECENT && kept.text != text && kept.detail >= detail
        };
        if !self.0.as_ref().is_some_and(keeps) {
            let logged = now;
            self.0 = Some(Sentence {
                text,
                detail,
                logged,
            });
        }
    }

    /// The sentence that explains a failure at `now`.
    pub(super) fn get(&self, now: Instant) -> Option<&str> {
        let recent = |kept: &&Sentence| now.duration_since(kept.logged) < RECENT;
        Some(self.0.as_ref().filter(recent)?.text.as_str())
    }
}

fn detail(text: &str) -> Detail {
    let is_symptom = text == "Disconnected"
        || ["Send failed", "Receive failed"]
            .iter()
            .any(|start| text.starts_with(start))
        || text.to_ascii_lowercase().contains("timed out");
    if is_symptom {
        Detail::Symptom
    } else {
        Detail::Reason
    }
}

/// The message without what differs between brokers and attempts: thread, broker, address,
/// duration, counters, and how the connection was closed. The formats are those of
/// `rd_kafka_broker_set_error` and its callers in librdkafka's `rdkafka_broker.c`.
fn sentence(message: &str) -> String {
    let mut text = message.trim();
    while let Some((first, rest)) = text.split_once(": ")
        && is_origin(first)
    {
        text = rest;
    }
    let (text, since) = text.rsplit_once(" (after ").unwrap_or((text, ""));
    if text.starts_with("Disconnected") {
        return disconnected(since).to_owned();
    }
    // The alerts of TLS 1.3 and of Java for a client without a certificate, or one of an authority
    // that the broker doesn't trust.
    let alerts = ["alert certificate required", "alert bad certificate"];
    if alerts.iter().any(|alert| text.contains(alert)) {
        return format!(
            "the broker requires a client certificate of an authority that it trusts: set \
             tls.clientCertificateSecretRef ({text})"
        );
    }
    if let Some((address, reason)) = text.split_once(" failed: ")
        && address.starts_with("Connect to ")
    {
        return format!("Connect failed: {reason}");
    }
    if text.contains(" request(s) timed out") {
        return "requests timed out".to_owned();
    }
    text.to_owned()
}

/// The sentence about a connection that the broker closed. `since` is the rest of the message, such
/// as `2ms in state APIVERSION_QUERY)`.
///
/// librdkafka means to add these explanations, but version 2.12.1 never does: it looks for the word
/// "Disconnected" in the format, which is `%s`.
fn disconnected(since: &str) -> &'static str {
    let (milliseconds, state) = since.split_once("ms in state ").unwrap_or_default();
    let is_new = milliseconds.parse().is_ok_and(|time: u64| time < 2000);
    if state.starts_with("APIVERSION_QUERY") {
        "Disconnected while requesting ApiVersion: the listener might require TLS"
    } else if state.starts_with("UP") && is_new {
        "Disconnected by the first request: the listener might require SASL"
    } else {
        "Disconnected"
    }
}

/// Whether the first part of a message names a thread or a broker, such as
/// `[thrd:sasl_ssl://kafka:9093/2]`, `kafka:9093/bootstrap` or `GroupCoordinator`.
fn is_origin(part: &str) -> bool {
    let is_name = part.contains([':', '/']) || part.ends_with("Coordinator");
    is_name && !part.contains(char::is_whitespace)
}

/// The part of [`Unreachable`] between the brokers' addresses and the cause.
const FIELD: &str = " (spec.broker.kafka.bootstrapServers)";
/// What to do, by a part of the cause. The last is for all others.
const ADVICE: [(&str, &str); 7] = [
    (
        "SASL authentication error",
        "; correct the mechanism of spec.broker.kafka.authentication, or the user name and \
         password in the Secret that its credentialsSecretRef names",
    ),
    ("the broker's certificate ", "; see spec.broker.kafka.tls"),
    (
        "Failed to resolve",
        "; correct the host name in spec.broker.kafka.bootstrapServers, or the one that the broker \
         advertises",
    ),
    (
        "connecting to a PLAINTEXT broker listener",
        "; remove spec.broker.kafka.tls, or write the port of a TLS listener",
    ),
    (
        "the listener might require TLS",
        "; set spec.broker.kafka.tls, or write the port of a listener without TLS",
    ),
    (
        "the listener might require SASL",
        "; set spec.broker.kafka.authentication, or write the port of a listener without it",
    ),
    (
        "",
        "; check that they run, that no network policy or firewall is in the way, and that \
         spec.broker.kafka.tls and authentication are those of this listener",
    ),
];

/// Kafka brokers that no connection can be made to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Unreachable {
    /// Their addresses.
    pub bootstrap_servers: String,
    /// librdkafka's sentence about a failed connection. None: it logged none.
    pub cause: Option<String>,
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let servers = &self.bootstrap_servers;
        write!(f, "no connection to the Kafka brokers at {servers}{FIELD}")?;
        let cause = self.cause.as_deref().unwrap_or_default();
        if !cause.is_empty() {
            write!(f, ": {cause}")?;
        }
        let mut known = ADVICE.iter();
        let advice = known.find(|(part, _)| cause.contains(part));
        f.write_str(advice.map_or("", |(_, advice)| advice))
    }
}

impl Unreachable {
    /// Whether a message with this error is about the outage of an earlier one: nothing differs but
    /// the cause, and the later cause says no more. An attempt may find none, or a symptom, where
    /// another found why connections fail. So a cause says more only if it is a reason and the
    /// earlier one is no reason or another one.
    #[must_use]
    pub fn is_same_outage(earlier: &str, later: &str) -> bool {
        let (Some(earlier), Some(later)) = (parts(earlier), parts(later)) else {
            return false;
        };
        let is_reason = |cause: &str| detail(cause) == Detail::Reason;
        let says_more = earlier.cause != later.cause && later.cause.is_some_and(is_reason);
        !says_more && (earlier.before, earlier.after) == (later.before, later.after)
    }
}

/// A message with an [`Unreachable`], taken apart.
struct Parts<'a> {
    /// What is before the cause: other words, and the addresses.
    before: &'a str,
    cause: Option<&'a str>,
    /// What is behind the advice.
    after: &'a str,
}

fn parts(message: &str) -> Option<Parts<'_>> {
    let (before, rest) = message.split_once(FIELD)?;
    let mut advice = ADVICE.iter();
    let (cause, after) = advice.find_map(|(_, advice)| rest.split_once(advice))?;
    Some(Parts {
        before,
        cause: cause.strip_prefix(": "),
        after,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TLS: &str = "Disconnected while requesting ApiVersion: the listener might require TLS";
    const SASL: &str = "Disconnected by the first request: the listener might require SASL";

    #[test]
    fn a_sentence_is_the_same_for_each_broker_and_attempt() {
        for (message, expected) in [
            (
                "[thrd:kafka:9093/bootstrap]: kafka:9093/bootstrap: Disconnected: connection \
                 closed by peer (after 2ms in state APIVERSION_QUERY)",
                TLS,
            ),
            (
                "10.0.0.3:9093/2: Disconnected: receive 0 after POLLIN (after 0ms in state \
                 APIVERSION_QUERY, 1 identical error(s) suppressed)",
                TLS,
            ),
            (
                "10.0.0.3:9093/2: Disconnected: connection reset by peer (after 19ms in state UP)",
                SASL,
            ),
            (
                "[::1]:9092/1: Connect to ipv6#[::1]:9092 failed: Connection refused (after 0ms in \
                 state CONNECT)",
                "Connect failed: Connection refused",
            ),
            (
                "[thrd:GroupCoordinator]: GroupCoordinator: 10.0.0.3:9092: Disconnected: \
                 connection reset by peer (after 60009ms in state UP)",
                "Disconnected",
            ),
            (
                "k:9092/1: 12 request(s) timed out: disconnect (average rtt 3.125ms) (after 65ms \
                 in state UP)",
                "requests timed out",
            ),
            (
                "k:9092/bootstrap: Failed to resolve 'k:9092': Name or service not known (after \
                 1ms in state CONNECT)",
                "Failed to resolve 'k:9092': Name or service not known",
            ),
            (
                "ssl://k:9093/bootstrap: SSL handshake failed: error:0A000086:SSL \
                 routines::certificate verify failed",
                "SSL handshake failed: error:0A000086:SSL routines::certificate verify failed",
            ),
        ] {
            assert_eq!(sentence(message), expected);
        }
    }

    #[test]
    fn each_cause_says_what_to_change() {
        for (message, says) in [
            (
                "sasl_ssl://k:9093/bootstrap: SASL authentication error: Authentication failed \
                 during authentication due to invalid credentials (after 5ms in state AUTH_REQ)",
                "the user name and password in the Secret that its credentialsSecretRef names",
            ),
            (
                "k:9092/bootstrap: Failed to resolve 'k:9092': Name or service not known (after \
                 1ms in state CONNECT)",
                "; correct the host name in spec.broker.kafka.bootstrapServers",
            ),
            (
                "ssl://k:9092/bootstrap: SSL handshake failed: Disconnected: connecting to a \
                 PLAINTEXT broker listener? (after 3ms in state SSL_HANDSHAKE)",
                "; remove spec.broker.kafka.tls, or write the port of a TLS listener",
            ),
            (
                "k:9093/bootstrap: Disconnected: connection closed by peer (after 2ms in state \
                 APIVERSION_QUERY)",
                "; set spec.broker.kafka.tls",
            ),
            (
                "k:9094/bootstrap: Disconnected: connection reset by peer (after 19ms in state UP)",
                "; set spec.broker.kafka.authentication",
            ),
        ] {
            let unreachable = Unreachable {
                bootstrap_servers: "k".to_owned(),
                cause: Some(sentence(message)),
            };
            let message = unreachable.to_string();
            assert!(message.contains(says), "{message}\ndoes not say {says}");
            assert!(Unreachable::is_same_outage(&message, &message));
        }
    }

    #[test]
    fn the_cause_stays_until_another_says_more_or_it_is_no_longer_logged() {
        let start = Instant::now();
        let mut cause = Cause::default();
        assert_eq!(cause.get(start), None);
        let slow = "Connection setup timed out in state CONNECT";
        let refused = "Connect failed: Connection refused";
        let tls = "Disconnected: connection reset by peer (after 1ms in state APIVERSION_QUERY)";
        let sasl = "Disconnected: connection reset by peer (after 1ms in state UP)";
        for (second, message, expected) in [
            (0, "Disconnected", "Disconnected"),
            (1, slow, "Disconnected"),
            (2, tls, TLS),
            (3, slow, TLS),
            (4, "Receive failed: Connection timed out", TLS),
            (5, sasl, TLS),
            (100, tls, TLS),
            (200, refused, TLS),
            (220, refused, refused),
            (340, slow, slow),
        ] {
            let now = start + Duration::from_secs(second);
            cause.log(now, &format!("k:9092/{second}: {message}"));
            assert_eq!(cause.get(now), Some(expected), "{second}");
        }
        assert_eq!(cause.get(start + Duration::from_secs(460)), None);
    }
}
