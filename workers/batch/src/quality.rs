//! Data quality limits (`spec.batch.quality`), checked after a run has read all its records and
//! before it publishes anything.

use std::collections::BTreeMap;

use pinpipe_config::{Percentage, Quality};
use pinpipe_core::Kind;

use crate::counts::{self, Counts};

/// The error of a run that exceeds a limit. Its counts become part of the termination message.
#[derive(Debug, thiserror::Error)]
#[error(
    "the data exceeds a limit in spec.batch.quality, so nothing was published: {}. Fix the \
     producer of these records or raise the limit, then start another run: it reads these records \
     again, with the limits in effect then",
    exceeded.join("; ")
)]
pub struct QualityExceeded {
    /// The run's counts.
    pub counts: BTreeMap<Kind, Counts>,
    exceeded: Vec<String>,
}

/// Checks a run's counts, given per kind of record, against the limits.
pub fn check(limits: &Quality, counts: &BTreeMap<Kind, Counts>) -> Result<(), QualityExceeded> {
    let all = counts::all(counts.values());
    let mut exceeded = Vec::new();
    if let Some(limit) = limits.max_rejected
        && exceeds(all.rejected, all.read, limit)
    {
        let by_kind: Vec<String> = counts
            .iter()
            .filter(|(_, counts)| counts.rejected > 0)
            .map(|(kind, counts)| {
                let reasons = list(&counts.rejected_by_reason);
                format!(
                    "{} of {} {kind} records ({reasons})",
                    counts.rejected, counts.read
                )
            })
            .collect();
        exceeded.push(format!(
            "{} of {} records were rejected, more than maxRejected ({limit}): {}",
            all.rejected,
            all.read,
            by_kind.join(", ")
        ));
    }
    for (field, limit) in &limits.max_repaired {
        for (kind, counts) in counts {
            let Some(reasons) = counts.repaired_by_field.get(field.as_str()) else {
                continue;
            };
            let repaired = reasons.values().sum();
            if exceeds(repaired, counts.read, *limit) {
                exceeded.push(format!(
                    "{field} was repaired in {repaired} of {} {kind} records, more than \
                     maxRepaired of {field} ({limit}): {}",
                    counts.read,
                    list(reasons)
                ));
            }
        }
    }
    if exceeded.is_empty() {
        Ok(())
    } else {
        Err(QualityExceeded {
            counts: counts.clone(),
            exceeded,
        })
    }
}

fn exceeds(part: u64, whole: u64, limit: Percentage) -> bool {
    part as f64 > limit.of(whole)
}

fn list(reasons: &BTreeMap<&str, u64>) -> String {
    reasons
        .iter()
        .map(|(reason, count)| format!("{reason} {count}"))
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts() -> BTreeMap<Kind, Counts> {
        let pins = Counts {
            read: 60,
            clean: 55,
            repaired: 6,
            rejected: 5,
            repaired_by_field: BTreeMap::from([(
                "follower_count",
                BTreeMap::from([("unreadable", 6)]),
            )]),
            rejected_by_reason: BTreeMap::from([("key-missing", 2), ("not-an-object", 3)]),
        };
        let users = Counts {
            read: 40,
            clean: 40,
            ..Counts::default()
        };
        BTreeMap::from([(Kind::Pin, pins), (Kind::User, users)])
    }

    fn limits(rejected: Option<&str>, repaired: &[(&str, &str)]) -> Quality {
        Quality {
            max_rejected: rejected.map(|limit| limit.parse().unwrap()),
            max_repaired: repaired
                .iter()
                .map(|(field, limit)| ((*field).to_owned(), limit.parse().unwrap()))
                .collect(),
        }
    }

    #[test]
    fn a_limit_may_be_reached_but_not_exceeded() {
        for within in [
            limits(None, &[]),
            limits(Some("5%"), &[]),
            limits(None, &[("follower_count", "10%")]),
            limits(None, &[("age", "0%")]),
        ] {
            check(&within, &counts()).unwrap();
        }
        check(&limits(Some("0%"), &[("age", "0%")]), &BTreeMap::new()).unwrap();
    }

    #[test]
    fn the_message_names_the_limit_the_kind_the_field_and_the_counts() {
        let error = check(
            &limits(Some("4.9999%"), &[("follower_count", "9%")]),
            &counts(),
        )
        .unwrap_err();
        let message = error.to_string();
        for part in [
            "5 of 100 records were rejected, more than maxRejected (4.9999%): \
             5 of 60 pin records (key-missing 2, not-an-object 3)",
            "follower_count was repaired in 6 of 60 pin records, more than maxRepaired of \
             follower_count (9%): unreadable 6",
            "spec.batch.quality",
        ] {
            assert!(message.contains(part), "{message}");
        }
        assert_eq!(error.counts, counts());
    }

    #[test]
    fn a_limit_of_zero_allows_no_rejected_record() {
        assert!(check(&limits(Some("0%"), &[]), &counts()).is_err());
    }
}
