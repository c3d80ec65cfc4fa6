//! The dashboards ask for metrics that exist, and their JSON is what Grafana reads.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use pinpipe_dashboards::{Dashboard, all, grafana};
use pinpipe_servers::documented_metrics::{DOCUMENT, documented};
use serde_json::Value;

/// Metrics of the JMX exporter with its example for Cassandra, and of its Java agent.
const CASSANDRA: [&str; 12] = [
    "cassandra_client_connectednativeclients",
    "cassandra_clientrequest_latency_seconds",
    "cassandra_clientrequest_latency_seconds_count",
    "cassandra_clientrequest_timeouts_count",
    "cassandra_clientrequest_unavailables_count",
    "cassandra_compaction_pendingtasks",
    "cassandra_droppedmessage_dropped_count",
    "cassandra_storage_load_count",
    "cassandra_threadpools_pendingtasks",
    "jvm_gc_collection_seconds_sum",
    "jvm_memory_max_bytes",
    "jvm_memory_used_bytes",
];
/// Metrics of `postgres_exporter` whose names are the same from 0.11 to 0.17.
const POSTGRES: [&str; 14] = [
    "pg_database_size_bytes",
    "pg_locks_count",
    "pg_settings_max_connections",
    "pg_stat_activity_count",
    "pg_stat_activity_max_tx_duration",
    "pg_stat_database_blks_hit",
    "pg_stat_database_blks_read",
    "pg_stat_database_deadlocks",
    "pg_stat_database_temp_bytes",
    "pg_stat_database_tup_inserted",
    "pg_stat_database_tup_updated",
    "pg_stat_database_xact_commit",
    "pg_stat_database_xact_rollback",
    "pg_up",
];

fn chart(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../charts/pinpipe/files")
        .join(path)
}

/// The names of all series that there are: of metrics, recording rules, alerts and exporters.
fn series() -> BTreeSet<String> {
    let tables = fs::read_to_string(DOCUMENT).expect("the page of metrics");
    let metrics = documented(&tables, None).into_iter().flat_map(|metric| {
        let suffixes: &[&str] = match metric.kind.as_str() {
            "histogram" => &["_bucket", "_sum", "_count"],
            _ => &[""],
        };
        suffixes
            .iter()
            .map(move |suffix| format!("{}{suffix}", metric.name))
    });
    let rules = fs::read_to_string(chart("rules.yaml")).expect("the chart's rules");
    let rules = rules.lines().filter_map(|line| line.split_once("record: "));
    let rules = rules.map(|(_, name)| name.to_owned());
    let others = [&["ALERTS"][..], &CASSANDRA, &POSTGRES].concat();
    let others = others.into_iter().map(str::to_owned);
    metrics.chain(rules).chain(others).collect()
}

/// The names of series in an expression: the words that are outside of quotes, braces and
/// parentheses of labels, and no function, operator, number or variable.
fn names(expr: &str) -> Vec<String> {
    const WORDS: [&str; 15] = [
        "and",
        "by",
        "count",
        "histogram_quantile",
        "increase",
        "max",
        "min",
        "on",
        "or",
        "rate",
        "sum",
        "time",
        "topk",
        "unless",
        "vector",
    ];
    let mut rest = expr.to_owned();
    // Labels and ranges.
    for (open, close) in [('{', '}'), ('[', ']')] {
        while let Some(start) = rest.find(open) {
            let end = rest[start..].find(close).expect("its end") + start;
            rest.replace_range(start..=end, " ");
        }
    }
    // The labels of an aggregation or a match.
    for keyword in ["by (", "on (", "on("] {
        while let Some(start) = rest.find(keyword) {
            let end = rest[start..].find(')').expect("its end") + start;
            rest.replace_range(start..=end, " ");
        }
    }
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let words = rest.split(|c| !is_part(c));
    let words = words.filter(|word| word.starts_with(|c: char| c.is_ascii_alphabetic()));
    let words = words.filter(|word| !WORDS.contains(word));
    words.map(str::to_owned).collect()
}

/// The variables in a text.
fn variables(text: &str) -> BTreeSet<&str> {
    let names = text.split('$').skip(1).map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        &rest[..end.unwrap_or(rest.len())]
    });
    names.filter(|name| !name.starts_with("__")).collect()
}

fn texts(dashboard: &Dashboard) -> Vec<(&'static str, String)> {
    let queries = dashboard.panels().flat_map(|panel| {
        let queries = panel.queries.iter();
        queries.map(|query| (panel.title, query.expr.clone()))
    });
    let series = dashboard.variables.iter();
    let series = series.map(|variable| (variable.name, variable.series.to_owned()));
    queries.chain(series).collect()
}

