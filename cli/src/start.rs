//! `run`, `reset` and `deadletters redrive`: create runs, and follow them to their end.

use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use kube::{Resource as _, ResourceExt as _, api::DynamicObject};
use pinpipe_crds::PinterestRun;
use pinpipe_plan::run::{BY_PLUGIN, STARTED_BY_LABEL};
use serde_json::{Map, Value, json};
use tokio::time::sleep;

use crate::{
    cluster::{self, Cluster},
    failure::{Failure, Outcome},
    output::{print, visible},
    runs::{Run, api},
    time::now,
};

/// Pause between two looks at a run that is followed.
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);
/// Looks in a row that may fail.
const MOST_FAILURES: u32 = 60;

/// One of these words in any case, as a run has it.
pub fn word<const N: usize>(words: [&'static str; N]) -> impl TypedValueParser<Value = String> {
    PossibleValuesParser::new(words).map(move |given| {
        let mut known = words.iter();
        let known = known.find(|word| word.eq_ignore_ascii_case(&given));
        known.map_or(given, |word| (*word).to_owned())
    })
}

/// Options of every command that creates a run.
#[derive(Debug, clap::Args)]
pub struct Started {
    /// Name of the run; by default the pipeline's, what it does, and some letters
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// Follow it to its end: exit status 0 if it succeeds, 1 if it fails or is refused
    #[arg(short, long)]
    wait: bool,

    #[command(flatten)]
    cluster: cluster::Access,
}

/// Arguments of `run`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Pipeline
    #[arg(value_name = "PIPELINE")]
    pipeline: String,

    /// Read all raw objects again, and build everything from nothing
    #[arg(long)]
    full: bool,

    /// Read records again that came to the broker at or after this time, such as
    /// 2026-01-31T00:00:00Z
    #[arg(long, value_name = "TIME", conflicts_with = "full")]
    from: Option<String>,

    /// Read records again that came to the broker before this time
    #[arg(long, value_name = "TIME", conflicts_with = "full")]
    to: Option<String>,

    /// Write them to the live tables of this stream sink, instead of what batch runs write
    #[arg(long, value_name = "SINK", conflicts_with = "full")]
    sink: Option<String>,

    #[command(flatten)]
    started: Started,
}

/// Arguments of `deadletters redrive`.
#[derive(Debug, clap::Args)]
pub struct Redrive {
    /// Pipeline
    #[arg(value_name = "PIPELINE")]
    pipeline: String,

    /// Only records of this kind; may be repeated
    #[arg(long = "kind", value_name = "KIND", value_parser = word(["Pin", "Geo", "User"]))]
    #[arg(ignore_case = true)]
    kinds: Vec<String>,

    /// Only dead letters with this reason, such as too-large; may be repeated
    #[arg(long = "reason", value_name = "REASON")]
    reasons: Vec<String>,

    /// Only dead letters with a fault in this raw field; may be repeated
    #[arg(long = "field", value_name = "FIELD")]
    fields: Vec<String>,

    /// Only records that this sink refused: live, batch/serving; may be repeated
    #[arg(long = "sink", value_name = "SINK")]
    sinks: Vec<String>,

    /// Only records without a readable key, or only those that a sink refused
    #[arg(long, value_name = "OUTCOME", value_parser = word(["Rejected", "Refused"]))]
    #[arg(ignore_case = true)]
    outcome: Option<String>,

    /// Only records that came to the broker at or after this time
    #[arg(long, value_name = "TIME")]
    from: Option<String>,

    /// Only records that came to the broker before this time
    #[arg(long, value_name = "TIME")]
    to: Option<String>,

    /// At most this many
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(i64).range(1..))]
    max: Option<i64>,

    /// Write back also what would be rejected again
    #[arg(long)]
    force: bool,

    /// Write nothing: the run's message says what would be written
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    started: Started,
}

/// Starts a batch run or a backfill.
pub async fn run(arguments: &Arguments) -> Outcome {
    let Arguments { full, from, to, .. } = arguments;
    let sink = arguments.sink.as_ref();
    let (field, verb, work) = if from.is_some() || to.is_some() || sink.is_some() {
        let target = sink.map(|sink| json!({"sink": sink}));
        let fields = [
            ("from", json!(from)),
            ("to", json!(to)),
            ("target", json!(target)),
        ];
        ("backfill", "backfill", set(fields))
    } else if *full {
        ("batch", "full", json!({"full": true}))
    } else {
        ("batch", "batch", json!({}))
    };
    start(&arguments.started, &arguments.pipeline, field, verb, &work).await
}

/// Starts a re-drive.
pub async fn redrive(redrive: &Redrive) -> Outcome {
    let work = set([
        ("kinds", json!(redrive.kinds)),
        ("reasons", json!(redrive.reasons)),
        ("fields", json!(redrive.fields)),
        ("sinks", json!(redrive.sinks)),
        ("outcome", json!(redrive.outcome)),
        ("from", json!(redrive.from)),
        ("to", json!(redrive.to)),
        ("max", json!(redrive.max)),
        ("force", json!(redrive.force)),
        ("dryRun", json!(redrive.dry_run)),
    ]);
    start(
        &redrive.started,
        &redrive.pipeline,
        "redrive",
        "redrive",
        &work,
    )
    .await
}

/// An object of those fields that an argument sets.
pub fn set<const N: usize>(fields: [(&str, Value); N]) -> Value {
    let isnt_set = |value: &Value| {
        value.is_null() || *value == json!(false) || value.as_array().is_some_and(Vec::is_empty)
    };
    let fields = fields.into_iter().filter(|(_, value)| !isnt_set(value));
    let fields = fields.map(|(name, value)| (name.to_owned(), value));
    Value::Object(fields.collect::<Map<_, _>>())
}

