//! What the operator knows about children without listing them.
//!
//! A metadata watch of each kind keeps one number per pipeline: the sum of the hashes of its
//! objects' names, UIDs and resource versions. A list is kept, compressed, with the sum of what it
//! contained, and is used again while the watch has the same sum. So a pipeline at rest causes no
//! list. A list is never used again after a write of the operator, before the watch has listed
//! everything, or when it is old: an event may be lost.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher as _},
    io::{Read as _, Write as _},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use flate2::{Compression, read::ZlibDecoder, write::ZlibEncoder};
use futures::future::try_join_all;
use k8s_openapi::api::batch::v1::Job;
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, ListParams, ObjectMeta},
    runtime::watcher::Event,
};
use pinpipe_crds::PinterestPipeline;
use pinpipe_plan::names::{self, INSTANCE_LABEL, MANAGER};
use serde_json::Value;

use super::children::{Children, is_owned, kinds, value};

/// Longest time for which a list is used again, times the number of pipelines. So the lists of
/// all pipelines together are about four requests per second, however many there are.
const TRUSTED_FOR: Duration = Duration::from_secs(3);

/// Kind of the batch runs. They aren't in [`kinds`], since they are found by their labels and not
/// by their owner.
const RUNS: &str = "Job";

/// What a change of an object means to its pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Matters {
    /// Every change, that of the status included.
    Always,
    /// Only a change of labels, annotations, owners or the fields that the operator owns. The
    /// status of an autoscaler, for one, changes every 15 s.
    WhenOurs,
}

/// Pipelines that an event of a watch concerns.
#[derive(Debug, PartialEq, Eq)]
pub enum Concerned {
    /// None.
    Nobody,
    /// The pipeline of the event's object.
    Owner,
    /// Pipelines, by namespace and name, that lost objects while the watch was interrupted.
    Owners(Vec<(String, String)>),
}

/// A watched object, by hashes.
#[derive(Clone, Copy)]
struct Known {
    pipeline: u64,
    version: u64,
    /// Hash of what concerns the operator.
    ours: u64,
}

/// Objects of one watch.
#[derive(Default)]
struct Objects {
    by_name: HashMap<u64, Known>,
    by_pipeline: HashMap<u64, OfPipeline>,
}

/// Objects of one pipeline.
struct OfPipeline {
    namespace: String,
    name: String,
    /// Sum of the versions.
    sum: u64,
}

impl Objects {
    fn insert(&mut self, name: u64, known: Known, metadata: &ObjectMeta) -> Option<Known> {
        let old = self.remove(name);
        let of = self.by_pipeline.entry(known.pipeline).or_insert_with(|| {
            let (namespace, name) = pipeline(metadata);
            OfPipeline {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                sum: 0,
            }
        });
        of.sum = of.sum.wrapping_add(known.version);
        self.by_name.insert(name, known);
        old
    }

    fn remove(&mut self, name: u64) -> Option<Known> {
        let old = self.by_name.remove(&name)?;
        if let Some(of) = self.by_pipeline.get_mut(&old.pipeline) {
            of.sum = of.sum.wrapping_sub(old.version);
            if of.sum == 0 {
                self.by_pipeline.remove(&old.pipeline);
            }
        }
        Some(old)
    }

    /// Pipelines of the objects that aren't in a later list.
    fn owners_of_deleted(&self, later: &Self) -> Vec<(String, String)> {
        let deleted = self.by_name.iter();
        let deleted = deleted.filter(|(name, _)| !later.by_name.contains_key(name));
        let pipelines: HashSet<u64> = deleted.map(|(_, known)| known.pipeline).collect();
        let pipelines = pipelines
            .iter()
            .filter_map(|hash| self.by_pipeline.get(hash));
        pipelines
            .map(|of| (of.namespace.clone(), of.name.clone()))
            .collect()
    }
}

/// A watch of one kind, in one namespace or in all.
pub struct KindWatch {
    kind: String,
    namespace: Option<String>,
    matters: Matters,
    state: Mutex<WatchState>,
}

