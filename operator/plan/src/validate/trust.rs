//! The Secret with the authorities that a template trusts besides the public ones.

use std::path::PathBuf;

use pinpipe_config::{SECRETS_DIR, TrustedCa};
use pinpipe_crds::Template;

use super::tls::CA_FILE;
use crate::model::Mount;

/// Name of the folder in which it is mounted.
const PURPOSE: &str = "trusted-ca";

/// The authorities as workers' configurations have them.
pub(super) fn config(template: &Template) -> Option<TrustedCa> {
    let secret = template.trusted_ca_secret_ref.as_ref()?;
    Some(TrustedCa {
        file: PathBuf::from(SECRETS_DIR).join(PURPOSE).join(CA_FILE),
        secret: format!("Secret {}, key {}", secret.name, secret.key),
    })
}

/// The Secret as pods mount it.
pub(super) fn mount(template: &Template) -> Option<Mount> {
    let secret = template.trusted_ca_secret_ref.as_ref()?;
    Some(Mount {
        purpose: PURPOSE.to_owned(),
        secret: secret.name.clone(),
        files: vec![(secret.key.clone(), CA_FILE.to_owned())],
        ..Mount::default()
    })
}
