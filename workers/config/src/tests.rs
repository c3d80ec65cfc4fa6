use std::fs;

use super::*;

fn yaml(version: u32) -> String {
    format!(
        "configVersion: {version}\npipeline: {{namespace: n, name: p, uid: u}}\n\
         target: http://x\nrecordsPerSecond: 1\nseed: 7\n"
    )
}

#[test]
fn the_current_version_and_the_one_before_are_read() {
    assert!((CONFIG_VERSION..=CONFIG_VERSION + 1).contains(&NEWEST_READ));
    for version in CONFIG_VERSION - 1..=NEWEST_READ {
        assert_eq!(
            parse::<Emulator>(&yaml(version)).unwrap().config_version(),
            version
        );
    }
}

#[test]
fn an_unknown_version_is_refused_even_if_the_fields_differ() {
    let newer = format!("configVersion: {}\nsomethingNew: true\n", NEWEST_READ + 1);
    let message = parse::<Emulator>(&newer).unwrap_err().to_string();
    assert!(
        message.contains("configVersion 2") && message.contains("spec.image.tag"),
        "{message}"
    );
}

#[test]
fn an_unknown_field_is_named() {
    let message = parse::<Emulator>(&(yaml(CONFIG_VERSION) + "sede: 7\n"))
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("sede") && message.contains("spec.image.tag"),
        "{message}"
    );
}

/// `samples/` has a directory per release with the configurations of a minimal pipeline, one file
/// per worker.
#[test]
fn configurations_of_every_release_are_read_and_written_unchanged() {
    fn same<T: WorkerConfig>(path: &Path, yaml: &str) {
        let read: T = parse(yaml).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let before: serde_yaml::Value = serde_yaml::from_str(yaml).unwrap();
        let now = serde_yaml::to_value(&read).unwrap();
        assert_eq!(
            before,
            now,
            "{}: workers of that release refuse new fields",
            path.display()
        );
    }
    let mut read = 0;
    for release in fs::read_dir("samples").unwrap() {
        for file in fs::read_dir(release.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            let yaml = fs::read_to_string(&path).unwrap();
            match path.file_stem().unwrap().to_str().unwrap() {
                "ingest" => same::<Ingest>(&path, &yaml),
                "batch" => same::<Batch>(&path, &yaml),
                "emulator" => same::<Emulator>(&path, &yaml),
                "archive" => same::<Stream>(&path, &yaml),
                other if other.starts_with("stream-") => same::<Stream>(&path, &yaml),
                other => panic!("no such worker: {other}"),
            }
            read += 1;
        }
    }
    assert!(read >= 5, "{read}");
}
