//! What a re-drive tells.

use std::{collections::BTreeMap, time::Duration};

use pinpipe_core::Kind;
use pinpipe_runtime::dead_letter::Verdict;
use serde::Serialize;

/// A message longer than this is cut: Kubernetes cuts a termination message at 4096 bytes, which
/// would leave broken JSON.
const MESSAGE_BYTES: usize = 1500;

/// What became of the letters.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// `Succeeded` or `Failed`.
    outcome: &'static str,
    /// Whether nothing was written: `redriven` counts what would be.
    dry_run: bool,
    /// How long it took.
    seconds: f64,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    /// By kind of record.
    topics: BTreeMap<Kind, TopicReport>,
}

/// What became of the letters of one kind. A figure that is 0 is left out, but for the first three.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TopicReport {
    /// Letters read, repeats not among them.
    pub letters: u64,
    /// Letters that were open and that the filter let through: the sum of those below down to
    /// `left`.
    pub matching: u64,
    /// Records put into the pipeline, and marked.
    pub redriven: u64,
    /// Records that would be rejected again, by the reason.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub still_rejected: BTreeMap<&'static str, u64>,
    /// Records that would be repaired again.
    #[serde(skip_serializing_if = "is_zero")]
    pub still_repaired: u64,
    /// Letters that hold no record: it was too large for the dead-letter topic.
    #[serde(skip_serializing_if = "is_zero")]
    pub without_value: u64,
    /// Records the broker refuses as too large, with their new headers.
    #[serde(skip_serializing_if = "is_zero")]
    pub too_large: u64,
    /// Letters left for another time: the limit was reached.
    #[serde(skip_serializing_if = "is_zero")]
    pub left: u64,
    /// Letters that were back in the pipeline before.
    #[serde(skip_serializing_if = "is_zero")]
    pub done_before: u64,
    /// Letters written more than once.
    #[serde(skip_serializing_if = "is_zero")]
    pub repeats: u64,
    /// Records in the dead-letter topic that are no letters.
    #[serde(skip_serializing_if = "is_zero")]
    pub unreadable: u64,
    /// Letters that were open at the beginning, by outcome and reason, whatever the filter says.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub open: BTreeMap<String, u64>,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde asks with a reference"
)]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl TopicReport {
    /// Counts an open letter. One of several reasons counts once for each of them.
    pub fn open(&mut self, verdict: &Verdict) {
        let mut reasons: Vec<&str> = verdict
            .faults
            .iter()
            .map(|fault| fault.reason.as_ref())
            .collect();
        reasons.sort_unstable();
        reasons.dedup();
        for reason in reasons {
            *self
                .open
                .entry(format!("{}/{reason}", verdict.outcome.as_str()))
                .or_default() += 1;
        }
    }
}

impl Report {
    /// Nothing happened yet.
    pub const fn new(dry_run: bool) -> Self {
        Self {
            outcome: "Succeeded",
            dry_run,
            seconds: 0.0,
            message: None,
            topics: BTreeMap::new(),
        }
    }

    /// The figures of one kind.
    pub fn topic(&mut self, kind: Kind) -> &mut TopicReport {
        self.topics.entry(kind).or_default()
    }

    /// It is over, with or without an error.
    pub fn end(&mut self, took: Duration, error: Option<&anyhow::Error>) {
        self.seconds = (took.as_secs_f64() * 1000.0).round() / 1000.0;
        if let Some(error) = error {
            self.outcome = "Failed";
            let mut message = format!("{error:#}");
            message.truncate(message.floor_char_boundary(MESSAGE_BYTES));
            self.message = Some(message);
        }
    }

    /// On one line.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_report_is_a_termination_message() {
        let mut report = Report::new(false);
        for kind in Kind::ALL {
            let topic = report.topic(kind);
            let n = 1 << 40;
            for reason in [
                "too-large",
                "not-utf8",
                "not-json",
                "not-an-object",
                "key-missing",
                "key-unreadable",
            ] {
                topic.still_rejected.insert(reason, n);
                topic.open.insert(format!("rejected/{reason}"), n);
            }
            for reason in ["unreadable", "out-of-range"] {
                topic.open.insert(format!("repaired/{reason}"), n);
            }
            (
                topic.letters,
                topic.matching,
                topic.redriven,
                topic.still_repaired,
            ) = (n, n, n, n);
            (
                topic.without_value,
                topic.too_large,
                topic.left,
                topic.done_before,
            ) = (n, n, n, n);
            (topic.repeats, topic.unreadable) = (n, n);
        }
        report.end(
            Duration::from_secs(1),
            Some(&anyhow::anyhow!("ä".repeat(5000))),
        );
        let json = report.to_json();
        assert!(json.len() <= 4096, "{}", json.len());
        assert!(json.contains(r#""outcome":"Failed""#));
    }
}
