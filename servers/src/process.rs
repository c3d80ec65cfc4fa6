//! Processes that tests start: where their programs are, their ports, and their end.

use std::{
    env,
    fs::{self, File},
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

/// How long a server may take to answer.
const START: Duration = Duration::from_mins(2);
/// How many lines of a log an error shows.
const LOG_LINES: usize = 15;

/// A process that is killed when it is dropped, or when this process ends.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program with its output appended to `log`.
    pub fn start(command: &mut Command, log: PathBuf) -> Result<Self> {
        let child = spawn(command, &log)?;
        Ok(Self { child, log })
    }

    /// The process's id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the server is ready.
    pub fn wait_until(&mut self, ready: impl Fn() -> bool) -> Result<()> {
        let begun = Instant::now();
        while !ready() {
            if let Some(status) = self.child.try_wait()? {
                bail!(
                    "ended with {status}: {}\n{}",
                    self.log.display(),
                    end_of(&self.log)
                );
            }
            ensure!(
                begun.elapsed() < START,
                "no answer: {}\n{}",
                self.log.display(),
                end_of(&self.log)
            );
            sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Killing a process that has already ended fails, which is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a program with its output appended to a file.
pub fn spawn(command: &mut Command, log: &Path) -> Result<Child> {
    let file = File::options().create(true).append(true).open(log)?;
    let shown = format!("starting {command:?}");
    command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .spawn()
        .context(shown)
}

/// The last lines of a log.
#[must_use]
pub fn end_of(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}

/// A program that is killed when the thread that started it ends, if util-linux is installed.
#[must_use]
pub fn program(name: &str) -> Command {
    let own = cache().join("bin").join(name);
    let path = if own.is_file() {
        own
    } else {
        PathBuf::from(name)
    };
    ended_with_the_thread(&[], &path)
}

/// The command of a program below `setpriv`, which kills it when the thread that started it ends.
pub(crate) fn ended_with_the_thread(options: &[&str], path: &Path) -> Command {
    if Path::new("/usr/bin/setpriv").is_file() {
        let mut command = Command::new("/usr/bin/setpriv");
        command
            .args(options)
            .args(["--pdeathsig", "KILL", "--"])
            .arg(path);
        return command;
    }
    Command::new(path)
}

/// The folder of programs and files that `cargo xtask` built or downloaded.
#[must_use]
pub fn cache() -> PathBuf {
    env::var_os("PINPIPE_CACHE").map_or_else(
        || PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cache/pinpipe"),
        PathBuf::from,
    )
}

/// The newest folder with the downloaded files of a server, such as `kafka`.
pub fn lib(server: &str) -> Result<PathBuf> {
    let lib = cache().join("lib");
    let folders = fs::read_dir(&lib).with_context(|| format!("reading {}", lib.display()))?;
    let named = folders.filter_map(|entry| Some(entry.ok()?.path()));
    let start = format!("{server}-");
    let newest = named
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with(&start))
        })
        .max_by_key(|path| {
            fs::metadata(path)
                .and_then(|metadata| metadata.modified())
                .ok()
        });
    newest.with_context(|| {
        format!(
            "no files of {server} under {}: `cargo xtask test` downloads them",
            lib.display()
        )
    })
}

/// Free ports of 127.0.0.1, below the range that the system assigns to outgoing connections.
#[derive(Debug)]
pub struct Ports(u16);

impl Default for Ports {
    fn default() -> Self {
        // Concurrent runs start at different ports.
        Self(u16::try_from(10_000 + (std::process::id() % 300) * 70).unwrap_or(10_000))
    }
}

impl Ports {
    /// A listener at the next free port.
    pub fn listener(&mut self) -> Result<TcpListener> {
        for _ in 0..10_000 {
            self.0 = if self.0 >= 32_000 { 10_000 } else { self.0 + 1 };
            if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, self.0)) {
                return Ok(listener);
            }
        }
        bail!("no port of 127.0.0.1 is free")
    }

    /// The number of the next free port.
    pub fn number(&mut self) -> Result<u16> {
        Ok(self.listener()?.local_addr()?.port())
    }
}
