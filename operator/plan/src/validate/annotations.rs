//! Annotations of earlier releases, which do nothing any more.

use pinpipe_crds::PinterestPipeline;

/// Annotations that were removed, each by its path, and what does the same.
const REMOVED: [(&str, &str, &str); 3] = [
    (
        "pinpipe.dev/reset-sink",
        "metadata.annotations[pinpipe.dev/reset-sink]",
        "spec.reset",
    ),
    (
        "pinpipe.dev/forget-topic",
        "metadata.annotations[pinpipe.dev/forget-topic]",
        "spec.topic",
    ),
    (
        "pinpipe.dev/run-batch",
        "metadata.annotations[pinpipe.dev/run-batch]",
        "spec.batch",
    ),
];

/// Removed annotations that a pipeline has, each by its path, with a sentence about it.
pub(super) fn removed(pipeline: &PinterestPipeline) -> Vec<(&'static str, String)> {
    let annotations = pipeline.metadata.annotations.as_ref();
    let is_set = |name: &str| annotations.is_some_and(|them| them.contains_key(name));
    let found = REMOVED.into_iter().filter(|(name, ..)| is_set(name));
    let problems = found.map(|(_, path, run)| {
        let sentence = format!(
            "this annotation does nothing any more: remove it, and create a PinterestRun with {run}"
        );
        (path, sentence)
    });
    problems.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::{pipeline, whole};

    #[test]
    fn a_removed_annotation_names_the_run_that_replaces_it() {
        let mut pipeline = pipeline(whole());
        let mut found = |name: &str| {
            let annotation = (name.to_owned(), "live=earliest".to_owned());
            pipeline.metadata.annotations = Some([annotation].into());
            removed(&pipeline)
        };
        assert_eq!(found("pinpipe.dev/paused"), []);
        for (name, run) in [
            ("reset-sink", "spec.reset"),
            ("forget-topic", "spec.topic"),
            ("run-batch", "spec.batch"),
        ] {
            let [(path, sentence)] = &found(&format!("pinpipe.dev/{name}"))[..] else {
                panic!("{name} isn't one problem");
            };
            assert_eq!(*path, format!("metadata.annotations[pinpipe.dev/{name}]"));
            assert!(sentence.ends_with(run), "{sentence}");
        }
    }
}
