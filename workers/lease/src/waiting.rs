//! What a candidate that waits for a `Lease` knows about its holder. Pure.

use std::time::{Duration, Instant};

use k8s_openapi::{api::coordination::v1::Lease, apimachinery::pkg::apis::meta::v1::MicroTime};

/// How long a `Lease` is valid after its last renewal, and so how long a crashed holder delays the
/// next one.
pub const DURATION: Duration = Duration::from_secs(15);
/// How often a candidate logs whom it waits for.
const LOG_EVERY: Duration = Duration::from_mins(1);

/// Of a waiting candidate, whom it has last logged, and when.
#[derive(Default)]
pub struct Waiting(Option<(String, Instant)>);

impl Waiting {
    /// Whether to log that the candidate waits for `holder`: another than before, or once more
    /// after [`LOG_EVERY`].
    pub fn is_to_log(&mut self, holder: &str, now: Instant) -> bool {
        let is_known = self.0.as_ref().is_some_and(|(known, logged)| {
            known == holder && now.duration_since(*logged) < LOG_EVERY
        });
        if !is_known {
            self.0 = Some((holder.to_owned(), now));
        }
        !is_known
    }
}

/// A holder that may be alive.
#[derive(Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its identity.
    pub identity: String,
    /// When it has acquired the `Lease`, by its own clock; empty if it doesn't say.
    pub since: String,
}

/// The `resourceVersion` of the holder's last write and when a waiting candidate first observed it.
#[derive(Default)]
pub struct ObservedHolder(Option<(String, Instant)>);

impl ObservedHolder {
    /// The holder of `lease` if it may be alive at `now`. A holder with our own identity is a
    /// former container of this pod and is ignored.
    pub fn holder(&mut self, lease: &Lease, identity: &str, now: Instant) -> Option<Holder> {
        let spec = lease.spec.as_ref()?;
        let holder = spec
            .holder_identity
            .as_deref()
            .filter(|holder| !holder.is_empty() && *holder != identity)?;
        let holder = Holder {
            identity: holder.to_owned(),
            since: spec
                .acquire_time
                .as_ref()
                .map(|MicroTime(time)| time.to_string())
                .unwrap_or_default(),
        };
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        match &self.0 {
            Some((seen, since)) if *seen == version => {
                let valid = spec
                    .lease_duration_seconds
                    .and_then(|s| u64::try_from(s).ok())
                    .map_or(DURATION, Duration::from_secs);
                (now.duration_since(*since) < valid).then_some(holder)
            }
            _ => {
                self.0 = Some((version, now));
                Some(holder)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::coordination::v1::LeaseSpec;
    use kube::api::ObjectMeta;

    use super::*;

    fn lease(holder: &str, version: &str) -> Lease {
        Lease {
            metadata: ObjectMeta {
                resource_version: Some(version.to_owned()),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(holder.to_owned()),
                ..LeaseSpec::default()
            }),
        }
    }

    #[test]
    fn a_holder_is_dead_when_its_lease_has_not_changed_for_its_duration() {
        let (mut seen, start) = (ObservedHolder::default(), Instant::now());
        let held = Some("other".to_owned());
        let mut holder = |lease: &Lease, now| Some(seen.holder(lease, "me", now)?.identity);
        assert_eq!(holder(&lease("other", "1"), start), held);
        let almost = DURATION.saturating_sub(Duration::from_millis(1));
        assert_eq!(holder(&lease("other", "1"), start + almost), held);
        assert_eq!(
            holder(&lease("other", "2"), start + almost),
            held,
            "a renewal restarts the duration"
        );
        assert_eq!(holder(&lease("other", "2"), start + almost + almost), held);
        assert_eq!(
            holder(&lease("other", "2"), start + almost + DURATION),
            None
        );
    }

    #[test]
    fn whom_a_candidate_waits_for_is_logged_once_a_minute() {
        let (mut waiting, start) = (Waiting::default(), Instant::now());
        let almost = start + LOG_EVERY.saturating_sub(Duration::from_millis(1));
        assert!(waiting.is_to_log("a", start));
        assert!(!waiting.is_to_log("a", almost));
        assert!(waiting.is_to_log("b", almost));
        assert!(!waiting.is_to_log("b", start + LOG_EVERY));
        assert!(waiting.is_to_log("b", almost + LOG_EVERY));
    }

    #[test]
    fn a_lease_released_or_of_our_own_identity_is_free() {
        for holder in ["", "me"] {
            assert_eq!(
                ObservedHolder::default().holder(&lease(holder, "1"), "me", Instant::now()),
                None
            );
        }
    }
}
