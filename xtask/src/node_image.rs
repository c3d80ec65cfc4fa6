//! The image of the cluster's node: kind's published one where it can be pulled, otherwise built
//! from Go modules and Debian packages.

use std::thread;

use anyhow::{Context as _, Result};

use crate::base;
use crate::context::Context;
use crate::engine;
use crate::fingerprint::Fingerprint;
use crate::go;
use crate::step::step;

/// What kind v0.33.0, which is built where the machine has no kind, uses by itself.
const PUBLISHED: &str =
    "kindest/node:v1.37.0@sha256:a1ed56cfb0e7b93589bdf97c8cd566405a265939e3620fc4f5de89adff580ae5";

/// What the built image is made of, under e2e/kind.
const RECIPE: [&str; 6] = [
    "build-node-image.sh",
    "node",
    "pause",
    "kubernetes",
    "etcd",
    "coredns",
];

/// Where images built here are named.
const OWN: &str = "pinpipe.local/kind-node";

/// Whether nodes of this image need to be told the routes to each other's pods: kind's published
/// image brings what does that.
pub fn needs_routes(image: &str) -> bool {
    image.starts_with(OWN)
}

/// Sees to it that kind, helm and a node image are there, building what is missing side by side.
/// Returns the image's name.
pub fn ensure_with_tools(context: &Context) -> Result<String> {
    let recipe = context.root.join("e2e/kind");
    let mut key = Fingerprint::default().path(&recipe.join("tools/go.mod"))?;
    for part in RECIPE {
        key = key.path(&recipe.join(part))?;
    }
    let own = format!("{OWN}:{}", key.finish());

    let there = [PUBLISHED, own.as_str()]
        .into_iter()
        .find(|image| engine::has_image(context, image))
        .map(str::to_owned);
    if let Some(image) = there {
        go::tools(context)?;
        return Ok(image);
    }
    thread::scope(|scope| {
        let tools = scope.spawn(|| go::tools(context));
        let image = if engine::pull(context, PUBLISHED)? {
            PUBLISHED.to_owned()
        } else {
            build(context, own)?
        };
        tools
            .join()
            .expect("a thread that builds programs does not panic")?;
        Ok(image)
    })
}

fn build(context: &Context, image: String) -> Result<String> {
    let kind_source = go::kind_source(context)?;
    let base = thread::scope(|scope| {
        let base = scope.spawn(|| base::ensure(context));
        let servers = scope.spawn(|| go::node_servers(context));
        go::kubernetes(context)?;
        servers
            .join()
            .expect("a thread that builds programs does not panic")?;
        base.join()
            .expect("a thread that builds an image does not panic")
    })?;
    let version = go::kubernetes_version(context)?;
    let hint = "read the log; layers that were built are kept for the next attempt";
    step(context, "node image", hint, |log| {
        let compiler = ["-Os", "-static", "-s", "-o"];
        let pause = context.root.join("e2e/kind/pause/pause.c");
        log.run(
            context
                .command("cc")
                .args(compiler)
                .arg(context.bin("pause"))
                .arg(pause),
        )
        .context("compiling pause.c")?;
        log.download(|| {
            let mut script = context.command("e2e/kind/build-node-image.sh");
            script
                .env("BASE", base)
                .env("BINARIES", context.cache.join("bin"))
                .env("KIND_SOURCE", &kind_source);
            script
                .env("KUBERNETES_VERSION", &version)
                .env("NODE_IMAGE", &image);
            for (name, value) in engine::build_command(context).get_envs() {
                script.envs(value.map(|value| (name, value)));
            }
            script
        })?;
        engine::remove_older_images(context, log, &image)
    })?;
    Ok(image)
}
