//! Renewed Secrets: mounted files whose content changes while the worker runs.
//!
//! The kubelet replaces a volume's files all at once, by a symbolic link. Reading them every few
//! seconds notices that on every file system, and costs nothing.

use std::{
    collections::BTreeMap,
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Result;
use pinpipe_config::{Kafka, S3, Tls, TrustedCa};

use crate::admin::{Readiness, SECRET_UNUSABLE};

/// The interval at which the files are read.
const INTERVAL: Duration = Duration::from_secs(3);

/// The files of one field of the resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    /// The field that names the Secret, for messages.
    pub field: String,
    /// The files, which need not exist; a folder stands for the files in it.
    pub files: Vec<PathBuf>,
}

impl Mounted {
    /// The files of a Kafka cluster's connection.
    #[must_use]
    pub fn kafka(kafka: &Kafka) -> Vec<Self> {
        let authentication = kafka.authentication.iter().map(|authentication| Self {
            field: "spec.broker.kafka.authentication".to_owned(),
            files: in_folder(&authentication.credentials_dir, ["username", "password"]),
        });
        let tls = kafka.tls.iter();
        let tls = tls.flat_map(|tls| Self::tls("spec.broker.kafka.tls".to_owned(), tls));
        authentication.chain(tls).collect()
    }

    /// The files of an object store's connection, which the section `field` describes.
    #[must_use]
    pub fn s3(field: &str, s3: &S3) -> Vec<Self> {
        let credentials = s3.credentials_dir.iter().map(|folder| Self {
            field: format!("{field}.credentialsSecretRef"),
            files: in_folder(folder, ["accessKeyId", "secretAccessKey", "sessionToken"]),
        });
        let ca = s3.ca_file.iter().map(|file| Self {
            field: format!("{field}.caSecretRef"),
            files: vec![file.clone()],
        });
        let trusted = s3.trusted_ca.as_ref().map(Self::trusted_ca);
        credentials.chain(ca).chain(trusted).collect()
    }

    /// The certificates of a connection.
    #[must_use]
    pub fn tls(field: String, tls: &Tls) -> Vec<Self> {
        let mut files: Vec<PathBuf> = tls.ca_file.iter().cloned().collect();
        let own = tls.certificate_dir.iter();
        files.extend(own.flat_map(|folder| in_folder(folder, ["tls.crt", "tls.key"])));
        let trusted = tls.trusted_ca.as_ref().map(Self::trusted_ca);
        [Self { field, files }].into_iter().chain(trusted).collect()
    }

    fn trusted_ca(trusted: &TrustedCa) -> Self {
        Self {
            field: "template.trustedCASecretRef".to_owned(),
            files: vec![trusted.file.clone()],
        }
    }

    /// A hash of what the files contain now.
    fn hash(&self) -> u64 {
        let mut hash = DefaultHasher::new();
        for path in &self.files {
            for file in contained(path) {
                file.hash(&mut hash);
                fs::read(file).ok().hash(&mut hash);
            }
        }
        hash.finish()
    }
}

/// The files in a folder without the kubelet's own links, or the file itself.
fn contained(path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(path) else {
        return vec![path.to_owned()];
    };
    let names = entries.filter_map(|entry| Some(entry.ok()?.file_name()));
    let names = names.filter(|name| !name.to_string_lossy().starts_with(".."));
    let mut files: Vec<_> = names.map(|name| path.join(name)).collect();
    files.sort_unstable();
    files
}

fn in_folder<const N: usize>(folder: &Path, names: [&str; N]) -> Vec<PathBuf> {
    names.map(|name| folder.join(name)).into()
}

/// Watches the files of a worker's clients, which `C` names.
#[derive(Debug)]
pub struct Watcher<C> {
    mounted: Vec<(C, Mounted, u64)>,
    readiness: Readiness,
    /// Messages of clients whose renewed files can't be used.
    unusable: BTreeMap<C, String>,
}

/// A client whose files have changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change<C> {
    /// The client.
    pub client: C,
    /// The fields whose files have changed.
    pub fields: Vec<String>,
}

impl<C: Copy + Ord> Watcher<C> {
    /// Watches files that the worker is about to read. What can't be used is reported to
    /// `readiness`.
    #[must_use]
    pub fn new(mounted: impl IntoIterator<Item = (C, Mounted)>, readiness: Readiness) -> Self {
        let mounted = mounted.into_iter().map(|(client, mounted)| {
            let hash = mounted.hash();
            (client, mounted, hash)
        });
        Self {
            mounted: mounted.collect(),
            readiness,
            unusable: BTreeMap::new(),
        }
    }