/// Creates a run, and follows it if that is asked for.
pub async fn start(
    started: &Started,
    pipeline: &str,
    field: &str,
    verb: &str,
    work: &Value,
) -> Outcome {
    let cluster = started.cluster.cluster().await?;
    // A run may be older than its pipeline: here the name is more likely misspelt.
    cluster.pipeline(pipeline).await?;
    let run = resource(started.name.as_deref(), pipeline, field, verb, work);
    let created = create(&cluster, &run).await;
    let right = "create pinterestruns.pinpipe.dev";
    let created = created.map_err(|error| cluster.failure(right, &error))?;
    let name = created.name_any();
    print(&format!("run {name} was created\n"))?;
    if !started.wait {
        let namespace = &cluster.namespace;
        print(&format!(
            "see kubectl pinpipe runs -n {namespace} {pipeline}\n"
        ))?;
        return Ok(true);
    }
    follow(&cluster, &name).await
}

/// Creates a run. A field that the cluster doesn't know is an error: without it, the run would do
/// more than was asked for.
async fn create(cluster: &Cluster, run: &Value) -> kube::Result<DynamicObject> {
    let body = serde_json::to_vec(run).map_err(kube::Error::SerdeError)?;
    let url = format!("{}?fieldValidation=Strict", api(cluster).resource_url());
    let request = http::Request::post(url)
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(body)
        .map_err(kube::Error::HttpError)?;
    cluster.client.request(request).await
}

fn resource(name: Option<&str>, pipeline: &str, field: &str, verb: &str, work: &Value) -> Value {
    let mut metadata = json!({"labels": {STARTED_BY_LABEL: BY_PLUGIN}});
    match name {
        Some(name) => metadata["name"] = json!(name),
        None => metadata["generateName"] = json!(format!("{pipeline}-{verb}-")),
    }
    json!({
        "apiVersion": PinterestRun::api_version(&()),
        "kind": PinterestRun::kind(&()),
        "metadata": metadata,
        "spec": {"pipelineRef": {"name": pipeline}, field: work},
    })
}

/// Prints how far a run is whenever that changes. The answer is whether it succeeds.
async fn follow(cluster: &Cluster, name: &str) -> Outcome {
    let (mut before, mut failures) = (String::new(), 0);
    loop {
        let found = api(cluster).get_opt(name).await;
        // The run goes on where the API server doesn't answer for a moment.
        if let Err(error) = &found
            && failures < MOST_FAILURES
            && !matches!(error, kube::Error::Api(status) if matches!(status.code, 401 | 403))
        {
            failures += 1;
            eprintln!("{error}; trying again");
            sleep(BETWEEN_LOOKS).await;
            continue;
        }
        failures = 0;
        let found = found.map_err(|error| cluster.failure("get pinterestruns.pinpipe.dev", &error));
        let Some(found) = found? else {
            return Err(Failure::Cluster(format!(
                "run {name} was deleted before its end"
            )));
        };
        let run = Run::of(&found, now());
        let line = line(&run);
        if line != before {
            print(&line)?;
            before = line;
        }
        if run.has_ended() {
            return Ok(run.has_succeeded());
        }
        sleep(BETWEEN_LOOKS).await;
    }
}

/// How far a run is, in a line.
fn line(run: &Run) -> String {
    let mut line = run.phase.clone();
    if !run.message.is_empty() {
        line = format!("{line}: {}", visible(&run.message));
    }
    let counts: Vec<String> = run
        .counts()
        .map(|(count, word)| format!("{count} {word}"))
        .collect();
    if !counts.is_empty() {
        line = format!("{line} ({})", counts.join(", "));
    }
    line + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_named_and_labelled() {
        let full = json!({"full": true});
        let run = resource(None, "pinterest", "batch", "full", &full);
        assert_eq!(run["metadata"]["generateName"], "pinterest-full-");
        assert_eq!(
            run["metadata"]["labels"],
            json!({"pinpipe.dev/started-by": "plugin"})
        );
        let own = resource(Some("mine"), "pinterest", "batch", "full", &full);
        assert_eq!(own["metadata"]["name"], "mine");
        assert_eq!(own["metadata"].get("generateName"), None);
        let expected = json!({"pipelineRef": {"name": "pinterest"}, "batch": {"full": true}});
        assert_eq!(own["spec"], expected);
    }

    #[test]
    fn a_redrive_has_what_is_set_alone() {
        let reasons = ["too-large"];
        let set = set([
            ("reasons", json!(reasons)),
            ("kinds", json!([])),
            ("force", json!(false)),
            ("max", json!(None::<i64>)),
            ("dryRun", json!(true)),
        ]);
        assert_eq!(set, json!({"reasons": ["too-large"], "dryRun": true}));
    }

    #[test]
    fn lines_have_what_is_known() {
        let run = json!({
            "apiVersion": "pinpipe.dev/v1alpha1", "kind": "PinterestRun",
            "metadata": {"name": "r"},
            "spec": {"pipelineRef": {"name": "p"}, "batch": {}},
            "status": {"phase": "Succeeded", "message": "done", "total": {"read": 3, "clean": 2}},
        });
        let run = serde_json::from_value(run).unwrap();
        assert_eq!(
            line(&Run::of(&run, now())),
            "Succeeded: done (3 read, 2 clean)\n"
        );
    }
}
