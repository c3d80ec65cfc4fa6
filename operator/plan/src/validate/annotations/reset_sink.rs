//! The annotation that resets sinks: `live=earliest`, `live/pin/0=offset:17`,
//! `archive=time:2026-01-01T00:00:00Z`.
//!
//! It is an annotation and not a field because it requests something once; the pipeline is the same
//! before and after. A request that can't be read is reported, and everything else goes on.

use std::collections::BTreeMap;

use crate::{
    model::{SinkReset, Topic},
    names::{KINDS, RESET_ANNOTATION, hash},
};
use k8s_openapi::jiff::Timestamp;
use pinpipe_config::{Reset, ResetTo};
use pinpipe_crds::PinterestPipeline;

/// Syntax of one request; several are separated by commas or white space.
pub const RESET_FORMS: &str = "<sink>[/<topic>[/<partition>]]=\
     earliest|latest|offset:<n>|time:<RFC 3339>[#<any text that makes it a new request>]";

/// Name of the archive among the sinks.
pub(in crate::validate) const ARCHIVE: &str = "archive";
/// Length of a request's id, hex digits.
const ID_DIGITS: usize = 16;

/// Requests of the annotation.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::validate) struct Resets {
    /// One request at most per sink.
    pub(in crate::validate) by_sink: BTreeMap<String, SinkReset>,
    /// Problems, a sentence each.
    pub(in crate::validate) problems: Vec<String>,
}

/// Reads a pipeline's annotation.
pub(in crate::validate) fn resets(pipeline: &PinterestPipeline, topics: &[Topic; 3]) -> Resets {
    let mut resets = Resets::default();
    let annotations = pipeline.metadata.annotations.as_ref();
    let Some(text) = annotations.and_then(|annotations| annotations.get(RESET_ANNOTATION)) else {
        return resets;
    };
    let uid = pipeline.metadata.uid.as_deref().unwrap_or_default();
    let spec = &pipeline.spec;
    let mut sinks: Vec<&str> = spec
        .stream
        .iter()
        .flat_map(|stream| &stream.sinks)
        .map(|sink| sink.name.as_str())
        .collect();
    sinks.extend(spec.archive.as_ref().map(|_| ARCHIVE));

    for request in text
        .split(|c: char| c == ',' || c.is_whitespace())
        .filter(|request| !request.is_empty())
    {
        match parse(request, &sinks, topics, uid) {
            Ok((sink, reset)) => match resets.by_sink.get(sink) {
                None => _ = resets.by_sink.insert(sink.to_owned(), reset),
                Some(first) => resets.problems.push(format!(
                    "`{request}`: the sink {sink} takes one request at a time, and `{}` comes \
                     first: \
                     replace that one once it is done",
                    first.request
                )),
            },
            Err(problem) => resets.problems.push(format!("`{request}`: {problem}")),
        }
    }
    resets
}

fn parse<'a>(
    request: &'a str,
    sinks: &[&str],
    topics: &[Topic; 3],
    uid: &str,
) -> Result<(&'a str, SinkReset), String> {
    let text = request.split_once('#').map_or(request, |(text, _)| text);
    let (target, to) = text.split_once('=').ok_or("it has no `=`")?;
    let mut target = target.splitn(3, '/');
    let sink = target.next().unwrap_or_default();
    if !sinks.contains(&sink) {
        let there = if sinks.is_empty() {
            "this pipeline has none".to_owned()
        } else {
            format!("there are {}", sinks.join(", "))
        };
        return Err(format!("there is no sink `{sink}`; {there}"));
    }
    let topic = target.next().map(|name| topic(name, topics)).transpose()?;
    let partition = target.next().map(partition).transpose()?;
    let to = reset_to(to)?;
    let mut id = hash(&format!("{uid}/{sink}/{request}"));
    id.truncate(ID_DIGITS);
    Ok((
        sink,
        SinkReset {
            request: request.to_owned(),
            reset: Reset {
                id,
                topic,
                partition,
                to,
            },
        },
    ))
}

fn topic(name: &str, topics: &[Topic; 3]) -> Result<String, String> {
    let by_kind = KINDS
        .iter()
        .zip(topics)
        .find(|(kind, _)| **kind == name)
        .map(|(_, topic)| topic);
    let found = topics.iter().find(|topic| topic.name == name).or(by_kind);
    found.map(|topic| topic.name.clone()).ok_or_else(|| {
        let names: Vec<_> = topics.iter().map(|topic| topic.name.as_str()).collect();
        format!(
            "there is no topic `{name}`; there are pin, geo and user, or by their names {}",
            names.join(", ")
        )
    })
}

fn partition(number: &str) -> Result<i32, String> {
    let read = number.parse().ok().filter(|partition| *partition >= 0);
    read.ok_or_else(|| format!("`{number}` is no partition's number"))
}

