//! The dashboards of the workers: ingest, and the stream workers with the archive.

use crate::{
    model::{Dashboard, Level, Unit, Variable, graph, pipelines, row, stat, table},
    query,
};

pub fn ingest() -> Dashboard {
    let duration = "pinpipe_ingest_request_duration_seconds";
    let quantile = |part| query::quantile(part, duration, "$selected", "");
    let rate = |name: &str, by: &str| query::rate(name, "$selected", by);
    let or_none = |name: &str, by: &str| rate(name, by) + " or on() vector(0)";
    Dashboard {
        uid: "pinpipe-ingest",
        title: "pinpipe / Ingest",
        description: "Are records accepted, how fast, and from whom?",
        variables: pipelines(),
        rows: vec![
            row(
                "Now",
                [
                    stat(
                        "Brokers connected",
                        Unit::YesNo,
                        "Whether each pod of ingest is connected to a broker. One that isn't \
                         accepts nothing.",
                    )
                    .query("connected", "min(pinpipe_ingest_broker_up{$selected})")
                    .good_at_one(),
                    stat(
                        "Responses with 5xx",
                        Unit::Ratio,
                        "The part of the requests of five minutes that clients have to send again.",
                    )
                    .query(
                        "5xx",
                        &format!(
                            r#"sum(rate({duration}_count{{$selected,status=~"5.."}}[5m]))
                                / (sum(rate({duration}_count{{$selected}}[5m])) > 0)
                                or on() vector(0)"#
                        ),
                    )
                    .from(0.05, Level::Bad),
                    stat(
                        "Requests being served",
                        Unit::Count,
                        "Requests that have no response yet.",
                    )
                    .query(
                        "requests",
                        "sum(pinpipe_ingest_in_flight_requests{$selected})",
                    ),
                    stat(
                        "Memory of requests",
                        Unit::Bytes,
                        "The memory that requests hold until the broker has confirmed them.",
                    )
                    .query("memory", "sum(pinpipe_ingest_in_flight_bytes{$selected})"),
                ],
            ),
            row(
                "Records",
                [
                    graph(
                        "Records accepted by kind",
                        Unit::PerSecond,
                        "Records that the broker has confirmed.",
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
                        "Records accepted by form",
                        Unit::PerSecond,
                        "Records that the broker has confirmed, by the form of the request.",
                    )
                    .query(
                        "{{form}}",
                        &rate("pinpipe_ingest_records_accepted_total", "form"),
                    ),
                    graph(
                        "Records refused",
                        Unit::PerSecond,
                        "Records refused for good, by the reason that the client was told.",
                    )
                    .query(
                        "{{reason}}",
                        &or_none("pinpipe_ingest_records_refused_total", "reason"),
                    ),
                    graph(
                        "Records not confirmed",
                        Unit::PerSecond,
                        "Records that the broker did not confirm. Clients were told to send them \
                         again.",
                    )
                    .query(
                        "{{reason}}",
                        &or_none("pinpipe_ingest_delivery_errors_total", "reason"),
                    ),
                ],
            ),
            row(
                "Requests",
                [
                    graph(
                        "Time of a response",
                        Unit::Seconds,
                        "Half of the responses, 95 and 99 in 100, took at most this long from the \
                         request's headers on.",
                    )
                    .query("50 %", &quantile("0.5"))
                    .query("95 %", &quantile("0.95"))
                    .query("99 %", &quantile("0.99")),
                    graph(
                        "Responses by status",
                        Unit::PerSecond,
                        "Responses by HTTP status.",
                    )
                    .query("{{status}}", &rate(&format!("{duration}_count"), "status")),
                    graph(
                        "Responses by client",
                        Unit::PerSecond,
                        "Responses by the key of the client's token.",
                    )
                    .query(
                        "{{client}}",
                        &rate("pinpipe_ingest_requests_total", "client"),
                    ),
                    graph(
                        "Requests refused unread",
                        Unit::PerSecond,
                        "Requests without a valid token, or above the limit of their client.",
                    )
                    .query(
                        "{{reason}}",
                        &or_none("pinpipe_ingest_requests_refused_total", "reason"),
                    ),
                ],
            ),
        ],
    }
}

/// The labels of the selected sinks.
const SINKS: &str = r#"$selected,sink=~"$sink""#;

