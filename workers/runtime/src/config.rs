//! Reads a worker's configuration and its mounted Secrets.

use std::{fs, io, path::Path};

use anyhow::{Context, Result, anyhow, ensure};
pub use pinpipe_config::{Kafka, S3, WorkerConfig};

/// Reads a worker's configuration. Errors name the file, the field and what to do.
pub fn load<T: WorkerConfig>(path: &Path) -> Result<T> {
    let yaml = fs::read_to_string(path).with_context(|| {
        format!(
            "{} can't be read: mount the worker's ConfigMap there, or set another file with \
             --config",
            path.display()
        )
    })?;
    pinpipe_config::parse(&yaml).with_context(|| path.display().to_string())
}

/// Reads one key of a mounted Secret and trims trailing white space, which editors often add.
/// Errors never have its content. They name the Secret and key by `name`, such as `Secret
/// warehouse, key url`; without it, the file.
pub fn secret_file(path: &Path, name: Option<&str>) -> Result<String> {
    let name = || {
        name.map_or_else(
            || format!("the secret file {}", path.display()),
            str::to_owned,
        )
    };
    let mut secret = fs::read_to_string(path).map_err(|error| {
        let what = match error.kind() {
            io::ErrorKind::InvalidData => "is not text; certificates and keys must be PEM, not DER",
            _ => "can't be read: check that the Secret has this key",
        };
        anyhow!(error).context(format!("{} {what}", name()))
    })?;
    secret.truncate(secret.trim_end().len());
    ensure!(
        !secret.is_empty(),
        "{} is empty: set the Secret's key to a value",
        name()
    );
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use pinpipe_config::Emulator;

    use super::*;

    /// Creates a temporary file for one test.
    fn file(name: &str, content: &str) -> PathBuf {
        let path =
            std::env::temp_dir().join(format!("pinpipe-runtime-{}-{name}", std::process::id()));
        fs::write(&path, content).unwrap();
        path
    }

    #[test]
    fn an_error_names_the_file_and_the_field() {
        let head = "configVersion: 1\npipeline: {namespace: n, name: p, uid: u}\n\
                    target: http://x\nseed: 7\n";
        for (name, content, says) in [
            ("missing-field.yaml", head.to_owned(), "recordsPerSecond"),
            (
                "wrong-type.yaml",
                format!("{head}recordsPerSecond: many\n"),
                "recordsPerSecond",
            ),
            (
                "nested.yaml",
                head.replace("uid: u", "uuid: u"),
                "pipeline: unknown field `uuid`",
            ),
        ] {
            let path = file(name, &content);
            let message = format!("{:#}", load::<Emulator>(&path).unwrap_err());
            assert!(
                message.contains(name) && message.contains(says),
                "{message}"
            );
            fs::remove_file(path).unwrap();
        }
        let message = format!(
            "{:#}",
            load::<Emulator>(Path::new("/nowhere/config.yaml")).unwrap_err()
        );
        assert!(
            message.contains("/nowhere/config.yaml") && message.contains("--config"),
            "{message}"
        );
    }

    #[test]
    fn trailing_white_space_of_a_secret_is_trimmed() {
        let path = file("secret", " pass word \r\n");
        assert_eq!(secret_file(&path, None).unwrap(), " pass word");
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_missing_or_empty_secret_is_named_by_secret_and_key_if_they_are_known() {
        let path = file("empty-secret", "\n");
        let message = |name| secret_file(&path, name).unwrap_err().to_string();
        let empty = [message(Some("Secret s, key k")), message(None)];
        fs::remove_file(&path).unwrap();
        let missing = [message(Some("Secret s, key k")), message(None)];
        let file = format!("the secret file {} ", path.display());
        for ([known, unknown], problem) in [(empty, "is empty: "), (missing, "can't be read: ")] {
            let start = format!("Secret s, key k {problem}");
            assert!(known.starts_with(&start), "{known}");
            assert!(!known.contains(path.to_str().unwrap()), "{known}");
            assert!(unknown.starts_with(&(file.clone() + problem)), "{unknown}");
        }
    }
}