#[derive(Default)]
struct WatchState {
    /// None: not everything is listed yet.
    objects: Option<Objects>,
    /// Objects listed so far, during a list.
    listed: Objects,
}

impl KindWatch {
    /// Takes note of an event. Returns which pipelines should be reconciled.
    pub fn observe<K: kube::Resource>(&self, event: &Event<K>) -> Concerned {
        let mut state = lock(&self.state);
        match event {
            Event::Init => {
                state.listed = Objects::default();
                Concerned::Nobody
            }
            Event::InitApply(object) => {
                let (name, known) = known(object.meta());
                let before = state.objects.as_ref();
                let before = before.and_then(|before| before.by_name.get(&name).copied());
                state.listed.insert(name, known, object.meta());
                self.concerned(before, known)
            }
            Event::InitDone => {
                let listed = std::mem::take(&mut state.listed);
                let before = state.objects.as_ref();
                let owners = before.map(|before| before.owners_of_deleted(&listed));
                state.objects = Some(listed);
                Concerned::Owners(owners.unwrap_or_default())
            }
            Event::Apply(object) => {
                let (name, known) = known(object.meta());
                let objects = state.objects.get_or_insert_default();
                let before = objects.insert(name, known, object.meta());
                self.concerned(before, known)
            }
            Event::Delete(object) => {
                let (name, _) = known(object.meta());
                state.objects.get_or_insert_default().remove(name);
                Concerned::Owner
            }
        }
    }

    fn concerned(&self, before: Option<Known>, now: Known) -> Concerned {
        let concerns = before.is_none_or(|before| match self.matters {
            Matters::Always => before.version != now.version,
            Matters::WhenOurs => before.ours != now.ours,
        });
        if concerns {
            Concerned::Owner
        } else {
            Concerned::Nobody
        }
    }

    /// Sum of the versions of a pipeline's objects. None: not everything is listed yet.
    fn sum(&self, pipeline: u64) -> Option<u64> {
        let state = lock(&self.state);
        let objects = state.objects.as_ref()?;
        let of = objects.by_pipeline.get(&pipeline);
        Some(of.map(|of| of.sum).unwrap_or_default())
    }
}

/// Objects of one kind as they were listed.
struct Listed {
    sum: u64,
    at: Instant,
    compressed: Vec<u8>,
}

/// A look-up of which `ConfigMaps` are in use.
struct Pruned {
    /// [`ChildCache::fingerprint`] before it.
    fingerprint: u64,
    /// The `ConfigMaps` that were no longer desired. Those in use were kept.
    undesired: BTreeSet<String>,
}

/// What is kept about one pipeline.
#[derive(Default)]
struct Kept {
    lists: HashMap<String, Listed>,
    /// The last look-up of which `ConfigMaps` are in use.
    pruned: Option<Pruned>,
}

/// Children of all pipelines.
#[derive(Default)]
pub struct ChildCache {
    watches: Mutex<Vec<Arc<KindWatch>>>,
    /// By the pipeline's UID.
    kept: Mutex<HashMap<String, Kept>>,
}

/// A pipeline whose children are read.
#[derive(Clone, Copy, Debug)]
pub struct Of<'a> {
    /// Namespace of the pipeline.
    pub namespace: &'a str,
    /// Name of the pipeline.
    pub name: &'a str,
    /// UID of the pipeline.
    pub uid: &'a str,
}

impl ChildCache {
    /// Adds a watch of a kind, in one namespace or in all.
    pub fn watch(&self, kind: &str, namespace: Option<&str>, matters: Matters) -> Arc<KindWatch> {
        let watch = Arc::new(KindWatch {
            kind: kind.to_owned(),
            namespace: namespace.map(ToOwned::to_owned),
            matters,
            state: Mutex::default(),
        });
        lock(&self.watches).push(Arc::clone(&watch));
        watch
    }

