//! The dashboards of whole pipelines: the overview, and batch runs.

use crate::model::{Dashboard, Level, Unit, graph, pipelines, row, stat, table};

/// Seconds of a day.
const DAY: f64 = 86_400.0;

pub fn overview() -> Dashboard {
    Dashboard {
        uid: "pinpipe-overview",
        title: "pinpipe / Overview",
        description: "Are the pipelines well, and if not, which of their parts isn't?",
        variables: pipelines(),
        rows: vec![
            row(
                "Now",
                [
                    stat(
                        "Pipelines that are ready",
                        Unit::Count,
                        "Pipelines whose condition Ready is True.",
                    )
                    .query(
                        "ready",
                        r#"sum(pinpipe_pipeline_condition{$selected,type="Ready",status="true"})"#,
                    ),
                    stat(
                        "Pipelines that aren't ready",
                        Unit::Count,
                        "Pipelines whose condition Ready isn't True, without those that are \
                         suspended. The condition's message says why.",
                    )
                    .query(
                        "not ready",
                        r#"count(
                            max by (namespace, pipeline) (
                              pinpipe_pipeline_condition{$selected,type="Ready",status="true"}
                            ) == 0
                            unless on (namespace, pipeline)
                            namespace_pipeline:pinpipe_pipeline_suspended:max == 1
                        ) or on() vector(0)"#,
                    )
                    .good_at_zero(),
                    stat(
                        "Sinks that have stopped",
                        Unit::Count,
                        "Sinks that wait until somebody does something: the runbook \
                         PinpipeSinkHalted says what.",
                    )
                    .query(
                        "stopped",
                        "count(
                            max by (namespace, pipeline, sink) (pinpipe_stream_halted{$selected})
                            == 1
                        ) or on() vector(0)",
                    )
                    .good_at_zero(),
                    stat(
                        "Alerts",
                        Unit::Count,
                        "Alerts of pinpipe that fire. Each has a runbook.",
                    )
                    .query(
                        "alerts",
                        r#"count(ALERTS{
                            $selected,alertname=~"Pinpipe.*",alertstate="firing"
                        }) or on() vector(0)"#,
                    )
                    .good_at_zero(),
                ],
            ),
            row(
                "Records",
                [
                    graph(
                        "Records accepted",
                        Unit::PerSecond,
                        "Records that ingest has accepted and the broker has confirmed.",
                    )
                    .query(
                        "{{kind}}",
                        "sum by (kind) (
                            namespace_pipeline_kind:pinpipe_ingest_records_accepted:rate5m{
                              $selected
                            }
                        )",
                    ),
                    graph(
                        "Lag",
                        Unit::Count,
                        "Records that a sink has yet to store. The archive's rises and falls as \
                         it gathers records; any other that keeps rising can't keep up.",
                    )
                    .query(
                        "{{namespace}}/{{pipeline}} {{sink}}",
                        "namespace_pipeline_sink:pinpipe_stream_lag_records:sum{$selected}",
                    ),
                    graph(
                        "Records rejected",
                        Unit::Ratio,
                        "The part of the records of a quarter of an hour that was rejected. There \
                         is none below a hundred records.",
                    )
                    .query(
                        "{{namespace}}/{{pipeline}}",
                        "namespace_pipeline:pinpipe_stream_rejections:ratio15m{$selected}",
                    )
                    .from(0.01, Level::Bad),
                    graph(
                        "Age of the answers",
                        Unit::Seconds,
                        "The time since a batch run last succeeded.",
                    )
                    .query(
                        "{{namespace}}/{{pipeline}}",
                        "namespace_pipeline:pinpipe_answers_age_seconds:min{$selected}",
                    )
                    .from(2.0 * DAY, Level::Bad),
                ],
            ),
            row(
                "Pipelines",
                [
                    table("State", Unit::YesNo, "The state of each pipeline.")
                        .query(
                            "Ready",
                            r#"max by (namespace, pipeline) (
                              pinpipe_pipeline_condition{$selected,type="Ready",status="true"}
                            )"#,
                        )
                        .query(
                            "Suspended",
                            "max by (namespace, pipeline) (
                              namespace_pipeline:pinpipe_pipeline_suspended:max{$selected}
                            )",
                        )
                        .query(
                            "Last batch run succeeded",
                            "max by (namespace, pipeline) (
                              pinpipe_pipeline_last_run_success{$selected}
                            )",
                        )
                        .query(
                            "Batch run overdue",
                            "max by (namespace, pipeline) (
                              pinpipe_pipeline_run_overdue{$selected}
                            )",
                        ),
                    table(
                        "Versions",
                        Unit::Count,
                        "The pods of each component by the version of its program. Two versions of \
                         one component stand here while a rollout is under way.",
                    )
                    .query(
                        "Pods",
                        "count by (namespace, pipeline, component, version) (
                          pinpipe_build_info{$selected}
                        )",
                    ),
                    stat(
                        "Certificates that end",
                        Unit::Count,
                        "Certificates of the workers that end within 30 days.",
                    )
                    .query(
                        "certificates",
                        "count(
                            min by (namespace, pipeline, field) (
                              pinpipe_certificate_expiry_timestamp_seconds{$selected}
                            ) - time() < 30 * 86400
                        ) or on() vector(0)",
                    )
                    .from(1.0, Level::Warning),
                ],
            ),
        ],
    }
}

