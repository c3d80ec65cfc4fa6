//! A process in its own memory cgroup, which sees the limit where a container would.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

/// The group's name.
const NAME: &str = "pinpipe-bench";

/// The folder of memory cgroups and the name of the limit's file, in version 1 and 2.
const VERSIONS: [(&str, &str); 2] = [
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
    ("/sys/fs/cgroup", "memory.max"),
];

/// A memory cgroup, removed when dropped.
pub struct Limit {
    root: &'static Path,
    group: PathBuf,
}

impl Drop for Limit {
    fn drop(&mut self) {
        // A group with a living process stays; the next run uses it again.
        let _ = fs::remove_dir(&self.group);
    }
}

impl Limit {
    /// Creates a group that may use this many bytes.
    pub fn new(bytes: u64) -> Result<Self> {
        let first = usize::from(!Path::new(VERSIONS[0].0).is_dir());
        let (root, file) = VERSIONS[first];
        let root = Path::new(root);
        let limit = Self {
            root,
            group: root.join(NAME),
        };
        let made = fs::create_dir_all(&limit.group)
            .and_then(|()| fs::write(limit.group.join(file), bytes.to_string()));
        made.with_context(|| {
            format!(
                "{} with a limit of memory: run this as root",
                limit.group.display()
            )
        })?;
        Ok(limit)
    }

    /// The same program within the group.
    pub fn command(&self, program: &Command) -> Command {
        let mut command = Command::new("unshare");
        command.args([
            "--mount",
            "sh",
            "-c",
            r#"echo $$ > "$1/cgroup.procs" && mount --bind "$1" "$2" && shift 2 && exec "$@""#,
            "sh",
        ]);
        command
            .arg(&self.group)
            .arg(self.root)
            .arg(program.get_program())
            .args(program.get_args());
        command.envs(
            program
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
        command
    }
}
