//! The annotation `pinpipe.dev/paused`: the operator keeps its hands off, and says so once.

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta},
    jiff::Timestamp,
};
use pinpipe_crds::condition_types;

use super::{Error, Pass, Passed};
use crate::status::{self, SUMMARY, reasons};

/// The annotation.
pub const PAUSED_ANNOTATION: &str = "pinpipe.dev/paused";
/// What it may say to mean nothing.
const NOT_PAUSED: &str = "false";

impl Pass<'_> {
    pub(super) fn is_paused(&self) -> bool {
        says_paused(&self.resource.metadata)
    }

    /// Says that nobody looks. Everything else in the status stays as it was when somebody did, the
    /// generation it is about too.
    pub(super) async fn pause(&self) -> Result<Passed, Error> {
        let before = self.resource.status.clone().unwrap_or_default();
        let ready = before
            .conditions
            .iter()
            .find(|condition| condition.type_ == condition_types::READY);
        if ready.is_none_or(|ready| ready.reason != reasons::PAUSED) {
            let mut status = before.clone();
            status
                .conditions
                .retain(|condition| !SUMMARY.contains(&condition.type_.as_str()));
            status
                .conditions
                .insert(0, paused(status.observed_generation));
            tracing::info!(namespace = self.namespace, name = self.name, "paused");
            self.patch_status(&status).await?;
        }
        Ok(Passed::Paused)
    }
}

/// Whether the operator is to keep its hands off: any value but `false` says so, since a slip there
/// must not set it to work.
fn says_paused(metadata: &ObjectMeta) -> bool {
    let annotations = metadata.annotations.as_ref();
    annotations
        .and_then(|all| all.get(PAUSED_ANNOTATION))
        .is_some_and(|value| value != NOT_PAUSED)
}

fn paused(generation: Option<i64>) -> Condition {
    Condition {
        type_: condition_types::READY.to_owned(),
        status: "Unknown".to_owned(),
        reason: reasons::PAUSED.to_owned(),
        message: format!(
            "the annotation {PAUSED_ANNOTATION} is set, so the operator neither looks nor does anything: the other conditions are as they were \
             then; take the annotation away to go on"
        ),
        observed_generation: generation,
        last_transition_time: status::now(Timestamp::now()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anything_but_false_pauses() {
        let says = |value: &str| {
            says_paused(&ObjectMeta {
                annotations: Some([(PAUSED_ANNOTATION.to_owned(), value.to_owned())].into()),
                ..ObjectMeta::default()
            })
        };
        assert!(says("true") && says("") && says("False"));
        assert!(!says("false") && !says_paused(&ObjectMeta::default()));
    }
}
