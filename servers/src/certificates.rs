//! Certificates for servers and clients of tests, made by the program `openssl`.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

/// A new key on a curve that every server knows.
const NEW_KEY: [&str; 5] = [
    "-newkey",
    "ec",
    "-pkeyopt",
    "ec_paramgen_curve:P-256",
    "-nodes",
];

/// A certificate authority.
#[derive(Clone, Debug)]
pub struct Authority {
    folder: PathBuf,
}

/// The files of a certificate.
#[derive(Clone, Debug)]
pub struct Files {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Both, as Kafka takes them.
    pub both: PathBuf,
}

impl Authority {
    /// An authority whose files are in a new folder.
    pub fn new(folder: PathBuf) -> Result<Self> {
        fs::create_dir_all(&folder)?;
        let authority = Self { folder };
        let subject = "/CN=authority of tests";
        openssl(|command| {
            command.args(["req", "-x509", "-days", "30", "-subj", subject]);
            command.args(NEW_KEY).arg("-keyout").arg(authority.key());
            command.arg("-out").arg(authority.certificate())
        })?;
        Ok(authority)
    }

    /// The file of the authority's own certificate.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.folder.join("ca.crt")
    }

    fn key(&self) -> PathBuf {
        self.folder.join("ca.key")
    }

    /// Issues a certificate for a host name or a client's name, into a new folder. It is valid for
    /// that many days, and expired if they are -1.
    pub fn issue(&self, name: &str, days: i32, folder: &Path) -> Result<Files> {
        self.issue_for(&[name], days, folder)
    }

    /// Issues a certificate for several names.
    pub fn issue_for(&self, names: &[&str], days: i32, folder: &Path) -> Result<Files> {
        fs::create_dir_all(folder)?;
        let (request, extensions) = (folder.join("request"), folder.join("extensions"));
        let files = Files {
            certificate: folder.join("tls.crt"),
            key: folder.join("tls.key"),
            both: folder.join("both.pem"),
        };
        openssl(|command| {
            command.args(["req", "-new", "-subj", &format!("/CN={}", names[0])]);
            command.args(NEW_KEY).arg("-keyout").arg(&files.key);
            command.arg("-out").arg(&request)
        })?;
        let alternatives = names.iter().map(|name| {
            let kind = name.parse::<IpAddr>().map_or("DNS", |_| "IP");
            format!("{kind}:{name}")
        });
        let alternatives = alternatives.collect::<Vec<_>>().join(",");
        fs::write(&extensions, format!("subjectAltName={alternatives}\n"))?;
        openssl(|command| {
            command.args(["x509", "-req", "-CAcreateserial", "-days"]);
            command.arg(days.to_string()).arg("-in").arg(&request);
            command.arg("-CA").arg(self.certificate());
            command.arg("-CAkey").arg(self.key());
            command.arg("-extfile").arg(&extensions);
            command.arg("-out").arg(&files.certificate)
        })?;
        let both = [fs::read(&files.key)?, fs::read(&files.certificate)?];
        fs::write(&files.both, both.concat())?;
        Ok(files)
    }
}

fn openssl(arguments: impl FnOnce(&mut Command) -> &mut Command) -> Result<()> {
    let mut command = Command::new("openssl");
    let output = arguments(&mut command)
        .output()
        .context("openssl: install the package openssl")?;
    ensure!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
