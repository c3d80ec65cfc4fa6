//! The description of the interface holds for requests that schemathesis makes up.

use std::{env, process::Command};

use pinpipe_servers::{process::lib, stores::folder};

use crate::worker::Worker;

/// What is checked of each answer.
const CHECKS: [&str; 4] = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
];

/// How many requests of each operation are made up.
fn examples() -> String {
    env::var("PINPIPE_EXAMPLES").unwrap_or_else(|_| "10".to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_is_as_described() {
    let worker = Worker::start("described").await;
    let lib = lib("schemathesis").unwrap();
    let output = Command::new("timeout")
        .args(["1200", "python3"])
        .arg(lib.join("bin/schemathesis"))
        .args([
            "run",
            "--phases=examples,coverage,fuzzing",
            "--seed=1",
            "--no-color",
        ])
        .arg(format!("--checks={}", CHECKS.join(",")))
        .args(["--continue-on-failure", "--suppress-health-check=all"])
        .arg(format!("--max-examples={}", examples()))
        .arg(format!("{}/openapi.json", worker.url))
        .env("PYTHONPATH", lib)
        // It keeps what it finds in the current folder.
        .current_dir(folder())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{error}");
    println!("{text}");
}
