//! What runs ask for that takes no Job: another position of a sink, and what is settled about a
//! topic. The sink's worker and the reconcile of the topics do it while the run is under way.

use k8s_openapi::jiff::Timestamp;
use pinpipe_config::{PartitionOffset, Reset, ResetTo};
use pinpipe_crds::{PinterestRun, RecordKind, RunPhase, RunReset, TopicAction};

use crate::{
    component::Component,
    model::{Topic, ValidatedPipeline},
    names::dead_letter,
    run::{id, phase},
    validate::Problem,
};

/// Name of the archive among the sinks.
const ARCHIVE: &str = "archive";

/// What the runs under way ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// A reset, and the worker that carries it out.
    pub reset: Option<(Component, Reset)>,
    /// What is settled about topics.
    pub topics: Vec<TopicRequest>,
}

impl Requests {
    /// Whether nothing is asked for.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.reset.is_none() && self.topics.is_empty()
    }
}

/// What a run settles about a topic.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TopicRequest {
    /// Name of the run.
    pub run: String,
    /// Names of the topic and its dead-letter topic. The id tells which of them is meant.
    pub names: [String; 2],
    /// What is settled.
    pub action: TopicAction,
    /// Id of the topic.
    pub id: String,
}

impl TopicRequest {
    /// Whether it is about a topic of this name and id.
    #[must_use]
    pub fn is_about(&self, name: &str, id: Option<&str>) -> bool {
        self.names.iter().any(|own| own == name) && id == Some(&self.id)
    }
}

/// A reset of a sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkReset {
    /// The worker that carries it out.
    pub component: Component,
    /// The sink's store, as the pipeline names it.
    pub store: String,
    /// The reset as the worker gets it.
    pub reset: Reset,
}

/// What the runs under way ask for. A reset that was started for another store isn't among it.
#[must_use]
pub fn requests(pipeline: &ValidatedPipeline, runs: &[PinterestRun]) -> Requests {
    let under_way = runs.iter().filter(|run| {
        phase(run) == Some(RunPhase::Running) && run.metadata.deletion_timestamp.is_none()
    });
    let mut requests = Requests::default();
    for run in under_way {
        requests.topics.extend(topic(pipeline, run));
        if let Some(Ok(found)) = reset(pipeline, run)
            && store_at_start(run) == Some(&found.store)
        {
            requests.reset.get_or_insert((found.component, found.reset));
        }
    }
    requests
}

/// The store of the sink when a reset was started.
#[must_use]
pub fn store_at_start(run: &PinterestRun) -> Option<&String> {
    run.status.as_ref()?.store.as_ref()
}

/// What a run settles about a topic. None: it does something else.
#[must_use]
pub fn topic(pipeline: &ValidatedPipeline, run: &PinterestRun) -> Option<TopicRequest> {
    let topic = run.spec.topic.as_ref()?;
    let name = &topic_of(&pipeline.topics, topic.kind).name;
    Some(TopicRequest {
        run: run.metadata.name.clone().unwrap_or_default(),
        names: [name.clone(), dead_letter(name)],
        action: topic.action,
        id: topic.id.clone(),
    })
}

/// The reset that a run asks for, or what is wrong with it. None: it does something else.
#[must_use]
pub fn reset(
    pipeline: &ValidatedPipeline,
    run: &PinterestRun,
) -> Option<Result<SinkReset, Problem>> {
    let wanted = run.spec.reset.as_ref()?;
    Some(sink_reset(pipeline, wanted, id(run)))
}

fn sink_reset(
    pipeline: &ValidatedPipeline,
    wanted: &RunReset,
    id: String,
) -> Result<SinkReset, Problem> {
    let component = match wanted.sink.as_str() {
        ARCHIVE => Component::Archive,
        sink => Component::stream(sink),
    };
    let Some(store) = store(pipeline, &component) else {
        let archive = pipeline.archive.as_ref().map(|_| ARCHIVE);
        let sinks = pipeline.sinks.iter().map(|sink| sink.name.as_str());
        let sinks: Vec<&str> = sinks.chain(archive).collect();
        let there = match sinks.as_slice() {
            [] => "it has none".to_owned(),
            _ => format!("there are: {}", sinks.join(", ")),
        };
        let sink = &wanted.sink;
        return Err(Problem {
            field: "spec.reset.sink",
            message: format!("the pipeline has no sink {sink} that keeps positions; {there}"),
        });
    };
    let to = &wanted.to;
    let to = if to.earliest.is_some() {
        ResetTo::Earliest
    } else if let Some(time) = &to.time {
        let time = time.parse::<Timestamp>().map_err(|error| Problem {
            field: "spec.reset.to.time",
            message: format!("it isn't a time ({error}): write it as 2026-01-31T00:00:00Z"),
        })?;
        // Kafka knows no time before 1970.
        ResetTo::Time(time.as_millisecond().max(0))
    } else if to.offsets.is_empty() {
        ResetTo::Latest
    } else {
        let offsets = to.offsets.iter().map(|named| {
            Some(PartitionOffset {
                topic: topic_of(&pipeline.topics, named.kind).name.clone(),
                partition: named.partition,
                offset: named.offset.parse().ok()?,
            })
        });
        let offsets: Option<Vec<_>> = offsets.collect();
        ResetTo::Offsets(offsets.ok_or_else(|| Problem {
            field: "spec.reset.to.offsets",
            message: "each offset must be a number, such as \"1042\"".to_owned(),
        })?)
    };
    let mut topics = Vec::new();
    for (kind, topic) in KINDS.into_iter().zip(&pipeline.topics) {
        let of_offsets = wanted.to.offsets.iter().any(|named| named.kind == kind);
        if of_offsets || wanted.kinds.contains(&kind) {
            topics.push(topic.name.clone());
        }
    }
    Ok(SinkReset {
        component,
        store,
        reset: Reset { id, topics, to },
    })
}

