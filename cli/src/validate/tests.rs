use std::{fs, path::PathBuf};

use super::*;

fn repository(path: &str) -> PathBuf {
    PathBuf::from("..").join(path)
}

fn messages(text: &str) -> Vec<String> {
    check(text, &Before::default(), "data")
        .problems
        .iter()
        .map(ToString::to_string)
        .collect()
}

/// A pipeline whose spec begins on line 6.
fn pipeline(spec: &str) -> String {
    let head = "apiVersion: pinpipe.dev/v1alpha1\nkind: PinterestPipeline\n";
    format!("{head}metadata:\n  name: pinterest\nspec:\n{spec}")
}

const BROKER: &str = "  broker: {kafka: {bootstrapServers: \"kafka.example:9092\"}}\n";

/// What `e2e/tests/admission.rs` shows that the API server refuses is refused here, too.
#[test]
fn what_the_api_server_refuses_is_refused_at_its_line() {
    let mut wrong = Vec::new();
    let mut files = 0;
    for entry in fs::read_dir(repository("crds/tests/invalid")).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let header = |key: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(key))
                .unwrap_or_default()
        };
        let (expect, at) = (header("# expect: "), header("# at: "));
        // The first of two documents is the pipeline before the change. Empty lines replace it, so
        // that the second keeps its line numbers.
        let mut before = Before::default();
        let text = match text.split_once("\n---\n") {
            Some((old, new)) => {
                before.add(old, "data").unwrap();
                format!("{}{new}", "\n".repeat(old.lines().count() + 1))
            }
            None => text.clone(),
        };
        let problems = check(&text, &before, "data").problems;
        let places: Vec<String> = problems
            .iter()
            .map(|problem| format!("{} {}", problem.line, problem.field))
            .collect();
        if places != [at]
            || !problems
                .iter()
                .any(|problem| problem.to_string().contains(expect))
        {
            wrong.push(format!(
                "{}: expected {at:?} with {expect:?}, but {problems:#?}",
                path.display()
            ));
        }
        files += 1;
    }
    assert!(files >= 50, "only {files} files");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A file and the beginning of a message.
#[test]
fn each_problem_has_its_line_and_a_way_out() {
    let annotated = |annotation: &str| {
        let annotated = format!("  annotations:\n    pinpipe.dev/{annotation}\nspec:\n{BROKER}");
        pipeline("").replace("spec:\n", &annotated)
    };
    for (text, expected) in [
        (
            pipeline("  broker: {kafka: {bootstrapServers: \"a:1\"}\n"),
            "6: not YAML: ",
        ),
        (
            pipeline(&format!("{BROKER}  suspend: true\n  suspend: false\n")),
            "8: key \"suspend\" already set on line 7",
        ),
        (
            pipeline(BROKER).replace("v1alpha1", "v1"),
            "1: apiVersion: Unsupported value: \"pinpipe.dev/v1\": supported values: \
             \"pinpipe.dev/v1alpha1\"",
        ),
        (
            pipeline(BROKER).replace("kind: PinterestPipeline", "kind: PinterestPipelin"),
            "2: kind: Unsupported value",
        ),
        (
            pipeline(BROKER).replace("  name: pinterest", "  labels: {app: 5}"),
            "4: metadata.labels[app]: must be of type string, not the number 5: put it in quotes",
        ),
        (
            pipeline(BROKER).replace("  name: pinterest", "  nmae: pinterest"),
            "4: metadata.nmae: unknown field \"metadata.nmae\": did you mean name?",
        ),
        (
            pipeline(BROKER).replace("  name: pinterest", "  namespace: data"),
            "3: metadata.name: Required value",
        ),
        (pipeline("  broker:\n"), "6: spec.broker: Required value"),
        (
            pipeline(&format!(
                "{BROKER}  stream:\n    sinks:\n      - name: live\n        postgres:\n"
            )),
            "9: spec.stream.sinks[0]: a stream sink must hold exactly one kind of sink",
        ),
        (
            pipeline(
                "  broker:\n    kafka:\n      bootstrapServers: kafka:9092\n      topics:\n        \
                 overrides:\n          pin: {name: data.pinterest.geo}\n",
            ),
            "10: spec.broker.kafka.topics.overrides: two kinds of record share a topic: give each \
             its own name",
        ),
        (
            annotated("reset-sink: live=earliest"),
            "6: metadata.annotations[pinpipe.dev/reset-sink]: this annotation does nothing any \
             more",
        ),
        (
            annotated("forget-topic: pins"),
            "6: metadata.annotations[pinpipe.dev/forget-topic]: this annotation does nothing any \
             more: remove it, and create a PinterestRun with spec.topic",
        ),
    ] {
        let problems = messages(&text);
        assert!(
            problems.iter().any(|problem| problem.starts_with(expected)),
            "{text}\nexpected {expected:?}: {problems:#?}"
        );
    }
}