    /// Children of a pipeline. `pipelines` is the number of all pipelines.
    pub async fn children(
        &self,
        client: &Client,
        of: Of<'_>,
        pipelines: usize,
    ) -> kube::Result<Children> {
        let selector = names::selector(of.name, None);
        let lists = kinds().map(|resource| {
            let selector = selector.clone();
            async move {
                let objects = self.objects(client, of, &resource, &selector, pipelines);
                Ok::<_, kube::Error>((objects.await?, resource.kind))
            }
        });
        let lists = try_join_all(lists).await?;
        Ok(Children::of(lists.into_iter().flat_map(
            |(objects, kind)| {
                let owned = objects.into_iter();
                owned
                    .filter(|object| is_owned(object, of.uid))
                    .map(move |object| (kind.clone(), object))
            },
        )))
    }

    /// Batch runs of a pipeline. `pipelines` is the number of all pipelines.
    pub async fn runs(
        &self,
        client: &Client,
        of: Of<'_>,
        pipelines: usize,
    ) -> kube::Result<Vec<Job>> {
        let resource = ApiResource::erase::<Job>(&());
        let selector = names::runs_selector(of.name);
        let objects = self.objects(client, of, &resource, &selector, pipelines);
        let objects = objects.await?.into_iter();
        Ok(objects
            .filter_map(|object| serde_json::from_value(object).ok())
            .collect())
    }

    async fn objects(
        &self,
        client: &Client,
        of: Of<'_>,
        resource: &ApiResource,
        selector: &str,
        pipelines: usize,
    ) -> kube::Result<Vec<Value>> {
        let kind = resource.kind.as_str();
        let sum = self.sum(kind, of);
        let trusted = TRUSTED_FOR.saturating_mul(u32::try_from(pipelines).unwrap_or(u32::MAX));
        if let Some(objects) = sum.and_then(|sum| self.kept(of.uid, kind, sum, trusted)) {
            return Ok(objects);
        }
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), of.namespace, resource);
        let at = Instant::now();
        let list = api.list(&ListParams::default().labels(selector)).await?;
        let versions = list
            .items
            .iter()
            .map(|object| known(&object.metadata).1.version);
        let sum = versions.fold(0, u64::wrapping_add);
        let objects: Vec<Value> = list.items.iter().map(value).collect();
        if let Some(compressed) = compress(&objects) {
            let listed = Listed {
                sum,
                at,
                compressed,
            };
            let mut kept = lock(&self.kept);
            let kept = kept.entry(of.uid.to_owned()).or_default();
            kept.lists.insert(kind.to_owned(), listed);
        }
        Ok(objects)
    }

    /// The last list, if the watch has the same versions and the list isn't too old.
    fn kept(&self, uid: &str, kind: &str, sum: u64, trusted: Duration) -> Option<Vec<Value>> {
        let kept = lock(&self.kept);
        let listed = kept.get(uid)?.lists.get(kind)?;
        if listed.sum != sum || listed.at.elapsed() > trusted {
            return None;
        }
        decompress(&listed.compressed)
    }

    fn sum(&self, kind: &str, of: Of<'_>) -> Option<u64> {
        let watches = lock(&self.watches);
        let mut watches = watches.iter().filter(|watch| watch.kind == kind);
        let watch = watches.find(|watch| {
            let namespace = watch.namespace.as_deref();
            namespace.is_none_or(|namespace| namespace == of.namespace)
        })?;
        watch.sum(hash(&(of.namespace, of.name)))
    }

    /// Hash of the versions of a pipeline's workloads, runs and `ConfigMaps`: of what may change
    /// the state of a pipeline that isn't ready, and which `ConfigMaps` are in use. None: not
    /// everything is listed yet.
    #[must_use]
    pub fn fingerprint(&self, of: Of<'_>) -> Option<u64> {
        let kinds = ["Deployment", "CronJob", RUNS, "ConfigMap"];
        let sums: Option<Vec<u64>> = kinds.iter().map(|kind| self.sum(kind, of)).collect();
        sums.map(|sums| hash(&sums))
    }

    /// Forgets the last list of a kind, of which the operator is about to write an object.
    pub fn changes(&self, uid: &str, kind: &str) {
        if let Some(kept) = lock(&self.kept).get_mut(uid) {
            kept.lists.remove(kind);
            kept.pruned = None;
        }
    }

    /// Whether it was looked up which of these `ConfigMaps` are in use, and nothing has changed
    /// since.
    #[must_use]
    pub fn is_pruned(&self, of: Of<'_>, undesired: &BTreeSet<String>) -> bool {
        let Some(now) = self.fingerprint(of) else {
            return false;
        };
        let kept = lock(&self.kept);
        let pruned = kept.get(of.uid).and_then(|kept| kept.pruned.as_ref());
        pruned.is_some_and(|pruned| {
            pruned.fingerprint == now && undesired.is_subset(&pruned.undesired)
        })
    }

    /// Remembers that it was looked up which of these `ConfigMaps` are in use. `fingerprint` is
    /// from before that.
    pub fn pruned(&self, uid: &str, fingerprint: Option<u64>, undesired: BTreeSet<String>) {
        let mut kept = lock(&self.kept);
        kept.entry(uid.to_owned()).or_default().pruned = fingerprint.map(|fingerprint| Pruned {
            fingerprint,
            undesired,
        });
    }

    /// Forgets everything that is kept about a pipeline.
    pub fn forget(&self, uid: &str) {
        lock(&self.kept).remove(uid);
    }

    /// Forgets all pipelines but these.
    pub fn retain(&self, uids: &HashSet<String>) {
        lock(&self.kept).retain(|uid, _| uids.contains(uid));
    }
}

