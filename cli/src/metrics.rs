//! Workers' metrics: the text format of Prometheus and OpenMetrics, and sums over it.

use std::collections::BTreeMap;

/// One value of a metric.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Name, such as `pinpipe_stream_records_total`.
    pub name: String,
    /// Values of the labels by name.
    pub labels: BTreeMap<String, String>,
    /// Value.
    pub value: f64,
}

/// The samples of a scrape. Lines that can't be read are skipped: a worker may be of another
/// release than this program.
#[must_use]
pub fn parse(text: &str) -> Vec<Sample> {
    text.lines().filter_map(sample).collect()
}

/// Sum of all samples of a metric whose labels have these values. None: there is no such sample.
#[must_use]
pub fn sum(samples: &[Sample], name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let is_meant = |sample: &&Sample| {
        let mut wanted = labels.iter();
        sample.name == name
            && wanted
                .all(|(name, value)| sample.labels.get(*name).map(String::as_str) == Some(value))
    };
    samples
        .iter()
        .filter(is_meant)
        .map(|sample| sample.value)
        .reduce(|sum, value| sum + value)
}

/// `name{label="value",…} value [timestamp]`
fn sample(line: &str) -> Option<Sample> {
    let line = line.trim();
    if line.starts_with('#') {
        return None;
    }
    let end = line.find(|c: char| c == '{' || c.is_whitespace())?;
    let (name, rest) = line.split_at(end);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (BTreeMap::new(), rest),
    };
    let value = rest.split_whitespace().next()?;
    Some(Sample {
        name: name.to_owned(),
        labels,
        value: value.parse().ok()?,
    })
}

/// Labels up to the closing brace, and what follows it.
fn labels(mut rest: &str) -> Option<(BTreeMap<String, String>, &str)> {
    let mut labels = BTreeMap::new();
    loop {
        rest = rest.trim_start_matches([',', ' ']);
        if let Some(after) = rest.strip_prefix('}') {
            return Some((labels, after));
        }
        let (name, after) = rest.split_once('=')?;
        let (value, after) = quoted(after.trim_start().strip_prefix('"')?)?;
        labels.insert(name.trim().to_owned(), value);
        rest = after;
    }
}

/// A label's value up to its closing quote, and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => value.push('\n'),
                escaped => value.push(escaped),
            },
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# HELP pinpipe_stream_lag_records Lag.
# TYPE pinpipe_stream_lag_records gauge
pinpipe_stream_lag_records{topic=\"a\\\"b\\\\c\\nd}\",partition=\"0\"} 3
pinpipe_stream_lag_records{topic=\"x\",partition=\"1\",} 4 1700000000.5
pinpipe_up 1e3
plain{} +Inf
broken{a=\"x} 1
broken{a} 1
novalue
negative -2.5
# EOF
";

    #[test]
    fn samples_are_read_with_their_labels() {
        let samples = parse(TEXT);
        let names: Vec<&str> = samples.iter().map(|sample| &*sample.name).collect();
        let lag = "pinpipe_stream_lag_records";
        assert_eq!(names, [lag, lag, "pinpipe_up", "plain", "negative"]);
        assert_eq!(samples[0].labels["topic"], "a\"b\\c\nd}");
        assert!(samples[3].value.is_infinite());
        assert!((samples[4].value + 2.5).abs() < f64::EPSILON);
    }

    #[test]
    fn sums_are_over_the_samples_with_these_labels() {
        let samples = parse(TEXT);
        let lag = |labels: &[_]| sum(&samples, "pinpipe_stream_lag_records", labels);
        assert_eq!(lag(&[]), Some(7.0));
        assert_eq!(lag(&[("partition", "1"), ("topic", "x")]), Some(4.0));
        assert_eq!(lag(&[("partition", "2")]), None);
        assert_eq!(sum(&samples, "absent", &[]), None);
    }
}