pub fn stream() -> Dashboard {
    let of = |name: &str| format!("{name}{{{SINKS}}}");
    let rate = |name: &str, by: &str| query::rate(name, SINKS, by);
    let or_none = |name: &str, by: &str| rate(name, by) + " or on() vector(0)";
    let sink = "namespace, pipeline, sink";
    let legend = "{{namespace}}/{{pipeline}} {{sink}}";
    let lag = "namespace_pipeline_sink:pinpipe_stream_lag_records:sum";
    let mut variables = pipelines();
    variables.push(Variable {
        name: "sink",
        title: "Sink",
        series: r#"pinpipe_stream_lag_records{namespace=~"$namespace",pipeline=~"$pipeline"}"#,
        label: "sink",
    });
    Dashboard {
        uid: "pinpipe-stream",
        title: "pinpipe / Stream",
        description: "Do the sinks and the archive keep up, and which records are bad?",
        variables,
        rows: vec![
            row(
                "Now",
                [
                    stat(
                        "Lag",
                        Unit::Count,
                        "Records that the selected sinks have yet to store.",
                    )
                    .query("lag", &format!("sum({})", of(lag))),
                    stat(
                        "Stores answer",
                        Unit::YesNo,
                        "Whether the store of each sink answers its worker.",
                    )
                    .query("answer", &format!("min({})", of("pinpipe_stream_sink_up")))
                    .good_at_one(),
                    stat(
                        "Brokers connected",
                        Unit::YesNo,
                        "Whether each worker is connected to a broker, and the broker takes dead \
                         letters.",
                    )
                    .query(
                        "connected",
                        &format!(
                            "min({} * {})",
                            of("pinpipe_stream_broker_up"),
                            of("pinpipe_stream_dead_letters_up")
                        ),
                    )
                    .good_at_one(),
                    stat(
                        "Sinks that have stopped",
                        Unit::Count,
                        "Sinks that wait until somebody does something: the runbook \
                         PinpipeSinkHalted says what.",
                    )
                    .query(
                        "stopped",
                        &format!(
                            "count(max by ({sink}) ({}) == 1) or on() vector(0)",
                            of("pinpipe_stream_halted")
                        ),
                    )
                    .good_at_zero(),
                ],
            ),
            row(
                "Progress",
                [
                    graph(
                        "Lag by sink",
                        Unit::Count,
                        "Records that a sink has yet to store. The archive's rises and falls as it \
                         gathers records; any other that keeps rising can't keep up.",
                    )
                    .query(legend, &of(lag)),
                    graph(
                        "Records read",
                        Unit::PerSecond,
                        "Records that a sink has read; those that it reads twice count twice.",
                    )
                    .query(
                        legend,
                        &format!(
                            "sum by ({sink}) ({})",
                            of("namespace_pipeline_sink_kind:pinpipe_stream_records:rate5m")
                        ),
                    ),
                    graph(
                        "Records stored",
                        Unit::PerSecond,
                        "Records that a sink has stored.",
                    )
                    .query(
                        legend,
                        &rate("pinpipe_stream_committed_records_total", sink),
                    ),
                    graph(
                        "Since the last batch",
                        Unit::Seconds,
                        "The time since a sink last stored a batch; it rises while none come.",
                    )
                    .query(
                        legend,
                        &format!(
                            "time() - (max by ({sink}) ({}) > 0)",
                            of("pinpipe_stream_last_commit_timestamp_seconds")
                        ),
                    ),
                    graph(
                        "Duration of a commit",
                        Unit::Seconds,
                        "95 in 100 batches took at most this long to store.",
                    )
                    .query(
                        legend,
                        &query::quantile(
                            "0.95",
                            "pinpipe_stream_commit_duration_seconds",
                            SINKS,
                            ", namespace, pipeline, sink",
                        ),
                    ),
                    graph(
                        "Records in a batch",
                        Unit::Count,
                        "The mean size of a batch.",
                    )
                    .query(
                        legend,
                        &format!(
                            "{} / {}",
                            rate("pinpipe_stream_batch_records_sum", sink),
                            rate("pinpipe_stream_batch_records_count", sink)
                        ),
                    ),
                    graph("Memory of batches", Unit::Bytes, "Memory used by batches.").query(
                        legend,
                        &format!("sum by ({sink}) ({})", of("pinpipe_stream_buffered_bytes")),
                    ),
                    graph(
                        "Waiting for memory",
                        Unit::YesNo,
                        "Whether a sink reads nothing until it has stored what it holds: its store \
                         is slow.",
                    )
                    .query(
                        legend,
                        &format!("max by ({sink}) ({})", of("pinpipe_stream_paused")),
                    ),
                ],
            ),
            row(
                "Bad records",
                [
                    graph(
                        "Records by outcome",
                        Unit::PerSecond,
                        "Records read: clean, repaired, or rejected. Every sink counts all.",
                    )
                    .query(
                        "{{outcome}}",
                        &rate("pinpipe_stream_records_total", "outcome"),
                    ),
                    graph(
                        "Rejections",
                        Unit::PerSecond,
                        "Records rejected, by the reason in the data contract.",
                    )
                    .query(
                        "{{kind}} {{reason}}",
                        &or_none("pinpipe_stream_rejections_total", "kind, reason"),
                    ),
                    graph(
                        "Repairs",
                        Unit::PerSecond,
                        "Fields made null, by the reason in the data contract.",
                    )
                    .query(
                        "{{kind}} {{field}} {{reason}}",
                        &or_none("pinpipe_stream_repairs_total", "kind, field, reason"),
                    ),
                    graph(
                        "Dead letters",
                        Unit::PerSecond,
                        "Records set aside: rejected ones, and those that a store refused.",
                    )
                    .query(
                        "{{kind}} {{outcome}}",
                        &or_none("pinpipe_stream_dead_letters_total", "kind, outcome"),
                    ),
                    graph(
                        "Re-driven records",
                        Unit::PerSecond,
                        "Dead letters that were sent again, and whether their first order counts.",
                    )
                    .query(
                        "{{kind}} {{order}}",
                        &or_none("pinpipe_stream_redriven_records_total", "kind, order"),
                    ),
                    graph(
                        "Records that a store refuses",
                        Unit::PerSecond,
                        "Clean records that the sink's store refuses; they become dead letters.",
                    )
                    .query(
                        "{{kind}}",
                        &or_none("pinpipe_stream_unstorable_records_total", "kind"),
                    ),
                ],
            ),
            row(
                "Partitions",
                [
                    graph(
                        "Errors of Kafka's client",
                        Unit::PerSecond,
                        "Errors after which the consumer goes on, by librdkafka's code.",
                    )
                    .query(
                        "{{code}}",
                        &or_none("pinpipe_stream_read_errors_total", "code"),
                    ),
                    table(
                        "Partitions furthest behind",
                        Unit::Count,
                        "The twenty partitions of which a sink has yet to store most. If one alone \
                         is behind, its keys are uneven, or a record holds it up.",
                    )
                    .query(
                        "Lag",
                        &format!(
                            "topk(20, max by ({sink}, topic, partition) ({}))",
                            of("pinpipe_stream_lag_records")
                        ),
                    ),
                ],
            ),
        ],
    }
}