fn reset_to(to: &str) -> Result<ResetTo, String> {
    match (to, to.split_once(':')) {
        ("earliest", _) => Ok(ResetTo::Earliest),
        ("latest", _) => Ok(ResetTo::Latest),
        (_, Some(("offset", offset))) => {
            let read = offset.parse().ok().filter(|offset| *offset >= 0);
            read.map(ResetTo::Offset)
                .ok_or_else(|| format!("`{offset}` is no offset"))
        }
        (_, Some(("time", time))) => match time.parse::<Timestamp>() {
            Ok(time) => Ok(ResetTo::Time(time.as_millisecond())),
            Err(_) => Err(format!(
                "`{time}` is no time: write it as 2026-01-31T12:00:00Z or 2026-01-31T12:00:00+01:00"
            )),
        },
        _ => Err(format!(
            "`{to}` is none of earliest, latest, offset:<n> and time:<RFC 3339>"
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::samples::{pipeline, validated, whole};

    fn resets(annotation: &str) -> Resets {
        let mut pipeline = pipeline(whole());
        pipeline.metadata.annotations =
            Some([(RESET_ANNOTATION.to_owned(), annotation.to_owned())].into());
        super::resets(&pipeline, &validated(whole()).topics)
    }

    #[test]
    fn every_form_is_read() {
        for (request, sink, topic, partition, to) in [
            ("live=earliest", "live", None, None, ResetTo::Earliest),
            ("archive=latest", "archive", None, None, ResetTo::Latest),
            (
                "live/pin=earliest",
                "live",
                Some("data.pinterest.pin"),
                None,
                ResetTo::Earliest,
            ),
            (
                "live/data.pinterest.geo/2=offset:17",
                "live",
                Some("data.pinterest.geo"),
                Some(2),
                ResetTo::Offset(17),
            ),
            (
                "live/user/0=time:1970-01-01T00:00:01.5Z#again",
                "live",
                Some("data.pinterest.user"),
                Some(0),
                ResetTo::Time(1500),
            ),
            (
                "live=time:1970-01-01T01:00:00+01:00",
                "live",
                None,
                None,
                ResetTo::Time(0),
            ),
        ] {
            let read = resets(request);
            assert_eq!(read.problems, [""; 0], "{request}");
            let reset = &read.by_sink[sink].reset;
            assert_eq!(
                (reset.topic.as_deref(), reset.partition, reset.to),
                (topic, partition, to),
                "{request}"
            );
            assert_eq!(reset.id.len(), ID_DIGITS);
        }
    }

    #[test]
    fn what_cannot_be_read_is_named_and_the_rest_is_taken() {
        for (request, said) in [
            ("live", "no `=`"),
            ("=earliest", "no sink ``; there are live, archive"),
            ("lake=earliest", "no sink `lake`"),
            (
                "live/pins=earliest",
                "no topic `pins`; there are pin, geo and user",
            ),
            ("live/pin/-1=earliest", "`-1` is no partition"),
            ("live/pin/0/1=earliest", "`0/1` is no partition"),
            ("live=start", "`start` is none of earliest"),
            ("live=offset:-5", "`-5` is no offset"),
            ("live=time:yesterday", "`yesterday` is no time"),
            ("live=time:2026-01-01T00:00:00", "is no time"),
        ] {
            let read = resets(&format!("archive=latest {request}"));
            assert!(
                read.problems.len() == 1 && read.problems[0].starts_with(&format!("`{request}`: ")),
                "{read:?}"
            );
            assert!(read.problems[0].contains(said), "{request}: {read:?}");
            assert_eq!(
                read.by_sink.keys().collect::<Vec<_>>(),
                ["archive"],
                "{request}"
            );
        }
    }

    #[test]
    fn a_sink_takes_one_request_and_others_are_reported() {
        let read = resets("live/pin=earliest,\n live/geo=latest , archive=latest");
        assert_eq!(read.by_sink["live"].request, "live/pin=earliest");
        assert!(read.by_sink.contains_key("archive"));
        assert!(
            read.problems.len() == 1 && read.problems[0].contains("`live/geo=latest`"),
            "{read:?}"
        );
    }

    #[test]
    fn a_request_has_one_id_until_its_words_change() {
        let id = |annotation: &str| resets(annotation).by_sink["live"].reset.id.clone();
        assert_eq!(id("live=earliest"), id(" live=earliest,archive=latest"));
        assert_ne!(id("live=earliest"), id("live=earliest#2"));
        assert_ne!(id("live=earliest#2"), id("live=earliest#3"));
    }

    #[test]
    fn without_the_annotation_nothing_is_reset() {
        let pipeline = pipeline(json!({}));
        assert_eq!(
            super::resets(&pipeline, &validated(json!({})).topics),
            Resets::default()
        );
    }
}