pub fn batch() -> Dashboard {
    Dashboard {
        uid: "pinpipe-batch",
        title: "pinpipe / Batch",
        description: "Are the answers fresh, and does the archive, which batch runs read, keep up?",
        variables: pipelines(),
        rows: vec![
            row(
                "Now",
                [
                    stat(
                        "Last runs succeeded",
                        Unit::YesNo,
                        "Whether the last batch run of each pipeline succeeded.",
                    )
                    .query(
                        "succeeded",
                        "min(pinpipe_pipeline_last_run_success{$selected})",
                    )
                    .good_at_one(),
                    stat(
                        "Runs overdue",
                        Unit::Count,
                        "Pipelines with a batch run that was due and wasn't started, or without \
                         one that succeeded in time.",
                    )
                    .query("overdue", "sum(pinpipe_pipeline_run_overdue{$selected})")
                    .good_at_zero(),
                    stat(
                        "Oldest answers",
                        Unit::Seconds,
                        "The time since a batch run last succeeded, of the pipeline where that is \
                         longest.",
                    )
                    .query(
                        "age",
                        "max(namespace_pipeline:pinpipe_answers_age_seconds:min{$selected})",
                    )
                    .from(2.0 * DAY, Level::Bad),
                    stat(
                        "Pipelines with sound batch runs",
                        Unit::Count,
                        "Pipelines whose condition BatchReady is True.",
                    )
                    .query(
                        "sound",
                        r#"sum(
                            pinpipe_pipeline_condition{$selected,type="BatchReady",status="true"}
                        )"#,
                    ),
                ],
            ),
            row(
                "Runs",
                [
                    graph(
                        "Age of the answers",
                        Unit::Seconds,
                        "The time since a batch run last succeeded; it falls to the age of the \
                         newest run each time one does.",
                    )
                    .query(
                        "{{namespace}}/{{pipeline}}",
                        "namespace_pipeline:pinpipe_answers_age_seconds:min{$selected}",
                    )
                    .from(2.0 * DAY, Level::Bad),
                    graph(
                        "Failed last runs",
                        Unit::YesNo,
                        "Whether the last batch run of a pipeline has failed. The answers remain \
                         those of the run before it.",
                    )
                    .query(
                        "{{namespace}}/{{pipeline}}",
                        "1 - min by (namespace, pipeline) (
                          pinpipe_pipeline_last_run_success{$selected}
                        )",
                    ),
                ],
            ),
            row(
                "Archive",
                [
                    graph(
                        "Lag of the archive",
                        Unit::Count,
                        "Records that aren't in the bucket yet. It rises and falls as the archive \
                         gathers records for up to rotate.interval.",
                    )
                    .query(
                        "{{namespace}}/{{pipeline}}",
                        r#"namespace_pipeline_sink:pinpipe_stream_lag_records:sum{
                            $selected,sink="archive"
                        }"#,
                    ),
                    graph(
                        "Records archived",
                        Unit::PerSecond,
                        "Records that the archive has stored in the bucket.",
                    )
                    .query(
                        "{{namespace}}/{{pipeline}}",
                        r#"sum by (namespace, pipeline) (
                            rate(pinpipe_stream_committed_records_total{
                              $selected,sink="archive"
                            }[$__rate_interval])
                        )"#,
                    ),
                ],
            ),
        ],
    }
}
