//! Where things are, and how commands are started so that they find each other.

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
    /// What is kept between runs.
    pub cache: PathBuf,
    docker_host: Mutex<Option<String>>,
}

/// Held while a run changes what others would change too.
pub struct Alone {
    _lock: File,
    temporary: PathBuf,
}

impl Drop for Alone {
    fn drop(&mut self) {
        // What is left is removed by the next run.
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

    /// Waits for no one: two runs at once would undo each other's work. Ends what a killed run left
    /// running.
    pub fn run_alone(&self) -> Result<Alone> {
        let lock = File::create(self.cache.join("run/lock"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                bail!(
                    "another `cargo xtask` is at work with {}; wait for it to end",
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

    /// Where the processes started by this run are written down, for a later run to end them if
    /// this one is killed.
    pub fn children_file(&self) -> PathBuf {
        self.cache.join("run/children")
    }

    /// A new empty folder, on the same file system as what is kept, so that a finished result can
    /// be renamed into place.
    pub fn temporary_folder(&self, name: &str) -> Result<PathBuf> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
        let folder = self.cache.join("tmp").join(format!("{name}-{now}"));
        fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    /// Programs that were built or copied for want of the machine's own.
    pub fn bin(&self, name: &str) -> PathBuf {
        self.cache.join("bin").join(name)
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.cache.join("kubeconfig")
    }

    /// Names the Docker Engine that all later commands use. Without it they use the machine's own.
    pub fn use_engine(&self, host: String) {
        *self
            .docker_host
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(host);
    }

    /// The environment that leads a command, or a person, to the cluster and its tools.
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

    /// That environment as lines for a person's shell.
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

    /// A command in the checkout, with that environment and its temporary files where a later run
    /// clears them away. Programs under the cache's `bin` come before the machine's.
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

    /// Cargo, building into a folder that outlives the checkout unless the caller named one.
    pub fn cargo(&self) -> Command {
        let mut command = self.command("cargo");
        // What `cargo run` says of xtask to us would reach build scripts too, and those of ring run
        // again when it changes.
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

/// Whether a program of this name is found along `PATH`.
pub fn on_path(program: &str) -> bool {
    env::var_os("PATH")
        .is_some_and(|path| env::split_paths(&path).any(|folder| folder.join(program).is_file()))
}
