//! Random state changes, by the method of Acto: generated changes of a pipeline, valid and invalid,
//! each from a state A to a state B and mostly back. In B the children are those that an oracle
//! requires, and for some B those of an installation in an empty namespace. Back in A they are as
//! they were before. An invalid change leaves them unchanged, and the pipeline recovers from it.
//!
//! Source: Gu et al., "Acto: Automatic End-to-End Testing for Operation Correctness of Cloud System
//! Management", SOSP 2023.

mod change;
mod oracle;

use std::{
    collections::BTreeMap,
    env,
    num::ParseIntError,
    str::FromStr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::{Context as _, Result, ensure};
use futures::future::try_join_all;
use pinpipe_plan::names::record;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};

use crate::{
    cluster::Cluster,
    operator::{Operator, REGISTRY, TAG},
    pipeline::{Pipeline, SETTLES},
    snapshot::{
        Snapshot, Snapshots, children, condition, ensure_same, sets_replicas, without_assigned,
        without_history,
    },
    wait::until,
};
use change::{Change, Outcome};
use oracle::Images;

/// The number of changes, unless an environment variable sets another.
const CHANGES: usize = 500;
/// That environment variable.
const CHANGES_VARIABLE: &str = "PINPIPE_CHANGES";
/// The number of pipelines that are changed concurrently.
const WALKERS: usize = 8;
/// One of this many states of a pipeline is also installed in an empty namespace.
const FRESH_EVERY: usize = 10;
/// The environment variable with the seed; the default is random.
const SEED: &str = "PINPIPE_SEED";
/// The images of the operator.
const IMAGES: Images<'_> = Images {
    registry: REGISTRY,
    tag: TAG,
    digests: &[],
};
/// The name of every pipeline.
const NAME: &str = "pinterest";

/// The state shared by all walkers.
struct Walk<'a> {
    cluster: &'a Cluster,
    operator: &'a Operator,
    snapshots: Snapshots,
    changes: usize,
    begun: AtomicUsize,
    counts: Mutex<BTreeMap<&'static str, usize>>,
}

pub async fn run(cluster: &Cluster) -> Result<String> {
    let seed = number(SEED)?.unwrap_or_else(|| rand::rng().random_range(0..u64::from(u32::MAX)));
    let changes = number(CHANGES_VARIABLE)?.unwrap_or(CHANGES);
    println!("walk: {SEED}={seed}");
    let operator = cluster.operator().await?;
    let names: Vec<String> = (0..WALKERS)
        .flat_map(|at| [namespace_of(at), fresh_namespace_of(at)])
        .collect();
    for name in &names {
        cluster.namespace_with_secrets(name).await?;
    }
    operator.start(&["--namespace", &names.join(",")])?;
    let snapshots = Snapshots::new(cluster.admin.clone(), &cluster.kafka)?;
    let walk = Walk {
        cluster,
        operator: &operator,
        snapshots,
        changes,
        begun: AtomicUsize::new(0),
        counts: Mutex::default(),
    };
    try_join_all((0..WALKERS).map(|at| walk.walker(at, seed)))
        .await
        .with_context(|| {
            format!(
                "{SEED}={seed}, after {:?}\n{}",
                walk.counts(),
                operator.log_end()
            )
        })?;
    let counts = walk.counts();
    Ok(format!("{SEED}={seed}: {counts:?}"))
}

/// The number in an environment variable, if it is set.
fn number<N: FromStr<Err = ParseIntError>>(variable: &str) -> Result<Option<N>> {
    let Ok(text) = env::var(variable) else {
        return Ok(None);
    };
    let number = text.parse();
    number
        .map(Some)
        .with_context(|| format!("{variable} must be a number"))
}

fn namespace_of(walker: usize) -> String {
    format!("walk-{walker}")
}

fn fresh_namespace_of(walker: usize) -> String {
    format!("walk-fresh-{walker}")
}

