//! The dashboard of the operator.

use crate::{
    model::{Dashboard, Level, Unit, Variable, graph, row, stat},
    query,
};

/// The labels of the operators that are shown.
const SELECTED: &str = r#"namespace=~"$namespace""#;

pub fn operator() -> Dashboard {
    let duration = "pinpipe_operator_reconcile_duration_seconds";
    let quantile = |part| query::quantile(part, duration, SELECTED, "");
    Dashboard {
        uid: "pinpipe-operator",
        title: "pinpipe / Operator",
        description: "Does the operator work, how busy is it, and what does it do?",
        variables: vec![Variable {
            name: "namespace",
            title: "Namespace of the operator",
            series: "pinpipe_operator_leader",
            label: "namespace",
        }],
        rows: vec![
            row(
                "Now",
                [
                    stat(
                        "Operators that work",
                        Unit::Count,
                        "Operators that hold the Lease; standbys don't count. Without one the \
                         pipelines run on, but nobody changes or repairs them.",
                    )
                    .query(
                        "leaders",
                        r#"sum(pinpipe_operator_leader{namespace=~"$namespace"})"#,
                    )
                    .good_at_one(),
                    stat(
                        "Pipelines that wait",
                        Unit::Count,
                        "Pipelines that wait for a reconcile. If they always do, raise \
                         operator.concurrency.",
                    )
                    .query(
                        "waiting",
                        r#"sum(pinpipe_operator_queue_depth{namespace=~"$namespace"})"#,
                    )
                    .from(10.0, Level::Warning),
                    stat(
                        "Reconciles under way",
                        Unit::Count,
                        "Reconciles that run right now.",
                    )
                    .query(
                        "running",
                        r#"sum(pinpipe_operator_reconciles_running{namespace=~"$namespace"})"#,
                    ),
                    stat(
                        "Errors",
                        Unit::Count,
                        "Errors of reconciles within five minutes. A failed one is tried again \
                         within five minutes.",
                    )
                    .query(
                        "errors",
                        r#"sum(
                            increase(pinpipe_operator_errors_total{namespace=~"$namespace"}[5m])
                        ) or on() vector(0)"#,
                    )
                    .from(1.0, Level::Warning),
                ],
            ),
            row(
                "Reconciles",
                [
                    graph(
                        "Reconciles",
                        Unit::PerSecond,
                        "Reconciles by what the pipeline was found to be.",
                    )
                    .query(
                        "{{outcome}}",
                        &query::rate("pinpipe_operator_reconciles_total", SELECTED, "outcome"),
                    ),
                    graph(
                        "Duration of a reconcile",
                        Unit::Seconds,
                        "Half of the reconciles, and 99 in 100, took at most this long.",
                    )
                    .query("50 %", &quantile("0.5"))
                    .query("99 %", &quantile("0.99")),
                    graph(
                        "Errors by kind",
                        Unit::PerSecond,
                        "Errors of the API server (api, timeout), of the Lease, and of brokers \
                         that don't answer or refuse.",
                    )
                    .query(
                        "{{kind}}",
                        &(query::rate("pinpipe_operator_errors_total", SELECTED, "kind")
                            + " or on() vector(0)"),
                    ),
                    graph(
                        "Conditions that are False",
                        Unit::Count,
                        "Pipelines, in any namespace, whose condition of this type is False.",
                    )
                    .query(
                        "{{type}}",
                        r#"sum by (type) (pinpipe_pipeline_condition{status="false"})"#,
                    ),
                ],
            ),
            row(
                "Requests",
                [
                    graph(
                        "Requests to the API server",
                        Unit::PerSecond,
                        "Requests of the operator by the status of the response; none without one.",
                    )
                    .query(
                        "{{code}}",
                        &query::rate("pinpipe_operator_api_requests_total", SELECTED, "code"),
                    ),
                    graph(
                        "Writes",
                        Unit::PerSecond,
                        "What the operator changes in the API server and in brokers. At rest it \
                         changes nothing.",
                    )
                    .query(
                        "{{verb}} {{resource}}",
                        &query::rate("pinpipe_operator_writes_total", SELECTED, "verb, resource"),
                    ),
                ],
            ),
        ],
    }
}
