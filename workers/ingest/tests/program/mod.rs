//! Ingest as a process, for tests that need the whole program.

use std::{
    fs::{self, File},
    path::Path,
    process::{Child, Command, Stdio},
};

use pinpipe_servers::stores::port;

/// A started program and its ports.
pub struct Program {
    pub child: Child,
    pub http: u16,
    pub admin: u16,
}

/// Starts the program with a configuration, which is put into the folder `own`, as is its log.
pub fn start(own: &Path, config: &str, environment: &[(&str, &str)]) -> Program {
    let path = own.join("ingest.yaml");
    fs::write(&path, config).unwrap();
    let log = File::create(own.join("log")).unwrap();
    let (http, admin) = (port(), port());
    let child = Command::new(env!("CARGO_BIN_EXE_pinpipe-ingest"))
        .arg("--config")
        .arg(path)
        .args(["--log-format", "plain", "--port", &http.to_string()])
        .args(["--admin-port", &admin.to_string()])
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .stdin(Stdio::null())
        .envs(environment.iter().copied())
        .spawn()
        .unwrap();
    Program { child, http, admin }
}
