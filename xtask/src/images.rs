//! Images of the dev servers, built from e2e/images; and loading of images into the cluster.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::base;
use crate::cluster;
use crate::compile;
use crate::context::{CLUSTER, CONTROL_PLANE, Context};
use crate::debian::{self, need};
use crate::engine;
use crate::fingerprint::Fingerprint;
use crate::step::step;
use crate::workers::{self, WorkerImages};

/// Where an image's files come from that no Debian package has. They are fetched on the host, whose
/// clients are configured for their registries, into the build context's `lib`.
#[derive(Clone, Copy)]
enum Source {
    /// Jars, by the folder's pom.xml.
    Maven,
    /// Wheels, by the folder's requirements.txt.
    Pip,
    Nothing,
}

const SERVERS: [(&str, Source); 4] = [
    ("kafka", Source::Maven),
    ("cassandra", Source::Maven),
    ("postgres", Source::Nothing),
    ("s3", Source::Pip),
];

/// A dev server and its image.
pub struct Server {
    pub name: &'static str,
    pub image: String,
}

/// Builds the dev servers' images that are not there yet.
pub fn servers(context: &Context) -> Result<Vec<Server>> {
    SERVERS
        .iter()
        .map(|(name, source)| server(context, name, *source))
        .collect()
}

fn server(context: &Context, name: &'static str, source: Source) -> Result<Server> {
    let recipe = context.root.join("e2e/images").join(name);
    let image = format!(
        "pinpipe.local/devstack-{name}:{}",
        Fingerprint::default().path(&recipe)?.finish()
    );
    if !engine::has_image(context, &image) {
        let lib = fetch(context, name, &recipe, source)?;
        let base = base::ensure(context)?;
        let hint = "check that the Debian mirror can be reached from a container (docker run), or \
                    read the log";
        step(context, &format!("image {name}"), hint, |log| {
            let folder = context.temporary_folder(name)?;
            link_tree(&recipe, &folder)?;
            if let Some(lib) = &lib {
                link_tree(lib, &folder.join("lib"))?;
            }
            log.download(|| {
                let mut build = engine::build_command(context);
                build
                    .args(["--build-arg", &format!("BASE={base}"), "--tag", &image])
                    .arg(&folder);
                build
            })?;
            engine::remove_older_images(context, log, &image)
        })?;
    }
    Ok(Server { name, image })
}

/// The jars or wheels of a dev server.
pub fn lib(context: &Context, name: &str) -> Result<PathBuf> {
    let source = SERVERS
        .iter()
        .find(|server| server.0 == name)
        .map_or(Source::Nothing, |server| server.1);
    let lib = fetch(
        context,
        name,
        &context.root.join("e2e/images").join(name),
        source,
    )?;
    lib.with_context(|| format!("{name} has no files of its own"))
}

/// The wheels named by the requirements.txt of a folder.
pub fn wheels(context: &Context, name: &str, folder: &Path) -> Result<PathBuf> {
    fetch(context, name, folder, Source::Pip)?.with_context(|| format!("{name} has no wheels"))
}

/// Fetches jars or wheels into a folder of the cache, unless those the recipe asks for are there.
fn fetch(context: &Context, name: &str, recipe: &Path, source: Source) -> Result<Option<PathBuf>> {
    let (list, client) = match source {
        Source::Nothing => return Ok(None),
        Source::Maven => ("pom.xml", need("mvn", "maven")),
        Source::Pip => ("requirements.txt", need("pip3", "python3-pip")),
    };
    let list = recipe.join(list);
    let kept = context.cache.join("lib").join(format!(
        "{name}-{}",
        Fingerprint::default().path(&list)?.finish()
    ));
    if kept.is_dir() {
        return Ok(Some(kept));
    }
    let program = client.program;
    debian::ensure(context, &[client])?;
    step(
        context,
        &format!("files of {name}"),
        "check that the package registry can be reached",
        |log| {
            let new = context.temporary_folder(name)?.join("lib");
            log.download(|| {
                let mut fetch = context.command(program);
                match source {
                    Source::Maven => {
                        fetch.args([
                            "--batch-mode",
                            "dependency:copy-dependencies",
                            "-DincludeScope=runtime",
                        ]);
                        fetch
                            .arg(format!("-DoutputDirectory={}", new.display()))
                            .arg("--file")
                            .arg(&list)
                    }
                    Source::Pip | Source::Nothing => {
                        fetch.args([
                            "install",
                            "--no-deps",
                            "--root-user-action=ignore",
                            "--requirement",
                        ]);
                        fetch.arg(&list).arg("--target").arg(&new)
                    }
                };
                fetch
            })?;
            fs::create_dir_all(context.cache.join("lib"))?;
            Ok(fs::rename(&new, &kept)?)
        },
    )?;
    Ok(Some(kept))
}

/// Copies a folder; files by hard links, since a build context is only read.
fn link_tree(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("reading {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            link_tree(&entry.path(), &target)?;
        } else if fs::hard_link(entry.path(), &target).is_err() {
            fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}

/// Loads the dev servers' images where those run.
pub fn load_servers(context: &Context, servers: &[Server]) -> Result<()> {
    let images: Vec<String> = servers.iter().map(|server| server.image.clone()).collect();
    load(context, &[CONTROL_PLANE.to_owned()], &images)
}

/// Loads the operator's and the workers' images onto every node that runs them.
pub fn load_workers(context: &Context, images: &WorkerImages) -> Result<()> {
    load(
        context,
        &cluster::nodes(context, Some("worker"))?,
        &images.names(),
    )
}

/// Loads images that not all of these nodes have.
fn load(context: &Context, nodes: &[String], images: &[String]) -> Result<()> {
    let mut missing = BTreeSet::new();
    for node in nodes {
        let list = [
            "exec",
            node,
            "ctr",
            "--namespace",
            "k8s.io",
            "images",
            "ls",
            "--quiet",
        ];
        let listed = context
            .command("docker")
            .args(list)
            .output()
            .context("running docker")?;
        let there = String::from_utf8_lossy(&listed.stdout).into_owned();
        missing.extend(
            images
                .iter()
                .filter(|image| !there.lines().any(|name| name == image.as_str())),
        );
    }
    if missing.is_empty() {
        return Ok(());
    }
    let nodes = nodes.join(",");
    let title = format!("load {} images into {nodes}", missing.len());
    step(
        context,
        &title,
        "`cargo xtask cluster status` shows whether the nodes run",
        |log| {
            // kind saves the images once and loads them into all nodes at a time.
            let mut kind: Command = context.command("kind");
            log.run(
                kind.args(["load", "docker-image", "--name", CLUSTER, "--nodes", &nodes])
                    .args(&missing),
            )
        },
    )
}

/// `cargo xtask images`.
pub fn build_and_print(context: &Context) -> Result<()> {
    engine::ensure(context)?;
    let servers = servers(context)?;
    let workers = workers::build(context, &compile::demo(context)?)?;
    if cluster::is_running(context) {
        load_servers(context, &servers)?;
        load_workers(context, &workers)?;
    }
    for image in servers
        .into_iter()
        .map(|server| server.image)
        .chain(workers.names())
    {
        println!("{image}");
    }
    Ok(())
}