#[test]
fn each_expression_asks_for_series_that_there_are() {
    let known = series();
    for dashboard in all() {
        for (place, expr) in texts(&dashboard) {
            let names = names(&expr);
            assert!(!names.is_empty(), "{}: {place}: {expr}", dashboard.uid);
            for name in names {
                assert!(
                    known.contains(&name),
                    "{}: {place}: no series {name} in {expr}",
                    dashboard.uid
                );
            }
        }
    }
}

#[test]
fn names_are_found_in_expressions() {
    let expr = r#"histogram_quantile(0.9, sum by (le, kind) (rate(a_bucket{x=~"b",y="c"}[5m])))
        / on (kind) 2 * d:e:rate5m or on() vector(0)"#;
    assert_eq!(names(expr), ["a_bucket", "d:e:rate5m"]);
}

#[test]
fn variables_are_defined_before_they_are_used() {
    for dashboard in all() {
        let mut defined = BTreeSet::new();
        for variable in &dashboard.variables {
            let used = variables(variable.series);
            assert!(used.is_subset(&defined), "{}: {used:?}", variable.name);
            defined.insert(variable.name);
        }
        let mut used = BTreeSet::new();
        for query in dashboard.panels().flat_map(|panel| &panel.queries) {
            used.extend(variables(&query.expr));
        }
        assert_eq!(used, defined, "{}", dashboard.uid);
    }
}

#[test]
fn each_panel_can_be_understood() {
    let mut uids = BTreeSet::new();
    let mut titles = BTreeSet::new();
    for dashboard in all() {
        let uid = dashboard.uid;
        assert!(uid.len() <= 40 && uids.insert(uid), "{uid}");
        assert!(titles.insert(dashboard.title), "{}", dashboard.title);
        let mut panels = BTreeSet::new();
        for panel in dashboard.panels() {
            let title = panel.title;
            assert!(panels.insert(title), "{uid}: two panels {title}");
            let description = panel.description;
            assert!(description.ends_with('.'), "{uid}: {title}: {description}");
            assert!(!panel.queries.is_empty(), "{uid}: {title}");
            let legends: BTreeSet<_> = panel.queries.iter().map(|query| query.legend).collect();
            assert_eq!(
                legends.len(),
                panel.queries.len(),
                "{uid}: {title}: {legends:?}"
            );
            let values: Vec<f64> = panel.thresholds.iter().map(|t| t.value).collect();
            assert!(values.is_sorted(), "{uid}: {title}: {values:?}");
        }
    }
}

#[test]
fn grafana_s_json_has_unique_ids_and_places_that_do_not_overlap() {
    for dashboard in all() {
        let json = grafana(&dashboard);
        assert!(json["schemaVersion"].as_u64().unwrap() >= 39);
        let panels = json["panels"].as_array().unwrap();
        assert_eq!(
            panels.len(),
            dashboard.panels().count() + dashboard.rows.len()
        );
        let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64()).collect();
        assert_eq!(ids.len(), panels.len());
        let mut taken = BTreeMap::new();
        for panel in panels {
            let place = |side: &str| panel["gridPos"][side].as_u64().unwrap();
            let (x, y, w, h) = (place("x"), place("y"), place("w"), place("h"));
            let title = panel["title"].as_str().unwrap();
            assert!(
                w > 0 && h > 0 && x + w <= 24,
                "{title}: {}",
                panel["gridPos"]
            );
            for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
                let other = taken.insert(cell, title);
                assert_eq!(other, None, "{}: {title} at {cell:?}", dashboard.uid);
            }
        }
    }
}

#[test]
fn each_color_begins_below_all_values() {
    for panel in all()
        .iter()
        .flat_map(|d| grafana(d)["panels"].as_array().unwrap().clone())
    {
        if panel["type"] != "row" {
            let steps = &panel["fieldConfig"]["defaults"]["thresholds"]["steps"];
            assert_eq!(steps[0]["value"], Value::Null, "{panel}");
            let nulls = steps
                .as_array()
                .unwrap()
                .iter()
                .filter(|s| s["value"].is_null());
            assert_eq!(nulls.count(), 1, "{panel}");
        }
    }
}

#[test]
fn the_chart_s_files_are_up_to_date() {
    const COMMAND: &str = "cargo run -p pinpipe-dashboards --bin dashboards -- --write";
    let files = fs::read_dir(chart("dashboards")).unwrap();
    let files: BTreeSet<_> = files.map(|file| file.unwrap().file_name()).collect();
    let mut expected = BTreeSet::new();
    for dashboard in all() {
        let name = format!("{}.json", dashboard.uid);
        let json = serde_json::to_string_pretty(&grafana(&dashboard)).unwrap() + "\n";
        let file = fs::read_to_string(chart("dashboards").join(&name)).unwrap_or_default();
        assert!(file == json, "{name} is out of date: {COMMAND}");
        expected.insert(name.into());
    }
    assert_eq!(files, expected, "remove the files that are no dashboards");
}
