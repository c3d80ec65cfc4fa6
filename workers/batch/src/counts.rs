//! Counts of the records a run has read, cleaned, repaired and rejected.

use std::{collections::BTreeMap, ops::AddAssign};

use pinpipe_core::{Rejection, Repairs};
use serde::Serialize;

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
