//! Events.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType};

use super::shorten;
use crate::context::Context;

/// An event to publish.
pub struct Note<'a> {
    /// Whether it is normal or a warning.
    pub type_: EventType,
    /// One of [`pinpipe_crds::reasons`].
    pub reason: &'a str,
    /// What the operator was doing, in one word.
    pub action: &'a str,
    /// What happened, in a sentence.
    pub message: &'a str,
    /// Another object it concerns. Events about different objects are never merged into one.
    pub secondary: Option<ObjectReference>,
}

/// Publishes an event. A failure is logged and fails nothing else.
pub async fn publish(context: &Context, about: &ObjectReference, note: Note<'_>) {
    if let Err(error) = context.check_lease() {
        tracing::warn!(%error, reason = note.reason, "an event isn't written");
        return;
    }
    let event = Event {
        type_: note.type_,
        reason: note.reason.to_owned(),
        note: Some(shorten(note.message)),
        action: note.action.to_owned(),
        secondary: note.secondary,
    };
    match context.recorder.publish(&event, about).await {
        Ok(()) => context.metrics.wrote("create", "events"),
        Err(error) => tracing::warn!(%error, reason = note.reason, "an event can't be written"),
    }
}
