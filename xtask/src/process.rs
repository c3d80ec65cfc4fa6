//! Processes by their ids: those that a killed run left behind, and the CPU time they use. Linux
//! only: elsewhere these functions find nothing.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// One line of /proc/PID/stat.
#[derive(Clone, Copy)]
struct Stat {
    parent: u32,
    /// User and system time, in clock ticks.
    cpu: u64,
    /// Clock ticks after boot. With the id it identifies a process, since ids are reused.
    started: u64,
    zombie: bool,
}

/// Field positions are those of proc(5), counted after the program's name, which may contain
/// spaces and brackets.
fn parse_stat(line: &str) -> Option<Stat> {
    let fields: Vec<&str> = line
        .get(line.rfind(')')? + 1..)?
        .split_whitespace()
        .collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some(Stat {
        zombie: *fields.first()? == "Z",
        parent: u32::try_from(number(1)?).ok()?,
        cpu: number(11)? + number(12)?,
        started: number(19)?,
    })
}

fn stat(pid: u32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn all() -> HashMap<u32, Stat> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return HashMap::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, stat(pid)?)))
        .collect()
}

/// A process and all its descendants.
fn tree(root: u32, processes: &HashMap<u32, Stat>) -> BTreeSet<u32> {
    let mut found = BTreeSet::from([root]);
    loop {
        let before = found.len();
        found.extend(
            processes
                .iter()
                .filter(|(_, stat)| found.contains(&stat.parent))
                .map(|(pid, _)| *pid)
                .collect::<Vec<_>>(),
        );
        if found.len() == before {
            return found;
        }
    }
}

/// The CPU time of a process and each of its descendants so far, in clock ticks.
pub fn cpu_by_process(root: u32) -> Vec<(u32, u64)> {
    let processes = all();
    tree(root, &processes)
        .iter()
        .filter_map(|pid| Some((*pid, processes.get(pid)?.cpu)))
        .collect()
}

/// The CPU time of a process and its descendants so far, in clock ticks.
pub fn cpu_of_tree(root: u32) -> u64 {
    cpu_by_process(root).iter().map(|(_, cpu)| cpu).sum()
}

pub fn is_alive(pid: u32) -> bool {
    stat(pid).is_some_and(|stat| !stat.zombie)
}

/// The arguments of a process, the program first; none when there is no such process.
fn arguments(pid: u32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    bytes
        .split(|byte| *byte == 0)
        .map(|argument| String::from_utf8_lossy(argument).into_owned())
        .collect()
}

/// Living processes of these programs with this text in an argument, such as a path in our cache.
pub fn of_programs(programs: &[&str], text: &str) -> Vec<u32> {
    let is_one = |pid: u32| {
        let arguments = arguments(pid);
        let program = arguments
            .first()
            .and_then(|path| path.rsplit('/').next())
            .unwrap_or_default();
        programs.contains(&program) && arguments.iter().any(|argument| argument.contains(text))
    };
    all()
        .into_iter()
        .filter(|(pid, stat)| !stat.zombie && is_one(*pid))
        .map(|(pid, _)| pid)
        .collect()
}

/// The standard output of a command; the command is killed when the time is up.
pub fn output_within(command: &mut Command, time: Duration) -> Option<Output> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let start = Instant::now();
    while child.try_wait().ok()?.is_none() {
        if start.elapsed() > time {
            let _ = child.kill();
            break;
        }
        sleep(Duration::from_millis(20));
    }
    child.wait_with_output().ok()
}

fn signal(name: &str, pids: &[u32]) {
    if !pids.is_empty() {
        let pids: Vec<String> = pids.iter().map(ToString::to_string).collect();
        let script = format!("kill -{name} {} 2>/dev/null", pids.join(" "));
        let _ = Command::new("sh").args(["-c", &script]).status();
    }
}

/// Sends SIGTERM, and SIGKILL to those processes that have not ended within the time.
pub fn stop(pids: &[u32], patience: Duration) {
    signal("TERM", pids);
    let start = Instant::now();
    while start.elapsed() < patience && pids.iter().any(|pid| is_alive(*pid)) {
        sleep(Duration::from_millis(100));
    }
    let remaining: Vec<u32> = pids.iter().copied().filter(|pid| is_alive(*pid)).collect();
    signal("KILL", &remaining);
}

/// Kills a process and its descendants.
pub fn kill_tree(root: u32) {
    let pids: Vec<u32> = tree(root, &all()).into_iter().collect();
    signal("KILL", &pids);
}

/// Records a process that this run started.
pub fn remember(file: &Path, pid: u32) {
    if let Some(stat) = stat(pid)
        && let Ok(mut file) = OpenOptions::new().create(true).append(true).open(file)
    {
        // By one write, since threads append at the same time. Without the line, a process may
        // outlive a killed run; nothing else depends on it.
        let _ = file.write_all(format!("{pid} {}\n", stat.started).as_bytes());
    }
}

/// Kills the recorded processes that still run, with their descendants, and clears the record.
/// Returns how many it killed, without the descendants.
pub fn end_left_behind(file: &Path) -> usize {
    let remembered = fs::read_to_string(file).unwrap_or_default();
    let left: Vec<u32> = remembered
        .lines()
        .filter_map(|line| {
            let (pid, started) = line.split_once(' ')?;
            let pid = pid.parse().ok()?;
            (stat(pid)?.started == started.parse::<u64>().ok()?).then_some(pid)
        })
        .collect();
    for pid in &left {
        kill_tree(*pid);
    }
    let _ = fs::remove_file(file);
    left.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_after_a_name_with_spaces_and_brackets() {
        let line =
            "4711 (a (b) c) S 12 4711 4711 0 -1 4194304 1 2 3 4 50 7 0 0 20 0 1 0 987654 1000 100";
        let stat = parse_stat(line).unwrap();
        assert_eq!(
            (stat.parent, stat.cpu, stat.started, stat.zombie),
            (12, 57, 987_654, false)
        );
    }

    #[test]
    fn a_tree_contains_grandchildren_and_no_siblings() {
        let stat = |parent| Stat {
            parent,
            cpu: 0,
            started: 0,
            zombie: false,
        };
        let processes = HashMap::from([(2, stat(1)), (3, stat(2)), (4, stat(3)), (5, stat(1))]);
        assert_eq!(tree(2, &processes), BTreeSet::from([2, 3, 4]));
    }
}
