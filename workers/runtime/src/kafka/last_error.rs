//! Remembers why brokers can't be reached.

use std::sync::{Arc, Mutex, PoisonError};

use rdkafka::{
    ClientContext,
    client::DefaultClientContext,
    consumer::ConsumerContext,
    error::{KafkaError, RDKafkaErrorCode},
};

/// Client context that keeps librdkafka's last error message. Clones share it.
///
/// Requests to brokers that can't be reached fail with no more than "timed out". Only this message
/// has the cause, such as `Connection refused` or `might be caused by incorrect security.protocol
/// configuration`. librdkafka reports it while the client is polled.
#[derive(Clone, Debug, Default)]
pub struct LastError(Arc<Mutex<Option<String>>>);

impl LastError {
    /// The last error message since the client was created.
    #[must_use]
    pub fn get(&self) -> Option<String> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl ClientContext for LastError {
    fn error(&self, error: KafkaError, reason: &str) {
        // "1/1 brokers are down" follows each cause and must not replace it.
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::AllBrokersDown) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason.to_owned());
        }
        DefaultClientContext.error(error, reason);
    }
}

impl ConsumerContext for LastError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_is_kept_when_all_brokers_are_down() {
        let last = LastError::default();
        assert_eq!(last.get(), None);
        for (code, reason) in [
            (RDKafkaErrorCode::BrokerTransportFailure, "refused"),
            (RDKafkaErrorCode::AllBrokersDown, "1/1 brokers are down"),
        ] {
            last.clone().error(KafkaError::Global(code), reason);
        }
        assert_eq!(last.get().as_deref(), Some("refused"));
    }
}
