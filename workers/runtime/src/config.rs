//! Reading a worker's configuration and the files its Secrets are mounted at.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
pub use pinpipe_config::{Kafka, S3, WorkerConfig};

/// Reads a worker's configuration. Errors name the file, the field and what to do.
pub fn load<T: WorkerConfig>(path: &Path) -> Result<T> {
    let yaml = fs::read_to_string(path).with_context(|| {
        format!(
            "{} can't be read: mount the worker's ConfigMap there, or name another file with --config",
            path.display()
        )
    })?;
    pinpipe_config::parse(&yaml).with_context(|| path.display().to_string())
}

/// Reads one key of a mounted Secret, without the white space that editors leave at its end. Errors name the file, never the content.
pub fn secret_file(path: &Path) -> Result<String> {
    let mut secret = fs::read_to_string(path)
        .with_context(|| format!("the secret file {} can't be read: does the Secret have this key?", path.display()))?;
    secret.truncate(secret.trim_end().len());
    ensure!(!secret.is_empty(), "the secret file {} is empty: set the Secret's key to a value", path.display());
    Ok(secret)
}
