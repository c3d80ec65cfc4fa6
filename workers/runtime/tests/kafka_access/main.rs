//! TLS and SASL of Kafka clients, on a broker whose listeners require them.
#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]

mod tokens;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
    time::Duration,
};

use anyhow::Context as _;
use pinpipe_config::SaslMechanism;
use pinpipe_runtime::{
    kafka::{Access, BrokerErrors, User, topics},
    tls::Tls,
};
use pinpipe_servers::{
    certificates::{Authority, Files},
    kafka::{self, Kafka, Listener, Secured},
    listens,
    process::{Process, lib, program},
    stores::{folder, keep, port},
};
use rdkafka::admin::AdminClient;

const NAME: &str = "pins";
const PASSWORD: &str = "not-for-messages";
const TIMEOUT: Duration = Duration::from_secs(4);

/// Ports and certificates of the broker.
#[derive(Clone)]
struct Broker {
    plain: u16,
    sasl: u16,
    expired: u16,
    other_name: u16,
    client_certificate: u16,
    ca: String,
    client: Files,
}

fn broker() -> &'static Broker {
    static BROKER: OnceLock<Broker> = OnceLock::new();
    BROKER.get_or_init(|| keep(start))
}

fn start() -> anyhow::Result<(Process, Broker)> {
    let authority = Authority::new(folder().join("authority"))?;
    let issue = |name, days, at| authority.issue(name, days, &folder().join(at));
    let ca = authority.certificate();
    let broker = Broker {
        plain: port(),
        sasl: port(),
        expired: port(),
        other_name: port(),
        client_certificate: port(),
        ca: fs::read_to_string(&ca)?,
        client: issue("client", 10, "client")?,
    };
    let good = issue("127.0.0.1", 10, "good")?;
    let expired = issue("127.0.0.1", -1, "expired")?;
    let other = issue("kafka.example", 10, "other")?;
    let keystore = |files: &Files| {
        let file = files.both.display();
        vec![
            "ssl.keystore.type=PEM".to_owned(),
            format!("ssl.keystore.location={file}"),
        ]
    };
    let with = |mut settings: Vec<String>, more: &[&str]| {
        settings.extend(more.iter().map(|setting| (*setting).to_owned()));
        settings
    };
    let module = "org.apache.kafka.common.security";
    let scram = |mechanism| {
        format!("{mechanism}.sasl.jaas.config={module}.scram.ScramLoginModule required;")
    };
    let plain = format!(
        "plain.sasl.jaas.config={module}.plain.PlainLoginModule required \
         user_{NAME}=\"{PASSWORD}\";"
    );
    let secured = |name, protocol, port, settings| Secured {
        host: "127.0.0.1",
        name,
        protocol,
        port,
        settings,
    };
    // What MSK does with tokens is AWS's own; this validates JSON Web Tokens without signatures.
    let tokens = format!(
        "oauthbearer.sasl.jaas.config={module}.oauthbearer.OAuthBearerLoginModule required \
         unsecuredLoginStringClaim_sub=\"broker\";"
    );
    let sasl = [
        "sasl.enabled.mechanisms=SCRAM-SHA-512,SCRAM-SHA-256,PLAIN,OAUTHBEARER",
        // A connection ends with its token.
        "oauthbearer.connections.max.reauth.ms=3600000",
        &tokens,
        &scram("scram-sha-512"),
        &scram("scram-sha-256"),
        &plain,
    ];
    let truststore = format!("ssl.truststore.location={}", ca.display());
    let client_auth = [
        "ssl.client.auth=required",
        "ssl.truststore.type=PEM",
        &truststore,
    ];
    let own = with(keystore(&good), &client_auth);
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let server = Kafka {
        lib: lib("kafka")?,
        log4j: kafka::log4j(&checkout),
        folder: folder().to_path_buf(),
        controller: port(),
        listeners: vec![Listener {
            port: broker.plain,
            advertised: broker.plain,
        }],
        secured: vec![
            secured(
                "SASL",
                "SASL_SSL",
                broker.sasl,
                with(keystore(&good), &sasl),
            ),
            secured("EXPIRED", "SSL", broker.expired, keystore(&expired)),
            secured("OTHER", "SSL", broker.other_name, keystore(&other)),
            secured("OWN", "SSL", broker.client_certificate, own),
        ],
        users: vec![(NAME, PASSWORD)],
        heap: "256m",
        settings: Vec::new(),
    };
    let log: PathBuf = folder().join("kafka.log");
    let mut process = Process::start(&mut server.prepare(&program)?, log)?;
    let last = broker.client_certificate;
    process.wait_until(|| listens(last)).context("Kafka")?;
    Ok((process, broker))
}

