//! What Kubernetes does about the number of a component's pods: autoscaling, and keeping drains of
//! nodes from taking all at once.

use k8s_openapi::{
    api::{
        autoscaling::v2::{
            CrossVersionObjectReference, ExternalMetricSource, HorizontalPodAutoscaler,
            HorizontalPodAutoscalerSpec, MetricIdentifier, MetricSpec, MetricTarget,
            ResourceMetricSource,
        },
        policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec},
    },
    apimachinery::pkg::{
        api::resource::Quantity, apis::meta::v1::LabelSelector, util::intstr::IntOrString,
    },
};
use pinpipe_config::{LAG_METRIC, LAG_PIPELINE_LABEL, LAG_SINK_LABEL};

use super::{Object, meta, object};
use crate::validate::{Replicas, Target, ValidatedPipeline};

/// Adds what goes with a Deployment that may have several pods. `sink` is its name where it is a
/// sink's.
pub(super) fn several(
    pipeline: &ValidatedPipeline,
    component: &str,
    sink: Option<&str>,
    replicas: &Replicas,
    objects: &mut Vec<Object>,
) {
    if replicas.may_be_several() {
        objects.push(object(&PodDisruptionBudget {
            metadata: meta::metadata(pipeline, component, pipeline.child(component)),
            spec: Some(PodDisruptionBudgetSpec {
                max_unavailable: Some(IntOrString::Int(1)),
                selector: Some(meta::label_selector(pipeline, component)),
                // A pod that isn't ready serves nobody, and must not keep a node from being
                // drained.
                unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
                ..PodDisruptionBudgetSpec::default()
            }),
            status: None,
        }));
    }
    if let Replicas::Autoscaled { min, max, target } = replicas {
        let name = pipeline.child(component);
        objects.push(object(&HorizontalPodAutoscaler {
            metadata: meta::metadata(pipeline, component, name.clone()),
            spec: Some(HorizontalPodAutoscalerSpec {
                scale_target_ref: CrossVersionObjectReference {
                    api_version: Some("apps/v1".to_owned()),
                    kind: "Deployment".to_owned(),
                    name,
                },
                min_replicas: Some(*min),
                max_replicas: *max,
                metrics: Some(vec![metric(pipeline, sink, *target)]),
                behavior: None,
            }),
            status: None,
        }));
    }
}

fn metric(pipeline: &ValidatedPipeline, sink: Option<&str>, target: Target) -> MetricSpec {
    match target {
        Target::Cpu(percent) => MetricSpec {
            type_: "Resource".to_owned(),
            resource: Some(ResourceMetricSource {
                name: "cpu".to_owned(),
                target: MetricTarget {
                    type_: "Utilization".to_owned(),
                    average_utilization: Some(percent),
                    ..MetricTarget::default()
                },
            }),
            ..MetricSpec::default()
        },
        Target::Lag(records) => {
            let labels = [
                (LAG_PIPELINE_LABEL, pipeline.name.as_str()),
                (LAG_SINK_LABEL, sink.unwrap_or_default()),
            ];
            MetricSpec {
                type_: "External".to_owned(),
                external: Some(ExternalMetricSource {
                    metric: MetricIdentifier {
                        name: LAG_METRIC.to_owned(),
                        selector: Some(LabelSelector {
                            match_labels: Some(
                                labels
                                    .map(|(label, value)| (label.to_owned(), value.to_owned()))
                                    .into(),
                            ),
                            match_expressions: None,
                        }),
                    },
                    target: MetricTarget {
                        type_: "AverageValue".to_owned(),
                        average_value: Some(Quantity(records.to_string())),
                        ..MetricTarget::default()
                    },
                }),
                ..MetricSpec::default()
            }
        }
    }
}
