//! Which pipeline a topic belongs to when several name it, and who created it.
//!
//! A record, kept by the operator for each Kafka cluster, has an [`Entry`] for each topic. Whoever
//! holds the entry owns the topic, however old others are: so a pipeline that is pointed at another
//! cluster can't take a topic from one that runs there. Where no entry exists the oldest pipeline
//! may make it.
//!
//! The record, and not the status, proves who created a topic: it outlives a restore without
//! status, and belongs to one cluster, so a pipeline can't bring proofs from a cluster of its own.

mod claim;

use std::collections::BTreeMap;

use pinpipe_crds::{Created, TopicStatus};
use serde::{Deserialize, Serialize};

pub use claim::{Claim, conflict};

/// Entry of the record: the pipeline that a topic belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// `<namespace>/<name>` of the pipeline.
    pub pipeline: String,
    /// UID of the pipeline. A pipeline that was deleted and created again, or restored, has
    /// another.
    pub uid: String,
    /// Who created the topic.
    pub created: Created,
    /// Topic id. None: the topic is about to be created, or the broker doesn't show it yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

/// Entries by topic name.
pub type Entries = BTreeMap<String, Entry>;

impl Claim {
    /// Whether an entry is this pipeline's. Only one pipeline has the name at a time, so an entry
    /// with another UID is left of a pipeline that no longer exists.
    #[must_use]
    pub fn holds(&self, entry: &Entry) -> bool {
        entry.pipeline == self.pipeline()
    }

    /// Entries that this pipeline should have, given its topics as the status lists them.
    #[must_use]
    pub fn entries(&self, topics: &[TopicStatus]) -> Entries {
        let entry = |topic: &TopicStatus| Entry {
            pipeline: self.pipeline(),
            uid: self.uid.clone(),
            created: topic.created,
            id: topic.id.clone(),
        };
        let entries = topics
            .iter()
            .map(|topic| (topic.name.clone(), entry(topic)));
        entries.collect()
    }

    /// What is known about a topic before it is compared with the broker's. `status` is the topic
    /// in the status, and `found` the id that the broker shows. None: nothing is known.
    #[must_use]
    pub fn known(
        &self,
        name: &str,
        entry: Option<&Entry>,
        status: Option<&TopicStatus>,
        found: Option<&str>,
    ) -> Option<TopicStatus> {
        let status_id = status.and_then(|status| status.id.clone());
        let (id, created) = match entry.filter(|entry| self.holds(entry)) {
            Some(entry) if entry.uid == self.uid => match (&entry.id, status_id) {
                (Some(id), _) => (Some(id.clone()), entry.created),
                // The status is about a topic of another cluster, which proves nothing in this one.
                (None, Some(id)) => (Some(id), Created::Unknown),
                (None, None) => (None, entry.created),
            },
            // Of an earlier pipeline with this name. Its topics count if they still exist.
            Some(entry) if found.is_some() && found == entry.id.as_deref() => {
                (entry.id.clone(), entry.created)
            }
            Some(entry) if found.is_some() && entry.id.is_none() => (status_id, Created::Unknown),
            Some(_) | None => (Some(status_id?), Created::Unknown),
        };
        Some(TopicStatus {
            name: name.to_owned(),
            id,
            partitions: status.map_or(0, |status| status.partitions),
            created,
        })
    }
}

/// How the creation of a topic ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Creation {
    /// The broker created it.
    Created,
    /// The broker had it already.
    Existed,
}

/// Who created a topic, after the operator tried to. `before` is what the entry said, and
/// `is_new` whether the entry was written just before this attempt.
#[must_use]
pub fn created(creation: Creation, before: Created, is_new: bool) -> Created {
    match creation {
        Creation::Created => Created::Operator,
        // An earlier attempt may have created it, and ended before that was recorded.
        Creation::Existed if is_new => Created::Other,
        Creation::Existed => before,
    }
}

/// What becomes of a topic when its pipeline is deleted with `deletionPolicy: Delete`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletion {
    /// It is deleted.
    Delete,
    /// It is left although it may be the pipeline's, for this reason.
    Leave(&'static str),
    /// It is gone, or never was the pipeline's.
    Ignore,
}

/// Decides what becomes of a topic of a deleted pipeline. `found` is the id that the broker shows.
#[must_use]
pub fn deletion(
    claim: &Claim,
    entry: Option<&Entry>,
    status: Option<&TopicStatus>,
    found: Option<&str>,
) -> Deletion {
    let was_created = status.is_some_and(|status| status.created == Created::Operator);
    let Some(entry) = entry.filter(|entry| claim.holds(entry)) else {
        return match entry {
            _ if !was_created => Deletion::Ignore,
            Some(_) => Deletion::Leave("another pipeline owns it now"),
            None => Deletion::Leave(
                "the operator has no record that it created it in the Kafka cluster that \
                 bootstrapServers leads to now",
            ),
        };
    };
    match (entry.created, found) {
        (Created::Other, _) | (_, None) => Deletion::Ignore,
        (Created::Unknown, Some(_)) => {
            Deletion::Leave("it isn't known whether the operator created it")
        }
        (Created::Operator, found) if found == entry.id.as_deref() => Deletion::Delete,
        (Created::Operator, Some(_)) if entry.id.is_none() => {
            Deletion::Leave("its id was not recorded, so another may have taken its place")
        }
        (Created::Operator, Some(_)) => {
            Deletion::Leave("somebody else deleted it and created it again")
        }
    }
}

#[cfg(test)]
mod tests;
