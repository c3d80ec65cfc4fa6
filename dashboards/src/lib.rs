//! Dashboards of pinpipe: what each panel asks of Prometheus, as plain data, and Grafana's JSON of
//! it.
//!
//! Metrics are those of docs/reference/metrics.md, recording rules those of
//! charts/pinpipe/files/rules.yaml, and those of the stores their usual exporters'. The JSON in
//! charts/pinpipe/files/dashboards is generated: `cargo run -p pinpipe-dashboards -- --write`.

mod grafana;
mod model;
mod operator;
mod overview;
mod query;
mod stores;
mod workers;

pub use grafana::grafana;
pub use model::{Dashboard, Kind, Level, Panel, Query, Row, Threshold, Unit, Variable};

/// The dashboards, the overview first.
#[must_use]
pub fn all() -> Vec<Dashboard> {
    vec![
        overview::overview(),
        workers::ingest(),
        workers::stream(),
        overview::batch(),
        operator::operator(),
        stores::cassandra(),
        stores::postgres(),
    ]
}
