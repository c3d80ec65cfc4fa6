//! Parts of queries that several dashboards have.

/// Increments of a counter per second, by these labels.
pub fn rate(counter: &str, labels: &str, by: &str) -> String {
    format!("sum by ({by}) (rate({counter}{{{labels}}}[$__rate_interval]))")
}

/// The duration that this part of what a histogram counts has taken at most, by this label or by
/// none.
pub fn quantile(part: &str, histogram: &str, labels: &str, by: &str) -> String {
    format!(
        "histogram_quantile({part}, sum by (le{by}) (
            rate({histogram}_bucket{{{labels}}}[$__rate_interval])
        ))"
    )
}
