//! Permanent failures, and the exit code that distinguishes them from failures worth a retry.

use std::{collections::BTreeMap, fmt};

use pinpipe_config::EXIT_PERMANENT_FAILURE;
use pinpipe_runtime::{
    documents::Unreadable,
    failure::{Class, Refusal},
    s3::RequestError,
};

use crate::{counts::KindCounts, loaded::Loaded, quality::QualityExceeded};

const EXIT_FAILURE: u8 = 1;

/// An error that neither repeating the request nor restarting the pod fixes.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Permanent(pub String);

impl From<anyhow::Error> for Permanent {
    fn from(error: anyhow::Error) -> Self {
        Self(format!("{error:#}"))
    }
}

/// The sink at which a run failed, as the context of the error.
#[derive(Debug)]
pub struct InSink {
    /// Its name.
    pub name: String,
    /// What the sinks before it got.
    pub loaded: BTreeMap<String, Loaded>,
}

impl fmt::Display for InSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sink {}", self.name)
    }
}

/// That a run failed at the bucket it imports from, as the context of the error.
#[derive(Debug)]
pub struct InSource;

impl fmt::Display for InSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the import's bucket can't be read")
    }
}

/// That a run has failed for good when it was started before, as the context of the error it failed
/// with then.
#[derive(Debug)]
pub struct FailedBefore {
    /// Its name.
    pub run: String,
    /// What it had read.
    pub counts: Vec<KindCounts>,
}

impl fmt::Display for FailedBefore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let run = &self.run;
        write!(
            f,
            "the run {run} has failed before and is not repeated; start one under another name. It \
             failed with"
        )
    }
}

/// That an import was abandoned, as the context of the error.
#[derive(Debug)]
pub struct ImportAbandoned(pub String);

impl fmt::Display for ImportAbandoned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the import {} was abandoned; start another", self.0)
    }
}

/// What the sinks of a failed run got, with the one at which it failed.
pub fn sinks(error: &anyhow::Error) -> BTreeMap<String, Loaded> {
    let Some(InSink { name, loaded }) = error.downcast_ref::<InSink>() else {
        return BTreeMap::new();
    };
    let failed = Loaded {
        failed: true,
        ..Loaded::default()
    };
    let mut sinks = loaded.clone();
    sinks.insert(name.clone(), failed);
    sinks
}

/// Whether no repetition of the same run can succeed.
pub fn is_permanent(error: &anyhow::Error) -> bool {
    error.is::<Permanent>()
        || error.is::<QualityExceeded>()
        || error.is::<Refusal>()
        || error.is::<Unreadable>()
        || error
            .downcast_ref::<RequestError>()
            .is_some_and(is_permanent_in_store)
}

/// Whether a run is given up at once. Perhaps nobody but the import's own pods, whose run
/// `is_own`, can read its bucket, and other runs don't wait for them.
pub fn is_final(error: &anyhow::Error, is_own: bool) -> bool {
    is_permanent(error) || (!is_own && error.is::<InSource>())
}

/// Credentials that have expired are none that the store will never take: the pod that continues
/// the run reads the Secret again.
const fn is_permanent_in_store(error: &RequestError) -> bool {
    match error.class {
        Class::AccessDenied => !error.has_expired,
        Class::Refused | Class::Halt => true,
        Class::Unavailable => false,
    }
}

/// Counts of the records that a failed run has read; none unless it failed because of them.
pub fn counts(error: &anyhow::Error) -> Vec<KindCounts> {
    if let Some(before) = error.downcast_ref::<FailedBefore>() {
        return before.counts.clone();
    }
    let exceeded = error.downcast_ref::<QualityExceeded>();
    let counts = exceeded.into_iter().flat_map(|exceeded| &exceeded.counts);
    counts
        .map(|(kind, counts)| KindCounts::new(*kind, counts))
        .collect()
}

/// The exit code of a process that failed: [`EXIT_PERMANENT_FAILURE`] or 1.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    if is_permanent(error) {
        EXIT_PERMANENT_FAILURE
    } else {
        EXIT_FAILURE
    }
}

