//! What librdkafka logs about connections to brokers.

use std::{
    error::Error,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use rdkafka::{
    ClientContext,
    client::{Client, OAuthToken},
    config::RDKafkaLogLevel,
    consumer::ConsumerContext,
    error::KafkaError,
};

use super::{
    Access, IdentityError, Token,
    cause::{Cause, Unreachable},
    events, is_no_answer,
    set_token::set_token,
};

/// How long a request waits for the first token.
const TOKEN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a thread that polls a client waits for a token; librdkafka asks again after ten
/// seconds.
const POLLED_TOKEN_TIMEOUT: Duration = Duration::from_secs(2);
/// librdkafka's name for log messages about failed connections.
const FAILED_CONNECTION: &str = "FAIL";
/// What OpenSSL says of every certificate that it refuses; librdkafka leaves out why.
const REFUSED_CERTIFICATE: &str = "certificate verify failed";

/// Client context that passes librdkafka's log on, keeps why brokers can't be reached, and has the
/// tokens of clients that authenticate by them. Clones share it.
///
/// Requests to brokers that can't be reached fail with no more than "timed out". Only the log has
/// the cause, such as `Connection refused`. librdkafka queues its log until the client is polled;
/// see [`Self::collect`]. It asks for tokens in the same way; see [`Self::authenticate`].
///
/// Contexts of clients that need more have one of these, and call it.
#[derive(Clone, Debug)]
pub struct BrokerErrors {
    access: Arc<Access>,
    cause: Arc<Mutex<Cause>>,
}

impl BrokerErrors {
    /// Creates the context of clients that reach the cluster this way.
    #[must_use]
    pub fn new(access: &Access) -> Self {
        Self {
            access: Arc::new(access.clone()),
            cause: Arc::default(),
        }
    }

    /// The error of brokers that no connection can be made to, with the cause if it was logged
    /// lately.
    #[must_use]
    pub fn unreachable(&self) -> Unreachable {
        Unreachable {
            bootstrap_servers: self.access.bootstrap_servers.clone(),
            cause: self.cause().get(Instant::now()).map(str::to_owned),
        }
    }

    /// Replaces an error that only says that no broker answered by [`Self::unreachable`]. Returns
    /// other errors as they are.
    #[must_use]
    pub fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        let code = error
            .downcast_ref::<KafkaError>()
            .and_then(KafkaError::rdkafka_error_code);
        let identity = error.downcast_ref::<IdentityError>();
        if matches!(identity, Some(IdentityError::NoAnswer(_))) || code.is_some_and(is_no_answer) {
            tracing::debug!(error = format!("{error:#}"), "no Kafka broker answered");
            self.unreachable().into()
        } else {
            error
        }
    }

    /// Reads the log that `client` has queued. For clients that nothing polls, such as admin
    /// clients; records that a polled consumer would receive are lost.
    pub fn collect(&self, client: &Client<Self>) {
        events::logged(client, |level, facility, message| {
            let fault = self.certificate_fault(facility, message);
            self.record(level, facility, fault.as_deref().unwrap_or(message));
        });
    }

    /// Gives `client` a token where it needs one. For clients that nothing polls, before each
    /// request: they learn of new tokens in no other way. Blocks while there is no token: call it
    /// where blocking is allowed.
    pub fn authenticate<C: ClientContext>(&self, client: &Client<C>) {
        if self.access.tokens.is_none() {
            return;
        }
        let given = self.token(TOKEN_TIMEOUT);
        if let Err(error) = given.and_then(|token| set_token(client, token)) {
            self.no_token(&error);
        }
    }

    fn token(&self, wait: Duration) -> anyhow::Result<Token> {
        let tokens = self.access.tokens.as_ref();
        tokens
            .context("clients of this cluster have no tokens")?
            .get(wait)
    }

    /// Brokers can't be reached without a token.
    fn no_token(&self, error: &anyhow::Error) {
        let message = format!("no token for SASL/OAUTHBEARER: {error:#}");
        self.record(RDKafkaLogLevel::Warning, FAILED_CONNECTION, &message);
    }

    /// Forgets the cause, after a broker has answered.
    pub fn clear(&self) {
        *self.cause() = Cause::default();
    }

    /// What is wrong with a broker's certificate, where that is why the connection failed. Connects
    /// once more to find out, which may take seconds.
    fn certificate_fault(&self, facility: &str, message: &str) -> Option<String> {
        if !is_about_certificate(facility, message) {
            return None;
        }
        let tls = self.access.tls.as_ref()?;
        let (_, broker) = message.split_once("ssl://")?;
        let (address, _) = broker.split_once('/')?;
        let fault = tls.certificate_fault(address)?;
        Some(format!("the broker's certificate {fault}"))
    }

    /// Keeps the message if it is the cause of a failed connection, and passes it on.
    fn record(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        if facility == FAILED_CONNECTION {
            self.cause().log(Instant::now(), message);
        }
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                tracing::error!(facility, sentence = message, "librdkafka");
            }
            // librdkafka retries an unavailable broker for ever; the metrics show it, too.
            RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning | RDKafkaLogLevel::Notice => {
                tracing::warn!(facility, sentence = message, "librdkafka");
            }
            RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => {
                tracing::debug!(facility, sentence = message, "librdkafka");
            }
        }
    }

    fn cause(&self) -> MutexGuard<'_, Cause> {
        self.cause.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_about_certificate(facility: &str, message: &str) -> bool {
    facility == FAILED_CONNECTION && message.contains(REFUSED_CERTIFICATE)
}

