//! The Docker Engine: the machine's own where one answers, otherwise one started here on a private
//! socket, with its data in the cache.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::context::Context;
use crate::debian::{self, need};
use crate::host_network;
use crate::process;
use crate::step::{Log, step};

/// Bit of `CapEff` in /proc/PID/status; see capabilities(7).
const CAP_SYS_RESOURCE: u32 = 24;
const START_WITHIN: Duration = Duration::from_mins(1);
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
const STOP_WITHIN: Duration = Duration::from_secs(40);

/// The engine that is started here.
struct Own<'a> {
    context: &'a Context,
    folder: PathBuf,
}

impl<'a> Own<'a> {
    fn new(context: &'a Context) -> Self {
        Self {
            context,
            folder: context.cache.join("docker"),
        }
    }

    fn host(&self) -> String {
        format!("unix://{}", self.folder.join("docker.sock").display())
    }

    /// The daemon, its containerd and the shims of its containers: all have the folder in their
    /// arguments.
    fn processes(&self) -> Vec<u32> {
        self.of_programs(&[
            "dockerd",
            "containerd",
            "containerd-shim",
            "containerd-shim-runc-v2",
        ])
    }

    fn of_programs(&self, programs: &[&str]) -> Vec<u32> {
        process::of_programs(programs, &self.folder.display().to_string())
    }

    fn start(&self, log: &Log) -> Result<()> {
        let context = self.context;
        fs::create_dir_all(&self.folder)?;
        // Processes that still run do not answer. Pid files would keep the next daemon from
        // starting, even if other processes have these ids now.
        self.processes().into_iter().for_each(process::kill_tree);
        for file in [
            "docker.pid",
            "docker.sock",
            "exec/containerd/containerd.pid",
            "exec/containerd/containerd.sock",
        ] {
            let _ = fs::remove_file(self.folder.join(file));
        }
        self.unmount(log)?;
        host_network::remember(context, log, &self.folder.join("host-before"))?;
        host_network::make_bridge(context, log)?;

        let mut daemon = context.command("setsid");
        daemon.env_remove("TMPDIR");
        daemon.arg("dockerd").arg("--host").arg(self.host());
        for (option, name) in [
            ("--data-root", "data"),
            ("--exec-root", "exec"),
            ("--pidfile", "docker.pid"),
        ] {
            daemon.arg(option).arg(self.folder.join(name));
        }
        daemon.args(["--bridge", host_network::ENGINE_BRIDGE]);
        if !has_capability(CAP_SYS_RESOURCE) {
            log.line(
                "root lacks CAP_SYS_RESOURCE: runc is called through a wrapper that does not \
                 request it",
            );
            let wrapper = context.bin("runc-without-sys-resource");
            fs::copy(
                context.root.join("e2e/kind/runc-without-sys-resource"),
                &wrapper,
            )?;
            daemon
                .arg("--add-runtime")
                .arg(format!("pinpipe={}", wrapper.display()))
                .args(["--default-runtime", "pinpipe"]);
        }
        let output = File::create(self.folder.join("dockerd.log"))?;
        let mut child = daemon
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()?;
        let start = Instant::now();
        while !answers(context, Some(&self.host())) {
            if let Some(status) = child.try_wait()?
                && !status.success()
            {
                bail!("dockerd ended with {status}: {}", self.log_end());
            }
            if start.elapsed() > START_WITHIN {
                bail!(
                    "dockerd does not answer after {} s: {}",
                    START_WITHIN.as_secs(),
                    self.log_end()
                );
            }
            sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    fn log_end(&self) -> String {
        let log = fs::read_to_string(self.folder.join("dockerd.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("\n")
    }

    /// Unmounts what a killed daemon left mounted, the innermost first.
    fn unmount(&self, log: &Log) -> Result<()> {
        let mounts = fs::read_to_string("/proc/mounts")?;
        let folder = self.folder.display().to_string();
        let mut points: Vec<&str> = mounts
            .lines()
            .filter_map(|line| line.split(' ').nth(1))
            .filter(|point| point.starts_with(&folder))
            .collect();
        points.sort_unstable_by_key(|point| std::cmp::Reverse(point.len()));
        for point in points {
            log.run(self.context.command("umount").args(["--lazy", point]))?;
        }
        Ok(())
    }

    fn stop(&self, log: &Log) -> Result<()> {
        // The daemon first: it stops its containers and its children in order.
        process::stop(&self.of_programs(&["dockerd"]), STOP_WITHIN);
        self.processes().into_iter().for_each(process::kill_tree);
        self.unmount(log)?;
        remove_empty_cgroups();
        host_network::restore(self.context, log, &self.folder.join("host-before"))
    }
}

/// Removes the control groups that ended containers left. One that is in use cannot be removed.
fn remove_empty_cgroups() {
    fn remove(folder: &Path) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                remove(&entry.path());
            }
        }
        let _ = fs::remove_dir(folder);
    }
    for controller in fs::read_dir("/sys/fs/cgroup")
        .into_iter()
        .flatten()
        .flatten()
    {
        remove(&controller.path().join("docker"));
    }
    remove(Path::new("/sys/fs/cgroup/docker"));
}

/// Whether the engine at a host, or the machine's own, answers.
fn answers(context: &Context, host: Option<&str>) -> bool {
    let mut command = Command::new("docker");
    command
        .args(["info", "--format", "{{.ServerVersion}}"])
        .current_dir(&context.root);
    if let Some(host) = host {
        command.env("DOCKER_HOST", host);
    }
    let output = process::output_within(&mut command, ANSWER_WITHIN);
    output.is_some_and(|output| output.status.success() && !output.stdout.trim_ascii().is_empty())
}

fn has_capability(bit: u32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status
        .lines()
        .find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok());
    mask.is_none_or(|mask| mask >> bit & 1 == 1)
}

