//! The dashboards of the stores, by the metrics of their usual exporters.

use crate::{
    model::{Dashboard, Level, Unit, Variable, graph, row, stat},
    query,
};

/// Cassandra by the JMX exporter: names as its example for Cassandra gives them.
pub fn cassandra() -> Dashboard {
    // Of requests each level of consistency, such as Read-ONE, has series besides.
    let requests = r#"instance=~"$instance",clientrequest!~".*-.*""#;
    let rate = |name: &str| query::rate(name, requests, "clientrequest");
    Dashboard {
        uid: "pinpipe-cassandra",
        title: "pinpipe / Cassandra",
        description: "Is Cassandra, to which batch runs write, well? By the JMX exporter.",
        variables: vec![Variable {
            name: "instance",
            title: "Node",
            series: "cassandra_storage_load_count",
            label: "instance",
        }],
        rows: vec![
            row(
                "Now",
                [
                    stat(
                        "Data",
                        Unit::Bytes,
                        "The size of the data on disk, all nodes and copies together.",
                    )
                    .query(
                        "data",
                        r#"sum(cassandra_storage_load_count{instance=~"$instance"})"#,
                    ),
                    stat(
                        "Requests that failed",
                        Unit::Count,
                        "Requests of clients within five minutes that timed out, or for which \
                         too few copies answered.",
                    )
                    .query(
                        "failed",
                        &["timeouts", "unavailables"]
                            .map(|error| {
                                let name = format!("cassandra_clientrequest_{error}_count");
                                format!("sum(increase({name}{{{requests}}}[5m]))")
                            })
                            .join(" + "),
                    )
                    .good_at_zero(),
                    stat(
                        "Pending compactions",
                        Unit::Count,
                        "Compactions that wait. If they grow for hours the disks can't keep up.",
                    )
                    .query(
                        "pending",
                        r#"sum(cassandra_compaction_pendingtasks{instance=~"$instance"})"#,
                    )
                    .from(100.0, Level::Warning),
                    stat("Clients", Unit::Count, "Connections of clients.").query(
                        "clients",
                        r#"sum(cassandra_client_connectednativeclients{instance=~"$instance"})"#,
                    ),
                ],
            ),
            row(
                "Requests",
                [
                    graph(
                        "Requests",
                        Unit::PerSecond,
                        "Requests of clients by their kind.",
                    )
                    .query(
                        "{{clientrequest}}",
                        &rate("cassandra_clientrequest_latency_seconds_count"),
                    ),
                    graph(
                        "Duration of a request",
                        Unit::Seconds,
                        "99 in 100 requests of a kind took at most this long, on the slowest node.",
                    )
                    .query(
                        "{{clientrequest}}",
                        r#"max by (clientrequest) (
                            cassandra_clientrequest_latency_seconds{
                              instance=~"$instance",quantile="0.99",clientrequest!~".*-.*"
                            }
                        )"#,
                    ),
                    graph(
                        "Requests that timed out",
                        Unit::PerSecond,
                        "Requests for which copies didn't answer in time: the nodes are overloaded \
                         or pause.",
                    )
                    .query(
                        "{{clientrequest}}",
                        &rate("cassandra_clientrequest_timeouts_count"),
                    ),
                    graph(
                        "Requests without enough copies",
                        Unit::PerSecond,
                        "Requests refused because too few nodes with a copy are up.",
                    )
                    .query(
                        "{{clientrequest}}",
                        &rate("cassandra_clientrequest_unavailables_count"),
                    ),
                ],
            ),
            row(
                "Nodes",
                [
                    graph(
                        "Waiting tasks",
                        Unit::Count,
                        "Tasks that wait in the thread pools of each stage.",
                    )
                    .query(
                        "{{threadpools}}",
                        r#"sum by (threadpools) (
                            cassandra_threadpools_pendingtasks{instance=~"$instance"}
                        )"#,
                    ),
                    graph(
                        "Messages dropped",
                        Unit::PerSecond,
                        "Messages between nodes that waited for too long. Dropped mutations are \
                         missing on a copy until it is repaired.",
                    )
                    .query(
                        "{{droppedmessage}}",
                        r#"sum by (droppedmessage) (
                            rate(cassandra_droppedmessage_dropped_count{
                              instance=~"$instance"
                            }[$__rate_interval])
                        )"#,
                    ),
                    graph("Heap", Unit::Bytes, "The Java heap in use, and its limit.")
                        .query(
                            "{{instance}} used",
                            r#"jvm_memory_used_bytes{
                                area="heap",instance=~"$instance"
                            } and on (instance) cassandra_storage_load_count"#,
                        )
                        .query(
                            "{{instance}} limit",
                            r#"jvm_memory_max_bytes{
                                area="heap",instance=~"$instance"
                            } and on (instance) cassandra_storage_load_count"#,
                        ),
                    graph(
                        "Garbage collection",
                        Unit::Ratio,
                        "The part of the time that the node spends collecting garbage.",
                    )
                    .query(
                        "{{instance}}",
                        r#"sum by (instance) (
                            rate(jvm_gc_collection_seconds_sum{
                              instance=~"$instance"
                            }[$__rate_interval])
                        ) and on (instance) cassandra_storage_load_count"#,
                    )
                    .from(0.1, Level::Warning),
                ],
            ),
        ],
    }
}

