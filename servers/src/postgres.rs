//! A PostgreSQL server. Its superuser is `postgres`, who connects from this machine without a
//! password.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::process::ended_with_the_thread;

/// The settings of a server.
#[derive(Clone, Debug)]
pub struct Postgres {
    /// The folder of its data.
    pub folder: PathBuf,
    /// Its port.
    pub port: u16,
    /// Settings, such as `fsync=off`.
    pub settings: Vec<String>,
}

impl Postgres {
    /// Creates the data folder; returns the command that runs the server.
    pub fn prepare(&self) -> Result<Command> {
        let data = self.folder.join("postgres");
        fs::create_dir_all(&data)?;
        if is_root()? {
            let owned = Command::new("chown").arg("postgres").arg(&data).status()?;
            ensure!(
                owned.success(),
                "{} can't be given to the user postgres",
                data.display()
            );
        }
        let output = run("initdb")?
            .args([
                "--username=postgres",
                "--auth=trust",
                "--encoding=UTF8",
                "--locale=C.UTF-8",
                "--no-sync",
                "--pgdata",
            ])
            .arg(&data)
            .output()?;
        ensure!(
            output.status.success(),
            "initdb: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let mut server = run("postgres")?;
        server.arg("-D").arg(&data);
        let own = [
            "listen_addresses=127.0.0.1,::1".to_owned(),
            "unix_socket_directories=".to_owned(),
            format!("port={}", self.port),
        ];
        for setting in own.iter().chain(&self.settings) {
            server.arg("-c").arg(setting);
        }
        Ok(server)
    }
}

impl Postgres {
    /// Whether the server accepts connections.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let Ok(programs) = programs() else {
            return false;
        };
        Command::new(programs.join("pg_isready"))
            .args(["--quiet", "--host=127.0.0.1"])
            .arg(format!("--port={}", self.port))
            .status()
            .is_ok_and(|status| status.success())
    }
}

/// A program of the server, as a user that it accepts: it refuses to run as root.
fn run(program: &str) -> Result<Command> {
    as_postgres(&programs()?.join(program))
}

/// A program as the user `postgres` where this is root.
pub fn as_postgres(program: &Path) -> Result<Command> {
    let user: &[&str] = if is_root()? {
        &["--reuid=postgres", "--regid=postgres", "--clear-groups"]
    } else {
        &[]
    };
    let mut command = ended_with_the_thread(user, program);
    command.current_dir("/");
    Ok(command)
}

fn is_root() -> Result<bool> {
    let output = Command::new("id").arg("-u").output()?;
    Ok(output.stdout.trim_ascii() == b"0")
}

/// The folder of the newest server's programs, which Debian doesn't put on `PATH`.
pub fn programs() -> Result<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    versions
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .filter(|bin| bin.join("initdb").is_file())
        .max()
        .context("no PostgreSQL server below /usr/lib/postgresql: install the package postgresql")
}
