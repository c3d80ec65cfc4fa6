//! Limits of data quality: checked when everything is read and nothing is written yet.

use std::collections::BTreeMap;

use pinpipe_config::Quality;
use pinpipe_core::Kind;

use crate::counts::Counts;

/// A run that exceeds a limit. Its counts go to its termination message.
#[derive(Debug, thiserror::Error)]
#[error(
    "the data is worse than spec.batch.quality allows, so nothing was published: {}. Raise the limit, or find out who sends such records \
     and mend it, and run again: the next run takes this one up with the limits of then",
    exceeded.join("; ")
)]
pub struct Unfit {
    /// What was read, of all kinds.
    pub counts: Counts,
    exceeded: Vec<String>,
}

/// Checks what a run has read.
pub fn check(limits: &Quality, counts: &BTreeMap<Kind, Counts>) -> Result<(), Unfit> {
    let mut all = Counts::default();
    for counts in counts.values() {
        all += counts;
    }
    let mut exceeded = Vec::new();
    if let Some(limit) = limits.max_rejected_ratio
        && ratio(all.rejected, all.read) > limit
    {
        let by_reason = list(&all.rejected_by_reason);
        exceeded.push(format!(
            "{} of {} records were rejected ({:.6} > maxRejectedRatio {limit}): {by_reason}",
            all.rejected,
            all.read,
            ratio(all.rejected, all.read)
        ));
    }
    for (field, limit) in &limits.max_repaired_ratio {
        for (kind, counts) in counts {
            let Some(reasons) = counts.repaired_by_field.get(field.as_str()) else {
                continue;
            };
            let repaired = reasons.values().sum();
            if ratio(repaired, counts.read) > *limit {
                exceeded.push(format!(
                    "{field} was repaired in {repaired} of {} {kind} records ({:.6} > maxRepairedRatio.{field} {limit}): {}",
                    counts.read,
                    ratio(repaired, counts.read),
                    list(reasons)
                ));
            }
        }
    }
    if exceeded.is_empty() {
        Ok(())
    } else {
        Err(Unfit {
            counts: all,
            exceeded,
        })
    }
}

fn ratio(part: u64, of: u64) -> f64 {
    if of == 0 {
        0.0
    } else {
        part as f64 / of as f64
    }
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

    fn limits(rejected: Option<f64>, repaired: &[(&str, f64)]) -> Quality {
        Quality {
            max_rejected_ratio: rejected,
            max_repaired_ratio: repaired
                .iter()
                .map(|(field, limit)| ((*field).to_owned(), *limit))
                .collect(),
        }
    }

    #[test]
    fn a_limit_may_be_reached_and_not_exceeded() {
        for within in [
            limits(None, &[]),
            limits(Some(0.05), &[]),
            limits(None, &[("follower_count", 0.1)]),
            limits(None, &[("age", 0.0)]),
        ] {
            check(&within, &counts()).unwrap();
        }
        check(&limits(Some(0.0), &[("age", 0.0)]), &BTreeMap::new()).unwrap();
    }

    #[test]
    fn the_message_names_the_limit_the_field_and_the_counts() {
        let unfit = check(&limits(Some(0.04), &[("follower_count", 0.09)]), &counts()).unwrap_err();
        let message = unfit.to_string();
        for part in [
            "5 of 100 records were rejected (0.050000 > maxRejectedRatio 0.04): key-missing 2, not-an-object 3",
            "follower_count was repaired in 6 of 60 pin records (0.100000 > maxRepairedRatio.follower_count 0.09): unreadable 6",
            "spec.batch.quality",
        ] {
            assert!(message.contains(part), "{message}");
        }
        assert_eq!((unfit.counts.read, unfit.counts.rejected), (100, 5));
    }

    #[test]
    fn nothing_allowed_means_nothing() {
        assert!(check(&limits(Some(0.0), &[]), &counts()).is_err());
    }
}
