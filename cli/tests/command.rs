//! Runs the command: arguments, output and exit status.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

const PIPELINE: &str = "\
apiVersion: pinpipe.dev/v1alpha1
kind: PinterestPipeline
metadata: {name: pinterest, namespace: data}
spec:
  broker:
    kafka: {bootstrapServers: k:9092, topics: {overrides: {pin: {name: pins}}}}
";

/// A new folder for the files of one test.
fn folder(test: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(test);
    if folder.exists() {
        fs::remove_dir_all(&folder).unwrap();
    }
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// Runs `validate` in a folder. Returns its exit status, and standard output and error together.
fn validate(folder: &Path, arguments: &[&str], input: &str) -> (i32, String) {
    run("validate", folder, arguments, input)
}

/// Runs a command in a folder without a kubeconfig.
fn run(command: &str, folder: &Path, arguments: &[&str], input: &str) -> (i32, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_kubectl-pinpipe"))
        .arg(command)
        .args(arguments)
        .current_dir(folder)
        .env("HOME", folder)
        .env_remove("KUBECONFIG")
        .env_remove("KUBERNETES_SERVICE_HOST")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.code().unwrap(),
        String::from_utf8(text).unwrap(),
    )
}

#[test]
fn the_exit_status_and_the_output_tell_what_was_found() {
    let folder = folder("status");
    fs::write(folder.join("good.yaml"), PIPELINE).unwrap();
    fs::write(
        folder.join("bad.yml"),
        PIPELINE.replace("topics:", "topcis:"),
    )
    .unwrap();
    fs::write(folder.join("other.json"), "{\"kind\": \"Secret\"}").unwrap();
    fs::write(folder.join("notes.txt"), "not: [yaml").unwrap();
    let none = "no pipeline found: one has kind: PinterestPipeline and apiVersion: \
                pinpipe.dev/v1alpha1";
    let good = "data/pinterest is valid";
    let bad = "6: spec.broker.kafka.topcis: unknown field \"spec.broker.kafka.topcis\": did you \
               mean topics?";
    for (arguments, input, status, lines) in [
        (
            &["good.yaml"][..],
            "",
            0,
            vec![format!("good.yaml: {good}")],
        ),
        (
            &["good.yaml", "other.json"],
            "",
            0,
            vec![format!("good.yaml: {good}"), format!("other.json: {none}")],
        ),
        (
            &["other.json"],
            "",
            1,
            vec![
                format!("other.json: {none}"),
                "1 problem, 0 valid".to_owned(),
            ],
        ),
        (&["-"], PIPELINE, 0, vec![format!("<stdin>: {good}")]),
        (
            &["absent.yaml"],
            "",
            2,
            vec!["error: absent.yaml: No such file or directory (os error 2)".to_owned()],
        ),
    ] {
        let expected = lines.join("\n") + "\n";
        assert_eq!(
            validate(&folder, arguments, input),
            (status, expected),
            "{arguments:?}"
        );
    }
    let (status, text) = validate(&folder, &["."], "");
    assert_eq!(status, 1, "{text}");
    let files: Vec<_> = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .collect();
    assert_eq!(files[0], ("./bad.yml", bad), "{text}");
    assert!(!text.contains("notes.txt"), "{text}");
    assert!(text.ends_with("1 problem, 1 valid\n"), "{text}");
    let (status, csv) = validate(&folder, &["good.yaml", "--output", "csv"], "");
    let expected = "file,valid,line,field,message\ngood.yaml,data/pinterest,,,\n";
    assert_eq!((status, csv.as_str()), (0, expected));
}

#[test]
fn a_reader_that_has_seen_enough_changes_no_answer() {
    for (pipeline, status) in [
        (PIPELINE.to_owned(), 0),
        (PIPELINE.replace("topics:", "topcis:"), 1),
    ] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_kubectl-pinpipe"))
            .args(["validate", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(pipeline.as_bytes()).unwrap();
        drop(stdin);
        assert_eq!(child.wait().unwrap().code(), Some(status));
    }
}

#[test]
fn pipelines_are_compared_with_those_of_all_before_files() {
    let folder = folder("before");
    for subfolder in ["old", "new", "empty"] {
        fs::create_dir(folder.join(subfolder)).unwrap();
    }
    let named = |name: &str| PIPELINE.replace("name: pinterest", &format!("name: {name}"));
    let write = |file: &str, text: &str| fs::write(folder.join(file), text).unwrap();
    write("old/a.yaml", &named("a"));
    write("old/b.yaml", &named("b"));
    write("c.yaml", &named("c"));
    write("broken.yaml", "a: [");
    let renamed = |name: &str| named(name).replace("pins", "places");
    let new = format!(
        "{}---\n{}",
        renamed("b"),
        renamed("c").replace("namespace: data", "namespace: other")
    );
    write("new/all.yaml", &new);

    let (status, text) = validate(
        &folder,
        &["new", "--before", "old", "--before", "c.yaml"],
        "",
    );
    assert_eq!(status, 1, "{text}");
    let begin = "new/all.yaml:6: spec.broker.kafka.topics.overrides.pin.name: ";
    assert!(text.starts_with(begin), "{text}");
    let valid = "new/all.yaml: other/c is valid, and new: no --before file has a pipeline of this \
                 namespace and name\n";
    assert!(
        text.ends_with(&format!("{valid}1 problem, 1 valid\n")),
        "{text}"
    );

    let (status, text) = validate(&folder, &["c.yaml", "--before", "-"], &renamed("c"));
    assert_eq!(status, 1, "{text}");
    let (status, text) = validate(&folder, &["c.yaml", "--before", "c.yaml"], "");
    assert_eq!((status, text.as_str()), (0, "c.yaml: data/c is valid\n"));

    for (before, message) in [
        ("broken.yaml", "error: --before: broken.yaml:"),
        (
            "empty",
            "error: empty: this folder has no .yaml, .yml or .json file",
        ),
    ] {
        let (status, text) = validate(&folder, &["c.yaml", "--before", before], "");
        assert_eq!(status, 2, "{text}");
        assert!(text.starts_with(message), "{text}");
    }
}

#[test]
fn topic_names_that_kafka_takes_for_one_are_refused() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/invalid");
    let (status, text) = validate(&folder, &["topic-collision.yaml"], "");
    assert_eq!(status, 1, "{text}");
    let begin = "topic-collision.yaml:10: spec.broker.kafka.topics.overrides: topics shop.pin and \
                 shop_pin differ only by '.' and '_'";
    assert!(text.starts_with(begin), "{text}");
}

