//! Long steps that show their progress: a line when one starts, another every 15 seconds with the
//! time and the last line of its log, one with its duration at the end. When one fails: the last
//! lines of its log, where the log is, and what to do.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead as _, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::context::Context;
use crate::process;
use crate::times;

const PROGRESS_EVERY: Duration = Duration::from_secs(15);
const LINES_OF_A_FAILURE: usize = 20;
/// A download that has printed nothing and used no processor time for so long is taken for stuck.
const STUCK_AFTER: Duration = Duration::from_mins(3);
const ATTEMPTS: u32 = 3;

/// Runs one step and records its time. `hint` is printed when it fails: what to do then.
pub fn step<T>(
    context: &Context,
    title: &str,
    hint: &str,
    work: impl FnOnce(&Log) -> Result<T>,
) -> Result<T> {
    let log = Log::new(context, title)?;
    let start = Instant::now();
    println!("-- {title}");
    let (finished, waiting) = channel::<()>();
    let result = thread::scope(|scope| {
        let (title, log) = (title, &log);
        scope.spawn(move || {
            while waiting.recv_timeout(PROGRESS_EVERY) == Err(RecvTimeoutError::Timeout) {
                println!(
                    "   {title}: {} s, {}",
                    start.elapsed().as_secs(),
                    log.last_line()
                );
            }
        });
        let result = times::of(title, || work(log));
        drop(finished);
        result
    });
    let seconds = start.elapsed().as_secs_f64();
    match result {
        Ok(value) => {
            println!("ok {title} ({seconds:.1} s)");
            Ok(value)
        }
        Err(error) => {
            let path = log.path.display();
            eprintln!(
                "FAILED {title} after {seconds:.1} s: {error:#}\n   the last lines of {path}:\n{}",
                log.tail()
            );
            eprintln!("   what to do: {hint}");
            Err(anyhow!("{title}: {error:#} (log: {path})"))
        }
    }
}

/// The log file of a step, and the commands whose output goes there.
pub struct Log {
    path: PathBuf,
    children: PathBuf,
}

impl Log {
    fn new(context: &Context, title: &str) -> Result<Self> {
        let name: String = title
            .chars()
            .map(|c| {
                if c.is_ascii_alphanumeric() {
                    c.to_ascii_lowercase()
                } else {
                    '-'
                }
            })
            .collect();
        let path = context
            .cache
            .join("logs")
            .join(format!("{}.log", name.trim_matches('-')));
        File::create(&path).with_context(|| format!("creating {}", path.display()))?;
        Ok(Self {
            path,
            children: context.children_file(),
        })
    }

    fn append(&self) -> Result<File> {
        OpenOptions::new()
            .append(true)
            .open(&self.path)
            .with_context(|| format!("opening {}", self.path.display()))
    }

    /// All of it so far.
    pub fn text(&self) -> Result<String> {
        let bytes =
            fs::read(&self.path).with_context(|| format!("reading {}", self.path.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Adds a line, which progress shows until the next one.
    pub fn line(&self, text: &str) {
        if let Ok(mut file) = self.append() {
            let _ = writeln!(file, "{text}");
        }
    }

    /// Starts a command whose standard error, and standard output unless it was set, go to the log.
    fn spawn(&self, command: &mut Command, output: Option<Stdio>) -> Result<Child> {
        self.line(&format!("$ {}", shown(command)));
        let output = match output {
            Some(output) => output,
            None => self.append()?.into(),
        };
        let child = command
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(self.append()?)
            .spawn()
            .with_context(|| format!("starting {}", command.get_program().display()))?;
        process::remember(&self.children, child.id());
        Ok(child)
    }

    /// Runs a command to its end; anything but success is an error.
    pub fn run(&self, command: &mut Command) -> Result<()> {
        let status = self.spawn(command, None)?.wait()?;
        if !status.success() {
            bail!("`{}` ended with {status}", shown(command));
        }
        Ok(())
    }

    /// Runs a command and returns its standard output, trimmed at the end.
    pub fn output(&self, command: &mut Command) -> Result<String> {
        let output = self
            .spawn(command, Some(Stdio::piped()))?
            .wait_with_output()?;
        if !output.status.success() {
            bail!("`{}` ended with {}", shown(command), output.status);
        }
        Ok(String::from_utf8(output.stdout)?.trim_end().to_owned())
    }

    /// Runs a command to its end and hands over each line of its standard output as it comes.
    pub fn lines(&self, command: &mut Command, mut line: impl FnMut(&str)) -> Result<()> {
        let mut child = self.spawn(command, Some(Stdio::piped()))?;
        let output = child.stdout.take().context("the output is piped")?;
        for text in BufReader::new(output).lines() {
            line(&text?);
        }
        let status = child.wait()?;
        if !status.success() {
            bail!("`{}` ended with {status}", shown(command));
        }
        Ok(())
    }

    /// Runs a command that downloads: one that fails or gets stuck is tried again.
    pub fn download(&self, make: impl Fn() -> Command) -> Result<()> {
        for attempt in 1.. {
            let error = match self.run_unless_stuck(&mut make(), STUCK_AFTER) {
                Ok(()) => return Ok(()),
                Err(error) if attempt == ATTEMPTS => return Err(error),
                Err(error) => error,
            };
            self.line(&format!(
                "attempt {attempt} of {ATTEMPTS}: {error:#}; trying again"
            ));
            thread::sleep(Duration::from_secs(5));
        }
        Ok(())
    }

    /// Runs a command, but kills it when it gets stuck, or has printed nothing for `patience`.
    pub fn run_unless_stuck(&self, command: &mut Command, patience: Duration) -> Result<()> {
        let mut child = self.spawn(command, None)?;
        let quiet = fs::metadata(&self.path)?.len();
        let mut seen = (quiet, 0);
        let mut since = Instant::now();
        loop {
            if let Some(status) = child.try_wait()? {
                if status.success() {
                    return Ok(());
                }
                bail!("`{}` ended with {status}", shown(command));
            }
            let now = (
                fs::metadata(&self.path)?.len(),
                process::cpu_of_tree(child.id()),
            );
            let patience = if now.0 == quiet {
                patience
            } else {
                STUCK_AFTER
            };
            if now != seen {
                (seen, since) = (now, Instant::now());
            } else if since.elapsed() > patience {
                process::kill_tree(child.id());
                child.wait()?;
                bail!(
                    "`{}` did nothing for {} s",
                    shown(command),
                    patience.as_secs()
                );
            }
            thread::sleep(Duration::from_millis(500));
        }
    }

    fn tail(&self) -> String {
        let text = read_end(&self.path, 16 << 10).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let last: Vec<&str> = lines[lines.len().saturating_sub(LINES_OF_A_FAILURE)..].to_vec();
        format!("   | {}", last.join("\n   | "))
    }

    fn last_line(&self) -> String {
        let text = read_end(&self.path, 1 << 10).unwrap_or_default();
        let line = text
            .split(['\n', '\r'])
            .map(str::trim)
            .rfind(|line| !line.is_empty() && !line.starts_with("$ "));
        let line = line.unwrap_or("no output yet");
        line.chars().filter(|c| !c.is_control()).take(110).collect()
    }
}

fn read_end(path: &Path, bytes: u64) -> Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(bytes)))?;
    let mut end = Vec::new();
    file.read_to_end(&mut end)?;
    Ok(String::from_utf8_lossy(&end).into_owned())
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}
