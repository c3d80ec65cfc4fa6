//! All that the demo and the end-to-end tests stand on.

use std::thread;

use anyhow::Result;

use crate::cluster;
use crate::compile;
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

/// The same, with the workers' images built meanwhile and loaded.
pub fn up(context: &Context) -> Result<WorkerImages> {
    engine::ensure(context)?;
    let built = thread::scope(|scope| {
        let servers = scope.spawn(|| servers(context));
        let built = compile::workspace(context)
            .and_then(|executables| workers::build(context, &executables));
        servers
            .join()
            .expect("the thread that brings up the servers does not panic")?;
        built
    })?;
    images::load_workers(context, &built)?;
    Ok(built)
}