/// `PostgreSQL` by `postgres_exporter`.
pub fn postgres() -> Dashboard {
    let selected = r#"instance=~"$instance",datname=~"$datname""#;
    let rate = |name: &str| query::rate(name, selected, "datname");
    Dashboard {
        uid: "pinpipe-postgresql",
        title: "pinpipe / PostgreSQL",
        description: "Is PostgreSQL, to which stream workers write, well? By postgres_exporter.",
        variables: vec![
            Variable {
                name: "instance",
                title: "Server",
                series: "pg_up",
                label: "instance",
            },
            Variable {
                name: "datname",
                title: "Database",
                series: r#"pg_stat_database_xact_commit{instance=~"$instance",datname!=""}"#,
                label: "datname",
            },
        ],
        rows: vec![
            row(
                "Now",
                [
                    stat(
                        "Up",
                        Unit::YesNo,
                        "Whether the exporter reaches the server.",
                    )
                    .query("up", r#"min(pg_up{instance=~"$instance"})"#)
                    .good_at_one(),
                    stat(
                        "Connections in use",
                        Unit::Ratio,
                        "The part of max_connections that is in use. More are refused.",
                    )
                    .query(
                        "in use",
                        r#"max(
                            sum by (instance) (pg_stat_activity_count{instance=~"$instance"})
                            / on (instance)
                            max by (instance) (pg_settings_max_connections{instance=~"$instance"})
                        )"#,
                    )
                    .from(0.7, Level::Warning)
                    .from(0.9, Level::Bad),
                    stat("Data", Unit::Bytes, "The size of the databases.").query(
                        "data",
                        &format!("sum(pg_database_size_bytes{{{selected}}})"),
                    ),
                    stat(
                        "Deadlocks",
                        Unit::Count,
                        "Deadlocks within an hour. A stream worker tries its batch again.",
                    )
                    .query(
                        "deadlocks",
                        &format!("sum(increase(pg_stat_database_deadlocks{{{selected}}}[1h]))"),
                    )
                    .from(1.0, Level::Warning),
                ],
            ),
            row(
                "Transactions",
                [
                    graph(
                        "Commits",
                        Unit::PerSecond,
                        "Transactions that were committed.",
                    )
                    .query("{{datname}}", &rate("pg_stat_database_xact_commit")),
                    graph(
                        "Rollbacks",
                        Unit::PerSecond,
                        "Transactions that were rolled back: the server refused something, or \
                         the client gave up.",
                    )
                    .query("{{datname}}", &rate("pg_stat_database_xact_rollback")),
                    graph(
                        "Rows written",
                        Unit::PerSecond,
                        "Rows inserted and updated; a record whose key is there already updates.",
                    )
                    .query(
                        "{{datname}} inserted",
                        &rate("pg_stat_database_tup_inserted"),
                    )
                    .query("{{datname}} updated", &rate("pg_stat_database_tup_updated")),
                    graph(
                        "Longest transaction",
                        Unit::Seconds,
                        "The age of the oldest transaction. A long one keeps old rows from being \
                         removed.",
                    )
                    .query(
                        "{{datname}}",
                        &format!(
                            "max by (datname) (pg_stat_activity_max_tx_duration{{{selected}}})"
                        ),
                    )
                    .from(600.0, Level::Warning),
                ],
            ),
            row(
                "Server",
                [
                    graph("Connections", Unit::Count, "Connections by their state.").query(
                        "{{state}}",
                        &format!("sum by (state) (pg_stat_activity_count{{{selected}}})"),
                    ),
                    graph(
                        "Locks",
                        Unit::Count,
                        "Locks that are held or awaited, by their mode.",
                    )
                    .query(
                        "{{mode}}",
                        &format!("sum by (mode) (pg_locks_count{{{selected}}})"),
                    ),
                    graph(
                        "Reads from memory",
                        Unit::Ratio,
                        "The part of the blocks that was found in the server's memory.",
                    )
                    .query(
                        "{{datname}}",
                        &format!(
                            "{hit} / ({hit} + {read} > 0)",
                            hit = rate("pg_stat_database_blks_hit"),
                            read = rate("pg_stat_database_blks_read"),
                        ),
                    ),
                    graph(
                        "Temporary files",
                        Unit::Bytes,
                        "Bytes a second that queries write to disk for lack of work_mem.",
                    )
                    .query("{{datname}}", &rate("pg_stat_database_temp_bytes")),
                ],
            ),
        ],
    }
}
