use std::fs;

use super::*;

fn yaml(version: u32) -> String {
    format!(
        "configVersion: {version}\npipeline: {{namespace: n, name: p, uid: u}}\ntarget: http://x\nrecordsPerSecond: 1\nseed: 7\n"
    )
}

#[test]
fn takes_its_own_version_and_the_one_before() {
    assert!((CONFIG_VERSION..=CONFIG_VERSION + 1).contains(&NEWEST_READ));
    for version in CONFIG_VERSION - 1..=NEWEST_READ {
        assert_eq!(
            parse::<Emulator>(&yaml(version)).unwrap().config_version(),
            version
        );
    }
}

#[test]
fn refuses_a_version_it_does_not_know_even_where_the_fields_differ() {
    let newer = format!("configVersion: {}\nsomethingNew: true\n", NEWEST_READ + 1);
    let message = parse::<Emulator>(&newer).unwrap_err().to_string();
    assert!(
        message.contains("configVersion 2") && message.contains("spec.image.tag"),
        "{message}"
    );
}

#[test]
fn names_an_unknown_field() {
    let message = parse::<Emulator>(&(yaml(CONFIG_VERSION) + "sede: 7\n"))
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("sede") && message.contains("spec.image.tag"),
        "{message}"
    );
}

/// A folder of `samples/` for each release; a file for each of its configurations of a pipeline
/// that says no more than it must.
#[test]
fn what_every_release_wrote_is_read_and_means_the_same() {
    fn same<T: WorkerConfig>(path: &Path, yaml: &str) {
        let read: T = parse(yaml).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let before: serde_yaml::Value = serde_yaml::from_str(yaml).unwrap();
        let now = serde_yaml::to_value(&read).unwrap();
        assert_eq!(
            before,
            now,
            "{}: a worker of that release reads no more than that",
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
                other => panic!("what is {other}?"),
            }
            read += 1;
        }
    }
    assert!(read >= 5, "{read}");
}