    /// Reads what the worker can't start without. What can't be used is read again when files have
    /// changed, and the worker is not ready until then.
    pub async fn first<T>(&mut self, read: impl Fn() -> Result<T>) -> T {
        loop {
            match read() {
                Ok(read) => return read,
                Err(error) => {
                    let message = format!("{error:#}");
                    tracing::error!(error = message, "the worker waits for a Secret it can use");
                    self.readiness
                        .set(Err(format!("{SECRET_UNUSABLE}: {message}")));
                }
            }
            self.changed().await;
        }
    }

    /// Waits until files have changed. Pass each change to [`Self::report`].
    pub async fn changed(&mut self) -> Vec<Change<C>> {
        loop {
            tokio::time::sleep(INTERVAL).await;
            let changes = self.changes();
            if !changes.is_empty() {
                return changes;
            }
        }
    }

    fn changes(&mut self) -> Vec<Change<C>> {
        let mut changes: BTreeMap<C, Vec<String>> = BTreeMap::new();
        for (client, mounted, known) in &mut self.mounted {
            let found = mounted.hash();
            if found != *known {
                *known = found;
                let fields = changes.entry(*client).or_default();
                fields.push(mounted.field.clone());
            }
        }
        let changes = changes.into_iter();
        changes
            .map(|(client, fields)| Change { client, fields })
            .collect()
    }

