//! Each panel of each dashboard has data once a pipeline has run for a minute.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Result, ensure};
use pinpipe_dashboards::{Dashboard, all};
use pinpipe_e2e::{
    Kind, Pipeline, Sandbox, Spec, broken, eventually, kafka, prometheus::Prometheus,
    scenario::in_sandbox,
};

/// The size limit of a record, bytes.
const LIMIT: usize = 8_192;
/// Records per second of each kind.
const RATE: u32 = 20;
/// How long the panels may take to have data: the recording rules look at minutes, and the share of
/// rejects needs a hundred records.
const DATA_WITHIN: Duration = Duration::from_mins(3);

#[test]
fn each_panel_has_data() -> Result<()> {
    in_sandbox("dashboards", async |sandbox| {
        let spec = Spec::new()
            .max_record_bytes(LIMIT)
            .live(sandbox)
            .archive(sandbox, 50)
            .batch(sandbox)
            .emulator(RATE);
        let pipeline = sandbox.apply("flow", &spec).await?;
        pipeline.ready().await?;
        let prometheus = Prometheus::start(&sandbox.cluster, &sandbox.namespace).await?;
        reject(&pipeline).await?;
        pipeline.start_run("all").await?;
        pipeline.run_completes("all").await?;
        eventually(DATA_WITHIN, "every pod is scraped", async || {
            let failing = prometheus.failing().await?;
            ensure!(failing.is_empty(), "{failing:#?}");
            Ok(())
        })
        .await?;
        let mut empty = Vec::new();
        for dashboard in all() {
            let values = select(&prometheus, &dashboard, sandbox).await?;
            empty.extend(queries(&dashboard, &values));
        }
        ensure!(!empty.is_empty(), "no panels");
        eventually(DATA_WITHIN, "each panel has data", async || {
            let mut still_empty = Vec::new();
            for (panel, expr) in &empty {
                if prometheus.series(expr).await? == 0 {
                    still_empty.push((panel.clone(), expr.clone()));
                }
            }
            empty = still_empty;
            ensure!(empty.is_empty(), "panels without data: {empty:#?}");
            Ok(())
        })
        .await
    })
}

/// Has records rejected.
async fn reject(pipeline: &Pipeline) -> Result<()> {
    let records = broken::records(Kind::Geo, 20, LIMIT).into_iter();
    let records: Vec<_> = records.map(|record| (record.key, record.raw)).collect();
    kafka::write(&pipeline.topic(Kind::Geo), &records).await?;
    Ok(())
}

/// Values of the dashboard's variables, as a reader would select them: the sandbox's namespace, and
/// all of the others. Each must have values to select.
async fn select(
    prometheus: &Prometheus,
    dashboard: &Dashboard,
    sandbox: &Sandbox,
) -> Result<BTreeMap<&'static str, String>> {
    let mut selected = BTreeMap::new();
    for variable in &dashboard.variables {
        let series = replace(variable.series, &selected);
        let what = format!("values of {} in {}", variable.name, dashboard.uid);
        let values = eventually(DATA_WITHIN, &what, async || {
            let values = prometheus.label_values(&series, variable.label).await?;
            ensure!(!values.is_empty(), "{series} has no {}", variable.label);
            Ok(values)
        })
        .await?;
        let value = if values.contains(&sandbox.namespace) {
            sandbox.namespace.clone()
        } else {
            values.join("|")
        };
        selected.insert(variable.name, value);
    }
    Ok(selected)
}

/// The queries of a dashboard, each with its panel.
fn queries(
    dashboard: &Dashboard,
    selected: &BTreeMap<&'static str, String>,
) -> Vec<(String, String)> {
    let queries = dashboard.panels().flat_map(|panel| {
        let queries = panel.queries.iter();
        queries.map(|query| {
            let expr = replace(&query.expr, selected);
            (format!("{}: {}", dashboard.title, panel.title), expr)
        })
    });
    queries.collect()
}

/// An expression with values in place of its variables.
fn replace(expr: &str, selected: &BTreeMap<&'static str, String>) -> String {
    let expr = expr.replace("$__rate_interval", "1m");
    selected.iter().fold(expr, |expr, (name, value)| {
        expr.replace(&format!("${name}"), value)
    })
}
