//! Settings of pods with their defaults, and how many pods there are.

use k8s_openapi::api::core::v1::{
    Affinity, ConfigMapKeySelector, EnvVar, EnvVarSource, SecretKeySelector, Toleration,
};
use pinpipe_crds::{
    Ingest, StreamSink, TaintEffect, Template, TolerationOperator, TopologySpreadConstraint,
    WhenUnsatisfiable,
};

use super::{resources, trust};
use crate::model::{Pods, Replicas, Spread, Target};

/// Default topology spread of a component that may have several pods.
const SPREAD_OVER: &str = "kubernetes.io/hostname";
/// Node label of the preferred anti-affinity besides. It can't be a second spread constraint: the
/// scheduler leaves out nodes that lack the label of any constraint, and in many clusters no node
/// has this one.
const APART_BY: &str = "topology.kubernetes.io/zone";

/// Settings of a component that may have several pods.
pub(super) fn several(set: &Template, defaults: [&str; 3]) -> Pods {
    let pods = one(set, defaults);
    if set.topology_spread_constraints.is_some() {
        return pods;
    }
    let over = Spread {
        topology_key: SPREAD_OVER.to_owned(),
        max_skew: 1,
        when_unsatisfiable: "ScheduleAnyway",
    };
    Pods {
        spread: vec![over],
        apart: Some(APART_BY).filter(|_| !sets_anti_affinity(&pods)),
        ..pods
    }
}

fn sets_anti_affinity(pods: &Pods) -> bool {
    let affinity = pods.affinity.as_ref();
    affinity.is_some_and(|affinity| affinity.pod_anti_affinity.is_some())
}

/// Settings of a component that has one pod. The defaults are those of [`resources::or_default`].
pub(super) fn one(set: &Template, defaults: [&str; 3]) -> Pods {
    let pull_secrets = set.image_pull_secrets.iter().flatten();
    Pods {
        service_account: set.service_account_name.clone(),
        labels: set.labels.clone().unwrap_or_default(),
        annotations: set.annotations.clone().unwrap_or_default(),
        node_selector: set.node_selector.clone().unwrap_or_default(),
        env: set.env.iter().flatten().map(env_var).collect(),
        log_level: set.log_level,
        priority_class: set.priority_class_name.clone(),
        tolerations: tolerations(set),
        spread: set
            .topology_spread_constraints
            .as_deref()
            .map(spread)
            .unwrap_or_default(),
        apart: None,
        // One that can't be read is a problem found by `template::check`.
        affinity: set
            .affinity
            .as_ref()
            .and_then(|affinity| serde_json::from_value(affinity.clone()).ok())
            .filter(|affinity| *affinity != Affinity::default()),
        image_pull_secrets: pull_secrets.map(|secret| secret.name.clone()).collect(),
        resources: resources::or_default(set.resources.as_ref(), defaults),
        trusted_ca: trust::config(set),
        security: set.pod_security.unwrap_or_default(),
    }
}

fn env_var(set: &pinpipe_crds::EnvVar) -> EnvVar {
    let value_from = set.value_from.as_ref().map(|from| EnvVarSource {
        secret_key_ref: from
            .secret_key_ref
            .as_ref()
            .map(|secret| SecretKeySelector {
                name: secret.name.clone(),
                key: secret.key.clone(),
                optional: None,
            }),
        config_map_key_ref: from
            .config_map_key_ref
            .as_ref()
            .map(|map| ConfigMapKeySelector {
                name: map.name.clone(),
                key: map.key.clone(),
                optional: None,
            }),
        ..EnvVarSource::default()
    });
    EnvVar {
        name: set.name.clone(),
        // The API server would drop an empty one.
        value: set.value.clone().filter(|value| !value.is_empty()),
        value_from,
    }
}

fn spread(set: &[TopologySpreadConstraint]) -> Vec<Spread> {
    let spread = set.iter().map(|spread| Spread {
        topology_key: spread.topology_key.clone(),
        max_skew: spread.max_skew.unwrap_or(1),
        when_unsatisfiable: match spread.when_unsatisfiable {
            WhenUnsatisfiable::ScheduleAnyway => "ScheduleAnyway",
            WhenUnsatisfiable::DoNotSchedule => "DoNotSchedule",
        },
    });
    spread.collect()
}

