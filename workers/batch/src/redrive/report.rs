//! The report of a re-drive.

use std::{collections::BTreeMap, time::Instant};

use pinpipe_core::Kind;
use pinpipe_runtime::dead_letter::Verdict;
use serde::{Deserialize, Serialize};

use crate::{
    counts::capitalized,
    summary::{Outcome, rounded},
    termination::{self, shortened},
};

/// Outcome and counts of a re-drive.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The re-drive's name, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    run: Option<String>,
    /// How it ended.
    outcome: Outcome,
    /// Whether nothing was written; `redriven` counts what would be.
    dry_run: bool,
    /// Duration, seconds.
    seconds: f64,
    /// Why the re-drive failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    /// Counts by kind of record.
    topics: BTreeMap<Kind, TopicReport>,
}

/// Counts of one kind of record, in short.
#[derive(Serialize)]
struct KindCounts {
    #[serde(with = "capitalized")]
    kind: Kind,
    /// Dead letters read, without repeats.
    read: u64,
    /// Records re-driven.
    redriven: u64,
    /// Dead letters that were selected but not re-driven.
    skipped: u64,
}

impl KindCounts {
    const fn new(kind: Kind, topic: &TopicReport) -> Self {
        Self {
            kind,
            read: topic.letters,
            redriven: topic.redriven,
            skipped: topic.matching.saturating_sub(topic.redriven),
        }
    }
}

/// Counts of the dead letters of one kind. Except for the first three, counts of 0 are omitted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
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
    pub still_rejected: BTreeMap<String, u64>,
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
    pub const fn new(run: Option<String>, dry_run: bool) -> Self {
        Self {
            run,
            outcome: Outcome::Succeeded,
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

    /// The re-drive has ended well.
    pub fn succeeded(&mut self, started: Instant) {
        self.seconds = rounded(started.elapsed().as_secs_f64());
    }

    /// The re-drive has failed.
    pub fn failed(&mut self, started: Instant, error: &anyhow::Error) {
        self.seconds = rounded(started.elapsed().as_secs_f64());
        self.outcome = Outcome::Failed;
        self.message = Some(format!("{error:#}"));
    }

    /// The report as it is shown.
    pub fn shown(&self) -> impl Serialize {
        #[derive(Serialize)]
        struct Shown<'a> {
            #[serde(flatten)]
            report: &'a Report,
            counts: Vec<KindCounts>,
        }

        let counts = self.topics.iter();
        let counts = counts.map(|(kind, topic)| KindCounts::new(*kind, topic));
        Shown {
            report: self,
            counts: counts.collect(),
        }
    }

    /// The report as JSON, on one line.
    pub fn to_json(&self) -> String {
        serde_json::to_string(&self.shown()).unwrap_or_default()
    }

    /// The report as a termination message. If it is too long, the error message is shortened, and
    /// then counts by reason are left out.
    pub fn termination_message(&self) -> String {
        termination::fitting(|bytes| {
            let mut short = self.clone();
            let message = self.message.as_deref();
            short.message = message.map(|text| shortened(text, bytes).to_owned());
            if bytes < FEW_BYTES {
                for topic in short.topics.values_mut() {
                    topic.open.clear();
                    topic.still_rejected.clear();
                }
            }
            short.to_json()
        })
    }
}

/// If an error message may have fewer bytes than these, counts by reason are what is too long.
const FEW_BYTES: usize = 500;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_report_fits_into_a_termination_message() {
        let mut report = Report::new(Some("r".repeat(253)), false);
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
                topic.still_rejected.insert(reason.to_owned(), n);
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
        report.failed(Instant::now(), &anyhow::anyhow!("ä".repeat(5000)));
        let json = report.termination_message();
        assert!(json.len() <= termination::LIMIT, "{}", json.len());
        assert!(json.contains(r#""outcome":"Failed""#), "{json}");
        assert!(json.contains("rejected/not-utf8"), "{json}");

        for code in 10_000..11_000 {
            report
                .topic(Kind::Pin)
                .open
                .insert(format!("refused/{code}"), 1);
        }
        let json = report.termination_message();
        assert!(json.len() <= termination::LIMIT, "{}", json.len());
        assert!(
            json.contains(r#""counts":[{"kind":"Pin","read":10995"#),
            "{json}"
        );
        let read: Report = serde_json::from_str(&json).unwrap();
        assert_eq!(read.topics[&Kind::Geo].letters, 1 << 40);
    }

    #[test]
    fn what_was_selected_but_stays_is_skipped() {
        let mut report = Report::new(None, true);
        *report.topic(Kind::User) = TopicReport {
            letters: 12,
            matching: 10,
            redriven: 7,
            without_value: 3,
            ..TopicReport::default()
        };
        let json = report.to_json();
        let counts = r#""counts":[{"kind":"User","read":12,"redriven":7,"skipped":3}]"#;
        assert!(json.contains(counts), "{json}");
    }
}
