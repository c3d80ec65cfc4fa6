//! Images of the workers.

use std::collections::BTreeMap;

use pinpipe_crds::{self as crds, PullPolicy};

use crate::model::{Image, Images};

/// The pipeline's own settings over the operator's. A tag of the pipeline's own is another version,
/// so the operator's digests don't apply to it; nor do its repositories to another registry.
pub(super) fn image(set: Option<&crds::Image>, images: &Images) -> Image {
    let set = set.cloned().unwrap_or_default();
    let tag = set.tag.filter(|tag| !tag.is_empty());
    let digests = if tag.is_none() {
        images.digests.clone()
    } else {
        BTreeMap::new()
    };
    let repositories = if set.registry.is_none() {
        images.repositories.clone()
    } else {
        BTreeMap::new()
    };
    Image {
        registry: set.registry.unwrap_or_else(|| images.registry.clone()),
        tag: tag.unwrap_or_else(|| images.tag.clone()),
        digests,
        repositories,
        pull_policy: set.pull_policy.unwrap_or(PullPolicy::IfNotPresent),
    }
}