#[test]
fn records_are_cleaned_field_by_field_without_a_cluster() {
    let folder = folder("clean");
    let user = r#"{"ind": "7", "first_name": "Ann", "age": 200}"#;
    let (status, text) = run("clean", &folder, &[], user);
    let expected = "\
<stdin>:1: user, repaired
COLUMN       RAW                CLEAN
ind          \"7\"                7      cleaned
user_name    first_name: \"Ann\"  \"Ann\"
age          200                null   repaired: out-of-range: age is outside the field's bounds
date_joined                     null   missing
";
    assert_eq!((status, text.as_str()), (0, expected));

    let two = format!("{user}\n{{\"age\": 1}}\n");
    let (status, text) = run("clean", &folder, &["--output", "json"], &two);
    assert_eq!(status, 1, "{text}");
    let records: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(records[0]["fields"][0]["raw"]["ind"], "\"7\"");
    assert_eq!(records[1]["rejection"]["reason"], "key-missing");
    let (status, text) = run("clean", &folder, &["--output", "csv"], &two);
    assert_eq!((status, text.lines().count()), (1, 6), "{text}");

    for (arguments, input, message) in [
        (&[][..], "", "error: no record was found: "),
        (
            &[],
            "{\"ind\": 1}",
            "error: <stdin>:1: the fields don't tell the record's kind: ",
        ),
        (&["absent"], "", "error: absent: No such file or directory"),
        (
            &["--kind", "cat"],
            "",
            "error: invalid value 'cat' for '--kind <KIND>'",
        ),
    ] {
        let (status, text) = run("clean", &folder, arguments, input);
        assert!(status == 2 && text.starts_with(message), "{text}");
    }
}

#[test]
fn a_cluster_that_can_t_be_reached_is_named_with_what_to_do() {
    let folder = folder("unreachable");
    let (status, text) = run("status", &folder, &[], "");
    assert_eq!(status, 2, "{text}");
    assert!(text.starts_with("error: no cluster is known: "), "{text}");
    let kubeconfig = "\
apiVersion: v1
kind: Config
current-context: c
clusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}]
contexts: [{name: c, context: {cluster: c, user: u}}]
users: [{name: u, user: {}}]
";
    fs::write(folder.join("config"), kubeconfig).unwrap();
    let (status, text) = run("status", &folder, &["--kubeconfig", "config"], "");
    assert_eq!(status, 3, "{text}");
    let begin = "error: the API server at http://127.0.0.1:1/ can't be reached: ";
    assert!(
        text.starts_with(begin) && text.contains("kubectl version"),
        "{text}"
    );
    let invalid = PIPELINE.replace("topics:", "topcis:");
    let plan = ["--kubeconfig", "config", "--filename", "-"];
    let (status, text) = run("plan", &folder, &plan, &invalid);
    assert_eq!(status, 2, "{text}");
    assert!(text.contains("did you mean topics?"), "{text}");
    let other = ["--kubeconfig", "config", "--context", "other"];
    let (status, text) = run("status", &folder, &other, "");
    assert_eq!(status, 2, "{text}");
    assert!(
        text.starts_with("error: the kubeconfig can't be read: "),
        "{text}"
    );
}

#[test]
fn every_command_has_examples_and_shells_complete_all_of_them() {
    let folder = folder("help");
    let (_, help) = run("--help", &folder, &[], "");
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let commands: Vec<&str> = commands
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next())
        .filter(|name| *name != "help")
        .collect();
    assert!(
        commands.contains(&"clean") && commands.contains(&"status"),
        "{help}"
    );
    for shell in ["bash", "zsh", "fish"] {
        let (status, script) = run("completion", &folder, &[shell], "");
        assert_eq!(status, 0);
        for command in &commands {
            assert!(script.contains(command), "{shell}: {command}");
        }
    }
    for command in commands {
        let (status, help) = run(command, &folder, &["--help"], "");
        assert_eq!(status, 0);
        let example = format!("  kubectl pinpipe {command}");
        assert!(
            help.contains("Examples:") && help.contains(&example),
            "{help}"
        );
    }
}
