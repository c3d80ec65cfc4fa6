//! Folders and the environment of the commands that are started.

use std::env;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};

use crate::process;

/// The name of the kind cluster, as in kind-config.yaml.
pub const CLUSTER: &str = "pinpipe";
/// The container that is the cluster's control plane. The dev servers run there; its ports are
/// mapped to this machine's.
pub const CONTROL_PLANE: &str = "pinpipe-control-plane";

/// Folders of this run and the environment of the commands it starts.
pub struct Context {
    /// The checkout.
    pub root: PathBuf,
    /// The folder of everything that is kept between runs.
    pub cache: PathBuf,
    docker_host: Mutex<Option<String>>,
}

/// The lock that keeps other runs from the cache and the cluster.
pub struct Alone {
    _lock: File,
    temporary: PathBuf,
}

impl Drop for Alone {
    fn drop(&mut self) {
        // The next run removes what is left.
        let _ = fs::remove_dir_all(&self.temporary);
    }
}

impl Context {
    pub fn new() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .context("xtask has no parent folder")?
            .to_path_buf();
        let cache = match env::var_os("PINPIPE_CACHE") {
            Some(path) => PathBuf::from(path),
            None => PathBuf::from(env::var_os("HOME").context("set HOME or PINPIPE_CACHE")?)
                .join(".cache/pinpipe"),
        };
        for folder in ["bin", "logs", "tmp", "run"] {
            let folder = cache.join(folder);
            fs::create_dir_all(&folder)
                .with_context(|| format!("creating {}", folder.display()))?;
        }
        Ok(Self {
            root,
            cache,
            docker_host: Mutex::new(None),
        })
    }

    /// Takes the lock, or fails if another run has it; kills the processes that a killed run left
    /// behind.
    pub fn run_alone(&self) -> Result<Alone> {
        let lock = File::create(self.cache.join("run/lock"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                bail!(
                    "another `cargo xtask` uses {}; wait for it to end",
                    self.cache.display()
                )
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).context("locking the cache folder");
            }
        }
        let left = process::end_left_behind(&self.children_file());
        if left > 0 {
            println!("ended {left} processes that a killed run left behind");
        }
        let temporary = self.cache.join("tmp");
        let _ = fs::remove_dir_all(&temporary);
        fs::create_dir_all(&temporary)?;
        Ok(Alone {
            _lock: lock,
            temporary,
        })
    }

    /// The record of the processes that this run started. A later run kills them if this one was
    /// killed.
    pub fn children_file(&self) -> PathBuf {
        self.cache.join("run/children")
    }

    /// A new empty folder on the file system of the cache, so that a finished result can be renamed
    /// into place.
    pub fn temporary_folder(&self, name: &str) -> Result<PathBuf> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
        let folder = self.cache.join("tmp").join(format!("{name}-{now}"));
        fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    /// The path of a program that was built or fetched because the machine has none that fits.
    pub fn bin(&self, name: &str) -> PathBuf {
        self.cache.join("bin").join(name)
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.cache.join("kubeconfig")
    }

    /// Sets the Docker Engine that all later commands use instead of the machine's own.
    pub fn use_engine(&self, host: String) {
        *self
            .docker_host
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(host);
    }

    /// The environment variables with which commands find the cluster and its tools.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let path = env::var("PATH").unwrap_or_default();
        let mut variables = vec![
            (
                "PATH",
                format!("{}:{path}", self.cache.join("bin").display()),
            ),
            ("KUBECONFIG", self.kubeconfig().display().to_string()),
        ];
        if let Some(host) = self
            .docker_host
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
        {
            variables.push(("DOCKER_HOST", host.clone()));
        }
        variables
    }

    /// The same as `export` lines for a shell.
    pub fn exports(&self) -> String {
        let line = |(name, value): (&str, String)| {
            let value = if name == "PATH" {
                format!("{}:$PATH", self.cache.join("bin").display())
            } else {
                value
            };
            format!("  export {name}={value}")
        };
        self.environment()
            .into_iter()
            .map(line)
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// A command in the checkout with that environment. Its temporary files are in the cache, where
    /// a later run removes them. Programs in the cache's `bin` precede the machine's.
    pub fn command(&self, program: &str) -> Command {
        let own = self.bin(program);
        let mut command = if own.is_file() {
            Command::new(own)
        } else {
            Command::new(program)
        };
        command
            .current_dir(&self.root)
            .envs(self.environment())
            .env("TMPDIR", self.cache.join("tmp"));
        command
    }

    /// Cargo, which builds into the cache unless the caller set `CARGO_TARGET_DIR`.
    pub fn cargo(&self) -> Command {
        let mut command = self.command("cargo");
        // `cargo run` sets these for xtask. ring's build script would see them and run again when
        // they change.
        for (name, _) in env::vars_os() {
            if name.to_str().is_some_and(|name| {
                name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
            }) {
                command.env_remove(name);
            }
        }
        if env::var_os("CARGO_TARGET_DIR").is_none() {
            command.env("CARGO_TARGET_DIR", self.cache.join("target"));
        }
        command
    }
}

/// Whether a program of this name is found on `PATH`.
pub fn on_path(program: &str) -> bool {
    env::var_os("PATH")
        .is_some_and(|path| env::split_paths(&path).any(|folder| folder.join(program).is_file()))
}
