//! The documented tables of metrics, compared with what programs expose.

use std::fmt;

/// docs/reference/metrics.md.
pub const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/metrics.md");

/// Set to any value, this variable has tests write the tables.
const WRITE: &str = "PINPIPE_WRITE_DOCS";

/// A metric: a row of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metric {
    /// The name as queries have it: of a counter with `_total`, of an info metric with `_info`.
    pub name: String,
    /// `counter`, `gauge`, `histogram` or `info`.
    pub kind: String,
    /// The unit, such as `seconds`; empty for counts and for 0 or 1.
    pub unit: String,
    /// The names of the labels, without a histogram's `le`.
    pub labels: Vec<String>,
    /// The help text without its full stop and backticks.
    pub meaning: String,
}

/// The row that documents it.
impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            kind,
            unit,
            labels,
            meaning,
        } = self;
        let labels: Vec<_> = labels.iter().map(|label| format!("`{label}`")).collect();
        write!(f, "| `{name}` |")?;
        for cell in [kind, unit, &labels.join(", "), meaning] {
            let space = if cell.is_empty() { "" } else { " " };
            write!(f, "{space}{cell} |")?;
        }
        Ok(())
    }
}

/// The metrics that a document has below a heading, or in all of its tables.
#[must_use]
pub fn documented(text: &str, heading: Option<&str>) -> Vec<Metric> {
    let mut below = "";
    let mut metrics = Vec::new();
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            below = title;
        }
        let Some(row) = line.strip_prefix("| `pinpipe_") else {
            continue;
        };
        if heading.is_some_and(|heading| heading != below) {
            continue;
        }
        let row = row.replace('`', "");
        let mut cells = row
            .trim_end_matches(['|', ' '])
            .splitn(5, '|')
            .map(str::trim);
        let mut cell = || cells.next().unwrap_or_default().to_owned();
        let (name, kind, unit, labels) = (cell(), cell(), cell(), cell());
        let labels = labels.split(", ").filter(|label| !label.is_empty());
        metrics.push(Metric {
            name: format!("pinpipe_{name}"),
            kind,
            unit,
            labels: labels.map(str::to_owned).collect(),
            meaning: cell(),
        });
    }
    metrics
}

/// The metrics in `OpenMetrics` text. Only those that have a sample are in it.
#[must_use]
pub fn exposed(text: &str) -> Vec<Metric> {
    let mut metrics: Vec<Metric> = Vec::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap_or((rest, ""));
            metrics.push(Metric {
                name: name.to_owned(),
                meaning: help.trim_end_matches('.').replace('`', ""),
                ..Metric::default()
            });
            continue;
        }
        let Some(metric) = metrics.last_mut() else {
            continue;
        };
        let value = line.rsplit(' ').next().unwrap_or_default();
        if line.starts_with("# TYPE ") {
            value.clone_into(&mut metric.kind);
            match value {
                "counter" => metric.name.push_str("_total"),
                "info" => metric.name.push_str("_info"),
                _ => {}
            }
        } else if line.starts_with("# UNIT ") {
            value.clone_into(&mut metric.unit);
        } else {
            for label in labels(line) {
                if label != "le" && !metric.labels.contains(&label) {
                    metric.labels.push(label);
                }
            }
        }
    }
    metrics
}

/// The names of a sample's labels.
fn labels(sample: &str) -> Vec<String> {
    let mut names = Vec::new();
    let Some((_, mut rest)) = sample.split_once('{') else {
        return names;
    };
    while let Some((name, value)) = rest.split_once("=\"") {
        names.push(name.trim_start_matches(',').to_owned());
        let mut escaped = false;
        let end = value.find(|character| {
            let ends = character == '"' && !escaped;
            escaped = character == '\\' && !escaped;
            ends
        });
        rest = end.map_or("", |end| &value[end + 1..]);
    }
    names
}

/// Metrics in the text format that `promtool check metrics` reads, with a sample each.
#[must_use]
pub fn exposition(metrics: &[Metric]) -> String {
    metrics.iter().flat_map(lines_of).collect()
}

fn lines_of(metric: &Metric) -> Vec<String> {
    let Metric {
        name,
        kind,
        meaning,
        ..
    } = metric;
    // The format has no info metrics.
    let kind = kind.replace("info", "gauge");
    let sample = |suffix: &str, more: &[&str]| {
        let labels = metric.labels.iter().map(|name| format!("{name}=\"x\""));
        let labels: Vec<_> = labels
            .chain(more.iter().map(|label| (*label).to_owned()))
            .collect();
        format!("{name}{suffix}{{{}}} 1\n", labels.join(","))
    };
    let samples = if kind == "histogram" {
        vec![
            sample("_bucket", &["le=\"+Inf\""]),
            sample("_sum", &[]),
            sample("_count", &[]),
        ]
    } else {
        vec![sample("", &[])]
    };
    let head = format!("# HELP {name} {meaning}\n# TYPE {name} {kind}\n");
    [vec![head], samples].concat()
}

