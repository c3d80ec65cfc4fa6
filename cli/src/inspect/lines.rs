//! The lines of an inspection: results, its end, and log lines between them.

use pinpipe_config::inspect::{Done, Line};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::output::visible;

/// A line of the pod's log.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Read<T> {
    /// A result.
    Result(T),
    /// The end of the answer.
    Done(Done),
    /// A log line, for people.
    Log(String),
}

/// Reads a line. The error is a sentence: a result of another release.
pub(super) fn read<T: DeserializeOwned>(line: &str) -> Result<Read<T>, String> {
    let Ok(Value::Object(fields)) = serde_json::from_str::<Value>(line) else {
        return Ok(Read::Log(visible(line)));
    };
    let is_answer = fields.len() == 1
        && ["result", "done"]
            .iter()
            .any(|key| fields.contains_key(*key));
    if !is_answer {
        return Ok(Read::Log(log(&fields)));
    }
    match serde_json::from_value(Value::Object(fields)) {
        Ok(Line::Result(result)) => Ok(Read::Result(result)),
        Ok(Line::Done(done)) => Ok(Read::Done(done)),
        Err(error) => Err(format!(
            "the answer can't be read: {error}: the batch image and kubectl pinpipe are of \
             different releases"
        )),
    }
}

/// A log line in the order in which it is read: level, message, and the other fields.
fn log(fields: &Map<String, Value>) -> String {
    let text = |key: &str| fields.get(key).and_then(Value::as_str);
    let others = fields.iter().filter(|(key, _)| {
        let shown = ["timestamp", "level", "message", "target"];
        !shown.contains(&key.as_str())
    });
    let others = others.map(|(key, value)| match value {
        Value::String(value) => format!("{key}={value}"),
        value => format!("{key}={value}"),
    });
    let parts = [text("level"), text("message")].into_iter().flatten();
    let parts = parts.map(ToOwned::to_owned).chain(others);
    visible(&parts.collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use pinpipe_config::inspect::LetterCount;
    use serde_json::json;

    use super::*;

    #[test]
    fn results_are_told_from_log_lines() {
        let count = json!({"kind": "pin", "outcome": "rejected", "reason": "too-large",
            "letters": 3, "redriven": 1, "first": "a", "last": "b", "later": 1});
        let result = json!({"result": count}).to_string();
        let Ok(Read::<LetterCount>::Result(read)) = read(&result) else {
            panic!("{result}")
        };
        assert_eq!((read.reason.as_str(), read.letters), ("too-large", 3));
        let log = |text: &str| Ok(Read::<LetterCount>::Log(text.to_owned()));
        for (line, expected) in [
            (
                r#"{"done": {"problems": 2}}"#,
                Ok(Read::Done(Done { problems: 2 })),
            ),
            (
                r#"{"timestamp":"t","level":"WARN","message":"slow","sink":"live","n":2}"#,
                log("WARN slow n=2 sink=live"),
            ),
            (r#"{"level":"INFO","result":{}}"#, log("INFO result={}")),
            ("error: \u{1b}[1mno", log("error: \u{fffd}[1mno")),
            ("7", log("7")),
            ("", log("")),
        ] {
            assert_eq!(super::read(line), expected, "{line}");
        }
        let other = super::read::<LetterCount>(r#"{"result": {"kind": "cat"}}"#);
        assert!(other.unwrap_err().contains("different releases"));
    }
}