impl Walk<'_> {
    fn counts(&self) -> BTreeMap<&'static str, usize> {
        self.counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn count(&self, what: &'static str) {
        *self
            .counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(what)
            .or_default() += 1;
    }

    async fn walker(&self, at: usize, seed: u64) -> Result<()> {
        let mut random = StdRng::seed_from_u64(seed.wrapping_add(at as u64));
        let namespace = namespace_of(at);
        let pipeline = Pipeline::new(&self.cluster.admin, &namespace, NAME);
        let mut spec = change::minimal(&self.operator.bootstrap_servers);
        pipeline.create(&spec).await?;
        let walker = Walker {
            walk: self,
            namespace,
            pipeline,
        };
        walker
            .wait_for_children(false)
            .await
            .context("the first state")?;
        let mut history = Vec::new();
        while self.begun.fetch_add(1, Ordering::Relaxed) < self.changes {
            let Change {
                what,
                spec: next,
                annotations,
                outcome,
            } = change::draw(&mut random, &spec);
            history.push(what.clone());
            let context =
                || format!("walker {at}, its changes: {history:?}\nfrom {spec}\nto {next}");
            let before = walker.current_children().await?;
            walker
                .take(&next, &annotations, outcome)
                .await
                .with_context(context)?;
            self.count(outcome.name());
            if outcome == Outcome::Applied && history.len() % FRESH_EVERY == 0 {
                walker
                    .install(&fresh_namespace_of(at), &next)
                    .await
                    .with_context(context)?;
                self.count("installed");
            }
            if outcome == Outcome::Applied && random.random_bool(0.4) {
                spec = next;
            } else {
                walker
                    .take(&spec, &json!({}), Outcome::Applied)
                    .await
                    .context("back")
                    .with_context(context)?;
                if outcome != Outcome::Applied {
                    walker
                        .recovers()
                        .await
                        .context("recovery")
                        .with_context(context)?;
                }
                until("the children as before", SETTLES, async || {
                    ensure_same(&before, &walker.current_children().await?)
                })
                .await
                .with_context(context)?;
                self.count("back");
            }
        }
        Ok(())
    }
}

/// Names of the Deployments whose number of pods is left to autoscalers.
fn scaled(spec: &Value) -> Vec<String> {
    if spec["suspend"] == true {
        return Vec::new();
    }
    let sinks = spec["stream"]["sinks"].as_array().into_iter().flatten();
    let sinks = sinks.map(|sink| {
        let name = sink["name"].as_str().unwrap_or_default();
        (format!("stream-{name}"), sink)
    });
    let components = [("ingest".to_owned(), &spec["ingest"])]
        .into_iter()
        .chain(sinks);
    let scaled = components.filter(|(_, section)| section["autoscaling"].is_object());
    scaled
        .map(|(component, _)| format!("{NAME}-{component}"))
        .collect()
}

/// A pipeline that is changed, one change after the other.
struct Walker<'a> {
    walk: &'a Walk<'a>,
    namespace: String,
    pipeline: Pipeline,
}