/// Makes the context use a running engine, preferably our own. Returns whether there is one.
pub fn find(context: &Context) -> bool {
    let own = Own::new(context);
    let start = Instant::now();
    // One that was just started or is busy needs some time to answer.
    while !own.of_programs(&["dockerd"]).is_empty() && start.elapsed() < START_WITHIN {
        if answers(context, Some(&own.host())) {
            context.use_engine(own.host());
            return true;
        }
        sleep(Duration::from_secs(1));
    }
    answers(context, None)
}

/// Makes the context use an engine, starting one where none answers.
pub fn ensure(context: &Context) -> Result<()> {
    if find(context) {
        return Ok(());
    }
    if !cfg!(target_os = "linux") || !debian::is_root() {
        bail!(
            "no Docker Engine answers (docker info). Start one, or run this as root on Linux, \
             where it starts one itself"
        );
    }
    let needs = [
        need("dockerd", "docker.io"),
        need("iptables", "iptables"),
        need("ip", "iproute2"),
        need("setsid", "util-linux"),
    ];
    debian::ensure(context, &needs)?;
    let own = Own::new(context);
    let hint = format!(
        "read {}, or start a Docker Engine by hand",
        own.folder.join("dockerd.log").display()
    );
    step(context, "Docker Engine", &hint, |log| own.start(log))?;
    context.use_engine(own.host());
    Ok(())
}

/// Stops our own engine, if it runs, and undoes its changes to the machine's network.
pub fn stop_own(context: &Context) -> Result<()> {
    let own = Own::new(context);
    if !own.folder.join("host-before").exists() && own.processes().is_empty() {
        return Ok(());
    }
    step(
        context,
        "stop the Docker Engine",
        "end the processes that `ps` shows with the cache folder in their arguments",
        |log| own.stop(log),
    )
}

/// Creates the network of the nodes if the engine is our own, so that `stop_own` knows the name of
/// its bridge.
pub fn make_kind_network(context: &Context, log: &Log) -> Result<()> {
    let is_own = context
        .environment()
        .iter()
        .any(|(name, host)| *name == "DOCKER_HOST" && *host == Own::new(context).host());
    let there = context
        .command("docker")
        .args(["network", "inspect", "kind"])
        .output()
        .context("running docker")?;
    if !is_own || there.status.success() {
        return Ok(());
    }
    let bridge = format!(
        "com.docker.network.bridge.name={}",
        host_network::KIND_BRIDGE
    );
    let options = [
        "--driver",
        "bridge",
        "--subnet",
        host_network::KIND_SUBNET,
        "--opt",
        bridge.as_str(),
    ];
    log.run(
        context
            .command("docker")
            .args(["network", "create"])
            .args(options)
            .arg("kind"),
    )
}

/// Whether an image is there.
pub fn has_image(context: &Context, image: &str) -> bool {
    let inspect = context
        .command("docker")
        .args(["image", "inspect", "--format", "{{.Id}}", image])
        .output();
    inspect.is_ok_and(|output| output.status.success())
}

/// Pulls an image from its registry; returns whether it did. A registry that does not answer within
/// 20 seconds is not an error: the image is then built instead.
pub fn pull(context: &Context, image: &str) -> Result<bool> {
    let name = image.split_once('@').map_or(image, |(name, _digest)| name);
    step(
        context,
        &format!("look for {name} in its registry"),
        "look at the Docker Engine",
        |log| {
            let pulled = log.run_unless_stuck(
                context.command("docker").args(["pull", image]),
                Duration::from_secs(20),
            );
            if let Err(error) = &pulled {
                log.line(&format!("{error:#}"));
                println!("   {name} cannot be pulled and is built instead");
            }
            Ok(pulled.is_ok())
        },
    )
}

/// Removes images of the same repository with other tags, to free disk space. One that a container
/// uses stays.
pub fn remove_older_images(context: &Context, log: &Log, image: &str) -> Result<()> {
    let (repository, tag) = image
        .rsplit_once(':')
        .context("an image of ours has a tag")?;
    let tags = log.output(
        context
            .command("docker")
            .args(["images", "--format", "{{.Tag}}", repository]),
    )?;
    for old in tags.lines().filter(|old| !old.starts_with(tag)) {
        if let Err(error) = log.run(
            context
                .command("docker")
                .args(["rmi", &format!("{repository}:{old}")]),
        ) {
            log.line(&format!("{error:#}"));
        }
    }
    Ok(())
}

/// A `docker build` that works with and without the buildx plug-in.
pub fn build_command(context: &Context) -> Command {
    let mut command = context.command("docker");
    let buildx = context
        .command("docker")
        .args(["buildx", "version"])
        .output();
    if !buildx.is_ok_and(|output| output.status.success()) {
        command.env("DOCKER_BUILDKIT", "0");
    }
    command.arg("build");
    command
}