/// Taints of a node that failed.
const FAILED_NODE: [&str; 2] = [
    "node.kubernetes.io/not-ready",
    "node.kubernetes.io/unreachable",
];
/// How long pods tolerate those taints, seconds. Kubernetes' default is 300; workers keep nothing
/// on a node, so moving them costs little, and a node is tainted only after most of a minute's
/// silence.
const TOLERATION_SECONDS: i64 = 30;

/// Tolerations that are set, and defaults for the taints of a failed node that these don't cover.
fn tolerations(set: &Template) -> Vec<Toleration> {
    let mut all: Vec<Toleration> = set.tolerations.iter().flatten().map(toleration).collect();
    let by_default = |key: &str| Toleration {
        key: Some(key.to_owned()),
        operator: Some("Exists".to_owned()),
        value: None,
        effect: Some("NoExecute".to_owned()),
        toleration_seconds: Some(TOLERATION_SECONDS),
    };
    let is_about = |toleration: &Toleration, key: &str| {
        toleration.key.as_deref().is_none_or(|named| named == key)
            && toleration
                .effect
                .as_deref()
                .is_none_or(|effect| effect == "NoExecute")
    };
    let missing: Vec<_> = FAILED_NODE
        .iter()
        .filter(|key| !all.iter().any(|set| is_about(set, key)))
        .collect();
    all.extend(missing.into_iter().map(|key| by_default(key)));
    all
}

fn toleration(set: &pinpipe_crds::Toleration) -> Toleration {
    Toleration {
        key: set.key.clone(),
        operator: set.operator.map(|operator| {
            match operator {
                TolerationOperator::Exists => "Exists",
                TolerationOperator::Equal => "Equal",
            }
            .to_owned()
        }),
        // The API server would drop an empty one.
        value: set.value.clone().filter(|value| !value.is_empty()),
        effect: set.effect.map(|effect| {
            match effect {
                TaintEffect::NoSchedule => "NoSchedule",
                TaintEffect::PreferNoSchedule => "PreferNoSchedule",
                TaintEffect::NoExecute => "NoExecute",
            }
            .to_owned()
        }),
        toleration_seconds: set.toleration_seconds,
    }
}

/// Replica settings of the ingest component.
pub(super) fn ingest_replicas(ingest: &Ingest) -> Replicas {
    match &ingest.autoscaling {
        Some(scaling) => Replicas::Autoscaled {
            min: scaling
                .min_replicas
                .unwrap_or_else(|| scaling.max_replicas.min(2)),
            max: scaling.max_replicas,
            target: Target::Cpu(scaling.target_cpu_utilization_percentage.unwrap_or(70)),
        },
        None => Replicas::Fixed(ingest.replicas.unwrap_or(2)),
    }
}

