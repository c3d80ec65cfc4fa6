//! What was found out about a part of a pipeline.

/// State of a part of a pipeline, as a condition reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Whether the part works.
    pub ok: bool,
    /// One of [`pinpipe_crds::reasons`].
    pub reason: &'static str,
    /// What is wrong and what to do, in a sentence.
    pub message: String,
}

impl Finding {
    /// The part works.
    #[must_use]
    pub fn good(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            ok: true,
            reason,
            message: message.into(),
        }
    }

    /// The part doesn't work.
    #[must_use]
    pub fn bad(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            ok: false,
            reason,
            message: message.into(),
        }
    }

    /// The first that isn't ok, else the first. None: the list is empty.
    #[must_use]
    pub fn worst(findings: Vec<Self>) -> Option<Self> {
        let at = findings.iter().position(|finding| !finding.ok).unwrap_or(0);
        findings.into_iter().nth(at)
    }
}