fn access(port: u16, tls: Option<Tls>, user: Option<User>) -> Access {
    Access {
        bootstrap_servers: format!("127.0.0.1:{port}"),
        tls,
        user,
        ..Access::default()
    }
}

fn trusting() -> Tls {
    Tls {
        ca: Some(broker().ca.clone()),
        ..Tls::default()
    }
}

fn user(mechanism: SaslMechanism, password: &str) -> User {
    User {
        mechanism,
        name: NAME.to_owned(),
        password: password.to_owned(),
    }
}

/// Describes a topic; the error as a condition or a log line has it.
fn connect(access: &Access) -> Result<(), String> {
    let errors = BrokerErrors::new(access);
    let client: AdminClient<_> = access
        .client_config("test")
        .create_with_context(errors.clone())
        .map_err(|error| error.to_string())?;
    errors.authenticate(client.inner());
    let described = topics(client.inner(), &["t"], TIMEOUT);
    errors.collect(client.inner());
    described
        .map(drop)
        .map_err(|error| errors.explain(error.into()).to_string())
}

#[test]
fn each_mechanism_and_a_client_certificate_are_accepted() {
    let broker = broker();
    for mechanism in [
        SaslMechanism::ScramSha512,
        SaslMechanism::ScramSha256,
        SaslMechanism::Plain,
    ] {
        let access = access(
            broker.sasl,
            Some(trusting()),
            Some(user(mechanism, PASSWORD)),
        );
        assert_eq!(connect(&access), Ok(()), "{mechanism:?}");
    }
    let read = |path| fs::read_to_string(path).unwrap();
    let tls = Tls {
        certificate: Some((read(&broker.client.certificate), read(&broker.client.key))),
        ..trusting()
    };
    let access = access(broker.client_certificate, Some(tls), None);
    assert_eq!(connect(&access), Ok(()));
}

#[test]
fn a_company_s_authority_is_trusted_besides_the_public_ones() {
    let scram = || Some(user(SaslMechanism::ScramSha512, PASSWORD));
    let company = Tls {
        trusted: Some(broker().ca.clone()),
        ..Tls::default()
    };
    let trusting = access(broker().sasl, Some(company), scram());
    assert_eq!(connect(&trusting), Ok(()));
    let public = access(broker().sasl, Some(Tls::default()), scram());
    let message = connect(&public).unwrap_err();
    assert!(message.contains("is of an unknown authority"), "{message}");
}

#[test]
fn each_cause_has_a_sentence_of_its_own() {
    let broker = broker();
    let stranger = Authority::new(folder().join("stranger")).unwrap();
    let stranger = Tls {
        ca: Some(fs::read_to_string(stranger.certificate()).unwrap()),
        ..Tls::default()
    };
    let scram = |password| Some(user(SaslMechanism::ScramSha512, password));
    for (access, says) in [
        (
            access(broker.sasl, Some(trusting()), scram("wrong")),
            "SASL authentication error: Authentication failed during authentication due to \
             invalid credentials with SASL mechanism SCRAM-SHA-512",
        ),
        (
            access(broker.sasl, Some(stranger), scram(PASSWORD)),
            "the broker's certificate is of an unknown authority: unable to get local issuer \
             certificate; set caSecretRef",
        ),
        (
            access(broker.expired, Some(trusting()), None),
            "the broker's certificate can't be accepted: certificate has expired; renew it",
        ),
        (
            access(broker.other_name, Some(trusting()), None),
            "the broker's certificate is not for the host name that is connected to: IP address \
             mismatch",
        ),
        (
            access(broker.expired, None, None),
            "the listener might require TLS",
        ),
        (
            access(broker.plain, Some(trusting()), None),
            "connecting to a PLAINTEXT broker listener?",
        ),
        (
            access(broker.sasl, Some(trusting()), None),
            "the listener might require SASL",
        ),
        (
            access(broker.client_certificate, Some(trusting()), None),
            "the broker requires a client certificate of an authority that it trusts",
        ),
    ] {
        let message = connect(&access).unwrap_err();
        assert!(message.contains(says), "{message}\ndoes not say {says}");
        assert!(!message.contains(PASSWORD), "{message}");
    }
}

#[test]
fn secrets_are_not_shown() {
    let access = access(
        1,
        Some(trusting()),
        Some(user(SaslMechanism::Plain, PASSWORD)),
    );
    let shown = format!("{access:?}");
    assert!(
        !shown.contains(PASSWORD) && !shown.contains("BEGIN"),
        "{shown}"
    );
}
