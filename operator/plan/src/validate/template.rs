//! Templates of pods: what a component sets, laid over what `spec.template` sets for all.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Affinity;
use pinpipe_crds::{PinterestPipelineSpec, Template};
use serde_json::Value;

use super::Problem;

/// A component's template over the general one. Maps are merged by key, `env` and
/// `imagePullSecrets` by name; of all other fields, the component's replaces the general one.
pub(super) fn lay_over(general: Option<&Template>, own: Option<&Template>) -> Template {
    let (general, own) = match (general, own) {
        (Some(general), Some(own)) => (general.clone(), own.clone()),
        (one, other) => return one.or(other).cloned().unwrap_or_default(),
    };
    Template {
        labels: merge(general.labels, own.labels),
        annotations: merge(general.annotations, own.annotations),
        node_selector: merge(general.node_selector, own.node_selector),
        env: merge_by(general.env, own.env, |variable| &variable.name),
        image_pull_secrets: merge_by(
            general.image_pull_secrets,
            own.image_pull_secrets,
            |secret| &secret.name,
        ),
        log_level: own.log_level.or(general.log_level),
        priority_class_name: own.priority_class_name.or(general.priority_class_name),
        affinity: own.affinity.or(general.affinity),
        tolerations: own.tolerations.or(general.tolerations),
        topology_spread_constraints: own
            .topology_spread_constraints
            .or(general.topology_spread_constraints),
        service_account_name: own.service_account_name.or(general.service_account_name),
        resources: own.resources.or(general.resources),
        trusted_ca_secret_ref: own.trusted_ca_secret_ref.or(general.trusted_ca_secret_ref),
        pod_security: own.pod_security.or(general.pod_security),
    }
}

fn merge(
    general: Option<BTreeMap<String, String>>,
    own: Option<BTreeMap<String, String>>,
) -> Option<BTreeMap<String, String>> {
    match (general, own) {
        (Some(mut merged), Some(own)) => {
            merged.extend(own);
            Some(merged)
        }
        (general, own) => own.or(general),
    }
}

/// The general list with the component's items, which replace those of the same name.
fn merge_by<T>(
    general: Option<Vec<T>>,
    own: Option<Vec<T>>,
    name: impl Fn(&T) -> &str,
) -> Option<Vec<T>> {
    let (general, own) = match (general, own) {
        (Some(general), Some(own)) => (general, own),
        (general, own) => return own.or(general),
    };
    let mut merged = general;
    for item in own {
        match merged.iter().position(|one| name(one) == name(&item)) {
            Some(at) => merged[at] = item,
            None => merged.push(item),
        }
    }
    Some(merged)
}

/// A template as the resource has it.
pub(super) struct Found<'a> {
    pub(super) template: &'a Template,
    /// Path of its `serviceAccountName`.
    pub(super) account: &'static str,
    /// Path of its `affinity`.
    affinity: &'static str,
}

macro_rules! found {
    ($section:literal, $template:expr) => {
        $template.as_ref().map(|template| Found {
            template,
            account: concat!($section, ".template.serviceAccountName"),
            affinity: concat!($section, ".template.affinity"),
        })
    };
}

/// All templates of a resource.
pub(super) fn all(spec: &PinterestPipelineSpec) -> Vec<Found<'_>> {
    let sinks = spec.stream.iter().flat_map(|stream| &stream.sinks);
    let parts = [
        found!("spec", spec.template),
        spec.ingest
            .as_ref()
            .and_then(|part| found!("spec.ingest", part.template)),
        spec.archive
            .as_ref()
            .and_then(|part| found!("spec.archive", part.template)),
        spec.batch
            .as_ref()
            .and_then(|part| found!("spec.batch", part.template)),
        spec.emulator
            .as_ref()
            .and_then(|part| found!("spec.emulator", part.template)),
    ];
    parts
        .into_iter()
        .chain(sinks.map(|sink| found!("spec.stream.sinks[]", sink.template)))
        .flatten()
        .collect()
}

/// Finds what Kubernetes' affinity doesn't have; the schema takes any object for one.
pub(super) fn check(spec: &PinterestPipelineSpec, problems: &mut Vec<Problem>) {
    for found in all(spec) {
        let affinity = found.template.affinity.as_ref();
        if let Some(message) = affinity.and_then(affinity_problem) {
            let field = found.affinity;
            problems.push(Problem { field, message });
        }
    }
}

fn affinity_problem(set: &Value) -> Option<String> {
    let read = match serde_json::from_value::<Affinity>(set.clone()) {
        Ok(affinity) => serde_json::to_value(affinity).unwrap_or_default(),
        Err(error) => {
            return Some(format!(
                "it isn't an affinity as in Kubernetes' pod spec: {error}; see kubectl explain \
                 pod.spec.affinity"
            ));
        }
    };
    let unknown = unknown(set, &read)?;
    Some(format!(
        "Kubernetes' affinity has no field `{unknown}`: see kubectl explain pod.spec.affinity"
    ))
}