    /// Logs and reports whether the client has taken up a change. A client that could not goes on
    /// with what it had.
    pub fn report(&mut self, change: &Change<C>, taken_up: Result<()>) {
        let fields = change.fields.join(", ");
        match taken_up {
            Ok(()) => {
                tracing::info!("{fields}: renewed credentials taken up");
                self.unusable.remove(&change.client);
            }
            Err(error) => {
                let message = format!(
                    "{fields}: the renewed Secret can't be used, and the worker goes on with what \
                     it had: {error:#}"
                );
                tracing::warn!("{message}");
                self.unusable.insert(change.client, message);
            }
        }
        let message = self.unusable.values().next().cloned();
        self.readiness.degraded(SECRET_UNUSABLE, message);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use anyhow::anyhow;

    use super::*;
    use crate::admin::Admin;

    /// A volume as the kubelet mounts it: its files are links into a folder that a link names.
    struct Volume(PathBuf);

    impl Volume {
        fn new(name: &str) -> Self {
            let own = format!("pinpipe-renewal-{}-{name}", std::process::id());
            let volume = Self(std::env::temp_dir().join(own));
            fs::create_dir_all(&volume.0).unwrap();
            volume
        }

        fn set(&self, version: &str, files: &[(&str, &str)]) {
            let version = format!("..{version}");
            let data = self.0.join(&version);
            fs::create_dir(&data).unwrap();
            for (name, content) in files {
                fs::write(data.join(name), content).unwrap();
                let link = self.0.join(name);
                if !link.is_symlink() {
                    symlink(Path::new("..data").join(name), link).unwrap();
                }
            }
            let new = self.0.join("..data_tmp");
            symlink(version, &new).unwrap();
            fs::rename(new, self.0.join("..data")).unwrap();
        }
    }

    impl Drop for Volume {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn mounted(field: &str, volume: &Volume, names: [&str; 2]) -> Mounted {
        Mounted {
            field: field.to_owned(),
            files: in_folder(&volume.0, names),
        }
    }

    #[test]
    fn a_change_is_told_once_by_its_field() {
        let (user, tls) = (Volume::new("user"), Volume::new("tls"));
        user.set("1", &[("username", "a"), ("password", "one")]);
        tls.set("1", &[("tls.crt", "one")]);
        let files = [
            ("kafka", mounted("user", &user, ["username", "password"])),
            ("kafka", mounted("tls", &tls, ["tls.crt", "tls.key"])),
            ("sink", mounted("url", &user, ["username", "username"])),
        ];
        let mut watcher = Watcher::new(files, Admin::new().readiness());
        assert_eq!(watcher.changes(), []);
        let kafka = |fields: &[&str]| Change {
            client: "kafka",
            fields: fields.iter().map(|&field| field.to_owned()).collect(),
        };

        user.set("2", &[("username", "a"), ("password", "two")]);
        assert_eq!(watcher.changes(), [kafka(&["user"])]);
        assert_eq!(watcher.changes(), []);

        // The same content in another folder is no change; a file that appears is one.
        user.set("3", &[("username", "a"), ("password", "two")]);
        assert_eq!(watcher.changes(), []);
        tls.set("2", &[("tls.crt", "one"), ("tls.key", "key")]);
        user.set("4", &[("username", "a"), ("password", "four")]);
        assert_eq!(watcher.changes(), [kafka(&["user", "tls"])]);

        fs::remove_file(user.0.join("..data")).unwrap();
        let sink = Change {
            client: "sink",
            fields: vec!["url".to_owned()],
        };
        assert_eq!(watcher.changes(), [kafka(&["user"]), sink]);
    }

    #[test]
    fn a_key_that_is_added_to_a_whole_secret_is_a_change_and_so_is_one_that_goes() {
        let tokens = Volume::new("tokens");
        tokens.set("1", &[("one", "a")]);
        let mounted = Mounted {
            field: "tokens".to_owned(),
            files: vec![tokens.0.clone()],
        };
        let mut watcher = Watcher::new([((), mounted)], Admin::new().readiness());
        for (version, files, changes) in [
            ("2", &[("one", "a")][..], 0),
            ("3", &[("one", "a"), ("two", "b")], 1),
            ("4", &[("one", "b"), ("two", "a")], 1),
            ("5", &[("two", "a")], 1),
        ] {
            tokens.set(version, files);
            assert_eq!(watcher.changes().len(), changes, "{version}");
            assert_eq!(watcher.changes(), [], "{version}");
        }
    }

    #[test]
    fn what_can_t_be_used_is_reported_until_it_can() {
        let readiness = Admin::new().readiness();
        let mut watcher = Watcher::new([], readiness.clone());
        let change = |client| Change {
            client,
            fields: vec![format!("spec.{client}")],
        };
        watcher.report(&change("broker"), Err(anyhow!("no certificate in PEM")));
        let expected = "SecretUnusable: spec.broker: the renewed Secret can't be used, and the \
                        worker goes on with what it had: no certificate in PEM";
        assert_eq!(readiness.degradation().as_deref(), Some(expected));
        watcher.report(&change("sink"), Ok(()));
        assert_eq!(readiness.degradation().as_deref(), Some(expected));
        watcher.report(&change("broker"), Ok(()));
        assert_eq!(readiness.degradation(), None);
    }

    #[test]
    fn each_file_of_a_configuration_is_watched() {
        let trusted_ca = Some(TrustedCa {
            file: "/trusted-ca/ca.crt".into(),
            secret: "Secret company, key ca.crt".to_owned(),
        });
        let kafka = Kafka {
            tls: Some(Tls {
                ca_file: Some("/ca/ca.crt".into()),
                certificate_dir: Some("/own".into()),
                trusted_ca: trusted_ca.clone(),
            }),
            authentication: Some(pinpipe_config::Authentication {
                mechanism: pinpipe_config::SaslMechanism::Plain,
                credentials_dir: "/user".into(),
            }),
            ..Kafka::default()
        };
        let s3 = S3 {
            endpoint: None,
            region: "us-east-1".to_owned(),
            credentials_dir: Some("/s3".into()),
            ca_file: Some("/ca/ca.crt".into()),
            trusted_ca,
            kms_key_id: None,
        };
        let found = Mounted::kafka(&kafka).into_iter();
        let found = found.chain(Mounted::s3("spec.archive.s3", &s3));
        let found: Vec<String> = found
            .map(|Mounted { field, files }| {
                let files: Vec<_> = files
                    .iter()
                    .map(|file| file.display().to_string())
                    .collect();
                format!("{field}: {}", files.join(" "))
            })
            .collect();
        let expected = [
            "spec.broker.kafka.authentication: /user/username /user/password",
            "spec.broker.kafka.tls: /ca/ca.crt /own/tls.crt /own/tls.key",
            "template.trustedCASecretRef: /trusted-ca/ca.crt",
            "spec.archive.s3.credentialsSecretRef: /s3/accessKeyId /s3/secretAccessKey \
             /s3/sessionToken",
            "spec.archive.s3.caSecretRef: /ca/ca.crt",
            "template.trustedCASecretRef: /trusted-ca/ca.crt",
        ];
        assert_eq!(found, expected);
    }
}
