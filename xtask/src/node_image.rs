//! The image of the cluster's nodes: kind's published one where it can be pulled, otherwise one
//! built from Go modules and Debian packages.

use std::thread;

use anyhow::{Context as _, Result};

use crate::base;
use crate::context::Context;
use crate::engine;
use crate::fingerprint::Fingerprint;
use crate::go;
use crate::helm;
use crate::step::step;

/// The default node image of kind v0.33.0, which is built where the machine has no kind.
const PUBLISHED: &str =
    "kindest/node:v1.37.0@sha256:a1ed56cfb0e7b93589bdf97c8cd566405a265939e3620fc4f5de89adff580ae5";

/// The inputs of the built image, under e2e/kind.
const RECIPE: [&str; 8] = [
    "build-node-image.sh",
    "node",
    "pause",
    "go.mod",
    "go.sum",
    "hyperkube",
    "etcd",
    "coredns",
];

/// The name of images built here.
const OWN: &str = "pinpipe.local/kind-node";

/// Whether nodes of this image need routes to each other's pods: kind's published image has a
/// network plug-in that sets them.
pub fn needs_routes(image: &str) -> bool {
    image.starts_with(OWN)
}

/// Ensures that kind, helm and a node image are there. Returns the image's name.
pub fn ensure_with_tools(context: &Context) -> Result<String> {
    let recipe = context.root.join("e2e/kind");
    let mut key = Fingerprint::default();
    for part in RECIPE {
        key = key.path(&recipe.join(part))?;
    }
    let own = format!("{OWN}:{}", key.finish());
    helm::ensure(context)?;

    let there = [PUBLISHED, own.as_str()]
        .into_iter()
        .find(|image| engine::has_image(context, image))
        .map(str::to_owned);
    if let Some(image) = there {
        go::kind(context)?;
        return Ok(image);
    }
    thread::scope(|scope| {
        // A registry that doesn't answer takes a while, and kind is needed in any case.
        let kind = scope.spawn(|| go::kind(context));
        let image = if engine::pull(context, PUBLISHED)? {
            PUBLISHED.to_owned()
        } else {
            build(context, own)?
        };
        kind.join()
            .expect("a thread that builds programs does not panic")?;
        Ok(image)
    })
}

fn build(context: &Context, image: String) -> Result<String> {
    let kind_source = go::kind_source(context)?;
    let base = thread::scope(|scope| {
        let base = scope.spawn(|| base::ensure(context));
        go::node_programs(context)?;
        base.join()
            .expect("a thread that builds an image does not panic")
    })?;
    let version = go::kubernetes_version(context)?;
    println!("   the nodes get Kubernetes {version}");
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