/// Path of the first field that is set, but wasn't read.
fn unknown(set: &Value, read: &Value) -> Option<String> {
    match (set, read) {
        (Value::Object(set), Value::Object(read)) => {
            set.iter().find_map(|(name, value)| match read.get(name) {
                Some(read) => unknown(value, read).map(|below| format!("{name}.{below}")),
                None => (!value.is_null()).then(|| name.clone()),
            })
        }
        (Value::Array(set), Value::Array(read)) => {
            let mut pairs = set.iter().zip(read);
            pairs.find_map(|(set, read)| unknown(set, read))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::samples::{all_there, images, pipeline, whole};

    fn laid_over(general: Value, own: Value) -> Value {
        let [general, own] = [general, own].map(|one| serde_json::from_value(one).ok());
        assert!(general.is_some() && own.is_some());
        serde_json::to_value(lay_over(general.as_ref(), own.as_ref())).unwrap()
    }

    /// What is set for all, by a component, and what holds for the component.
    #[test]
    fn maps_and_named_lists_are_merged_and_all_else_is_replaced() {
        let env = |name: &str, value: &str| json!({"name": name, "value": value});
        for (field, general, own, both) in [
            (
                "labels",
                json!({"a": "1", "b": "1"}),
                json!({"b": "2", "c": "2"}),
                json!({"a": "1", "b": "2", "c": "2"}),
            ),
            (
                "annotations",
                json!({"a": "1"}),
                json!({"b": "2"}),
                json!({"a": "1", "b": "2"}),
            ),
            (
                "nodeSelector",
                json!({"disk": "slow"}),
                json!({"disk": "fast"}),
                json!({"disk": "fast"}),
            ),
            (
                "env",
                json!([env("B", "1"), env("A", "1")]),
                json!([env("C", "2"), env("B", "2")]),
                json!([env("B", "2"), env("A", "1"), env("C", "2")]),
            ),
            (
                "imagePullSecrets",
                json!([{"name": "a"}]),
                json!([{"name": "b"}, {"name": "a"}]),
                json!([{"name": "a"}, {"name": "b"}]),
            ),
            ("tolerations", json!([{"key": "a"}]), json!([]), json!([])),
            (
                "topologySpreadConstraints",
                json!([{"topologyKey": "a", "whenUnsatisfiable": "DoNotSchedule"}]),
                json!([]),
                json!([]),
            ),
            (
                "affinity",
                json!({"nodeAffinity": {}}),
                json!({"podAffinity": {}}),
                json!({"podAffinity": {}}),
            ),
            (
                "resources",
                json!({"limits": {"memory": "1Gi"}}),
                json!({"requests": {"cpu": "1", "ephemeral-storage": "2Gi"}}),
                json!({"requests": {"cpu": "1", "ephemeral-storage": "2Gi"}}),
            ),
            ("logLevel", json!("Debug"), json!("Warn"), json!("Warn")),
            ("priorityClassName", json!("a"), json!("b"), json!("b")),
            ("serviceAccountName", json!("a"), json!("b"), json!("b")),
            (
                "trustedCASecretRef",
                json!({"name": "a", "key": "ca.crt"}),
                json!({"name": "b", "key": "ca.crt"}),
                json!({"name": "b", "key": "ca.crt"}),
            ),
            (
                "podSecurity",
                json!("FromPlatform"),
                json!("Fixed"),
                json!("Fixed"),
            ),
        ] {
            let of = |value: &Value| json!({field: value});
            assert_eq!(laid_over(of(&general), of(&own)), of(&both), "{field}");
            assert_eq!(laid_over(of(&general), json!({})), of(&general), "{field}");
            assert_eq!(laid_over(json!({}), of(&own)), of(&own), "{field}");
        }
        assert_eq!(lay_over(None, None), Template::default());
    }

    /// The definition has no field of a template that isn't merged above.
    #[test]
    fn an_affinity_that_kubernetes_does_not_know_is_refused_with_its_place() {
        let problems = |section: &str, affinity: Value| {
            let mut spec = whole();
            spec["ingest"] = json!({});
            spec.pointer_mut(section).unwrap()["template"] = json!({"affinity": affinity});
            let pipeline = pipeline(spec);
            let found = super::super::validate(&pipeline, &all_there(&pipeline), &images()).err();
            let found = found.into_iter().flatten();
            found.map(|problem| problem.to_string()).collect::<Vec<_>>()
        };
        let term = |key: &str| {
            json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
                {key: "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"a": "b"}}},
            ]}})
        };
        for (section, path) in [
            ("", "spec"),
            ("/ingest", "spec.ingest"),
            ("/stream/sinks/0", "spec.stream.sinks[]"),
            ("/archive", "spec.archive"),
            ("/batch", "spec.batch"),
            ("/emulator", "spec.emulator"),
        ] {
            assert_eq!(problems(section, term("topologyKey")), [""; 0], "{section}");
            let found = problems(section, term("topologykey"));
            let begin = format!(
                "{path}.template.affinity: Kubernetes' affinity has no field \
                 `podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution.topologykey`"
            );
            assert!(
                found.len() == 1 && found[0].starts_with(&begin),
                "{found:?}"
            );
        }
        let found = problems("/batch", json!({"nodeAffinity": []}));
        assert!(found[0].contains("it isn't an affinity"), "{found:?}");
    }
}
