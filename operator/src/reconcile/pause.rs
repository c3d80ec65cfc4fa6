//! The annotation `pinpipe.dev/paused`: the operator changes nothing, and says so once.

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta},
    jiff::Timestamp,
};
use pinpipe_crds::{condition_types, reasons};
use pinpipe_plan::names::PAUSED_ANNOTATION;

use super::{Outcome, Reconciler};
use crate::{
    error::Error,
    status::{SUMMARY, timestamp},
};

/// The one value that doesn't pause.
const NOT_PAUSED: &str = "false";

impl Reconciler<'_> {
    pub(super) fn is_paused(&self) -> bool {
        is_paused(&self.resource.metadata)
    }

    /// Reports that the pipeline isn't reconciled. The rest of the status, its generation included,
    /// stays as it was when the pipeline last was.
    pub(super) async fn pause(&self) -> Result<Outcome, Error> {
        self.hold_runs(reasons::PAUSED).await?;
        let ready = self.condition(condition_types::READY);
        if ready.is_none_or(|ready| ready.reason != reasons::PAUSED) {
            let mut status = self.resource.status.clone().unwrap_or_default();
            status
                .conditions
                .retain(|condition| !SUMMARY.contains(&condition.type_.as_str()));
            status
                .conditions
                .insert(0, paused(status.observed_generation));
            tracing::info!(namespace = self.namespace, name = self.name, "paused");
            self.patch_status(&status).await?;
        }
        Ok(Outcome::Paused)
    }
}

/// Any value but `false` pauses, so that a typing error doesn't start the operator.
pub(super) fn is_paused(metadata: &ObjectMeta) -> bool {
    let value = metadata
        .annotations
        .as_ref()
        .and_then(|all| all.get(PAUSED_ANNOTATION));
    value.is_some_and(|value| value != NOT_PAUSED)
}

fn paused(generation: Option<i64>) -> Condition {
    Condition {
        type_: condition_types::READY.to_owned(),
        status: "Unknown".to_owned(),
        reason: reasons::PAUSED.to_owned(),
        message: format!(
            "the annotation {PAUSED_ANNOTATION} is set, so the operator neither observes nor \
             changes anything: the other conditions are as they were then; remove the annotation \
             to continue"
        ),
        observed_generation: generation,
        last_transition_time: timestamp(Timestamp::now()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_value_but_false_pauses() {
        let with = |value: &str| {
            let annotations = [(PAUSED_ANNOTATION.to_owned(), value.to_owned())];
            is_paused(&ObjectMeta {
                annotations: Some(annotations.into()),
                ..ObjectMeta::default()
            })
        };
        assert!(with("true") && with("") && with("False"));
        assert!(!with("false") && !is_paused(&ObjectMeta::default()));
    }
}
