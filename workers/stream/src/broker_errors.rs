//! The librdkafka logs of this worker, and its latest sentence about a failed connection.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use pinpipe_runtime::kafka::{IdentityError, is_no_answer};
use rdkafka::{
    ClientContext,
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode},
};

/// How long librdkafka's sentence explains later errors: it reports each failure once, while it
/// reconnects every few seconds.
const RECENT: Duration = Duration::from_mins(1);

/// A client context that logs what librdkafka reports and keeps the latest connection failure.
/// Clones share it.
#[derive(Clone, Debug)]
pub struct BrokerErrors {
    servers: Arc<str>,
    latest: Arc<Mutex<Option<(Instant, String)>>>,
}

impl BrokerErrors {
    /// For the cluster at the bootstrap servers `servers`.
    pub fn new(servers: &str) -> Self {
        Self {
            servers: servers.into(),
            latest: Arc::default(),
        }
    }

    /// Adds the servers and librdkafka's own sentence to an error which only says that no broker
    /// answered. Returns other errors as they are.
    pub fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        let code = error
            .downcast_ref::<KafkaError>()
            .and_then(KafkaError::rdkafka_error_code);
        let identity = error.downcast_ref::<IdentityError>();
        if !matches!(identity, Some(IdentityError::NoAnswer(_))) && !code.is_some_and(is_no_answer)
        {
            return error;
        }
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        match latest.as_ref().filter(|(at, _)| at.elapsed() < RECENT) {
            Some((_, sentence)) => {
                anyhow::anyhow!("Kafka at {} can't be reached: {sentence}", self.servers)
            }
            None => error.context(format!("Kafka at {}", self.servers)),
        }
    }
}

impl ClientContext for BrokerErrors {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                tracing::error!(facility, message, "librdkafka");
            }
            // librdkafka retries an unavailable broker for ever; the metrics show it, too.
            RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning | RDKafkaLogLevel::Notice => {
                tracing::warn!(facility, message, "librdkafka");
            }
            RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => {
                tracing::debug!(facility, message, "librdkafka");
            }
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "librdkafka");
        // "1/1 brokers are down" follows the sentence that says why.
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::AllBrokersDown) {
            *self.latest.lock().unwrap_or_else(PoisonError::into_inner) =
                Some((Instant::now(), reason.to_owned()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_answer_is_explained_by_librdkafka_s_own_sentence() {
        let sentence = "kafka:9093/bootstrap: Disconnected while requesting ApiVersion: might be \
            caused by incorrect security.protocol configuration";
        let no_answers: [fn() -> anyhow::Error; 2] = [
            || IdentityError::NoAnswer("Local: Timed out".to_owned()).into(),
            || KafkaError::MessageProduction(RDKafkaErrorCode::MessageTimedOut).into(),
        ];
        for no_answer in no_answers {
            let errors = BrokerErrors::new("kafka:9093");
            let message = format!("{:#}", errors.explain(no_answer()));
            assert!(message.starts_with("Kafka at kafka:9093: "), "{message}");
            for (code, reason) in [
                (RDKafkaErrorCode::BrokerTransportFailure, sentence),
                (RDKafkaErrorCode::AllBrokersDown, "1/1 brokers are down"),
            ] {
                errors.error(KafkaError::Global(code), reason);
            }
            assert_eq!(
                format!("{:#}", errors.explain(no_answer())),
                format!("Kafka at kafka:9093 can't be reached: {sentence}")
            );
        }
    }

    #[test]
    fn an_answer_stays_as_it_is() {
        let errors = BrokerErrors::new("kafka:9093");
        let code = RDKafkaErrorCode::TopicAuthorizationFailed;
        errors.error(KafkaError::Global(code), "an older failure");
        let error = KafkaError::MetadataFetch(code);
        let message = error.to_string();
        assert_eq!(errors.explain(error.into()).to_string(), message);
    }
}
