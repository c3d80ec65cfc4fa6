//! The Kafka cluster: what workers' configurations say of it, and the Secrets behind that.

use std::path::PathBuf;

use pinpipe_config::{self as config, Authentication, AwsMskIam, SECRETS_DIR, SaslMechanism};
use pinpipe_crds::{self as crds, Credentials, KafkaAuthentication, PinterestPipelineSpec};

use super::{
    mounts::{USER_KEYS, same_names},
    tls, trust,
};
use crate::model::Mount;

/// Name of the server, and of the folder of the user's Secret.
const KAFKA: &str = "kafka";

/// The cluster as the operator connects to it, and the Secrets behind that. It trusts what the
/// general template trusts; AWS is asked for credentials of the operator's own, so only with the
/// public authorities.
#[must_use]
pub fn for_operator(spec: &PinterestPipelineSpec) -> (config::Kafka, Vec<Mount>) {
    let kafka = &spec.broker.kafka;
    let (mut config, mut mounts) = (config(kafka), mounts(kafka));
    let template = spec.template.as_ref();
    if let (Some(tls), Some(template)) = (&mut config.tls, template)
        && tls.ca_file.is_none()
    {
        tls.trusted_ca = trust::config(template);
        mounts.extend(trust::mount(template));
    }
    (config, mounts)
}

/// The cluster as workers' configurations have it, without what their templates trust.
pub(super) fn config(kafka: &crds::Kafka) -> config::Kafka {
    let authentication = kafka.authentication.as_ref().and_then(user);
    let iam = kafka.authentication.as_ref();
    let iam = iam.and_then(|authentication| authentication.aws_msk_iam.as_ref());
    config::Kafka {
        bootstrap_servers: kafka.bootstrap_servers.clone(),
        tls: kafka.tls.as_ref().map(|tls| tls::config(tls, KAFKA)),
        authentication: authentication.map(|(mechanism, _)| Authentication {
            mechanism,
            credentials_dir: PathBuf::from(SECRETS_DIR).join(KAFKA),
        }),
        aws_msk_iam: iam.map(|iam| AwsMskIam {
            region: iam.region.clone(),
            trusted_ca: None,
        }),
        settings: kafka.settings.clone().unwrap_or_default(),
    }
}

/// The Secrets that every pod mounts that connects to Kafka.
pub(super) fn mounts(kafka: &crds::Kafka) -> Vec<Mount> {
    let tls = kafka.tls.as_ref().map(|tls| tls::mounts(tls, KAFKA));
    let user = kafka.authentication.as_ref().and_then(user);
    let user = user.map(|(_, credentials)| Mount {
        purpose: KAFKA.to_owned(),
        secret: credentials.credentials_secret_ref.name.clone(),
        files: same_names(USER_KEYS),
        ..Mount::default()
    });
    tls.into_iter().flatten().chain(user).collect()
}

/// The mechanism that has a password, and its credentials. A rule of the definition makes sure that
/// there is at most one.
fn user(authentication: &KafkaAuthentication) -> Option<(SaslMechanism, &Credentials)> {
    let KafkaAuthentication {
        scram_sha512,
        scram_sha256,
        plain,
        aws_msk_iam: _,
    } = authentication;
    let of = |mechanism, credentials| Some((mechanism, Option::as_ref(credentials)?));
    of(SaslMechanism::ScramSha512, scram_sha512)
        .or_else(|| of(SaslMechanism::ScramSha256, scram_sha256))
        .or_else(|| of(SaslMechanism::Plain, plain))
}
