//! The state walk, Acto's method: generated changes of a pipeline, valid and not, each from a state
//! A to a state B and, mostly, back. At B the children are those of a fresh install of B; what
//! can't be done leaves them as they are; and after it comes a state that can.
//!
//! What a fresh install would have is asked of the API server: each object that the build phase
//! gives is applied by a dry run where nothing is yet. Of some states a real one is made besides.
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
use pinpipe_operator::{
    MANAGER,
    build::{self, Object},
    dereference::{self, Dereferenced},
    validate::{Images, validate},
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};

use crate::{
    lane::{Lane, REGISTRY, TAG},
    state::{Camera, Picture, children, condition, ensure_same, without_history, without_own},
    user::{Pipeline, SETTLES},
    world::{World, until},
};
use change::{Change, Outcome};

/// How many changes there are in all.
const CHANGES: usize = 500;
/// So many pipelines are changed side by side.
const WALKERS: usize = 8;
/// Of each so many states, one is installed anew.
const FRESH_EVERY: usize = 40;
/// Where the seed may be named; otherwise it is drawn.
const SEED: &str = "PINPIPE_SEED";
/// Where dry runs are made: nothing is ever there.
const NOWHERE: &str = "walk-nowhere";

/// What all walkers share.
struct Walk<'a> {
    world: &'a World,
    lane: &'a Lane,
    camera: Camera,
    begun: AtomicUsize,
    counts: Mutex<BTreeMap<&'static str, usize>>,
}

pub async fn run(world: &World) -> Result<String> {
    let seed = match env::var(SEED) {
        Ok(seed) => seed
            .parse()
            .with_context(|| format!("{SEED} must be a number"))?,
        Err(_) => rand::rng().random_range(0..u64::from(u32::MAX)),
    };
    println!("walk: {SEED}={seed}");
    let lane = world.lane().await?;
    world.place(NOWHERE).await?;
    let names: Vec<String> = (0..WALKERS)
        .flat_map(|at| [place(at), fresh_place(at)])
        .collect();
    for name in &names {
        world.place(name).await?;
    }
    lane.start(&["--namespace", &names.join(",")])?;
    let camera = Camera::new(world.admin.clone(), &world.kafka)?;
    let walk = Walk {
        world,
        lane: &lane,
        camera,
        begun: AtomicUsize::new(0),
        counts: Mutex::default(),
    };
    try_join_all((0..WALKERS).map(|at| walk.walker(at, seed)))
        .await
        .with_context(|| {
            format!(
                "{SEED}={seed}, after {:?}\n{}",
                walk.counts(),
                lane.last_words()
            )
        })?;
    let counts = walk.counts();
    Ok(format!("{SEED}={seed}: {counts:?}"))
}

fn place(walker: usize) -> String {
    format!("walk-{walker}")
}

fn fresh_place(walker: usize) -> String {
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
        let namespace = place(at);
        let pipeline = Pipeline::new(&self.world.admin, &namespace, "pinterest");
        let mut spec = change::least(&self.lane.bootstrap_servers);
        pipeline.create(&spec).await?;
        let mut walker = Walker {
            walk: self,
            namespace,
            pipeline,
            known: HashMap::new(),
        };
        walker.stands().await.context("at first")?;
        let mut taken = Vec::new();
        while self.begun.fetch_add(1, Ordering::Relaxed) < CHANGES {
            let Change {
                what,
                spec: next,
                annotations,
                outcome,
            } = change::draw(&mut random, &spec);
            taken.push(what.clone());
            let told = || format!("walker {at}, its changes: {taken:?}\nfrom {spec}\nto {next}");
            walker
                .take(&next, &annotations, outcome)
                .await
                .with_context(told)?;
            self.count(outcome.name());
            if outcome == Outcome::Done && taken.len() % FRESH_EVERY == 0 {
                walker
                    .install(&fresh_place(at), &next)
                    .await
                    .with_context(told)?;
                self.count("installed anew");
            }
            if outcome == Outcome::Done && random.random_bool(0.4) {
                spec = next;
            } else {
                walker
                    .take(&spec, &json!({}), Outcome::Done)
                    .await
                    .context("back again")
                    .with_context(told)?;
                if outcome != Outcome::Done {
                    walker
                        .is_well()
                        .await
                        .context("recovery")
                        .with_context(told)?;
                }
                self.count("back again");
            }
        }
        Ok(())
    }
}

/// A pipeline on its way.
struct Walker<'a> {
    walk: &'a Walk<'a>,
    namespace: String,
    pipeline: Pipeline,
    /// What the API server makes of an object where nothing is; nothing: it refuses it.
    known: HashMap<String, Option<Value>>,
}