/// Kinds in the order of a pipeline's topics.
const KINDS: [RecordKind; 3] = [RecordKind::Pin, RecordKind::Geo, RecordKind::User];

const fn topic_of(topics: &[Topic; 3], kind: RecordKind) -> &Topic {
    let [pin, geo, user] = topics;
    match kind {
        RecordKind::Pin => pin,
        RecordKind::Geo => geo,
        RecordKind::User => user,
    }
}

/// The store of a sink, as the pipeline names it. None: there is no such sink.
fn store(pipeline: &ValidatedPipeline, component: &Component) -> Option<String> {
    if let Component::Stream(name) = component {
        let sink = pipeline.sinks.iter().find(|sink| sink.name == *name)?;
        let mount = sink.secrets.mounts.first();
        let (secret, key) = mount
            .and_then(|mount| Some((&mount.secret, &mount.files.first()?.0)))
            .unzip();
        let (secret, key) = (
            secret.map_or("", String::as_str),
            key.map_or("", String::as_str),
        );
        let schema = &sink.schema;
        return Some(format!("Secret {secret}, key {key}; schema {schema}"));
    }
    let archive = pipeline.archive.as_ref()?;
    let (bucket, prefix) = (&archive.bucket, &archive.prefix);
    let endpoint = archive.s3.endpoint.as_ref();
    let endpoint = endpoint.map_or_else(String::new, |endpoint| format!(" at {endpoint}"));
    Some(format!("s3://{bucket}/{prefix}{endpoint}"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::samples::{run, validated, whole};

    fn found(action: &Value) -> Result<SinkReset, Problem> {
        reset(&validated(whole()), &run("r", json!({"reset": action}))).unwrap()
    }

    #[test]
    fn a_reset_is_given_to_the_worker_by_topics() {
        let all = found(&json!({"sink": "live", "to": {"earliest": {}}})).unwrap();
        assert_eq!(all.component, Component::stream("live"));
        assert_eq!(all.store, "Secret warehouse, key uri; schema public");
        assert_eq!(
            (all.reset.topics.len(), all.reset.to),
            (0, ResetTo::Earliest)
        );
        let time = json!({"sink": "archive", "kinds": ["User", "Pin"],
            "to": {"time": "1970-01-01T00:00:01.5Z"}});
        let time = found(&time).unwrap();
        assert_eq!(time.component, Component::Archive);
        assert!(time.store.starts_with("s3://raw/topics"), "{}", time.store);
        let topics = ["data.pinterest.pin", "data.pinterest.user"];
        assert_eq!(time.reset.topics, topics);
        assert_eq!(time.reset.to, ResetTo::Time(1500));
        let early = json!({"sink": "live", "to": {"time": "0001-01-01T00:00:00Z"}});
        assert_eq!(found(&early).unwrap().reset.to, ResetTo::Time(0));
        let offset = json!({"kind": "Geo", "partition": 2, "offset": "17"});
        let one = found(&json!({"sink": "live", "to": {"offsets": [offset]}})).unwrap();
        assert_eq!(one.reset.topics, ["data.pinterest.geo"]);
        assert_eq!(one.reset.partitions("data.pinterest.geo"), Some(vec![2]));
    }

    #[test]
    fn a_reset_of_another_sink_names_those_there_are() {
        let problem = found(&json!({"sink": "lake", "to": {"latest": {}}})).unwrap_err();
        let text = problem.to_string();
        assert!(text.starts_with("spec.reset.sink: the pipeline has no sink lake"));
        assert!(text.ends_with("there are: live, archive"), "{text}");
        let time = json!({"sink": "live", "to": {"time": "2026-02-30T00:00:00Z"}});
        assert_eq!(found(&time).unwrap_err().field, "spec.reset.to.time");
    }

    #[test]
    fn runs_under_way_are_requests_until_the_sink_has_another_store() {
        let pipeline = validated(whole());
        let mut reset = run(
            "a",
            json!({"reset": {"sink": "live", "to": {"latest": {}}}}),
        );
        let mut topic = run(
            "b",
            json!({"topic": {"kind": "Geo", "action": "Forget", "id": "x"}}),
        );
        let found = |runs: &[&PinterestRun]| {
            let runs: Vec<_> = runs.iter().map(|run| (*run).clone()).collect();
            requests(&pipeline, &runs)
        };
        assert!(found(&[&reset, &topic]).is_empty(), "none is started");
        topic.status = serde_json::from_value(json!({"phase": "Running"})).unwrap();
        let asked = found(&[&topic]).topics;
        assert_eq!(asked[0].names[1], "data.pinterest.geo.dlq");
        assert!(asked[0].is_about("data.pinterest.geo", Some("x")));
        assert!(!asked[0].is_about("data.pinterest.pin", Some("x")));
        let store = "Secret warehouse, key uri; schema public";
        let status = json!({"phase": "Running", "store": store});
        reset.status = serde_json::from_value(status).unwrap();
        let (component, asked) = found(&[&reset]).reset.unwrap();
        assert_eq!(component, Component::stream("live"));
        assert_eq!(asked.id, id(&reset));
        reset.status.as_mut().unwrap().store = Some("another".to_owned());
        assert!(found(&[&reset]).is_empty());
    }
}
