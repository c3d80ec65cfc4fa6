//! Secrets that pods mount.

use std::path::PathBuf;

use serde::Serialize;

/// Name of the folder with ingest's bearer tokens.
pub const INGEST_TOKENS: &str = "ingest-tokens";
/// Name of the folder with ingest's certificate.
pub const INGEST_CERTIFICATE: &str = "ingest-certificate";
/// Stands for any key of a Secret of which all are mounted.
pub const ANY_KEY: &str = "";

/// A Secret mounted into a component's pods.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Mount {
    /// Name of its folder below [`pinpipe_config::SECRETS_DIR`].
    pub purpose: String,
    /// Name of the Secret.
    pub secret: String,
    /// Pairs of a key and the file it is mounted as. Empty: each key is mounted as a file of its
    /// name, and there must be one.
    pub files: Vec<(String, String)>,
    /// A key that may be absent, mounted as a file of the same name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub optional: Option<&'static str>,
}

impl Mount {
    /// Keys that the Secret must have; [`ANY_KEY`] stands for any.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        let any = self.files.is_empty().then_some(ANY_KEY);
        let keys = self.files.iter().map(|(key, _)| key.as_str());
        keys.chain(any)
    }

    /// Where a file of the Secret is.
    #[must_use]
    pub fn path(&self, file: &str) -> PathBuf {
        [pinpipe_config::SECRETS_DIR, &self.purpose, file]
            .iter()
            .collect()
    }
}

/// Secrets of a component.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Secrets {
    /// Secrets its pods mount.
    pub mounts: Vec<Mount>,
    /// Missing Secrets and keys, a sentence each.
    pub missing: Vec<String>,
    /// Whether the component was deployed before. Its pods may run on, which a Secret that is
    /// missing now would keep from starting.
    pub deployed: bool,
}

impl Secrets {
    /// Whether the component has to wait for a Secret: no pod of it has ever been able to start.
    #[must_use]
    pub const fn awaited(&self) -> bool {
        !self.missing.is_empty() && !self.deployed
    }
}