impl Walker<'_> {
    /// Makes a change, and waits until what should come of it has.
    async fn take(&mut self, spec: &Value, annotations: &Value, outcome: Outcome) -> Result<()> {
        let before = self.as_it_is().await?;
        let replaced = self.pipeline.replace(annotations, spec).await;
        match (outcome, replaced) {
            (Outcome::Refused, Err(kube::Error::Api(status))) if status.code == 422 => {
                ensure!(
                    self.as_it_is().await? == before,
                    "a change that was refused was done"
                );
                Ok(())
            }
            (Outcome::Refused, other) => {
                anyhow::bail!("the API server does not refuse it: {other:?}")
            }
            (_, Err(error)) => Err(error).context("the API server refuses it"),
            (Outcome::Done, Ok(())) => self.stands().await,
            (Outcome::Child, Ok(())) => {
                self.says("ChildRefused").await?;
                self.stands().await
            }
            (Outcome::Asked(reason), Ok(())) => {
                self.says(reason).await?;
                ensure!(
                    self.as_it_is().await? == before,
                    "what can't be understood changed children"
                );
                Ok(())
            }
        }
    }

    async fn says(&self, reason: &str) -> Result<()> {
        until(reason, SETTLES, async || {
            self.pipeline.says("Ready", reason).await
        })
        .await
    }

    async fn is_well(&self) -> Result<()> {
        until("all is well again", SETTLES, async || {
            let pipeline = self.pipeline.get().await?;
            let ready = condition(&pipeline, "Ready")?;
            ensure!(ready["status"] == "True", "{ready}");
            Ok(())
        })
        .await
    }

    /// Waits until the children are those of a fresh install.
    async fn stands(&mut self) -> Result<()> {
        let desired = self.desired().await?;
        let mut expected = Vec::new();
        let there = self.walk.camera.objects(&self.namespace).await?;
        for object in &desired {
            if let Some(fresh) = self.fresh(object).await? {
                expected.push(fresh);
                continue;
            }
            // What is refused leaves what is there as it is, with what its pods are configured by.
            let left = |found: &&Value| {
                found["kind"] == object.resource.kind && found["metadata"]["name"] == object.name
            };
            for left in there.iter().filter(left) {
                let text = left["spec"].to_string();
                let is_named = |found: &&Value| {
                    let name = found["metadata"]["name"].as_str().unwrap_or_default();
                    found["kind"] == "ConfigMap" && text.contains(name)
                };
                expected.extend(there.iter().filter(is_named).cloned());
                expected.push(left.clone());
            }
        }
        let expected = self.children_of(expected);
        until(
            "the children are those of a fresh install",
            SETTLES,
            async || {
                let pipeline = self.pipeline.get().await?;
                let (now, seen) = (
                    &pipeline["metadata"]["generation"],
                    &pipeline["status"]["observedGeneration"],
                );
                ensure!(now == seen, "generation {now}, and the status is of {seen}");
                ensure_same(&expected, &self.as_it_is().await?)
            },
        )
        .await
    }

    /// Objects as they can be compared within this namespace, where every name is what it is.
    fn children_of(&self, objects: Vec<Value>) -> Picture {
        let mut picture = Picture::new();
        for mut object in objects {
            let kind = object["kind"].as_str().unwrap_or_default().to_owned();
            if kind == "PinterestPipeline" {
                continue;
            }
            without_history(&mut object);
            object["metadata"]["namespace"] = json!(self.namespace);
            let name = object["metadata"]["name"]
                .as_str()
                .unwrap_or_default()
                .to_owned();
            picture.insert(format!("{kind} {name}"), without_own(object));
        }
        picture
    }

    /// What the build phase makes of the pipeline as it is.
    async fn desired(&self) -> Result<Vec<Object>> {
        let pipeline: PinterestPipeline = serde_json::from_value(self.pipeline.get().await?)?;
        let secrets =
            dereference::secrets(&self.walk.world.admin, &self.namespace, &pipeline.spec).await?;
        let found = Dereferenced {
            secrets,
            ..Dereferenced::default()
        };
        let images = Images {
            registry: REGISTRY.to_owned(),
            tag: TAG.to_owned(),
            digests: BTreeMap::new(),
        };
        let validated = validate(&pipeline, &found, &images)
            .map_err(|problems| anyhow::anyhow!("the validate phase refuses it: {problems:?}"))?;
        Ok(build::objects(&validated))
    }

    /// What the API server makes of an object where nothing is.
    async fn fresh(&mut self, object: &Object) -> Result<Option<Value>> {
        let mut body = object.body.clone();
        body["metadata"]["namespace"] = json!(NOWHERE);
        body["apiVersion"] = json!(object.resource.api_version);
        body["kind"] = json!(object.resource.kind);
        let text = body.to_string();
        if let Some(known) = self.known.get(&text) {
            return Ok(known.clone());
        }
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.walk.world.admin.clone(), NOWHERE, &object.resource);
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

    /// Installs the same anew, where nothing is, and compares.
    async fn install(&self, namespace: &str, spec: &Value) -> Result<()> {
        let camera = &self.walk.camera;
        let fresh = Pipeline::new(&self.walk.world.admin, namespace, "pinterest");
        fresh.create(spec).await?;
        until(
            "a fresh install has the same children",
            SETTLES,
            async || {
                let there = children(&self.namespace, camera.objects(&self.namespace).await?);
                ensure_same(
                    &children(namespace, camera.objects(namespace).await?),
                    &there,
                )?;
                ensure!(
                    fresh.get().await?["status"]["observedGeneration"] == 1,
                    "nobody has looked at it yet"
                );
                Ok(())
            },
        )
        .await?;
        fresh.delete().await?;
        until("what was installed is gone", SETTLES, async || {
            let left = camera.objects(namespace).await?;
            ensure!(left.is_empty(), "{} objects are left", left.len());
            Ok(())
        })
        .await
    }

    /// The children as they are.
    async fn as_it_is(&self) -> Result<Picture> {
        Ok(self.children_of(self.walk.camera.objects(&self.namespace).await?))
    }
}
