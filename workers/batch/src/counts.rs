//! Counts of the records a run has read, cleaned, repaired and rejected.

use std::{collections::BTreeMap, ops::AddAssign};

use pinpipe_core::{Kind, Rejection, Repairs};
use serde::{Deserialize, Serialize};

/// Counts of one kind of record, or of all kinds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// Raw records read: clean and rejected ones.
    pub read: u64,
    /// Clean records, including repaired ones and several of one key.
    pub clean: u64,
    /// Clean records with at least one field that was unreadable or out of range and became null.
    pub repaired: u64,
    /// Records that were rejected.
    pub rejected: u64,
    /// Repaired fields by raw field name and reason.
    pub repaired_by_field: BTreeMap<&'static str, BTreeMap<&'static str, u64>>,
    /// Rejected records by reason.
    pub rejected_by_reason: BTreeMap<&'static str, u64>,
}

impl Counts {
    /// Counts a clean record.
    pub fn clean(&mut self, repairs: &Repairs) {
        self.read += 1;
        self.clean += 1;
        if repairs.is_empty() {
            return;
        }
        self.repaired += 1;
        for repair in repairs.iter() {
            *self
                .repaired_by_field
                .entry(repair.field)
                .or_default()
                .entry(repair.reason.as_str())
                .or_default() += 1;
        }
    }

    /// Counts a rejected record.
    pub fn rejected(&mut self, rejection: &Rejection) {
        self.read += 1;
        self.rejected += 1;
        *self
            .rejected_by_reason
            .entry(rejection.reason())
            .or_default() += 1;
    }
}

impl AddAssign<&Counts> for Counts {
    fn add_assign(&mut self, other: &Counts) {
        self.read += other.read;
        self.clean += other.clean;
        self.repaired += other.repaired;
        self.rejected += other.rejected;
        for (field, reasons) in &other.repaired_by_field {
            let mine = self.repaired_by_field.entry(field).or_default();
            for (reason, count) in reasons {
                *mine.entry(reason).or_default() += count;
            }
        }
        for (reason, count) in &other.rejected_by_reason {
            *self.rejected_by_reason.entry(reason).or_default() += count;
        }
    }
}

/// The sum of counts.
pub fn all<'a>(each: impl IntoIterator<Item = &'a Counts>) -> Counts {
    let mut all = Counts::default();
    for counts in each {
        all += counts;
    }
    all
}

/// Counts of one kind of record, as the termination message has them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KindCounts {
    /// The kind, written as Kubernetes objects have it: `Pin`.
    #[serde(with = "capitalized")]
    pub kind: Kind,
    /// Raw records read.
    pub read: u64,
    /// Clean records.
    pub clean: u64,
    /// Clean records with at least one field made null.
    pub repaired: u64,
    /// Records that were rejected.
    pub rejected: u64,
    /// Rows that sinks refused.
    pub refused: u64,
}

impl KindCounts {
    /// The counts of one kind before any sink has refused one of its rows.
    pub const fn new(kind: Kind, counts: &Counts) -> Self {
        Self {
            kind,
            read: counts.read,
            clean: counts.clean,
            repaired: counts.repaired,
            rejected: counts.rejected,
            refused: 0,
        }
    }
}

/// A kind as Kubernetes objects have it: `Pin`, `Geo` or `User`.
pub mod capitalized {
    use pinpipe_core::Kind;
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    #[expect(
        clippy::trivially_copy_pass_by_ref,
        reason = "serde passes a reference"
    )]
    pub fn serialize<S: Serializer>(kind: &Kind, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(match kind {
            Kind::Pin => "Pin",
            Kind::Geo => "Geo",
            Kind::User => "User",
        })
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Kind, D::Error> {
        let name = String::deserialize(deserializer)?.to_ascii_lowercase();
        name.parse().map_err(D::Error::custom)
    }
}
