//! The Kafka cluster: what workers' configurations say of it, and the Secrets behind that.

use std::path::PathBuf;

use pinpipe_config::{self as config, Authentication, SECRETS_DIR, SaslMechanism};
use pinpipe_crds::{self as crds, Credentials, KafkaAuthentication, SecretKeyRef, SecretRef, Tls};

use super::mounts::{CERTIFICATE_KEYS, USER_KEYS, same_names};
use crate::model::Mount;

/// Names of the folders of the Secrets.
const CA: &str = "kafka-ca";
const CERTIFICATE: &str = "kafka-certificate";
const USER: &str = "kafka-user";

/// The cluster as workers' configurations have it.
#[must_use]
pub fn config(kafka: &crds::Kafka) -> config::Kafka {
    let folder = |purpose| PathBuf::from(SECRETS_DIR).join(purpose);
    let authentication = kafka.authentication.as_ref().and_then(user);
    config::Kafka {
        bootstrap_servers: kafka.bootstrap_servers.clone(),
        tls: kafka.tls.as_ref().map(|tls| config::Tls {
            ca_file: ca(tls).map(|_| folder(CA).join("ca.crt")),
            certificate_dir: certificate(tls).map(|_| folder(CERTIFICATE)),
        }),
        authentication: authentication.map(|(mechanism, _)| Authentication {
            mechanism,
            credentials_dir: folder(USER),
        }),
        settings: kafka.settings.clone().unwrap_or_default(),
    }
}

/// The Secrets that every pod mounts that connects to Kafka.
#[must_use]
pub fn mounts(kafka: &crds::Kafka) -> Vec<Mount> {
    let tls = kafka.tls.as_ref();
    let ca = tls.and_then(ca).map(|key| Mount {
        purpose: CA.to_owned(),
        secret: key.name.clone(),
        files: vec![(key.key.clone(), "ca.crt".to_owned())],
    });
    let certificate = tls.and_then(certificate).map(|secret| Mount {
        purpose: CERTIFICATE.to_owned(),
        secret: secret.name.clone(),
        files: same_names(CERTIFICATE_KEYS),
    });
    let user = kafka.authentication.as_ref().and_then(user);
    let user = user.map(|(_, credentials)| Mount {
        purpose: USER.to_owned(),
        secret: credentials.credentials_secret_ref.name.clone(),
        files: same_names(USER_KEYS),
    });
    [ca, certificate, user].into_iter().flatten().collect()
}

fn ca(tls: &Tls) -> Option<&SecretKeyRef> {
    tls.ca_secret_ref.as_ref()
}

fn certificate(tls: &Tls) -> Option<&SecretRef> {
    tls.client_certificate_secret_ref.as_ref()
}

/// The mechanism and its credentials. A rule of the definition makes sure that there is one.
fn user(authentication: &KafkaAuthentication) -> Option<(SaslMechanism, &Credentials)> {
    let KafkaAuthentication {
        scram_sha512,
        scram_sha256,
        plain,
    } = authentication;
    let of = |mechanism, credentials| Some((mechanism, Option::as_ref(credentials)?));
    of(SaslMechanism::ScramSha512, scram_sha512)
        .or_else(|| of(SaslMechanism::ScramSha256, scram_sha256))
        .or_else(|| of(SaslMechanism::Plain, plain))
}