/// The document with exactly these metrics in the table below a heading. Rows that are right keep
/// their text, which may have backticks that help texts have not.
fn with_table(document: &str, heading: &str, metrics: &[Metric]) -> String {
    let title = format!("## {heading}\n");
    let (before, section) = document.split_once(&title).unwrap_or((document, ""));
    let (head, rest) = section
        .split_once("|---|---|---|---|---|\n")
        .unwrap_or((section, ""));
    let rows = rest.lines().take_while(|line| line.starts_with('|'));
    let rows: Vec<_> = rows.collect();
    let after = rest
        .lines()
        .skip(rows.len())
        .map(|line| format!("{line}\n"));
    let row = |metric: &Metric| {
        let is_right = |row: &&&str| documented(row, None).contains(metric);
        let kept = rows.iter().find(is_right).map(|row| (*row).to_owned());
        kept.unwrap_or_else(|| metric.to_string()) + "\n"
    };
    let table: String = metrics.iter().map(row).collect();
    let after: String = after.collect();
    format!("{before}{title}{head}|---|---|---|---|---|\n{table}{after}")
}

/// What differs between the table below a heading of [`DOCUMENT`] and the metrics in `text`, which
/// must have a sample of each. With the variable [`WRITE`], the table is written.
pub fn check(heading: &str, text: &str) -> anyhow::Result<()> {
    let mut document = std::fs::read_to_string(DOCUMENT)?;
    if std::env::var_os(WRITE).is_some() {
        // Tests of one program run at the same time.
        let page = std::fs::File::open(DOCUMENT)?;
        page.lock()?;
        document = std::fs::read_to_string(DOCUMENT)?;
        document = with_table(&document, heading, &exposed(text));
        std::fs::write(DOCUMENT, &document)?;
    }
    let (documented, exposed) = (documented(&document, Some(heading)), exposed(text));
    let missing = |of: &[Metric], from: &[Metric], what: &str| -> Vec<String> {
        let rows = of.iter().filter(|metric| !from.contains(metric));
        rows.map(|row| format!("{what}: {row}\n")).collect()
    };
    let differences = [
        missing(&exposed, &documented, "not documented"),
        missing(&documented, &exposed, "not exposed"),
    ]
    .concat()
    .concat();
    anyhow::ensure!(
        differences.is_empty() && !exposed.is_empty(),
        "the table {heading} of docs/reference/metrics.md differs from the program; run this test \
         with {WRITE}=1, and commit the page:\n{differences}"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"# HELP pinpipe_a_seconds time.
# TYPE pinpipe_a_seconds histogram
# UNIT pinpipe_a_seconds seconds
pinpipe_a_seconds_sum{kind="a\",b=\"c"} 1
pinpipe_a_seconds_bucket{kind="x",le="+Inf"} 1
# HELP pinpipe_b `things`.
# TYPE pinpipe_b counter
pinpipe_b_total 1
# HELP pinpipe_build what runs.
# TYPE pinpipe_build info
pinpipe_build_info{version="1"} 1
# EOF
"#;
    const TABLE: &str = "## A
| `pinpipe_a_seconds` | histogram | seconds | `kind` | time |
## B
| `pinpipe_b_total` | counter | | | `things` |
| `pinpipe_build_info` | info | | `version` | what runs |
";

    #[test]
    fn tables_and_expositions_have_the_same_metrics() {
        assert_eq!(documented(TABLE, None), exposed(TEXT));
        assert_eq!(documented(TABLE, Some("B")), exposed(TEXT)[1..]);
        let row = TABLE.lines().nth(1).unwrap();
        assert_eq!(exposed(TEXT)[0].to_string(), row);
    }

    #[test]
    fn a_table_is_written_for_the_metrics_there_are() {
        const HEAD: &str = "| m |\n|---|---|---|---|---|\n";
        let page = |rows: &str| format!("t\n## A\n\n{HEAD}{rows}\nmore\n## B\n{HEAD}| `b` |\n");
        let rows = TABLE.lines().filter(|line| line.starts_with('|'));
        let rows = rows.collect::<Vec<_>>().join("\n") + "\n";
        let of = exposed(TEXT);
        assert_eq!(
            with_table(&page("| `pinpipe_gone` |\n"), "A", &of),
            page(&rows.replace("`things`", "things"))
        );
        assert_eq!(with_table(&page(&rows), "A", &of), page(&rows));
    }

    #[test]
    fn a_table_becomes_text_for_promtool() {
        let text = exposition(&documented(TABLE, Some("A")));
        let samples: Vec<_> = text.lines().skip(2).collect();
        assert_eq!(
            samples,
            [
                r#"pinpipe_a_seconds_bucket{kind="x",le="+Inf"} 1"#,
                r#"pinpipe_a_seconds_sum{kind="x"} 1"#,
                r#"pinpipe_a_seconds_count{kind="x"} 1"#,
            ]
        );
    }
}
