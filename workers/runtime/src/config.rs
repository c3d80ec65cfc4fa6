//! Reads a worker's configuration and its mounted Secrets.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
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
/// Errors name the file, never its content.
pub fn secret_file(path: &Path) -> Result<String> {
    let mut secret = fs::read_to_string(path).with_context(|| {
        format!(
            "the secret file {} can't be read: does the Secret have this key?",
            path.display()
        )
    })?;
    secret.truncate(secret.trim_end().len());
    ensure!(
        !secret.is_empty(),
        "the secret file {} is empty: set the Secret's key to a value",
        path.display()
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
        assert_eq!(secret_file(&path).unwrap(), " pass word");
        fs::write(&path, "\n").unwrap();
        assert!(
            secret_file(&path)
                .unwrap_err()
                .to_string()
                .contains("is empty")
        );
        fs::remove_file(path).unwrap();
    }
}
