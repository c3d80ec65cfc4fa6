//! The Secrets of TLS connections: where they are mounted, and what workers' configurations say.

use std::path::PathBuf;

use pinpipe_config::{self as config, SECRETS_DIR};
use pinpipe_crds::Tls;

use super::mounts::{CERTIFICATE_KEYS, same_names};
use crate::model::Mount;

/// Name of the file with the authorities' certificates.
pub(super) const CA_FILE: &str = "ca.crt";

fn ca_purpose(server: &str) -> String {
    format!("ca-{server}")
}

fn certificate_purpose(server: &str) -> String {
    format!("certificate-{server}")
}

/// What a worker's configuration says of the TLS connections to a server.
pub(super) fn config(tls: &Tls, server: &str) -> config::Tls {
    let folder = |purpose: String| PathBuf::from(SECRETS_DIR).join(purpose);
    let (ca, certificate) = (&tls.ca_secret_ref, &tls.client_certificate_secret_ref);
    config::Tls {
        ca_file: ca
            .as_ref()
            .map(|_| folder(ca_purpose(server)).join(CA_FILE)),
        certificate_dir: certificate
            .as_ref()
            .map(|_| folder(certificate_purpose(server))),
        trusted_ca: None,
    }
}

/// The Secrets that pods mount for the TLS connections to a server.
pub(super) fn mounts(tls: &Tls, server: &str) -> Vec<Mount> {
    let ca = tls.ca_secret_ref.as_ref().map(|key| Mount {
        purpose: ca_purpose(server),
        secret: key.name.clone(),
        files: vec![(key.key.clone(), CA_FILE.to_owned())],
        ..Mount::default()
    });
    let certificate = tls.client_certificate_secret_ref.as_ref();
    let certificate = certificate.map(|secret| Mount {
        purpose: certificate_purpose(server),
        secret: secret.name.clone(),
        files: same_names(CERTIFICATE_KEYS),
        ..Mount::default()
    });
    ca.into_iter().chain(certificate).collect()
}
