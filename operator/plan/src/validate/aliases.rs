//! Further names of topics in the paths of ingest.

use std::collections::BTreeSet;

use pinpipe_crds::{PinterestPipelineSpec, RecordKind};

use super::Problem;
use crate::model::Topic;

/// Checks that each name stands for one kind of record.
pub(super) fn check(
    spec: &PinterestPipelineSpec,
    topics: &[Topic; 3],
    problems: &mut Vec<Problem>,
) {
    let aliases = spec.ingest.iter().flat_map(|ingest| &ingest.aliases);
    let kinds = [RecordKind::Pin, RecordKind::Geo, RecordKind::User];
    let mut seen = BTreeSet::new();
    for alias in aliases {
        let name = &alias.name;
        let mut problem = |message| {
            let field = "spec.ingest.aliases";
            problems.push(Problem { field, message });
        };
        if !seen.insert(name) {
            problem(format!(
                "the name {name} is there twice: remove one of them"
            ));
        }
        let topic = topics
            .iter()
            .zip(kinds)
            .find(|(topic, _)| topic.name == *name);
        if let Some((_, kind)) = topic.filter(|(_, kind)| *kind != alias.kind) {
            problem(format!(
                "the alias {name} has the kind {:?}, but is the name of the topic of {kind:?} \
                 records: give it that kind, or another name",
                alias.kind
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{samples::pipeline, validate::topics};

    fn messages(aliases: &Value) -> Vec<String> {
        let pipeline = pipeline(json!({
            "broker": {"kafka": {"bootstrapServers": "k:1"}},
            "ingest": {"aliases": aliases},
        }));
        let mut problems = Vec::new();
        let topics = topics::topics(&pipeline, &mut problems);
        check(&pipeline.spec, &topics, &mut problems);
        problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_name_stands_for_one_kind() {
        for aliases in [
            json!([]),
            json!([{"name": "a.pin", "kind": "Pin"}, {"name": "a.geo", "kind": "Geo"}]),
            json!([{"name": "a", "kind": "Pin"}, {"name": "b", "kind": "Pin"}]),
            json!([{"name": "data.pinterest.geo", "kind": "Geo"}]),
        ] {
            assert_eq!(messages(&aliases), [""; 0], "{aliases}");
        }
        for (aliases, says) in [
            (
                json!([{"name": "a", "kind": "Pin"}, {"name": "a", "kind": "Geo"}]),
                "the name a is there twice",
            ),
            (
                json!([{"name": "data.pinterest.geo", "kind": "User"}]),
                "data.pinterest.geo has the kind User, but is the name of the topic of Geo records",
            ),
        ] {
            let found = messages(&aliases);
            let [message] = found.as_slice() else {
                panic!("{aliases}: {found:?}")
            };
            assert!(message.starts_with("spec.ingest.aliases: "), "{message}");
            assert!(message.contains(says), "{message}");
        }
    }
}
