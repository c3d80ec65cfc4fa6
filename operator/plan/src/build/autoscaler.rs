//! `HorizontalPodAutoscalers`.

use k8s_openapi::{
    api::autoscaling::v2::{
        CrossVersionObjectReference, ExternalMetricSource, HorizontalPodAutoscaler,
        HorizontalPodAutoscalerSpec, MetricIdentifier, MetricSpec, MetricTarget,
        ResourceMetricSource,
    },
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::LabelSelector},
};
use pinpipe_config::{LAG_METRIC, LAG_PIPELINE_LABEL, LAG_SINK_LABEL};

use super::{Builder, labels};
use crate::{
    component::Component,
    model::{Replicas, Target},
};

impl Builder<'_> {
    /// Adds the autoscaler of a component that has one.
    pub(super) fn autoscaler(&mut self, component: &Component, replicas: &Replicas) {
        let Replicas::Autoscaled { min, max, target } = replicas else {
            return;
        };
        let metric = match target {
            Target::Cpu(percent) => cpu(*percent),
            Target::Lag(records) => self.lag(component, *records),
        };
        self.push(&HorizontalPodAutoscaler {
            metadata: labels::metadata(self.pipeline, component),
            spec: Some(HorizontalPodAutoscalerSpec {
                scale_target_ref: CrossVersionObjectReference {
                    api_version: Some("apps/v1".to_owned()),
                    kind: "Deployment".to_owned(),
                    name: self.pipeline.child(component),
                },
                min_replicas: Some(*min),
                max_replicas: *max,
                metrics: Some(vec![metric]),
                behavior: None,
            }),
            status: None,
        });
    }

    /// Target of a sink's lag per pod, an external metric.
    fn lag(&self, component: &Component, records: i64) -> MetricSpec {
        let labels = [
            (LAG_PIPELINE_LABEL, self.pipeline.name.as_str()),
            (LAG_SINK_LABEL, component.sink().unwrap_or_default()),
        ];
        let labels = labels.map(|(label, value)| (label.to_owned(), value.to_owned()));
        MetricSpec {
            type_: "External".to_owned(),
            external: Some(ExternalMetricSource {
                metric: MetricIdentifier {
                    name: LAG_METRIC.to_owned(),
                    selector: Some(LabelSelector {
                        match_labels: Some(labels.into()),
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

/// Target of the CPU time used, in percent of the time requested.
fn cpu(percent: i32) -> MetricSpec {
    MetricSpec {
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
    }
}
