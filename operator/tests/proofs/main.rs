//! Proofs about the operator: its binary as a process, with an API server, etcd and a Kafka broker,
//! but no nodes. Proxies between them count requests, kill the operator, and inject faults.
//!
//! `cargo test -p pinpipe-operator --test proofs` runs all proofs. Arguments, or a list separated
//! by commas in `PINPIPE_PROOFS`, select some by name. The servers' files and logs are in a
//! temporary folder, which is kept when a proof fails.

mod admission;
mod api_proxy;
mod cluster;
mod crash;
mod idempotence;
mod kafka_proxy;
mod leaders;
mod many;
mod namespaces;
mod operator;
mod ownership;
mod pipeline;
mod rbac;
mod record;
mod runs;
mod servers;
mod snapshot;
mod specs;
mod stale;
mod stuck_runs;
mod traffic;
mod wait;
mod walk;

use std::{collections::BTreeSet, env, fs, process::ExitCode, time::Instant};

use anyhow::Result;
use futures::{FutureExt as _, StreamExt as _, future::LocalBoxFuture, stream::FuturesUnordered};
use tokio::{runtime::Runtime, select};

use crate::{cluster::Cluster, servers::Servers};

type Proof = for<'a> fn(&'a Cluster) -> LocalBoxFuture<'a, Result<String>>;

/// Groups run one after the other; the proofs of a group run concurrently, since they mostly wait.
const PROOFS: [&[(&str, Proof)]; 2] = [
    &[
        ("idempotence", |cluster| Box::pin(idempotence::run(cluster))),
        ("crash", |cluster| Box::pin(crash::run(cluster))),
        ("lost events", |cluster| {
            Box::pin(stale::lost_events(cluster))
        }),
        ("older lists", |cluster| {
            Box::pin(stale::older_lists(cluster))
        }),
        ("deleted while down", |cluster| {
            Box::pin(stale::deleted_while_down(cluster))
        }),
        ("foreign", |cluster| Box::pin(stale::foreign(cluster))),
        ("same name", |cluster| Box::pin(stale::same_name(cluster))),
        ("stuck runs", |cluster| Box::pin(stuck_runs::run(cluster))),
        ("runs", |cluster| Box::pin(runs::run(cluster))),
        ("rights of runs", |cluster| Box::pin(runs::rights(cluster))),
        ("record", |cluster| Box::pin(record::run(cluster))),
        ("role gone", |cluster| {
            Box::pin(namespaces::role_gone(cluster))
        }),
        ("ownership", |cluster| Box::pin(ownership::run(cluster))),
        ("refused record", |cluster| {
            Box::pin(ownership::refused_record(cluster))
        }),
        ("rewritten", |cluster| {
            Box::pin(admission::rewritten(cluster))
        }),
        ("leaders", |cluster| Box::pin(leaders::run(cluster))),
    ],
    &[
        ("walk", |cluster| Box::pin(walk::run(cluster))),
        ("many", |cluster| Box::pin(many::run(cluster))),
    ],
];
/// The environment variable that selects proofs.
const SELECTED: &str = "PINPIPE_PROOFS";
/// The proof about the requests of all others; it runs only after all of them.
const RBAC: &str = "rbac";

fn main() -> ExitCode {
    let mut selected: Vec<String> = env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    selected.extend(
        env::var(SELECTED)
            .iter()
            .flat_map(|names| names.split(','))
            .map(ToOwned::to_owned),
    );
    let folder = env::temp_dir().join(format!("pinpipe-proofs-{}", std::process::id()));
    match prove(&selected, &folder) {
        Ok(true) => {
            // A temporary folder: what can't be deleted does no harm.
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

/// Whether all selected proofs pass.
fn prove(selected: &[String], folder: &std::path::Path) -> Result<bool> {
    fs::create_dir_all(folder)?;
    let begun = Instant::now();
    let mut servers = Servers::start(folder.to_path_buf())?;
    println!("servers: {:.1} s", begun.elapsed().as_secs_f64());
    Runtime::new()?.block_on(async {
        let cluster = Cluster::new(&mut servers).await?;
        select! {
            ended = cluster.run_deployments() => ended.map(|()| false),
            proven = run_all(&cluster, selected) => proven,
        }
    })
}

async fn run_all(cluster: &Cluster, selected: &[String]) -> Result<bool> {
    let is_selected =
        |name: &str| selected.is_empty() || selected.iter().any(|selected| selected == name);
    let (mut passed, mut failures) = (0, Vec::new());
    let mut report = |name: &str, begun: Instant, result: Result<String>| {
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
        let proofs = group.iter().filter(|(name, _)| is_selected(name));
        let mut proofs: FuturesUnordered<_> = proofs
            .map(|(name, proof)| proof(cluster).map(move |found| (*name, found)))
            .collect();
        while let Some((name, found)) = proofs.next().await {
            report(name, begun, found);
        }
    }
    if selected.is_empty() {
        let (used, granted): (BTreeSet<_>, BTreeSet<_>) = cluster.permissions();
        report(
            RBAC,
            Instant::now(),
            rbac::compare(&used, &granted, &cluster.roles),
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
