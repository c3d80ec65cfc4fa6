//! `SeaweedFS` with its S3 gateway.

use std::{fs, path::PathBuf, process::Command};

use anyhow::Result;

use crate::get;

/// The ports of a server. The gRPC port of each is the next one.
#[derive(Clone, Copy, Debug)]
pub struct S3Ports {
    /// The S3 gateway's.
    pub gateway: u16,
    /// The master's.
    pub master: u16,
    /// The volume server's.
    pub volume: u16,
    /// The filer's.
    pub filer: u16,
}

/// The settings of a server.
#[derive(Clone, Debug)]
pub struct S3 {
    /// The program.
    pub weed: PathBuf,
    /// The folder of its data, and of the credentials as workers read them.
    pub folder: PathBuf,
    /// Its ports.
    pub ports: S3Ports,
    /// Whether it checks credentials.
    pub authorizes: bool,
    /// The size of a volume, MB.
    pub volume_megabytes: u32,
}

impl S3 {
    /// Writes settings and credentials; returns the command that runs the server.
    pub fn prepare(&self) -> Result<Command> {
        let (data, credentials) = (self.folder.join("s3"), self.credentials());
        fs::create_dir_all(&data)?;
        fs::create_dir_all(&credentials)?;
        fs::write(credentials.join("accessKeyId"), "local")?;
        fs::write(credentials.join("secretAccessKey"), "local-secret")?;
        let mut weed = crate::process::ended_with_the_thread(&[], &self.weed);
        weed.args([
            "server",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            // Every bucket has volumes of its own.
            "-volume.max=500",
        ])
        .args(["-filer", "-s3", "-s3.port.iceberg=0", "-s3.port.lance=0"])
        .arg(format!(
            "-master.volumeSizeLimitMB={}",
            self.volume_megabytes
        ))
        .arg(format!("-dir={}", data.display()));
        for (name, port) in [
            ("s3", self.ports.gateway),
            ("master", self.ports.master),
            ("volume", self.ports.volume),
            ("filer", self.ports.filer),
        ] {
            weed.arg(format!("-{name}.port={port}"))
                .arg(format!("-{name}.port.grpc={}", port + 1));
        }
        if self.authorizes {
            let identities = self.write_identity("local", "local-secret")?;
            weed.arg(format!("-s3.config={}", identities.display()));
        }
        Ok(weed)
    }

    /// Writes the one key that the server accepts from its start or the next SIGHUP on; returns the
    /// file.
    pub fn write_identity(&self, key: &str, secret: &str) -> Result<PathBuf> {
        let file = self.folder.join("identities.json");
        let identities = format!(
            r#"{{"identities":[{{
                "name":"local",
                "credentials":[{{"accessKey":"{key}","secretKey":"{secret}"}}],
                "actions":["Admin","Read","Write","List"]
            }}]}}"#
        );
        fs::write(&file, identities)?;
        Ok(file)
    }

    /// The folder of the credentials.
    #[must_use]
    pub fn credentials(&self) -> PathBuf {
        self.folder.join("s3-credentials")
    }

    /// Whether the gateway answers and the master has a volume for the next object.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        get(self.ports.gateway, "/healthz").is_some()
            && get(self.ports.master, "/dir/assign")
                .is_some_and(|assigned| assigned.contains("fid"))
    }
}
