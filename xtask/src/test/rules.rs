//! Checks of metrics, alerts and their runbooks.

use std::fs;

use pinpipe_servers::documented_metrics::{documented, exposition};

use super::tally::Tally;
use crate::context::Context;
use crate::promtool;

/// The rules that charts/pinpipe installs.
const RULES: &str = "charts/pinpipe/files/rules.yaml";
/// Their unit tests.
const TESTS: &str = "e2e/promtool/rules_test.yaml";
/// The document with the tables of metrics, which tests compare with the programs.
const METRICS: &str = "docs/reference/metrics.md";

/// Has promtool check the documented metrics, the rules, and the rules' unit tests.
pub fn check(context: &Context, tally: &mut Tally) {
    if let Err(error) = promtool::ensure(context) {
        return tally.not_started("the checks of metrics and alerts", &error);
    }
    tally.check(
        context,
        "names, types and units of metrics",
        "rename what the log names, in the program and in docs/reference/metrics.md",
        |log| {
            let tables = fs::read_to_string(context.root.join(METRICS))?;
            let text = context.temporary_folder("metrics")?.join("metrics");
            fs::write(&text, exposition(&documented(&tables, None)))?;
            let mut shell = context.command("sh");
            shell.args(["-c", "promtool check metrics < \"$0\""]);
            log.run(shell.arg(text))
        },
    );
    tally.check(context, "recording and alert rules", RULES, |log| {
        let lint = ["check", "rules", "--lint=all", "--lint-fatal", RULES];
        log.run(context.command("promtool").args(lint))
    });
    let hint = "correct the rules in charts/pinpipe/files/rules.yaml, or their tests";
    tally.check(context, "tests of the rules", hint, |log| {
        log.run(context.command("promtool").args(["test", "rules", TESTS]))
    });
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::check::files::{self, has_extension};

    fn root() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
    }

    /// The values of a key in a YAML file.
    fn values(file: &str, key: &str) -> Vec<String> {
        let text = fs::read_to_string(root().join(file)).unwrap();
        let values = text.lines().filter_map(|line| {
            let line = line.trim_start().trim_start_matches("- ");
            line.strip_prefix(key).map(str::to_owned)
        });
        values.collect()
    }

    #[test]
    fn each_alert_has_a_runbook_and_each_runbook_an_alert() {
        let alerts: BTreeSet<_> = values(RULES, "alert: ").into_iter().collect();
        let named: BTreeSet<_> = values(RULES, "runbook_url: ").into_iter().collect();
        let pages = fs::read_dir(root().join("docs/runbooks")).unwrap();
        let pages: BTreeSet<_> = pages
            .map(|page| page.unwrap().file_name().into_string().unwrap())
            .filter(|page| page != "README.md")
            .collect();
        let expected = |prefix: &str| -> BTreeSet<_> {
            alerts
                .iter()
                .map(|alert| format!("{prefix}{alert}.md"))
                .collect()
        };
        assert_eq!(pages, expected(""));
        assert_eq!(named, expected("docs/runbooks/"));
        let index = fs::read_to_string(root().join("docs/runbooks/README.md")).unwrap();
        for page in &pages {
            assert!(
                index.contains(&format!("({page})")),
                "README.md lacks {page}"
            );
            let text = fs::read_to_string(root().join("docs/runbooks").join(page)).unwrap();
            for section in ["## See", "## Do"] {
                assert!(text.contains(section), "{page} has no section {section}");
            }
        }
    }

    #[test]
    fn each_alert_is_tested() {
        let tests = fs::read_to_string(root().join(TESTS)).unwrap();
        let firing: BTreeSet<_> = tests
            .split("alertname")
            .skip(1)
            // What a test says behind the name if the alert fires.
            .filter(|test| test.contains("exp_labels:") || test.contains("value: 1"))
            .map(|test| test.trim_start_matches(|c: char| !c.is_ascii_alphanumeric()))
            .filter_map(|test| test.split(|c: char| !c.is_ascii_alphanumeric()).next())
            .collect();
        for alert in values(RULES, "alert: ") {
            assert!(
                firing.contains(alert.as_str()),
                "in {TESTS} {alert} never fires"
            );
        }
    }

    /// Rules, runbooks, docs, dashboards, tests and programs that read metrics.
    #[test]
    fn only_documented_metrics_are_used() {
        let tables = fs::read_to_string(root().join(METRICS)).unwrap();
        let metrics = documented(&tables, None);
        // `pinpipe_stream_` and the others; crates have such names, too, but nothing behind them.
        let families: BTreeSet<_> = metrics
            .iter()
            .filter_map(|metric| {
                let (end, _) = metric.name.match_indices('_').nth(1)?;
                Some(&metric.name[..=end])
            })
            .collect();
        let exists = |word: &str| {
            let series = ["_bucket", "_sum", "_count"];
            let histogram = series.iter().find_map(|series| word.strip_suffix(series));
            metrics.iter().any(|metric| {
                metric.name == word
                    || metric.kind == "histogram" && Some(metric.name.as_str()) == histogram
            })
        };
        let wanted = |path: &str| {
            let extensions = ["rs", "md", "yaml", "json", "py"];
            extensions
                .iter()
                .any(|extension| has_extension(path, extension))
        };
        let mut unknown = Vec::new();
        for file in files::read(&root(), wanted).unwrap() {
            // Names with colons are those of recording rules.
            let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
            let words = file.text.split(|c| !is_part(c));
            let words = words.map(|word| word.trim_matches(':'));
            let names = words.filter(|word| families.iter().any(|start| word.starts_with(start)));
            let names = names.filter(|word| !exists(word) && !families.contains(word));
            unknown.extend(names.map(|name| format!("{}: {name}", file.path)));
        }
        assert_eq!(unknown, [""; 0], "{METRICS} lacks them");
    }
}
