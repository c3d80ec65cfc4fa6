//! The report of a re-drive.

use std::{collections::BTreeMap, time::Duration};

use pinpipe_core::Kind;
use pinpipe_runtime::dead_letter::Verdict;
use serde::Serialize;

/// Most bytes of the error message. Kubernetes truncates a termination message at 4096 bytes, which
/// would break the JSON.
const MESSAGE_BYTES: usize = 1500;

/// Outcome and counts of a re-drive.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// `Succeeded` or `Failed`.
    outcome: &'static str,
    /// Whether nothing was written; `redriven` counts what would be.
    dry_run: bool,
    /// Duration, seconds.
    seconds: f64,
    /// Why the re-drive failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    /// Counts by kind of record.
    topics: BTreeMap<Kind, TopicReport>,
}

/// Counts of the dead letters of one kind. Except for the first three, counts of 0 are omitted.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TopicReport {
    /// Dead letters read, without repeats.
    pub letters: u64,
    /// Dead letters that match the filter and were not re-driven before: the sum of the counts from
    /// `redriven` to `left`.
    pub matching: u64,
    /// Records re-driven.
    pub redriven: u64,
    /// Records that would be rejected again, by reason.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub still_rejected: BTreeMap<&'static str, u64>,
    /// Dead letters without a value, which was too large for the dead-letter topic.
    #[serde(skip_serializing_if = "is_zero")]
    pub without_value: u64,
    /// Records that the broker refuses as too large with their additional headers.
    #[serde(skip_serializing_if = "is_zero")]
    pub too_large: u64,
    /// Dead letters that were left because `--max` was reached.
    #[serde(skip_serializing_if = "is_zero")]
    pub left: u64,
    /// Dead letters that were re-driven before.
    #[serde(skip_serializing_if = "is_zero")]
    pub done_before: u64,
    /// Repeats of dead letters that were written more than once.
    #[serde(skip_serializing_if = "is_zero")]
    pub repeats: u64,
    /// Records in the dead-letter topic that are neither dead letters nor markers.
    #[serde(skip_serializing_if = "is_zero")]
    pub unreadable: u64,
    /// Dead letters that were not re-driven before, by outcome and reason, ignoring the filter.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub open: BTreeMap<String, u64>,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl TopicReport {
    /// Counts a dead letter that was not re-driven before.
    pub fn open(&mut self, verdict: &Verdict) {
        let kind = format!("{}/{}", verdict.outcome.as_str(), verdict.reason);
        *self.open.entry(kind).or_default() += 1;
    }
}

impl Report {
    /// A report without counts.
    pub const fn new(dry_run: bool) -> Self {
        Self {
            outcome: "Succeeded",
            dry_run,
            seconds: 0.0,
            message: None,
            topics: BTreeMap::new(),
        }
    }

    /// The counts of one kind.
    pub fn topic(&mut self, kind: Kind) -> &mut TopicReport {
        self.topics.entry(kind).or_default()
    }

    /// Records the end of the re-drive, which failed if there is an `error`.
    pub fn finish(&mut self, took: Duration, error: Option<&anyhow::Error>) {
        self.seconds = (took.as_secs_f64() * 1000.0).round() / 1000.0;
        if let Some(error) = error {
            self.outcome = "Failed";
            let mut message = format!("{error:#}");
            message.truncate(message.floor_char_boundary(MESSAGE_BYTES));
            self.message = Some(message);
        }
    }

    /// The report as JSON, on one line.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_report_fits_into_a_termination_message() {
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
            for code in ["22001", "23514"] {
                topic.open.insert(format!("refused/{code}"), n);
            }
            (topic.letters, topic.matching, topic.redriven) = (n, n, n);
            (
                topic.without_value,
                topic.too_large,
                topic.left,
                topic.done_before,
            ) = (n, n, n, n);
            (topic.repeats, topic.unreadable) = (n, n);
        }
        report.finish(
            Duration::from_secs(1),
            Some(&anyhow::anyhow!("ä".repeat(5000))),
        );
        let json = report.to_json();
        assert!(json.len() <= 4096, "{}", json.len());
        assert!(json.contains(r#""outcome":"Failed""#));
    }
}
