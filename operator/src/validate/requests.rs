//! What annotations ask for once, besides resets of sinks: that a topic be forgotten, that a batch
//! run be started.
//!
//! What can't be read of them is reported, and everything else goes on.

use pinpipe_crds::PinterestPipeline;

use super::Topic;
use crate::{build::dead_letter, status::reasons};

/// The annotation that has topics forgotten: `<topic>@<id>`, several with commas or white space
/// between them.
pub const FORGET_ANNOTATION: &str = "pinpipe.dev/forget-topic";
/// The annotation that starts a batch run: any word, another one for another run.
pub const RUN_ANNOTATION: &str = "pinpipe.dev/run-batch";
/// The longest word that starts a run: as long as the status keeps.
const LONGEST_NONCE: usize = 63;

/// A topic that is to be forgotten while the status says that it has this id.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Forgotten {
    /// The topic.
    pub topic: String,
    /// The id it had.
    pub id: String,
}

/// What is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// Topics to be forgotten.
    pub forget: Vec<Forgotten>,
    /// The word that asks for a batch run.
    pub run: Option<String>,
    /// What can't be done, by reason, a sentence each.
    pub problems: Vec<(&'static str, String)>,
}

/// Reads a pipeline's annotations.
pub(super) fn read(pipeline: &PinterestPipeline, topics: &[Topic; 3]) -> Requests {
    let annotation = |key: &str| {
        pipeline
            .metadata
            .annotations
            .as_ref()?
            .get(key)
            .map(String::as_str)
    };
    let mut requests = Requests::default();
    for request in annotation(FORGET_ANNOTATION)
        .unwrap_or_default()
        .split(|c: char| c == ',' || c.is_whitespace())
        .filter(|request| !request.is_empty())
    {
        match forgotten(request, topics) {
            Ok(forgotten) => requests.forget.push(forgotten),
            Err(why) => requests.problems.push((
                reasons::INVALID_FORGET,
                format!(
                    "{FORGET_ANNOTATION}: `{request}`: {why}; a request is <topic>@<the id it has in status.topics>"
                ),
            )),
        }
    }
    if let Some(nonce) = annotation(RUN_ANNOTATION) {
        match run(nonce, pipeline) {
            Ok(()) => requests.run = Some(nonce.to_owned()),
            Err(why) => requests
                .problems
                .push((reasons::INVALID_RUN, format!("{RUN_ANNOTATION}: {why}"))),
        }
    }
    requests
}

fn forgotten(request: &str, topics: &[Topic; 3]) -> Result<Forgotten, String> {
    let (topic, id) = request.split_once('@').ok_or("it has no `@`")?;
    if id.is_empty() {
        return Err("it names no id".to_owned());
    }
    let names: Vec<&str> = topics.iter().map(|topic| topic.name.as_str()).collect();
    if !names
        .iter()
        .any(|name| *name == topic || dead_letter(name) == topic)
    {
        return Err(format!(
            "there is no topic `{topic}`; there are {}, and the dead-letter topic of each, .dlq",
            names.join(", ")
        ));
    }
    Ok(Forgotten {
        topic: topic.to_owned(),
        id: id.to_owned(),
    })
}

fn run(nonce: &str, pipeline: &PinterestPipeline) -> Result<(), String> {
    if nonce.is_empty() || nonce.len() > LONGEST_NONCE {
        return Err(format!(
            "a run is asked for by a word of 1 to {LONGEST_NONCE} bytes, another one for each run"
        ));
    }
    let batch = pipeline
        .status
        .iter()
        .filter_map(|status| status.batch.as_ref());
    let done = batch.flat_map(|batch| batch.last_requested.iter().chain(&batch.requested_before));
    if pipeline.spec.batch.is_none() && !done.into_iter().any(|done| done == nonce) {
        return Err("this pipeline has no spec.batch, so there is nothing to run".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::validate::tests::{pipeline, validated, whole};

    fn requests(spec: Value, key: &str, value: &str) -> Requests {
        let mut pipeline = pipeline(spec.clone());
        pipeline.metadata.annotations = Some([(key.to_owned(), value.to_owned())].into());
        read(&pipeline, &validated(spec).topics)
    }

    #[test]
    fn topics_are_forgotten_by_name_and_id() {
        let read = requests(
            whole(),
            FORGET_ANNOTATION,
            "data.pinterest.pin@a-1, data.pinterest.geo.dlq@b_2",
        );
        let named: Vec<_> = read
            .forget
            .iter()
            .map(|f| (f.topic.as_str(), f.id.as_str()))
            .collect();
        assert_eq!(
            named,
            [
                ("data.pinterest.pin", "a-1"),
                ("data.pinterest.geo.dlq", "b_2")
            ]
        );
        assert_eq!(read.problems, []);
    }

    #[test]
    fn what_cannot_be_forgotten_is_named_and_the_rest_is_taken() {
        for (request, said) in [
            ("data.pinterest.geo", "no `@`"),
            ("data.pinterest.geo@", "no id"),
            ("pin@1", "no topic `pin`; there are data.pinterest.pin"),
            ("data.pinterest.pin.dlq.dlq@1", "no topic"),
        ] {
            let read = requests(
                whole(),
                FORGET_ANNOTATION,
                &format!("data.pinterest.pin@1,{request}"),
            );
            assert_eq!(read.forget.len(), 1, "{request}");
            let [(reason, message)] = read.problems.as_slice() else {
                panic!("{request}: {read:?}")
            };
            assert_eq!(*reason, reasons::INVALID_FORGET);
            assert!(
                message.contains(&format!("`{request}`: ")) && message.contains(said),
                "{message}"
            );
        }
    }

    #[test]
    fn a_run_is_asked_for_by_a_word_where_there_is_something_to_run() {
        assert_eq!(
            requests(whole(), RUN_ANNOTATION, "now 1").run.as_deref(),
            Some("now 1")
        );
        let long = "a".repeat(64);
        for (spec, nonce, said) in [
            (whole(), "", "1 to 63"),
            (whole(), long.as_str(), "1 to 63"),
            (json!({}), "1", "no spec.batch"),
        ] {
            let read = requests(spec, RUN_ANNOTATION, nonce);
            assert_eq!(read.run, None, "{said}");
            assert!(
                matches!(read.problems.as_slice(), [(reasons::INVALID_RUN, why)] if why.contains(said)),
                "{read:?}"
            );
        }
    }
}
