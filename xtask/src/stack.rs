//! The cluster with the dev servers and the workers' images: what the demo and the end-to-end tests
//! need.

use std::thread;

use anyhow::Result;

use crate::cluster;
use crate::compile::Executable;
use crate::context::Context;
use crate::devstack;
use crate::engine;
use crate::images;
use crate::workers::{self, WorkerImages};

/// Brings up the cluster with the dev servers running. Their images are built while the cluster is.
pub fn servers(context: &Context) -> Result<()> {
    engine::ensure(context)?;
    let servers = thread::scope(|scope| {
        let cluster = scope.spawn(|| cluster::up(context));
        let servers = images::servers(context);
        cluster
            .join()
            .expect("the thread that makes the cluster does not panic")?;
        servers
    })?;
    images::load_servers(context, &servers)?;
    devstack::up(context, &servers)
}

/// Brings up the same while `compile` builds executables, and loads the images of those of the
/// workers.
pub fn up(
    context: &Context,
    compile: impl FnOnce() -> Result<Vec<Executable>>,
) -> Result<(WorkerImages, Vec<Executable>)> {
    engine::ensure(context)?;
    let (images, executables) = thread::scope(|scope| {
        let servers = scope.spawn(|| servers(context));
        let built = compile().and_then(|executables| {
            let images = workers::build(context, &executables)?;
            Ok((images, executables))
        });
        servers
            .join()
            .expect("the thread that brings up the servers does not panic")?;
        built
    })?;
    images::load_workers(context, &images)?;
    Ok((images, executables))
}
