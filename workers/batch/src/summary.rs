//! The summary of a run: the head of its report, and the pod's termination message.

use std::collections::BTreeMap;

use pinpipe_core::Kind;
use serde::{Deserialize, Serialize};

use crate::{counts::KindCounts, failure, loaded::Loaded, termination};

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Everything was written and published.
    Succeeded,
    /// Nothing was published.
    Failed,
}

/// The head of the report, and the termination message from which the operator builds its status.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// The run's name.
    pub run: String,
    /// How the run ended.
    pub outcome: Outcome,
    /// Raw records read.
    pub read: u64,
    /// Clean records, including repaired ones and several of one key.
    pub clean: u64,
    /// Clean records with at least one field made null.
    pub repaired: u64,
    /// Records that were rejected.
    pub rejected: u64,
    /// Duration, seconds.
    pub seconds: f64,
    /// The same counts by kind, and what sinks have refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub counts: Vec<KindCounts>,
    /// Where the report is, which has the answers. Absent for a failed run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<String>,
    /// Kind of run: `incremental`, `full`, `backfill`, `import` or `liveBackfill`. Absent for a
    /// failed run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Why the run failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Of a backfill of a live sink, what that got.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live: Option<Live>,
    /// What each sink got, of which the report has more.
    #[serde(default, skip_serializing)]
    pub sinks: BTreeMap<String, Loaded>,
}

/// What a live sink got.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Live {
    /// Its name.
    pub sink: String,
    /// Rows written. Others were of later records.
    pub rows: u64,
    /// How many refused records are in the dead letters, by topic.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub set_aside: BTreeMap<String, u64>,
}

/// Seconds with three decimals.
pub fn rounded(seconds: f64) -> f64 {
    (seconds * 1000.0).round() / 1000.0
}

impl Summary {
    /// The summary of a run that failed after so many seconds.
    pub fn of_failure(run: &str, seconds: f64, error: &anyhow::Error) -> Self {
        Self {
            sinks: failure::sinks(error),
            ..Self::failed(run, seconds, failure::counts(error), &format!("{error:#}"))
        }
    }

    /// The summary of a run that failed after it had read `counts`.
    pub fn failed(run: &str, seconds: f64, counts: Vec<KindCounts>, message: &str) -> Self {
        let mut summary = Self {
            outcome: Outcome::Failed,
            seconds: rounded(seconds),
            message: Some(message.to_owned()),
            ..Self::empty(run)
        };
        counts.into_iter().for_each(|counts| summary.add(counts));
        summary
    }

    /// The summary of a run that has succeeded and has read nothing.
    pub fn empty(run: &str) -> Self {
        Self {
            run: run.to_owned(),
            outcome: Outcome::Succeeded,
            read: 0,
            clean: 0,
            repaired: 0,
            rejected: 0,
            seconds: 0.0,
            counts: Vec::new(),
            report: None,
            kind: None,
            message: None,
            live: None,
            sinks: BTreeMap::new(),
        }
    }

    /// Adds the counts of a kind.
    pub fn add(&mut self, counts: KindCounts) {
        self.read += counts.read;
        self.clean += counts.clean;
        self.repaired += counts.repaired;
        self.rejected += counts.rejected;
        self.counts.push(counts);
    }

    /// Counts rows of a kind that a sink has refused.
    pub fn count_refused(&mut self, kind: Kind, rows: u64) {
        let mut counts = self.counts.iter_mut();
        if let Some(counts) = counts.find(|counts| counts.kind == kind) {
            counts.refused += rows;
        }
    }

    /// The summary as a termination message. A long error message is shortened.
    pub fn termination_message(&self) -> String {
        #[derive(Serialize)]
        struct Message<'a> {
            #[serde(flatten)]
            summary: &'a Summary,
            #[serde(skip_serializing_if = "BTreeMap::is_empty")]
            sinks: &'a BTreeMap<String, Loaded>,
        }

        termination::fitting(|bytes| {
            let message = self.message.as_ref();
            let short = Self {
                message: message.map(|text| termination::shortened(text, bytes).to_owned()),
                ..self.clone()
            };
            let message = Message {
                summary: &short,
                sinks: &short.sinks,
            };
            serde_json::to_string(&message).unwrap_or_default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counts::Counts;

    #[test]
    fn a_termination_message_is_valid_json_within_the_kubernetes_limit() {
        let loaded = Loaded {
            rows: u64::MAX,
            refused: u64::MAX,
            failed: true,
        };
        let sinks = (1..=8).map(|number| ("n".repeat(20 - number), loaded));
        let counts = Counts {
            read: 1 << 40,
            clean: 1 << 40,
            repaired: 1 << 40,
            rejected: 1 << 40,
            ..Counts::default()
        };
        let counts = Kind::ALL.map(|kind| KindCounts::new(kind, &counts)).into();
        let run = "r".repeat(253);
        let mut summary = Summary {
            sinks: sinks.collect(),
            report: Some(format!(
                "s3://{}/runs/{}/{run}",
                "b".repeat(63),
                "p".repeat(317)
            )),
            ..Summary::failed(&run, 1e9, counts, &"\"ä\n".repeat(5000))
        };
        summary.count_refused(Kind::Geo, 7);
        let message = summary.termination_message();
        assert!(message.len() <= termination::LIMIT, "{}", message.len());
        assert!(
            message.contains(r#""kind":"Geo","read":1099511627776,"#),
            "{message}"
        );
        let read: Summary = serde_json::from_str(&message).unwrap();
        assert_eq!(
            (read.outcome, &read.sinks),
            (Outcome::Failed, &summary.sinks)
        );
        assert_eq!((&read.counts, read.counts[1].refused), (&summary.counts, 7));
        let cause = read.message.unwrap();
        assert!(cause.len() >= 500 && cause.starts_with("\"ä\n"), "{cause}");
    }
}
