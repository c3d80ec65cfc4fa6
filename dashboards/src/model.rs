//! What a dashboard is made of.

use serde::Serialize;

/// The labels of the pipelines that the variables select. Expressions have `$selected` for it.
const SELECTED: &str = r#"namespace=~"$namespace",pipeline=~"$pipeline""#;

/// A page of panels.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Dashboard {
    /// The identifier in links, and the name of the file: `pinpipe-<subject>`.
    pub uid: &'static str,
    /// The title.
    pub title: &'static str,
    /// What it answers.
    pub description: &'static str,
    /// What a reader may select, each within the ones before it.
    pub variables: Vec<Variable>,
    /// The rows, from above.
    pub rows: Vec<Row>,
}

impl Dashboard {
    /// The panels of all rows.
    pub fn panels(&self) -> impl Iterator<Item = &Panel> {
        self.rows.iter().flat_map(|row| &row.panels)
    }
}

/// Values of a label of which a reader selects some or all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Variable {
    /// The name: `namespace` is `$namespace` in expressions, a regular expression.
    pub name: &'static str,
    /// The name for people.
    pub title: &'static str,
    /// The series that have the label, in which other variables may stand.
    pub series: &'static str,
    /// The label.
    pub label: &'static str,
}

/// Panels that belong together.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// The title.
    pub title: &'static str,
    /// The panels, from the left; those that don't fit stand below.
    pub panels: Vec<Panel>,
}

/// A graph, a number or a table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Panel {
    /// The title.
    pub title: &'static str,
    /// What it shows, and what to do about it where that isn't plain.
    pub description: &'static str,
    /// How it shows the values.
    pub kind: Kind,
    /// The unit of the values.
    pub unit: Unit,
    /// What it asks of Prometheus.
    pub queries: Vec<Query>,
    /// From which value on it has another colour, rising.
    pub thresholds: Vec<Threshold>,
}

/// A query in Prometheus's language.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Query {
    /// The expression. `$__rate_interval` is a range that has at least four scrapes.
    pub expr: String,
    /// The name of each series: `{{label}}` is the label's value. In a table, the column's name.
    pub legend: &'static str,
}

/// A value, and what it means from there on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Threshold {
    /// The value; of the lowest threshold it may be less than all, which JSON has as null.
    pub value: f64,
    /// What a value from there on means.
    pub level: Level,
}

/// How well it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Good,
    /// Look at it.
    Warning,
    /// Do something.
    Bad,
}

/// How a panel shows its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Values over time.
    TimeSeries,
    /// The last value, large.
    Stat,
    /// The last values, with a row for each set of labels and a column for each query.
    Table,
}

/// The unit of a panel's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// A number of things.
    Count,
    /// Things in a second.
    PerSecond,
    /// Seconds.
    Seconds,
    /// Bytes.
    Bytes,
    /// A part of one.
    Ratio,
    /// 1 for yes, 0 for no.
    YesNo,
}

/// A graph over time.
pub const fn graph(title: &'static str, unit: Unit, description: &'static str) -> Panel {
    panel(Kind::TimeSeries, title, unit, description)
}

/// A number.
pub const fn stat(title: &'static str, unit: Unit, description: &'static str) -> Panel {
    panel(Kind::Stat, title, unit, description)
}

/// A table.
pub const fn table(title: &'static str, unit: Unit, description: &'static str) -> Panel {
    panel(Kind::Table, title, unit, description)
}

const fn panel(kind: Kind, title: &'static str, unit: Unit, description: &'static str) -> Panel {
    Panel {
        title,
        description,
        kind,
        unit,
        queries: Vec::new(),
        thresholds: Vec::new(),
    }
}

impl Panel {
    /// Adds a query. In its expression `$selected` stands for the labels of the selected pipelines,
    /// and a line break with what follows it for one space.
    #[must_use]
    pub fn query(mut self, legend: &'static str, expr: &str) -> Self {
        let words: Vec<&str> = expr.split_whitespace().collect();
        let expr = words.join(" ").replace("$selected", SELECTED);
        self.queries.push(Query { expr, legend });
        self
    }

    /// Values from this one on mean this. Values below the first threshold are good.
    #[must_use]
    pub fn from(mut self, value: f64, level: Level) -> Self {
        self.thresholds.push(Threshold { value, level });
        self
    }

    /// A value above 0 is bad.
    #[must_use]
    pub fn good_at_zero(self) -> Self {
        self.from(0.001, Level::Bad)
    }

    /// A value below 1 is bad.
    #[must_use]
    pub fn good_at_one(self) -> Self {
        self.from(f64::NEG_INFINITY, Level::Bad)
            .from(1.0, Level::Good)
    }
}

/// A row.
pub fn row(title: &'static str, panels: impl Into<Vec<Panel>>) -> Row {
    Row {
        title,
        panels: panels.into(),
    }
}

/// The variables that select pipelines, of the series with the labels `namespace` and `pipeline`.
pub fn pipelines() -> Vec<Variable> {
    vec![
        Variable {
            name: "namespace",
            title: "Namespace",
            series: "pinpipe_pipeline_suspended",
            label: "namespace",
        },
        Variable {
            name: "pipeline",
            title: "Pipeline",
            series: r#"pinpipe_pipeline_suspended{namespace=~"$namespace"}"#,
            label: "pipeline",
        },
    ]
}