/// Replica settings of a sink, and a sentence where its topics have too few partitions for them.
/// `partitions` is the number of partitions of all topics together.
pub(super) fn sink_replicas(sink: &StreamSink, partitions: i32) -> (Replicas, Option<String>) {
    let most = partitions.max(1);
    let held_back = |desired: i32| {
        (desired > most).then(|| {
            format!(
                "{most} pods, not {desired}, since the topics have {partitions} partitions in all \
                 and more pods would be idle"
            )
        })
    };
    match &sink.autoscaling {
        None => {
            let desired = sink.replicas.unwrap_or(1);
            (Replicas::Fixed(desired.min(most)), held_back(desired))
        }
        Some(scaling) => match scaling.target_lag {
            None => (Replicas::LeftAlone, None),
            Some(lag) => {
                let max = scaling.max_replicas.unwrap_or(most).min(most);
                let min = scaling.min_replicas.unwrap_or(1).min(max);
                let held_back = scaling
                    .max_replicas
                    .or(scaling.min_replicas)
                    .and_then(held_back);
                (
                    Replicas::Autoscaled {
                        min,
                        max,
                        target: Target::Lag(lag),
                    },
                    held_back.map(|sentence| format!("at most {sentence}")),
                )
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// Settings of a sink with 6 partitions → its replicas, and the sentence about them.
    #[test]
    fn a_sink_has_no_more_pods_than_there_are_partitions() {
        let lag = |min, max| Replicas::Autoscaled {
            min,
            max,
            target: Target::Lag(100),
        };
        for (set, replicas, told) in [
            (json!({}), Replicas::Fixed(1), None),
            (json!({"replicas": 6}), Replicas::Fixed(6), None),
            (
                json!({"replicas": 20}),
                Replicas::Fixed(6),
                Some("6 pods, not 20"),
            ),
            (json!({"autoscaling": {}}), Replicas::LeftAlone, None),
            (json!({"autoscaling": {"targetLag": 100}}), lag(1, 6), None),
            (
                json!({"autoscaling": {"targetLag": 100, "minReplicas": 2, "maxReplicas": 4}}),
                lag(2, 4),
                None,
            ),
            (
                json!({"autoscaling": {"targetLag": 100, "maxReplicas": 9}}),
                lag(1, 6),
                Some("at most 6 pods, not 9"),
            ),
            (
                json!({"autoscaling": {"targetLag": 100, "minReplicas": 8}}),
                lag(6, 6),
                Some("at most 6 pods, not 8"),
            ),
        ] {
            let mut sink = json!({"name": "live"});
            sink.as_object_mut()
                .unwrap()
                .extend(set.as_object().unwrap().clone());
            let (found, held_back) = sink_replicas(&serde_json::from_value(sink).unwrap(), 6);
            assert_eq!(found, replicas, "{set}");
            assert!(
                held_back
                    .as_deref()
                    .unwrap_or_default()
                    .starts_with(told.unwrap_or_default()),
                "{set}: {held_back:?}"
            );
            assert_eq!(held_back.is_some(), told.is_some(), "{set}");
        }
    }

    /// Tolerations set → seconds a pod stays on a node that is not ready, and on one that is
    /// unreachable; None is for ever.
    #[test]
    fn pods_tolerate_a_failed_node_for_half_a_minute_unless_set_otherwise() {
        let key = |n: usize| FAILED_NODE[n];
        for (set, stays) in [
            (json!([]), [Some(30), Some(30)]),
            (
                json!([{"key": "gpu", "operator": "Exists"}]),
                [Some(30), Some(30)],
            ),
            (
                json!([{"key": key(0), "operator": "Exists", "effect": "NoExecute",
                    "tolerationSeconds": 600}]),
                [Some(600), Some(30)],
            ),
            (
                json!([{"key": key(1), "operator": "Exists"}]),
                [Some(30), None],
            ),
            (
                json!([{"key": key(1), "operator": "Exists", "effect": "NoSchedule"}]),
                [Some(30), Some(30)],
            ),
            (json!([{"operator": "Exists"}]), [None, None]),
        ] {
            let template = serde_json::from_value(json!({"tolerations": set})).unwrap();
            let pods = one(&template, ["", "", ""]);
            let found = FAILED_NODE.map(|taint| {
                let about = |t: &&Toleration| {
                    t.key.as_deref().is_none_or(|key| key == taint)
                        && t.effect.as_deref() != Some("NoSchedule")
                };
                let found: Vec<_> = pods
                    .tolerations
                    .iter()
                    .filter(about)
                    .map(|t| t.toleration_seconds)
                    .collect();
                assert_eq!(found.len(), 1, "{set}: {found:?}");
                found[0]
            });
            assert_eq!(found, stays, "{set}");
        }
    }

    #[test]
    fn ingest_is_scaled_between_bounds() {
        let cpu = |min, max, percent| Replicas::Autoscaled {
            min,
            max,
            target: Target::Cpu(percent),
        };
        let of = |ingest: Value| ingest_replicas(&serde_json::from_value(ingest).unwrap());
        assert_eq!(of(json!({})), Replicas::Fixed(2));
        assert_eq!(
            of(json!({"autoscaling": {"maxReplicas": 9}})),
            cpu(2, 9, 70)
        );
        assert_eq!(
            of(json!({"autoscaling": {"maxReplicas": 1}})),
            cpu(1, 1, 70)
        );
        let all = json!({"autoscaling": {
            "minReplicas": 3, "maxReplicas": 9, "targetCPUUtilizationPercentage": 50}});
        assert_eq!(of(all), cpu(3, 9, 50));
    }
}