impl Walker<'_> {
    /// Makes a change, and waits for its expected outcome.
    async fn take(&self, spec: &Value, annotations: &Value, outcome: Outcome) -> Result<()> {
        let before = self.current_children().await?;
        let replaced = self.pipeline.replace(annotations, spec).await;
        match (outcome, replaced) {
            (Outcome::Rejected, Err(kube::Error::Api(status))) if status.code == 422 => {
                ensure!(
                    self.current_children().await? == before,
                    "a rejected change was applied"
                );
                Ok(())
            }
            (Outcome::Rejected, other) => {
                anyhow::bail!("the API server doesn't reject it: {other:?}")
            }
            (_, Err(error)) => Err(error).context("the API server rejects it"),
            (Outcome::Applied, Ok(())) => self.wait_for_children(false).await,
            (Outcome::ChildRejected, Ok(())) => {
                self.wait_for_reason("ChildRefused").await?;
                self.wait_for_children(true).await?;
                let now = self.current_children().await?;
                let cron_job = |children: &Snapshot| {
                    let mut children = children.iter();
                    children
                        .find(|(key, _)| key.starts_with("CronJob "))
                        .map(|(_, cron_job)| cron_job.clone())
                };
                ensure!(
                    cron_job(&now) == cron_job(&before),
                    "the CronJob changed, although it was rejected"
                );
                Ok(())
            }
            (Outcome::InvalidAnnotation(reason), Ok(())) => {
                self.wait_for_reason(reason).await?;
                ensure!(
                    self.current_children().await? == before,
                    "an invalid annotation changed children"
                );
                Ok(())
            }
        }
    }

    async fn wait_for_reason(&self, reason: &str) -> Result<()> {
        until(reason, SETTLES, async || {
            self.pipeline.has_reason("Ready", reason).await
        })
        .await
    }

    async fn recovers(&self) -> Result<()> {
        until("the pipeline is ready again", SETTLES, async || {
            let pipeline = self.pipeline.get().await?;
            let ready = condition(&pipeline, "Ready")?;
            ensure!(ready["status"] == "True", "{ready}");
            Ok(())
        })
        .await
    }

    /// Waits until the children are those that the resource requires. `cron_job_refused`: the API
    /// server refuses the required `CronJob`.
    async fn wait_for_children(&self, cron_job_refused: bool) -> Result<()> {
        until("the required children", SETTLES, async || {
            let pipeline = self.pipeline.get().await?;
            let (current, observed) = (
                &pipeline["metadata"]["generation"],
                &pipeline["status"]["observedGeneration"],
            );
            ensure!(
                current == observed,
                "generation {current}, and the status is of {observed}"
            );
            let children = self.walk.snapshots.objects(&self.namespace).await?;
            let differences = oracle::differences(&pipeline, &IMAGES, &children, cron_job_refused);
            ensure!(
                differences.is_empty(),
                "not as required:\n{}",
                differences.join("\n")
            );
            let spec = &pipeline["spec"];
            let scaled = scaled(spec).into_iter();
            let held = scaled.filter(|name| {
                let mut children = children.iter();
                children.any(|child| {
                    child["kind"] == "Deployment"
                        && child["metadata"]["name"] == *name
                        && sets_replicas(child)
                })
            });
            let held: Vec<_> = held.collect();
            ensure!(held.is_empty(), "not handed over to autoscalers: {held:?}");
            Ok(())
        })
        .await
    }

    /// A snapshot of objects within this namespace, with their real names.
    fn children_of(&self, objects: Vec<Value>) -> Snapshot {
        let mut snapshot = Snapshot::new();
        for mut object in objects {
            let kind = object["kind"].as_str().unwrap_or_default().to_owned();
            // The record keeps the settings of sections that were removed.
            let is_record = object["metadata"]["name"] == record(NAME);
            if kind == "PinterestPipeline" || is_record {
                continue;
            }
            without_history(&mut object);
            object["metadata"]["namespace"] = json!(self.namespace);
            let name = object["metadata"]["name"]
                .as_str()
                .unwrap_or_default()
                .to_owned();
            snapshot.insert(format!("{kind} {name}"), without_assigned(object));
        }
        snapshot
    }

    /// Installs the same spec in an empty namespace and compares the children.
    async fn install(&self, namespace: &str, spec: &Value) -> Result<()> {
        let snapshots = &self.walk.snapshots;
        let fresh = Pipeline::new(&self.walk.cluster.admin, namespace, NAME);
        let mut spec = spec.clone();
        // Topics of an earlier installation could have more partitions.
        spec["broker"]["kafka"]["topics"]["deletionPolicy"] = json!("Delete");
        fresh.create(&spec).await?;
        until(
            "a fresh installation with the same children",
            SETTLES,
            async || {
                let expected = self.without_record(&self.namespace).await?;
                ensure_same(&self.without_record(namespace).await?, &expected)?;
                ensure!(
                    fresh.get().await?["status"]["observedGeneration"] == 1,
                    "it is not reconciled yet"
                );
                Ok(())
            },
        )
        .await?;
        fresh.delete().await?;
        until("the fresh installation is deleted", SETTLES, async || {
            let left = snapshots.objects(namespace).await?;
            ensure!(left.is_empty(), "{} objects are left", left.len());
            Ok(())
        })
        .await
    }

    /// The children in a namespace, without the record, which keeps settings of removed sections.
    async fn without_record(&self, namespace: &str) -> Result<Snapshot> {
        let objects = self.walk.snapshots.objects(namespace).await?;
        let mut children = children(namespace, objects);
        children.remove(&format!("ConfigMap {}", record(NAME)));
        Ok(children)
    }

    /// The current children.
    async fn current_children(&self) -> Result<Snapshot> {
        Ok(self.children_of(self.walk.snapshots.objects(&self.namespace).await?))
    }
}
