//! Grafana's JSON of a dashboard.

use serde_json::{Value, json};

use crate::{Dashboard, Kind, Level, Panel, Query, Threshold, Unit, Variable};

/// The version of Grafana's format: that of Grafana 12, which later ones convert.
const SCHEMA_VERSION: u32 = 41;
/// Columns of Grafana's grid.
const COLUMNS: u32 = 24;
/// The tag that all dashboards have; each links to the others.
const TAG: &str = "pinpipe";

/// The dashboard as Grafana imports it: a sidecar from a `ConfigMap`, or a person from a file.
#[must_use]
pub fn grafana(dashboard: &Dashboard) -> Value {
    json!({
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": dashboard.description,
        "tags": [TAG],
        "schemaVersion": SCHEMA_VERSION,
        "editable": true,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "browser",
        "links": [{
            "type": "dashboards",
            "title": TAG,
            "tags": [TAG],
            "asDropdown": true,
            "includeVars": true,
            "keepTime": true,
        }],
        "templating": {"list": variables(dashboard)},
        "panels": panels(dashboard),
    })
}

fn variables(dashboard: &Dashboard) -> Vec<Value> {
    let source = json!({
        "name": "datasource",
        "label": "Data source",
        "type": "datasource",
        "query": "prometheus",
    });
    let variables = dashboard.variables.iter().map(variable);
    [source].into_iter().chain(variables).collect()
}

fn variable(variable: &Variable) -> Value {
    let query = format!("label_values({}, {})", variable.series, variable.label);
    json!({
        "name": variable.name,
        "label": variable.title,
        "type": "query",
        "datasource": datasource(),
        "definition": query,
        // 1: values of a label.
        "query": {"qryType": 1, "query": query, "refId": variable.name},
        // 2: when the range of time changes, too.
        "refresh": 2,
        // 1: by the alphabet.
        "sort": 1,
        "multi": true,
        "includeAll": true,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
    })
}

fn datasource() -> Value {
    json!({"type": "prometheus", "uid": "${datasource}"})
}

/// The panels with their places, each row below a heading of its own.
fn panels(dashboard: &Dashboard) -> Vec<Value> {
    let mut panels = Vec::new();
    let mut y = 0;
    for row in &dashboard.rows {
        panels.push(json!({
            "id": panels.len() + 1,
            "type": "row",
            "title": row.title,
            "collapsed": false,
            "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1},
            "panels": [],
        }));
        y += 1;
        let (mut x, mut height) = (0, 0);
        for panel in &row.panels {
            let (w, h) = size(panel.kind);
            if x + w > COLUMNS {
                (x, y, height) = (0, y + height, 0);
            }
            let place = json!({"x": x, "y": y, "w": w, "h": h});
            panels.push(json_of(panel, panels.len() + 1, &place));
            (x, height) = (x + w, height.max(h));
        }
        y += height;
    }
    panels
}

/// Width and height.
const fn size(kind: Kind) -> (u32, u32) {
    match kind {
        Kind::TimeSeries => (12, 8),
        Kind::Stat => (6, 4),
        Kind::Table => (24, 8),
    }
}

fn json_of(panel: &Panel, id: usize, place: &Value) -> Value {
    let (name, custom, options) = match panel.kind {
        Kind::TimeSeries => (
            "timeseries",
            json!({"fillOpacity": 10, "showPoints": "never"}),
            json!({
                "legend": {"displayMode": "list", "placement": "bottom", "showLegend": true},
                "tooltip": {"mode": "multi", "sort": "desc"},
            }),
        ),
        Kind::Stat => (
            "stat",
            json!({}),
            json!({
                "colorMode": "value",
                "graphMode": "area",
                "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": false},
            }),
        ),
        Kind::Table => ("table", json!({}), json!({"showHeader": true})),
    };
    let targets = panel.queries.iter().zip('A'..);
    let targets: Vec<Value> = targets
        .map(|(query, letter)| target(query, letter, panel.kind == Kind::Table))
        .collect();
    let lowest = Threshold {
        value: f64::NEG_INFINITY,
        level: Level::Good,
    };
    let has_lowest = |first: &Threshold| first.value == f64::NEG_INFINITY;
    let lowest = (!panel.thresholds.first().is_some_and(has_lowest)).then_some(lowest);
    let thresholds = lowest.iter().chain(&panel.thresholds);
    let steps: Vec<Value> = thresholds
        .map(|threshold| json!({"color": color(threshold.level), "value": threshold.value}))
        .collect();
    json!({
        "id": id,
        "type": name,
        "title": panel.title,
        "description": panel.description,
        "datasource": datasource(),
        "gridPos": place,
        "targets": targets,
        "fieldConfig": {
            "defaults": {
                "unit": unit(panel.unit),
                "custom": custom,
                "thresholds": {"mode": "absolute", "steps": steps},
            },
            "overrides": [],
        },
        "options": options,
        "transformations": transformations(panel),
    })
}

fn target(query: &Query, letter: char, is_table: bool) -> Value {
    json!({
        "refId": letter,
        "datasource": datasource(),
        "editorMode": "code",
        "expr": query.expr,
        "legendFormat": query.legend,
        "format": if is_table { "table" } else { "time_series" },
        "instant": is_table,
        "range": !is_table,
    })
}

/// Of a table: its queries in one, a column each, named by their legends.
fn transformations(panel: &Panel) -> Value {
    if panel.kind != Kind::Table {
        return json!([]);
    }
    let names = panel.queries.iter().zip('A'..).map(|(query, letter)| {
        // Of one query alone the column has no letter.
        let column = match panel.queries.len() {
            1 => "Value".to_owned(),
            _ => format!("Value #{letter}"),
        };
        (column, Value::from(query.legend))
    });
    let names: serde_json::Map<String, Value> = names.collect();
    json!([
        {"id": "merge", "options": {}},
        {"id": "organize", "options": {"excludeByName": {"Time": true}, "renameByName": names}},
    ])
}

/// Grafana's name of a unit.
const fn unit(unit: Unit) -> &'static str {
    match unit {
        Unit::Count => "short",
        Unit::PerSecond => "cps",
        Unit::Seconds => "s",
        Unit::Bytes => "bytes",
        Unit::Ratio => "percentunit",
        Unit::YesNo => "bool_yes_no",
    }
}

const fn color(level: Level) -> &'static str {
    match level {
        Level::Good => "green",
        Level::Warning => "orange",
        Level::Bad => "red",
    }
}