/// Namespace and name of the pipeline that owns an object.
#[must_use]
pub fn owner(metadata: &ObjectMeta) -> Option<(String, String)> {
    let kind = <PinterestPipeline as kube::Resource>::kind(&());
    let owners = metadata.owner_references.iter().flatten();
    let owner = owners.into_iter().find(|owner| owner.kind == kind)?;
    Some((metadata.namespace.clone()?, owner.name.clone()))
}

/// Namespace and name of the pipeline that an object is labelled with.
#[must_use]
pub fn instance(metadata: &ObjectMeta) -> Option<(String, String)> {
    let name = metadata.labels.as_ref()?.get(INSTANCE_LABEL)?;
    Some((metadata.namespace.clone()?, name.clone()))
}

/// Namespace and name of the pipeline that an object is labelled with; the name is empty without
/// the label.
fn pipeline(metadata: &ObjectMeta) -> (&str, &str) {
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    let labels = metadata.labels.as_ref();
    let instance = labels.and_then(|labels| labels.get(INSTANCE_LABEL));
    (namespace, instance.map(String::as_str).unwrap_or_default())
}

fn known(metadata: &ObjectMeta) -> (u64, Known) {
    let name = hash(&(&metadata.namespace, &metadata.name));
    let known = Known {
        pipeline: hash(&pipeline(metadata)),
        version: hash(&(name, &metadata.uid, &metadata.resource_version)),
        ours: ours(metadata),
    };
    (name, known)
}

/// Hash of what concerns the operator: everything but the version and the fields of others.
fn ours(metadata: &ObjectMeta) -> u64 {
    let managed = metadata.managed_fields.iter().flatten();
    let mut managed = managed.filter(|entry| {
        entry.manager.as_deref() == Some(MANAGER) && entry.operation.as_deref() == Some("Apply")
    });
    let owned = managed.next().and_then(|entry| entry.fields_v1.as_ref());
    let owners = metadata.owner_references.iter().flatten();
    let owners: Vec<&str> = owners.map(|owner| owner.uid.as_str()).collect();
    hash(&(
        &metadata.uid,
        &metadata.labels,
        &metadata.annotations,
        metadata.deletion_timestamp.is_some(),
        owners,
        owned.map(|owned| owned.0.to_string()),
    ))
}

fn hash(of: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

fn compress(objects: &[Value]) -> Option<Vec<u8>> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    serde_json::to_writer(&mut encoder, objects).ok()?;
    encoder.flush().ok()?;
    encoder.finish().ok().map(|mut bytes| {
        bytes.shrink_to_fit();
        bytes
    })
}

fn decompress(compressed: &[u8]) -> Option<Vec<Value>> {
    let mut text = Vec::new();
    ZlibDecoder::new(compressed).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