impl ClientContext for BrokerErrors {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    /// The thread that polls the client calls this, which may be one of the runtime.
    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        let token = self.token(POLLED_TOKEN_TIMEOUT);
        let token = token.inspect_err(|error| self.no_token(error))?;
        Ok(token.into())
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        if !is_about_certificate(facility, message) {
            self.record(level, facility, message);
            return;
        }
        // Whoever polls the client must not wait for another connection.
        let (errors, facility, message) = (self.clone(), facility.to_owned(), message.to_owned());
        thread::spawn(move || {
            let fault = errors.certificate_fault(&facility, &message);
            errors.record(level, &facility, fault.as_deref().unwrap_or(&message));
        });
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // librdkafka logs failed connections, too.
        tracing::debug!(%error, reason, "librdkafka");
    }
}

impl ConsumerContext for BrokerErrors {}

#[cfg(test)]
mod tests {
    use std::{
        io::{self, Read as _},
        net::{SocketAddr, TcpListener},
        time::Duration,
    };

    use rdkafka::{admin::AdminClient, error::RDKafkaErrorCode};

    use super::*;
    use crate::kafka::{Progress, topics};

    const TIMEOUT: Duration = Duration::from_secs(2);

    fn access(bootstrap_servers: &str) -> Access {
        Access {
            bootstrap_servers: bootstrap_servers.to_owned(),
            ..Access::default()
        }
    }

    #[test]
    fn no_answer_is_explained_by_librdkafka_s_own_sentence() {
        let no_answers: [fn() -> anyhow::Error; 2] = [
            || IdentityError::NoAnswer("Local: Timed out".to_owned()).into(),
            || KafkaError::MessageProduction(RDKafkaErrorCode::MessageTimedOut).into(),
        ];
        for no_answer in no_answers {
            let errors = BrokerErrors::new(&access("kafka:9093"));
            let explained = || format!("{:#}", errors.explain(no_answer()));
            let start = "no connection to the Kafka brokers at kafka:9093 \
                         (spec.broker.kafka.bootstrapServers)";
            let nothing_logged = explained();
            assert!(nothing_logged.starts_with(&format!("{start}; check ")));
            let error = "k:1/bootstrap: Connect to ipv4#10.0.0.3:1 failed: Connection refused";
            errors.clone().log(RDKafkaLogLevel::Error, "FAIL", error);
            errors.log(RDKafkaLogLevel::Warning, "GETPID", "k:1/bootstrap: other");
            let message = explained();
            let expected = format!("{start}: Connect failed: Connection refused; check ");
            assert!(message.starts_with(&expected), "{message}");
            errors.clear();
            assert_eq!(explained(), nothing_logged);
        }
    }

    /// Log lines.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_log_line_has_each_key_once() {
        let lines = Lines::default();
        let writer = lines.clone();
        let logs = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::DEBUG)
            .with_writer(move || writer.clone())
            .json()
            .flatten_event(true)
            .finish();
        let errors = BrokerErrors::new(&access("kafka:9093"));
        tracing::subscriber::with_default(logs, || {
            for level in [
                RDKafkaLogLevel::Critical,
                RDKafkaLogLevel::Error,
                RDKafkaLogLevel::Info,
            ] {
                errors.log(level, "FAIL", "librdkafka's sentence");
            }
        });
        let lines = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert_eq!(lines.lines().count(), 3, "{lines}");
        for line in lines.lines() {
            assert_eq!(line.matches("\"message\":").count(), 1, "{line}");
            assert!(line.contains("librdkafka's sentence"), "{line}");
        }
    }

    #[test]
    fn an_answer_stays_as_it_is() {
        let errors = BrokerErrors::new(&access("kafka:9093"));
        errors.log(RDKafkaLogLevel::Error, "FAIL", "an older failure");
        let error = KafkaError::MetadataFetch(RDKafkaErrorCode::TopicAuthorizationFailed);
        let message = error.to_string();
        assert_eq!(errors.explain(error.into()).to_string(), message);
    }

    /// A server that closes each connection once it has read what should be the header of a TLS
    /// record.
    fn tls_listener() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let _ = stream.unwrap().read_exact(&mut [0; 5]);
            }
        });
        address
    }

    #[test]
    fn a_tls_listener_is_recognized_by_an_admin_client() {
        let access = access(&tls_listener().to_string());
        let errors = BrokerErrors::new(&access);
        let client: AdminClient<_> = access
            .client_config("test")
            .create_with_context(errors.clone())
            .unwrap();
        let error = topics(client.inner(), &["t"], TIMEOUT).unwrap_err();
        errors.collect(client.inner());
        let message = errors.explain(error.into()).to_string();
        assert!(message.contains("might require TLS"), "{message}");
    }

    #[test]
    fn a_tls_listener_is_recognized_by_a_consumer() {
        let access = access(&tls_listener().to_string());
        let progress = Progress::new(&access, "test", "group", TIMEOUT).unwrap();
        let message = || format!("{:#}", progress.ends(&["t".to_owned()]).unwrap_err());
        let first = message();
        assert!(first.contains("might require TLS"), "{first}");
        assert_eq!(message(), first);
    }
}
