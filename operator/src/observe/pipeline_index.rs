//! The pipelines that are watched, as the operator keeps them between passes.

use std::{
    borrow::Cow,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Resource, core::DeserializeGuard, runtime::reflector::Store};
use pinpipe_crds::PinterestPipeline;
use serde::{Deserialize, Deserializer};

use crate::claims::Claim;

/// What is kept of a pipeline: a pass reads it anew, and there may be thousands.
#[derive(Clone, Debug)]
pub struct Outline {
    metadata: ObjectMeta,
    /// What it claims. An error: it isn't of the type, which must not stop others.
    pub claim: Result<Claim, String>,
}

impl<'de> Deserialize<'de> for Outline {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let DeserializeGuard(read) =
            DeserializeGuard::<PinterestPipeline>::deserialize(deserializer)?;
        let (claim, mut metadata) = match read {
            Ok(pipeline) => (Ok(Claim::of(&pipeline)), pipeline.metadata),
            Err(invalid) => (Err(invalid.error), invalid.metadata),
        };
        // The largest part of it: who wrote which field, and what was applied.
        metadata.managed_fields = None;
        metadata.annotations = None;
        Ok(Self { metadata, claim })
    }
}

impl Resource for Outline {
    type DynamicType = ();
    type Scope = <PinterestPipeline as Resource>::Scope;

    fn kind((): &()) -> Cow<'_, str> {
        PinterestPipeline::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        PinterestPipeline::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        PinterestPipeline::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        PinterestPipeline::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// How long a watch may take until it has seen everything that is there.
pub const FILLED_WITHIN: Duration = Duration::from_secs(10);

/// What one watch sees.
struct Seen {
    store: Store<Outline>,
    /// What was claimed just before it began.
    before: Vec<Claim>,
    since: Instant,
}

impl Seen {
    /// Claims that may be to topics of this one.
    fn meeting(&self, claim: &Claim) -> Vec<Claim> {
        // A store holds nothing until it holds everything.
        if self.store.is_empty() && self.since.elapsed() < FILLED_WITHIN {
            return self
                .before
                .iter()
                .filter(|other| claim.meets(other))
                .cloned()
                .collect();
        }
        let all = self.store.state();
        // Of one that can't be read nothing is known.
        let claims = all.iter().filter_map(|outline| outline.claim.as_ref().ok());
        claims.filter(|other| claim.meets(other)).cloned().collect()
    }
}

/// All pipelines that are watched, as the watches have them. Of namespaces that aren't watched
/// nothing is known.
#[derive(Default)]
pub struct Watched(Mutex<Vec<Seen>>);

impl Watched {
    /// What a watch sees from now on, and what was claimed `before`.
    pub fn add(&self, store: Store<Outline>, before: Vec<Claim>) {
        let seen = Seen {
            store,
            before,
            since: Instant::now(),
        };
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(seen);
    }

    /// How many pipelines there are.
    #[must_use]
    pub fn count(&self) -> usize {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().map(|seen| seen.store.len()).sum()
    }

    /// Other pipelines' claims that may be to the same topics.
    #[must_use]
    pub fn meeting(&self, claim: &Claim) -> Vec<Claim> {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().flat_map(|seen| seen.meeting(claim)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::slice;

    use kube::runtime::{reflector, watcher::Event};
    use serde_json::json;

    use super::*;

    fn outline(name: &str, spec: &serde_json::Value) -> Outline {
        serde_json::from_value(json!({
            "apiVersion": "pinpipe.dev/v1alpha1",
            "kind": "PinterestPipeline",
            "metadata": {"namespace": "b", "name": name, "uid": name, "managedFields": [{"manager": "m"}]},
            "spec": spec,
        }))
        .unwrap()
    }

    #[test]
    fn what_was_there_before_a_watch_counts_until_the_watch_has_seen_it() {
        let pipeline = |name| {
            let pins = json!({"overrides": {"pin": {"name": "pins"}}});
            outline(
                name,
                &json!({"broker": {"kafka": {"bootstrapServers": "k.x:1", "topics": pins}}}),
            )
        };
        let watched = Watched::default();
        let (store, mut writer) = reflector::store();
        watched.add(store, vec![pipeline("gone").claim.unwrap()]);
        let [me, gone, there] = ["me", "gone", "there"].map(|name| pipeline(name).claim.unwrap());
        assert_eq!(watched.meeting(&me), slice::from_ref(&gone));
        writer.apply_watcher_event(&Event::Init);
        writer.apply_watcher_event(&Event::InitApply(pipeline("there")));
        assert_eq!(
            watched.meeting(&me),
            [gone],
            "the watch may not have seen everything yet"
        );
        writer.apply_watcher_event(&Event::InitApply(pipeline("me")));
        writer.apply_watcher_event(&Event::InitDone);
        assert_eq!(watched.meeting(&me), [there]);
        assert_eq!(watched.count(), 2);
    }

    #[test]
    fn one_that_cannot_be_read_is_known_by_its_name() {
        let outline = outline("odd", &json!({"broker": "none"}));
        assert!(outline.claim.is_err());
        assert_eq!(outline.meta().name.as_deref(), Some("odd"));
        assert_eq!(outline.meta().managed_fields, None);
    }
}