#[cfg(test)]
mod tests {
    use anyhow::{Context, anyhow};
    use aws_sdk_s3::{
        config::http::HttpResponse,
        error::{ErrorMetadata, SdkError},
        operation::put_object::PutObjectError,
        primitives::SdkBody,
    };
    use pinpipe_config::Quality;
    use pinpipe_core::Kind;

    use super::*;
    use crate::{counts::Counts, quality};

    #[test]
    fn only_failures_that_a_retry_cannot_fix_exit_with_the_permanent_code() {
        let rejected = Counts {
            read: 1,
            rejected: 1,
            ..Counts::default()
        };
        let limits = Quality {
            max_rejected: Some("0%".parse().unwrap()),
            ..Quality::default()
        };
        let exceeded = quality::check(&limits, &BTreeMap::from([(Kind::Pin, rejected)]));
        let in_context = |error: anyhow::Error| -> anyhow::Result<()> {
            Err(error).context("writing to geo_batch").context("sink a")
        };
        for (error, expected) in [
            (exceeded.unwrap_err().into(), EXIT_PERMANENT_FAILURE),
            (Permanent("denied".into()).into(), EXIT_PERMANENT_FAILURE),
            (anyhow!("connection refused"), 1),
        ] {
            assert_eq!(exit_code(&error), expected, "{error}");
            let error = in_context(error).unwrap_err();
            assert_eq!(exit_code(&error), expected, "{error:#}");
        }
    }

    #[test]
    fn a_run_that_failed_before_fails_with_the_same_counts_and_cause() {
        let counts = Counts {
            read: 7,
            ..Counts::default()
        };
        let before = FailedBefore {
            run: "a".into(),
            counts: vec![KindCounts::new(Kind::Geo, &counts)],
        };
        let error = anyhow::Error::from(Permanent("too bad".into())).context(before);
        assert_eq!(
            (self::counts(&error)[0].read, exit_code(&error)),
            (7, EXIT_PERMANENT_FAILURE)
        );
        let message = format!("{error:#}");
        assert!(message.contains("the run a has failed before"), "{message}");
        assert!(message.ends_with("It failed with: too bad"), "{message}");
    }

    #[test]
    fn another_run_gives_an_import_up_only_if_its_bucket_is_at_fault() {
        let in_source = || anyhow!("connection refused").context(InSource);
        assert!(is_final(&in_source(), false));
        assert!(!is_final(&in_source(), true), "its own pod tries again");
        assert!(!is_final(&anyhow!("no space left"), false));
        assert!(is_final(&Permanent("denied".into()).into(), true));
    }

    #[test]
    fn the_sink_at_which_a_run_failed_is_known_with_those_before_it() {
        let stored = Loaded {
            rows: 7,
            ..Loaded::default()
        };
        let at = InSink {
            name: "b".to_owned(),
            loaded: BTreeMap::from([("a".to_owned(), stored)]),
        };
        let denied = anyhow::Error::from(Permanent("denied".to_owned()));
        let error = denied.context("writing to geo_batch").context(at);
        assert_eq!(format!("{error:#}"), "sink b: writing to geo_batch: denied");
        assert!(is_permanent(&error));
        let found = sinks(&error);
        assert_eq!((found.len(), found["a"]), (2, stored));
        assert!(found["b"].failed);
        assert!(sinks(&anyhow!("no object store")).is_empty());
    }

    #[test]
    fn what_an_object_store_refuses_is_permanent_unless_it_depends_on_the_time() {
        for (status, code, expected) in [
            (400, "ExpiredToken", false),
            (400, "TokenRefreshRequired", false),
            (400, "InvalidToken", true),
            (403, "InvalidAccessKeyId", true),
            (403, "SignatureDoesNotMatch", true),
            (403, "AccessDenied", true),
            (403, "RequestTimeTooSkewed", false),
            (404, "NoSuchBucket", true),
            (503, "SlowDown", false),
        ] {
            let metadata = ErrorMetadata::builder().code(code).build();
            let status: u16 = status;
            let response = HttpResponse::new(status.try_into().unwrap(), SdkBody::empty());
            let answer = SdkError::service_error(PutObjectError::generic(metadata), response);
            let error = RequestError::new("data", "k", "can't be written", &answer);
            assert_eq!(is_permanent(&error.into()), expected, "{code}");
        }
    }
}
