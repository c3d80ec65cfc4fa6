//! Bounds how many pipelines roll the operator's images at once: an upgrade of the operator is a
//! new image for every pipeline without a tag of its own.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use pinpipe_plan::build::Stage;

/// Pipelines that roll.
pub struct Rollouts {
    limit: usize,
    /// UIDs.
    rolling: Mutex<BTreeSet<String>>,
}

impl Rollouts {
    /// At most so many pipelines begin to roll at once.
    #[must_use]
    pub fn new(limit: u16) -> Self {
        Self {
            limit: limit.into(),
            rolling: Mutex::default(),
        }
    }

    /// Whether a pipeline may roll. One that has begun goes on, also after a restart of the
    /// operator. `exists` tells by its UID whether a pipeline still is there.
    pub fn permit(&self, uid: &str, stage: Stage, exists: impl Fn(&str) -> bool) -> bool {
        let mut rolling = self.rolling.lock().unwrap_or_else(PoisonError::into_inner);
        match stage {
            Stage::Done => {
                rolling.remove(uid);
                true
            }
            Stage::Between => {
                rolling.insert(uid.to_owned());
                true
            }
            Stage::Before => {
                if !rolling.contains(uid) && rolling.len() >= self.limit {
                    rolling.retain(|uid| exists(uid));
                }
                let may = rolling.contains(uid) || rolling.len() < self.limit;
                if may {
                    rolling.insert(uid.to_owned());
                }
                may
            }
        }
    }

    /// A pipeline doesn't roll any more, be it complete or not.
    pub fn end(&self, uid: &str) {
        let mut rolling = self.rolling.lock().unwrap_or_else(PoisonError::into_inner);
        rolling.remove(uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pipelines_roll_up_to_the_limit_and_the_others_when_one_ends_or_is_gone() {
        let rollouts = Rollouts::new(2);
        let may = |uid: &str, stage| rollouts.permit(uid, stage, |_| true);
        assert!(may("a", Stage::Before) && may("b", Stage::Before));
        assert!(!may("c", Stage::Before));
        assert!(may("a", Stage::Before), "it has a place already");
        assert!(may("d", Stage::Between), "it has begun before");
        assert!(may("e", Stage::Done));
        assert!(may("d", Stage::Done) && may("a", Stage::Done));
        assert!(may("c", Stage::Before) && !may("f", Stage::Before));
        rollouts.end("c");
        assert!(may("f", Stage::Before) && !may("g", Stage::Before));
        assert!(rollouts.permit("g", Stage::Before, |uid| uid != "b"));
    }
}
