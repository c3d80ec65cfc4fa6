//! Defaults of what is said of pods, and how many there are.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Toleration;
use pinpipe_crds::{
    Ingest, PodSettings, StreamSink, TaintEffect, TolerationOperator, TopologySpread,
    WhenUnsatisfiable,
};
use serde::Serialize;

/// How many pods there are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Replicas {
    /// So many.
    Fixed(i32),
    /// As many as a `HorizontalPodAutoscaler` of ours says.
    Autoscaled {
        /// At least.
        min: i32,
        /// At most.
        max: i32,
        /// What it goes by.
        target: Target,
    },
    /// As many as somebody else says.
    LeftAlone,
}

/// What an autoscaler goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Target {
    /// The share of the CPU time requested that is used, percent.
    Cpu(i32),
    /// Records a pod is behind.
    Lag(i64),
}

impl Replicas {
    /// The fewest that are enough, where it isn't ours to say how many there are.
    #[must_use]
    pub fn least(&self) -> Option<i32> {
        match self {
            Self::Fixed(_) => None,
            Self::Autoscaled { min, .. } => Some(*min),
            Self::LeftAlone => Some(1),
        }
    }

    /// Whether there may be more than one.
    #[must_use]
    pub fn may_be_several(&self) -> bool {
        match self {
            Self::Fixed(pods) => *pods > 1,
            Self::Autoscaled { max, .. } => *max > 1,
            Self::LeftAlone => true,
        }
    }
}

/// Where pods run, as whom, and what stands on them.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Pods {
    /// The `ServiceAccount`, where one is named.
    pub service_account: Option<String>,
    /// Labels besides ours.
    pub labels: BTreeMap<String, String>,
    /// Annotations besides ours.
    pub annotations: BTreeMap<String, String>,
    /// Labels of nodes.
    pub node_selector: BTreeMap<String, String>,
    /// Taints of nodes.
    pub tolerations: Vec<Toleration>,
    /// How they are spread.
    pub spread: Vec<Spread>,
    /// The label of nodes whose values are wished to differ.
    pub apart: Option<&'static str>,
}

/// How pods are spread over what a label of nodes tells apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Spread {
    /// The label.
    pub topology_key: String,
    /// So many more than in the emptiest place at most.
    pub max_skew: i32,
    /// `ScheduleAnyway` or `DoNotSchedule`.
    pub when_unsatisfiable: &'static str,
}

/// Over what the pods of a component that may have several are spread.
const SPREAD_OVER: &str = "kubernetes.io/hostname";
/// What they are kept apart by beside that, where there is room. It can't stand among the former:
/// the scheduler takes no notice of nodes that lack one of those labels, and in many clusters none
/// has this one.
const APART_BY: &str = "topology.kubernetes.io/zone";

/// Of a component that may have several pods.
pub(super) fn several(set: &PodSettings) -> Pods {
    let pods = one(set);
    if set.topology_spread.is_some() {
        return pods;
    }
    let over = Spread {
        topology_key: SPREAD_OVER.to_owned(),
        max_skew: 1,
        when_unsatisfiable: "ScheduleAnyway",
    };
    Pods {
        spread: vec![over],
        apart: Some(APART_BY),
        ..pods
    }
}

/// Of a component that has one pod.
pub(super) fn one(set: &PodSettings) -> Pods {
    Pods {
        service_account: set.service_account_name.clone(),
        labels: set.pod_labels.clone().unwrap_or_default(),
        annotations: set.pod_annotations.clone().unwrap_or_default(),
        node_selector: set.node_selector.clone().unwrap_or_default(),
        tolerations: tolerations(set),
        spread: set
            .topology_spread
            .as_deref()
            .map(spread)
            .unwrap_or_default(),
        apart: None,
    }
}

fn spread(set: &[TopologySpread]) -> Vec<Spread> {
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

/// Taints of a node that isn't well.
const UNWELL: [&str; 2] = [
    "node.kubernetes.io/not-ready",
    "node.kubernetes.io/unreachable",
];
/// How long pods stay on such a node, seconds. Kubernetes itself would say 300; but these keep
/// nothing on a node, so another place costs little, and a node counts as unwell only after it was
/// silent for most of a minute.
const PATIENCE: i64 = 30;

/// Those that are set, and for taints of which these say nothing the default.
fn tolerations(set: &PodSettings) -> Vec<Toleration> {
    let mut all: Vec<Toleration> = set.tolerations.iter().flatten().map(toleration).collect();
    let by_default = |key: &str| Toleration {
        key: Some(key.to_owned()),
        operator: Some("Exists".to_owned()),
        value: None,
        effect: Some("NoExecute".to_owned()),
        toleration_seconds: Some(PATIENCE),
    };
    let is_about = |toleration: &Toleration, key: &str| {
        toleration.key.as_deref().is_none_or(|named| named == key)
            && toleration
                .effect
                .as_deref()
                .is_none_or(|effect| effect == "NoExecute")
    };
    let missing: Vec<_> = UNWELL
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
        value: set.value.clone(),
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

/// Of ingest.
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

/// Of a sink whose topics have so many partitions in all, and in a sentence what of the wish can't
/// be had.
pub(super) fn sink_replicas(sink: &StreamSink, partitions: i32) -> (Replicas, Option<String>) {
    let most = partitions.max(1);
    let held_back = |wished: i32| {
        (wished > most).then(|| {
            format!("{most} pods, not {wished}, since the topics have {partitions} partitions in all and more pods would have nothing to do")
        })
    };
    match &sink.autoscaling {
        None => {
            let wished = sink.replicas.unwrap_or(1);
            (Replicas::Fixed(wished.min(most)), held_back(wished))
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
                    held_back.map(|words| format!("at most {words}")),
                )
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// A sink's wish, with 6 partitions → what it gets, and whether it is told of less.
    #[test]
    fn a_sink_has_no_more_pods_than_there_are_partitions() {
        let lag = |min, max| Replicas::Autoscaled {
            min,
            max,
            target: Target::Lag(100),
        };
        for (wish, replicas, told) in [
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
                .extend(wish.as_object().unwrap().clone());
            let (found, held_back) = sink_replicas(&serde_json::from_value(sink).unwrap(), 6);
            assert_eq!(found, replicas, "{wish}");
            assert!(
                held_back
                    .as_deref()
                    .unwrap_or_default()
                    .starts_with(told.unwrap_or_default()),
                "{wish}: {held_back:?}"
            );
            assert_eq!(held_back.is_some(), told.is_some(), "{wish}");
        }
    }

    /// What is set → for how long a pod stays on a node that is not ready, and on one that can't be
    /// reached; for ever: none.
    #[test]
    fn pods_leave_a_node_that_is_not_well_after_half_a_minute_unless_told_otherwise() {
        let key = |n: usize| UNWELL[n];
        for (set, stays) in [
            (json!([]), [Some(30), Some(30)]),
            (
                json!([{"key": "gpu", "operator": "Exists"}]),
                [Some(30), Some(30)],
            ),
            (
                json!([{"key": key(0), "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 600}]),
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
            let pods = one(&serde_json::from_value(json!({"tolerations": set})).unwrap());
            let found = UNWELL.map(|taint| {
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
        let all = json!({"autoscaling": {"minReplicas": 3, "maxReplicas": 9, "targetCPUUtilizationPercentage": 50}});
        assert_eq!(of(all), cpu(3, 9, 50));
    }
}
