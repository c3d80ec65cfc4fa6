//! Proofs about the operator with real servers: its binary as a process, an API server with etcd, a
//! Kafka broker; no nodes. What stands between counts, kills and meddles.
//!
//! `cargo test -p pinpipe-operator --test proofs` runs all, and with names behind `--`, or in
//! `PINPIPE_PROOFS` with commas between them, just these. Servers' files and logs are in a
//! temporary folder, kept when a proof fails.

mod api;
mod broker;
mod crash;
mod idempotence;
mod lane;
mod leaders;
mod many;
mod rbac;
mod specs;
mod stale;
mod state;
mod tap;
mod user;
mod walk;
mod world;

use std::{collections::BTreeSet, env, fs, process::ExitCode, time::Instant};

use anyhow::Result;
use futures::{FutureExt as _, StreamExt as _, future::LocalBoxFuture, stream::FuturesUnordered};
use tokio::{runtime::Runtime, select};

use crate::world::{Servers, World};

type Proof = for<'a> fn(&'a World) -> LocalBoxFuture<'a, Result<String>>;

/// One group after the other, those of a group side by side: they mostly wait.
const PROOFS: [&[(&str, Proof)]; 2] = [
    &[
        ("idempotence", |world| Box::pin(idempotence::run(world))),
        ("crash", |world| Box::pin(crash::run(world))),
        ("lost events", |world| Box::pin(stale::lost_events(world))),
        ("older lists", |world| Box::pin(stale::older_lists(world))),
        ("deleted while down", |world| {
            Box::pin(stale::deleted_while_down(world))
        }),
        ("foreign", |world| Box::pin(stale::foreign(world))),
        ("same name", |world| Box::pin(stale::same_name(world))),
        ("leaders", |world| Box::pin(leaders::run(world))),
    ],
    &[
        ("walk", |world| Box::pin(walk::run(world))),
        ("many", |world| Box::pin(many::run(world))),
    ],
];
/// Where names may stand, besides arguments.
const NAMED: &str = "PINPIPE_PROOFS";
/// The one about all of them, which runs only when they did.
const RBAC: &str = "rbac";

fn main() -> ExitCode {
    let mut named: Vec<String> = env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    named.extend(
        env::var(NAMED)
            .iter()
            .flat_map(|names| names.split(','))
            .map(ToOwned::to_owned),
    );
    let folder = env::temp_dir().join(format!("pinpipe-proofs-{}", std::process::id()));
    match prove(&named, &folder) {
        Ok(true) => {
            // What is left is the system's to clear away.
            let _ = fs::remove_dir_all(&folder);
            ExitCode::SUCCESS
        }
        Ok(false) => {
            println!("servers' files and logs: {}", folder.display());
            ExitCode::FAILURE
        }
        Err(error) => {
            println!("test servers ... FAILED\n{error:#}\ntest result: FAILED. 0 passed; 1 failed");
            ExitCode::FAILURE
        }
    }
}

/// Whether all that is asked for holds.
fn prove(named: &[String], folder: &std::path::Path) -> Result<bool> {
    fs::create_dir_all(folder)?;
    let begun = Instant::now();
    let mut servers = Servers::start(folder.to_path_buf())?;
    println!("servers: {:.1} s", begun.elapsed().as_secs_f64());
    Runtime::new()?.block_on(async {
        let world = World::new(&mut servers).await?;
        select! {
            ended = world.run_deployments() => ended.map(|()| false),
            proven = all(&world, named) => proven,
        }
    })
}

async fn all(world: &World, named: &[String]) -> Result<bool> {
    let is_asked = |name: &str| named.is_empty() || named.iter().any(|asked| asked == name);
    let (mut passed, mut failures) = (0, Vec::new());
    let mut tell = |name: &str, begun: Instant, result: Result<String>| {
        let seconds = begun.elapsed().as_secs_f64();
        match result {
            Ok(found) => {
                println!("test {name} ... ok ({seconds:.1} s): {found}");
                passed += 1;
            }
            Err(error) => {
                println!("test {name} ... FAILED ({seconds:.1} s)");
                failures.push(format!("{name}: {error:#}"));
            }
        }
    };
    for group in PROOFS {
        let begun = Instant::now();
        let asked = group.iter().filter(|(name, _)| is_asked(name));
        let mut proofs: FuturesUnordered<_> = asked
            .map(|(name, proof)| proof(world).map(move |found| (*name, found)))
            .collect();
        while let Some((name, found)) = proofs.next().await {
            tell(name, begun, found);
        }
    }
    if named.is_empty() {
        let (used, granted): (BTreeSet<_>, BTreeSet<_>) = world.permissions();
        tell(
            RBAC,
            Instant::now(),
            rbac::compare(&used, &granted, &world.roles),
        );
    }
    let (result, failed) = (
        if failures.is_empty() { "ok" } else { "FAILED" },
        failures.len(),
    );
    if failed > 0 {
        println!("failures:\n{}", failures.join("\n"));
    }
    println!("test result: {result}. {passed} passed; {failed} failed");
    Ok(failed == 0)
}