#[test]
fn all_problems_of_all_pipelines_are_reported() {
    let one = pipeline(&format!(
        "{BROKER}  ingest: {{replicas: 0, maxRecordBytes: 1}}\n"
    ));
    let other = pipeline(&format!("{BROKER}  ingets: {{}}\n"));
    let good = pipeline(BROKER).replace("name: pinterest", "name: good\n  namespace: there");
    let checked = check(
        &format!("kind: Secret\n---\n{one}---\n{other}---\n{good}"),
        &Before::default(),
        "data",
    );
    let places: Vec<_> = checked
        .problems
        .iter()
        .map(|problem| (problem.line, problem.field.as_str()))
        .collect();
    assert_eq!(
        places,
        [
            (9, "spec.ingest.replicas"),
            (9, "spec.ingest.maxRecordBytes"),
            (17, "spec.ingets")
        ]
    );
    assert_eq!(checked.valid, ["there/good"]);
    assert_eq!(
        messages("apiVersion: apps/v1\nkind: Deployment\n"),
        [""; 0],
        "other kinds are ignored"
    );
}

#[test]
fn two_pipelines_of_a_file_cannot_name_the_same_topic() {
    let named = |name: &str| {
        let kafka = "bootstrapServers: \"k.x:1\", topics: {overrides: {pin: {name: pins}}}";
        pipeline(&format!("  broker: {{kafka: {{{kafka}}}}}\n"))
            .replace("name: pinterest", &format!("name: {name}"))
    };
    let checked = check(
        &format!("{}---\n{}", named("one"), named("two")),
        &Before::default(),
        "data",
    );
    assert_eq!(checked.valid, ["data/one"]);
    let problem = checked.problems[0].to_string();
    assert!(
        problem.starts_with(
            "13: spec.broker.kafka.topics: topic pins belongs to the pipeline data/one"
        ),
        "{problem}"
    );
}

#[test]
fn the_examples_and_what_kubectl_prints_of_a_pipeline_are_valid() {
    for example in [
        "examples/pinterest.yaml",
        "examples/small.yaml",
        "examples/tls.yaml",
    ] {
        let text = fs::read_to_string(repository(example)).unwrap();
        let mut before = Before::default();
        before.add(&text, "data").unwrap();
        let checked = check(&text, &before, "data");
        assert_eq!(
            (checked.problems, checked.valid.len()),
            (Vec::new(), 1),
            "{example}"
        );
    }
    let printed = pipeline(BROKER).replace(
        "  name: pinterest",
        "  name: pinterest\n  creationTimestamp: \"2026-01-01T00:00:00Z\"\n  generation: 1\n  \
         uid: a",
    ) + "status: {observedGeneration: 1, anything: else}\n";
    assert_eq!(messages(&printed), [""; 0]);
}

/// `kubectl get -o yaml` prints several objects as a List.
#[test]
fn items_of_a_list_are_checked_and_compared() {
    let named = |topic: &str| {
        let kafka =
            format!("bootstrapServers: k:1, topics: {{overrides: {{pin: {{name: {topic}}}}}}}");
        pipeline(&format!("  broker: {{kafka: {{{kafka}}}}}\n"))
    };
    let list = |item: &str| {
        let item = format!("  {}", item.trim_end().replace('\n', "\n  "));
        let item = item.replacen("  ", "- ", 1);
        format!("apiVersion: v1\nkind: List\nitems:\n- kind: Secret\n{item}\n")
    };
    let mut before = Before::default();
    before.add(&list(&named("pins")), "data").unwrap();
    assert!(before.has("data/pinterest") && !before.has("other/pinterest"));

    let unchanged = check(&list(&named("pins")), &before, "data");
    assert_eq!(unchanged.valid, ["data/pinterest"], "{unchanged:?}");
    let changed = check(&list(&named("places")), &before, "data");
    let [problem] = changed.problems.as_slice() else {
        panic!("{changed:?}")
    };
    assert_eq!(
        (problem.line, problem.field.as_str()),
        (10, "spec.broker.kafka.topics.overrides.pin.name")
    );
    let elsewhere = check(&list(&named("places")), &before, "other");
    assert_eq!(elsewhere.valid, ["other/pinterest"], "{elsewhere:?}");
}

#[test]
fn two_versions_of_a_pipeline_cannot_be_compared_with() {
    let mut before = Before::default();
    let old = pipeline(BROKER);
    before.add(&old, "data").unwrap();
    before.add(&old, "data").unwrap();
    let other = old.replace("spec:\n", "spec:\n  suspend: true\n");
    let problem = before.add(&other, "data").unwrap_err().to_string();
    assert!(
        problem.starts_with("1: data/pinterest was found twice"),
        "{problem}"
    );
}
