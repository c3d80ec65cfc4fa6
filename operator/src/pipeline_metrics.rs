//! Metrics of pipelines, from the index of pipelines at each scrape: those of a deleted pipeline
//! vanish with it, and a standby, whose index is empty, has none.

use std::{fmt, sync::Arc};

use kube::Resource as _;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, gauge::ConstGauge},
    registry::{Registry, Unit},
};

use crate::observe::pipeline_index::{CachedPipeline, PipelineIndex, RunReport};

/// The values of a condition's status, as the label has them.
const STATUSES: [(&str, &str); 3] = [("True", "true"), ("False", "false"), ("Unknown", "unknown")];

/// Registers them.
pub fn register(registry: &mut Registry, pipelines: PipelineIndex) {
    registry.register_collector(Box::new(PipelineMetrics(pipelines)));
}

#[derive(Debug)]
struct PipelineMetrics(PipelineIndex);

/// A sample: labels besides those of the pipeline, and the value.
type Sample<'a> = (Vec<(&'static str, &'a str)>, i64);

/// Makes a pipeline's samples of one metric.
type Samples = dyn Fn(&CachedPipeline) -> Vec<Sample<'_>>;

impl Collector for PipelineMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let pipelines = self.0.all();
        let mut gauge = |name, help, unit: Option<&Unit>, samples: &Samples| {
            encode_gauge(&mut encoder, (name, help, unit), &pipelines, samples)
        };
        gauge(
            "condition",
            "1 for the `status` that the condition has, 0 for the other two: `true`, `false`, \
             `unknown`",
            None,
            &conditions,
        )?;
        gauge(
            "suspended",
            "1 while `spec.suspend` is set",
            None,
            &|pipeline| vec![(vec![], i64::from(pipeline.report.suspended))],
        )?;
        gauge(
            "run_overdue",
            "1 while a batch run is overdue, as in `status.batch.overdue`; absent without \
             `spec.batch`",
            None,
            &|pipeline| of_runs(pipeline, |runs| Some(i64::from(runs.overdue))),
        )?;
        gauge(
            "last_run_success",
            "1 if the last batch run succeeded, 0 if it failed; absent before one has ended",
            None,
            &|pipeline| of_runs(pipeline, |runs| runs.succeeded.map(i64::from)),
        )?;
        gauge(
            "last_successful_run_timestamp",
            "when a batch run last succeeded; absent before one has",
            Some(&Unit::Seconds),
            &|pipeline| of_runs(pipeline, |runs| runs.last_success),
        )
    }
}

fn conditions(pipeline: &CachedPipeline) -> Vec<Sample<'_>> {
    let conditions = pipeline.report.conditions.iter();
    let samples = conditions.flat_map(|(kind, found)| {
        STATUSES.map(|(status, label)| {
            let labels = vec![("type", kind.as_str()), ("status", label)];
            (labels, i64::from(found == status))
        })
    });
    samples.collect()
}

fn of_runs(
    pipeline: &CachedPipeline,
    value: impl Fn(&RunReport) -> Option<i64>,
) -> Vec<Sample<'_>> {
    let value = pipeline.report.runs.as_ref().and_then(value);
    value.map(|value| (vec![], value)).into_iter().collect()
}

/// Writes a gauge with the samples of all pipelines; nothing where there are none.
fn encode_gauge(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help, unit): (&str, &str, Option<&Unit>),
    pipelines: &[Arc<CachedPipeline>],
    samples: &Samples,
) -> fmt::Result {
    let name = format!("pipeline_{name}");
    let mut gauge = None;
    for pipeline in pipelines {
        let metadata = pipeline.meta();
        let own = [
            ("namespace", &metadata.namespace),
            ("pipeline", &metadata.name),
        ];
        let own = own.map(|(label, value)| (label, value.as_deref().unwrap_or_default()));
        for (labels, value) in samples(pipeline) {
            let labels: Vec<_> = own.into_iter().chain(labels).collect();
            if gauge.is_none() {
                gauge = Some(encoder.encode_descriptor(&name, help, unit, MetricType::Gauge)?);
            }
            if let Some(gauge) = &mut gauge {
                ConstGauge::new(value).encode(gauge.encode_family(&labels)?)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use kube::runtime::{reflector, watcher::Event};
    use pinpipe_servers::documented_metrics;
    use prometheus_client::encoding::text::encode;
    use serde_json::{Value, json};

    use super::*;

    fn pipeline(name: &str, spec: &Value, status: &Value) -> CachedPipeline {
        serde_json::from_value(json!({
            "apiVersion": "pinpipe.dev/v1alpha1",
            "kind": "PinterestPipeline",
            "metadata": {"namespace": "data", "name": name, "uid": name},
            "spec": spec,
            "status": status,
        }))
        .unwrap()
    }

    #[test]
    fn pipelines_have_metrics_as_long_as_they_exist() {
        let index = PipelineIndex::default();
        let mut registry = Registry::with_prefix("pinpipe");
        register(&mut registry, index.clone());
        let text = || {
            let mut text = String::new();
            encode(&mut text, &registry).unwrap();
            text
        };
        assert_eq!(text(), "# EOF\n", "a standby has none");

        let (store, mut writer) = reflector::store();
        index.add(store, vec![]);
        let batch = json!({"batch": {"schedule": "0 3 * * *"}});
        let nightly = pipeline(
            "nightly",
            &batch,
            &json!({
                "conditions": [{
                    "type": "Ready", "status": "False", "reason": "InvalidSpec", "message": "…",
                    "lastTransitionTime": "2026-01-01T00:00:00Z",
                }],
                "batch": {
                    "overdue": true,
                    "lastSuccessfulTime": "1970-01-01T00:01:00Z",
                    "lastRun": {"name": "run", "outcome": "Failed"},
                },
            }),
        );
        let new = pipeline("new", &batch, &Value::Null);
        let plain = pipeline("plain", &json!({"suspend": true}), &Value::Null);
        writer.apply_watcher_event(&Event::Apply(nightly.clone()));
        writer.apply_watcher_event(&Event::Apply(new));
        writer.apply_watcher_event(&Event::Apply(plain));
        documented_metrics::check("Pipelines", &text()).unwrap();

        let of = |name: &str| {
            let text = text();
            let name = format!("pipeline=\"{name}\"");
            let lines = text.lines().filter(|line| line.contains(&name));
            let lines = lines.map(|line| line.replace("namespace=\"data\",", ""));
            lines
                .map(|line| line.replace(&name, ""))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            of("nightly"),
            [
                r#"pinpipe_pipeline_condition{,type="Ready",status="true"} 0"#,
                r#"pinpipe_pipeline_condition{,type="Ready",status="false"} 1"#,
                r#"pinpipe_pipeline_condition{,type="Ready",status="unknown"} 0"#,
                "pinpipe_pipeline_suspended{} 0",
                "pinpipe_pipeline_run_overdue{} 1",
                "pinpipe_pipeline_last_run_success{} 0",
                "pinpipe_pipeline_last_successful_run_timestamp_seconds{} 60",
            ]
        );
        let not_run = [
            "pinpipe_pipeline_suspended{} 0",
            "pinpipe_pipeline_run_overdue{} 0",
        ];
        assert_eq!(of("new"), not_run);
        assert_eq!(of("plain"), ["pinpipe_pipeline_suspended{} 1"]);

        writer.apply_watcher_event(&Event::Delete(nightly));
        assert_eq!(
            of("nightly"),
            [""; 0],
            "a deleted pipeline's metrics vanish"
        );
    }
}
