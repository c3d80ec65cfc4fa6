//! Secrets that pods mount.

use std::path::PathBuf;

use serde::Serialize;

/// A Secret mounted into a component's pods.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Mount {
    /// Name of its folder below [`pinpipe_config::SECRETS_DIR`].
    pub purpose: String,
    /// Name of the Secret.
    pub secret: String,
    /// Pairs of a key and the file it is mounted as.
    pub files: Vec<(String, String)>,
    /// A key that may be absent, mounted as a file of the same name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub optional: Option<&'static str>,
}

impl Mount {
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
