//! The Secrets of an object store.

use std::path::PathBuf;

use pinpipe_config as config;
use pinpipe_crds::{S3, Tls};

use super::{
    mounts::{S3_KEYS, S3_SESSION_TOKEN, same_names},
    tls,
};
use crate::model::Mount;

/// Name of the server, and of the folder of the credentials.
const NAME: &str = "s3";

fn certificates(s3: &S3) -> Tls {
    Tls {
        ca_secret_ref: s3.ca_secret_ref.clone(),
        client_certificate_secret_ref: None,
    }
}

/// The object store as workers' configurations have it.
pub(super) fn config(s3: &S3) -> config::S3 {
    let endpoint = s3.endpoint.as_deref();
    let region = s3.region.clone();
    let credentials = s3.credentials_secret_ref.as_ref();
    let encryption = s3.server_side_encryption.as_ref();
    config::S3 {
        endpoint: endpoint.map(|url| url.trim_end_matches('/').to_owned()),
        region: region.unwrap_or_else(|| "us-east-1".to_owned()),
        credentials_dir: credentials.map(|_| PathBuf::from(config::SECRETS_DIR).join(NAME)),
        ca_file: tls::config(&certificates(s3), NAME).ca_file,
        trusted_ca: None,
        kms_key_id: encryption.map(|encryption| encryption.kms_key_id.clone()),
    }
}

/// The Secrets that pods mount for the object store.
pub(super) fn mounts(s3: &S3) -> Vec<Mount> {
    let credentials = s3.credentials_secret_ref.as_ref().map(|secret| Mount {
        purpose: NAME.to_owned(),
        secret: secret.name.clone(),
        files: same_names(S3_KEYS),
        optional: Some(S3_SESSION_TOKEN),
    });
    let certificates = tls::mounts(&certificates(s3), NAME);
    credentials.into_iter().chain(certificates).collect()
}
