//! Annotations that request something once, besides resets of sinks: forgetting a topic, starting a
//! batch run. A request that can't be read is reported, and everything else goes on.

use pinpipe_crds::{PinterestPipeline, reasons};

use crate::{
    model::{Forgotten, Requests, Topic},
    names::{FORGET_ANNOTATION, RUN_ANNOTATION, dead_letter},
};

/// Longest value that starts a run, bytes: as long as the status keeps.
const MAX_RUN_ID: usize = 63;

/// Reads a pipeline's annotations.
pub(in crate::validate) fn requests(pipeline: &PinterestPipeline, topics: &[Topic; 3]) -> Requests {
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
                    "{FORGET_ANNOTATION}: `{request}`: {why}; a request is \
                     <topic>@<its id in status.topics>"
                ),
            )),
        }
    }
    if let Some(id) = annotation(RUN_ANNOTATION) {
        match run(id, pipeline) {
            Ok(()) => requests.run = Some(id.to_owned()),
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

fn run(id: &str, pipeline: &PinterestPipeline) -> Result<(), String> {
    if id.is_empty() || id.len() > MAX_RUN_ID {
        return Err(format!(
            "the value must have 1 to {MAX_RUN_ID} bytes, and each run needs another value"
        ));
    }
    let batch = pipeline
        .status
        .iter()
        .filter_map(|status| status.batch.as_ref());
    let done = batch.flat_map(|batch| batch.last_requested.iter().chain(&batch.requested_before));
    if pipeline.spec.batch.is_none() && !done.into_iter().any(|done| done == id) {
        return Err("this pipeline has no spec.batch, so there is nothing to run".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::samples::{pipeline, validated, whole};

    fn requests(spec: Value, key: &str, value: &str) -> Requests {
        let mut pipeline = pipeline(spec.clone());
        pipeline.metadata.annotations = Some([(key.to_owned(), value.to_owned())].into());
        super::requests(&pipeline, &validated(spec).topics)
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
    fn a_run_is_requested_by_any_value_where_there_is_a_batch_section() {
        assert_eq!(
            requests(whole(), RUN_ANNOTATION, "now 1").run.as_deref(),
            Some("now 1")
        );
        let long = "a".repeat(64);
        for (spec, id, said) in [
            (whole(), "", "1 to 63"),
            (whole(), long.as_str(), "1 to 63"),
            (json!({}), "1", "no spec.batch"),
        ] {
            let read = requests(spec, RUN_ANNOTATION, id);
            assert_eq!(read.run, None, "{said}");
            assert!(
                matches!(&read.problems[..], [(reasons::INVALID_RUN, why)] if why.contains(said)),
                "{read:?}"
            );
        }
    }
}
