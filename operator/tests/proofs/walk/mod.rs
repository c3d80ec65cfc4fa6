//! Random state changes, by the method of Acto: generated changes of a pipeline, valid and invalid,
//! each from a state A to a state B and mostly back. In B the children equal those of a fresh
//! installation of B, an invalid change leaves them unchanged, and the pipeline recovers from it.
//!
//! The children of a fresh installation come from the API server: each object of the build phase is
//! applied by a dry run in an empty namespace. Some states are really installed as well.
//!
//! Source: Gu et al., "Acto: Automatic End-to-End Testing for Operation Correctness of Cloud System
//! Management", SOSP 2023.

mod change;

use std::{
    collections::{BTreeMap, HashMap},
    env,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::{Context as _, Result, ensure};
use futures::future::try_join_all;
use kube::{
    Api,
    api::{DynamicObject, Patch, PatchParams},
};
use pinpipe_crds::PinterestPipeline;
use pinpipe_operator::observe::secrets;
use pinpipe_plan::{
    build::{Object, Observed, build},
    model::Images,
    names::{MANAGER, record},
    validate::{Inputs, validate},
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};

use crate::{
    cluster::Cluster,
    operator::{Operator, REGISTRY, TAG},
    pipeline::{Pipeline, SETTLES},
    snapshot::{
        Snapshot, Snapshots, children, condition, ensure_same, without_assigned, without_history,
    },
    wait::until,
};
use change::{Change, Outcome};

/// The number of changes.
const CHANGES: usize = 500;
/// The number of pipelines that are changed concurrently.
const WALKERS: usize = 8;
/// One of this many states is really installed.
const FRESH_EVERY: usize = 40;
/// The environment variable with the seed; the default is random.
const SEED: &str = "PINPIPE_SEED";
/// The name of every pipeline.
const NAME: &str = "pinterest";
/// The empty namespace of dry runs.
const EMPTY: &str = "walk-empty";

/// The state shared by all walkers.
struct Walk<'a> {
    cluster: &'a Cluster,
    operator: &'a Operator,
    snapshots: Snapshots,
    begun: AtomicUsize,
    counts: Mutex<BTreeMap<&'static str, usize>>,
}

pub async fn run(cluster: &Cluster) -> Result<String> {
    let seed = match env::var(SEED) {
        Ok(seed) => seed
            .parse()
            .with_context(|| format!("{SEED} must be a number"))?,
        Err(_) => rand::rng().random_range(0..u64::from(u32::MAX)),
    };
    println!("walk: {SEED}={seed}");
    let operator = cluster.operator().await?;
    cluster.namespace_with_secrets(EMPTY).await?;
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
        let mut walker = Walker {
            walk: self,
            namespace,
            pipeline,
            known: HashMap::new(),
        };
        walker
            .wait_for_children()
            .await
            .context("the first state")?;
        let mut history = Vec::new();
        while self.begun.fetch_add(1, Ordering::Relaxed) < CHANGES {
            let Change {
                what,
                spec: next,
                annotations,
                outcome,
            } = change::draw(&mut random, &spec);
            history.push(what.clone());
            let context =
                || format!("walker {at}, its changes: {history:?}\nfrom {spec}\nto {next}");
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
                self.count("back");
            }
        }
        Ok(())
    }
}

/// A pipeline that is changed, one change after the other.
struct Walker<'a> {
    walk: &'a Walk<'a>,
    namespace: String,
    pipeline: Pipeline,
    /// The results of dry runs by object; none if the API server rejects the object.
    known: HashMap<String, Option<Value>>,
}

impl Walker<'_> {
    /// Makes a change, and waits for its expected outcome.
    async fn take(&mut self, spec: &Value, annotations: &Value, outcome: Outcome) -> Result<()> {
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
            (Outcome::Applied, Ok(())) => self.wait_for_children().await,
            (Outcome::ChildRejected, Ok(())) => {
                self.wait_for_reason("ChildRefused").await?;
                self.wait_for_children().await
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

    /// Waits until the children are those of a fresh installation.
    async fn wait_for_children(&mut self) -> Result<()> {
        let desired = self.desired().await?;
        let mut expected = Vec::new();
        let existing = self.walk.snapshots.objects(&self.namespace).await?;
        for object in &desired {
            if let Some(fresh) = self.fresh(object).await? {
                expected.push(fresh);
                continue;
            }
            // If the object is rejected, the existing one stays, with the ConfigMaps that it uses.
            let is_same = |found: &&Value| {
                found["kind"] == object.resource.kind && found["metadata"]["name"] == object.name
            };
            for old in existing.iter().filter(is_same) {
                let text = old["spec"].to_string();
                let is_used = |found: &&Value| {
                    let name = found["metadata"]["name"].as_str().unwrap_or_default();
                    found["kind"] == "ConfigMap" && text.contains(name)
                };
                expected.extend(existing.iter().filter(is_used).cloned());
                expected.push(old.clone());
            }
        }
        let expected = self.children_of(expected);
        until(
            "the children of a fresh installation",
            SETTLES,
            async || {
                let pipeline = self.pipeline.get().await?;
                let (current, observed) = (
                    &pipeline["metadata"]["generation"],
                    &pipeline["status"]["observedGeneration"],
                );
                ensure!(
                    current == observed,
                    "generation {current}, and the status is of {observed}"
                );
                ensure_same(&expected, &self.current_children().await?)
            },
        )
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

    /// The objects that the build phase gives for the pipeline.
    async fn desired(&self) -> Result<Vec<Object>> {
        let pipeline: PinterestPipeline = serde_json::from_value(self.pipeline.get().await?)?;
        let secrets =
            secrets::read(&self.walk.cluster.admin, &self.namespace, &pipeline.spec).await?;
        let found = Inputs {
            secrets,
            ..Inputs::default()
        };
        let images = Images {
            registry: REGISTRY.to_owned(),
            tag: TAG.to_owned(),
            digests: BTreeMap::new(),
            repositories: BTreeMap::new(),
        };
        let validated = validate(&pipeline, &found, &images)
            .map_err(|problems| anyhow::anyhow!("the validate phase rejects it: {problems:?}"))?;
        Ok(build(&validated, &Observed::default()).objects)
    }

    /// An object as the API server would create it; none if it rejects the object.
    async fn fresh(&mut self, object: &Object) -> Result<Option<Value>> {
        let mut body = object.body.clone();
        body["metadata"]["namespace"] = json!(EMPTY);
        body["apiVersion"] = json!(object.resource.api_version);
        body["kind"] = json!(object.resource.kind);
        let text = body.to_string();
        if let Some(known) = self.known.get(&text) {
            return Ok(known.clone());
        }
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.walk.cluster.admin.clone(), EMPTY, &object.resource);
        let params = PatchParams {
            dry_run: true,
            ..PatchParams::apply(MANAGER).force()
        };
        let fresh = match api.patch(&object.name, &params, &Patch::Apply(&body)).await {
            Ok(fresh) => {
                let mut fresh = serde_json::to_value(&fresh)?;
                fresh["kind"] = json!(object.resource.kind);
                Some(fresh)
            }
            Err(kube::Error::Api(status)) if status.code == 422 => None,
            Err(error) => return Err(error).context("a dry run"),
        };
        self.known.insert(text, fresh.clone());
        Ok(fresh)
    }

    /// Installs the same spec in an empty namespace and compares the children.
    async fn install(&self, namespace: &str, spec: &Value) -> Result<()> {
        let snapshots = &self.walk.snapshots;
        let fresh = Pipeline::new(&self.walk.cluster.admin, namespace, NAME);
        fresh.create(spec).await?;
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
