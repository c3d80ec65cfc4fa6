//! `verify`: whether raw objects and live rows are all there, each once.

use std::fmt::Write as _;

use pinpipe_config::inspect::{Check, Finding, Outcome as CheckOutcome};

use crate::{
    failure::Outcome,
    inspect::{Ended, PodOptions, Question, collect, table},
    output::{Cell, Colour, Table, show},
};

/// Columns of findings.
const FINDING: &[&str] = &[
    "check",
    "outcome",
    "place",
    "topic",
    "partition",
    "from",
    "to",
    "count",
    "message",
];

/// Arguments of `verify`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Pipeline; by default the only one of the namespace
    #[arg(value_name = "PIPELINE")]
    name: Option<String>,

    /// Of live tables only those of this stream sink
    #[arg(long, value_name = "SINK")]
    sink: Option<String>,

    #[command(flatten)]
    options: PodOptions,
}

/// Prints what was found. The answer is whether nothing is wrong.
pub async fn run(arguments: &Arguments) -> Outcome {
    let question = Question {
        pipeline: arguments.name.as_deref(),
        sink: arguments.sink.as_deref(),
        command: vec!["verify".to_owned()],
        ..Question::default()
    };
    let (findings, ended) = collect::<Finding>(&arguments.options, question).await?;
    let format = arguments.options.output.output;
    show(format, &findings, &table(FINDING, &findings), |paint| {
        let mut text = rows(&findings).text(paint);
        for step in next_steps(&findings, &ended) {
            let _ = writeln!(text, "next step: {step}");
        }
        text
    })?;
    Ok(ended.problems == 0)
}

/// The findings for people.
fn rows(findings: &[Finding]) -> Table {
    let header = [
        "check",
        "place",
        "topic",
        "partition",
        "offsets",
        "outcome",
        "message",
    ];
    let mut table = Table::new(header);
    for finding in findings {
        let number =
            |number: Option<i64>| number.map_or_else(|| "…".to_owned(), |it| it.to_string());
        let offsets = match (finding.from, finding.to) {
            (None, None) => "-".to_owned(),
            (from, to) => format!("{}–{}", number(from), number(to)),
        };
        let partition = finding
            .partition
            .map_or_else(|| "-".to_owned(), |it| it.to_string());
        let check = match finding.check {
            Check::RawObjects => "raw objects",
            Check::LiveRows => "live rows",
        };
        let outcome = match finding.outcome {
            CheckOutcome::Ok => Cell::coloured("ok", Colour::Green),
            CheckOutcome::Problem => Cell::coloured("PROBLEM", Colour::Red),
            CheckOutcome::NotCounted => Cell::coloured("not checked", Colour::Yellow),
        };
        table.row([
            check.into(),
            (&finding.place).into(),
            (&finding.topic).into(),
            partition.into(),
            offsets.into(),
            outcome,
            (&finding.message).into(),
        ]);
    }
    table
}

/// What to do about the problems, each once.
fn next_steps(findings: &[Finding], ended: &Ended) -> Vec<String> {
    let Ended {
        namespace,
        pipeline,
        ..
    } = ended;
    let mut steps = Vec::new();
    let problems = findings
        .iter()
        .filter(|it| it.outcome == CheckOutcome::Problem);
    for finding in problems {
        let step = match finding.check {
            Check::RawObjects => "restore these objects, or put one without lines in their place: \
                                  docs/how-to/run-the-batch.md#missing-raw-objects"
                .to_owned(),
            // It can't be read.
            Check::LiveRows if finding.count.is_none() => continue,
            Check::LiveRows => {
                let (sink, _) = finding.place.split_once(':').unwrap_or_default();
                format!(
                    "rows that a reset passed over on purpose are not lost, and doubled ones are \
                     removed by hand; missing ones whose records the topic still has are written \
                     again by kubectl pinpipe reset -n {namespace} {pipeline} {sink} --to earliest"
                )
            }
        };
        if !steps.contains(&step) {
            steps.push(step);
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::output::Paint;

    #[test]
    fn problems_have_their_offsets_and_what_to_do() {
        let findings = json!([
            {"check": "rawObjects", "outcome": "ok", "place": "s3://raw/pin/partition=0",
                "topic": "d.p.pin", "partition": 0, "from": 0, "to": 10, "count": 2,
                "message": "complete"},
            {"check": "liveRows", "outcome": "problem", "place": "live: public.pin",
                "topic": "d.p.pin", "count": 1, "message": "a row is missing"},
            {"check": "liveRows", "outcome": "notCounted", "place": "raw: public.pin",
                "topic": "d.p.pin", "message": "the sink is behind"},
        ]);
        let findings: Vec<Finding> = serde_json::from_value(findings).unwrap();
        assert_eq!(
            rows(&findings).text(Paint::PLAIN),
            "\
CHECK        PLACE                     TOPIC    PARTITION  OFFSETS  OUTCOME      MESSAGE
raw objects  s3://raw/pin/partition=0  d.p.pin  0          0–10     ok           complete
live rows    live: public.pin          d.p.pin  -          -        PROBLEM      a row is missing
live rows    raw: public.pin           d.p.pin  -          -        not checked  the sink is behind
"
        );
        let ended = Ended {
            namespace: "data".to_owned(),
            pipeline: "p".to_owned(),
            problems: 1,
        };
        let steps = next_steps(&findings, &ended);
        let [step] = steps.as_slice() else {
            panic!("{steps:?}")
        };
        assert!(
            step.contains("kubectl pinpipe reset -n data p live --to earliest"),
            "{step}"
        );
    }
}
