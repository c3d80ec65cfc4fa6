//! The annotation that requests, once, that a topic is forgotten. A request that can't be read is
//! reported, and everything else goes on.

use pinpipe_crds::{PinterestPipeline, reasons};

use crate::{
    model::{Forgotten, Requests, Topic},
    names::{FORGET_ANNOTATION, dead_letter},
};

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

#[cfg(test)]
mod tests {
    use serde_json::Value;

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
}
