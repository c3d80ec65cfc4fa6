//! The two documents of a run that has ended. Pure.
//!
//! Kubernetes takes objects of up to a mebibyte and more of its own, so both are bounded.

use serde_json::{Map, Value, json};

/// Most bytes of the answers.
const ANSWERS_BYTES: usize = 512 << 10;
/// Most bytes of the report.
const REPORT_BYTES: usize = 256 << 10;
/// Most bytes of a part of a report that is too long as a whole.
const PART_BYTES: usize = 8 << 10;

/// A report without its answers, and the answers, both as JSON.
pub fn split(report: Value) -> (String, Option<String>) {
    let Value::Object(mut report) = report else {
        return (report.to_string(), None);
    };
    let answers = match report.remove("answers") {
        Some(Value::Object(answers)) => Some(answers_of(&answers)),
        _ => None,
    };
    (report_of(report), answers)
}

fn report_of(mut report: Map<String, Value>) -> String {
    let whole = json!(report).to_string();
    if whole.len() <= REPORT_BYTES {
        return whole;
    }
    report.retain(|_, part| part.to_string().len() <= PART_BYTES);
    report.insert("truncated".to_owned(), true.into());
    json!(report).to_string()
}

fn answers_of(answers: &Map<String, Value>) -> String {
    let whole = json!(answers).to_string();
    if whole.len() <= ANSWERS_BYTES {
        return whole;
    }
    let rows = |answer: &Value| answer["rows"].as_array().map_or(0, Vec::len);
    let mut most = answers.values().map(rows).max().unwrap_or(0);
    loop {
        most /= 2;
        let first = answers.iter().map(|(name, answer)| {
            let mut answer = answer.clone();
            if let Some(rows) = answer["rows"].as_array_mut()
                && rows.len() > most
            {
                rows.truncate(most);
                answer["truncated"] = true.into();
            }
            (name.clone(), answer)
        });
        let text = json!(first.collect::<Map<_, _>>()).to_string();
        if text.len() <= ANSWERS_BYTES || most == 0 {
            return text;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_apart_from_the_report() {
        let answer = json!({"columns": ["n"], "rows": [[1], [2]]});
        let (report, answers) = split(json!({"run": "a", "answers": {"q": answer}, "read": 1}));
        assert_eq!(report, r#"{"read":1,"run":"a"}"#);
        assert_eq!(
            answers.as_deref(),
            Some(r#"{"q":{"columns":["n"],"rows":[[1],[2]]}}"#)
        );
        let (report, answers) = split(json!({"run": "a", "message": "no"}));
        assert_eq!((&*report, answers), (r#"{"message":"no","run":"a"}"#, None));
    }

    #[test]
    fn of_long_answers_the_first_rows_are_kept_and_short_ones_are_whole() {
        let long: Vec<Value> = (0..10_000).map(|n| json!([n, "x".repeat(100)])).collect();
        let report = json!({
            "answers": {
                "long": {"columns": ["n", "text"], "rows": long},
                "short": {"columns": ["n"], "rows": [[1], [2]]},
            }
        });
        let answers = split(report).1.unwrap();
        assert!(answers.len() <= ANSWERS_BYTES);
        let read: Value = serde_json::from_str(&answers).unwrap();
        assert_eq!(read["long"]["truncated"], true);
        assert_eq!(read["long"]["rows"].as_array().unwrap().len(), 2500);
        assert_eq!(read["long"]["rows"][2499][0], 2499);
        assert_eq!(
            read["short"],
            json!({"columns": ["n"], "rows": [[1], [2]]}),
            "it has no more rows than the others keep"
        );
    }

    #[test]
    fn of_a_long_report_the_long_parts_are_left_out() {
        let gaps = vec!["x".repeat(100); 5000];
        let (report, _) = split(json!({"run": "a", "gaps": gaps}));
        assert_eq!(report, r#"{"run":"a","truncated":true}"#);
    }
}
