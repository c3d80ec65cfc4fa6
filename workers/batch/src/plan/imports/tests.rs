use super::*;
use crate::testing;

fn listed(key: &str, modified: i64) -> ListedObject {
    ListedObject {
        key: key.into(),
        modified,
        bytes: 1,
        ..ListedObject::default()
    }
}

fn keys(found: Vec<Found>) -> Vec<String> {
    let objects = in_order(found, -1).into_iter();
    objects.map(|(object, _)| object.key).collect()
}

fn found(kind: Kind, objects: &[(&str, i64)]) -> Vec<Found> {
    let object = |(key, modified): &(&str, i64)| Found {
        kind,
        object: listed(key, *modified),
    };
    objects.iter().map(object).collect()
}

fn import(
    topics: &[(Kind, &str)],
    prefix: &str,
    keys: &[&str],
) -> (Result<Vec<(Kind, String)>, String>, PassedOver) {
    let topics: Vec<_> = topics
        .iter()
        .map(|(kind, topic)| (*kind, (*topic).to_owned()))
        .collect();
    let elsewhere = Own {
        folders: Vec::new(),
        zone: None,
    };
    let kinds = TopicKinds::new(&testing::config().topics, &topics, prefix, &elsewhere).unwrap();
    let all = keys.iter().map(|key| listed(key, 0)).collect();
    let mut passed_over = PassedOver::new();
    let found = connector_objects(&kinds, prefix, all, "there", &mut passed_over);
    let found = found.map(|found| {
        let objects = found.into_iter();
        objects
            .map(|found| (found.kind, found.object.key))
            .collect()
    });
    (found.map_err(|error| error.to_string()), passed_over)
}

#[test]
fn objects_are_ordered_by_time_then_by_keys_whose_digits_are_numbers() {
    let written = [
        ("b/event10.json", 2),
        ("a/event100.json", 2),
        ("a/event9.json", 2),
        ("z/event1.json", 1),
        ("a/event010.json", 2),
        ("a/event10.json", 2),
        ("a/event9b.json", 2),
        ("a/event.json", 2),
    ];
    assert_eq!(
        keys(found(Kind::Pin, &written)),
        [
            "z/event1.json",
            "a/event.json",
            "a/event9.json",
            "a/event9b.json",
            "a/event010.json",
            "a/event10.json",
            "a/event100.json",
            "b/event10.json",
        ]
    );
}

#[test]
fn an_object_is_read_once_for_each_kind() {
    let twice = [("a.json", 1), ("b.json", 1), ("a.json", 2)];
    let mut all = found(Kind::Pin, &twice);
    all.extend(found(Kind::Geo, &twice));
    let kinds: Vec<Kind> = in_order(all, -1)
        .iter()
        .map(|(object, _)| object.kind)
        .collect();
    assert_eq!(kinds.len(), 4);
}

#[test]
fn a_connectors_copied_objects_keep_the_order_of_their_offsets() {
    let mut copied = found(
        Kind::Pin,
        &[
            ("t/partition=0/t+0+0000000000.json", 9),
            ("t/partition=0/t+0+0000000010.json", 5),
            ("t/partition=0/t+0+10000000000.json", 7),
            ("t/partition=1/t+1+0000000000.json", 8),
        ],
    );
    in_log_order(&mut copied);
    let at: Vec<i64> = copied.iter().map(|found| found.object.modified).collect();
    assert_eq!(at, [9, 9, 9, 8]);
    assert_eq!(
        keys(copied),
        [
            "t/partition=1/t+1+0000000000.json",
            "t/partition=0/t+0+0000000000.json",
            "t/partition=0/t+0+0000000010.json",
            "t/partition=0/t+0+10000000000.json",
        ]
    );
}

#[test]
fn topics_have_any_names_and_objects_lie_in_any_folders_below() {
    let keys = [
        "old/0a1b.pin/partition=0/0a1b.pin+0+0000000000.json",
        "old/0a1b.pin/year=2026/month=01/0a1b.pin+0+0000000003.json.gz",
        "old/extra/x.ndjson",
        "old/data.pinterest.geo/partition=0/data.pinterest.geo+0+0000000000.json",
        "old/0a1b.user/partition=0/0a1b.user+0+0000000000.json",
        "old/0a1b.pin/partition=0/0a1b.pin+0+0000000000.avro",
        "old/readme.json",
    ];
    let topics = [(Kind::Pin, "0a1b.pin"), (Kind::Pin, "extra")];
    let (found, passed_over) = import(&topics, "/old/", &keys);
    let expected = [
        (Kind::Pin, keys[0].to_owned()),
        (Kind::Pin, keys[1].to_owned()),
        (Kind::Pin, keys[2].to_owned()),
        (Kind::Geo, keys[3].to_owned()),
    ];
    assert_eq!(found.unwrap(), expected);
    let passed: Vec<(&str, u64, &str)> = passed_over
        .iter()
        .map(|(reason, passed)| (reason.as_str(), passed.objects, passed.first.as_str()))
        .collect();
    assert_eq!(
        passed,
        [
            ("no-topic", 1, keys[6]),
            ("other-topic", 1, keys[4]),
            ("suffix", 1, keys[5]),
        ]
    );
    let (found, _) = import(&[(Kind::User, "0a1b.user")], "/", &["0a1b.user/x.json"]);
    assert_eq!(found.unwrap().len(), 1, "a slash is the whole bucket");
}

#[test]
fn a_mistake_in_prefix_or_topics_names_the_value() {
    let key = "old/0a1b.pin/partition=0/0a1b.pin+0+0000000000.json";
    for (topics, keys, parts) in [
        (
            &[][..],
            &[][..],
            &["no object", "correct import.prefix"][..],
        ),
        (
            &[],
            &[key],
            &[
                "0a1b.pin",
                "data.pinterest.pin",
                "name them in import.topics",
            ],
        ),
        (
            &[(Kind::Pin, "0a1b.pins")],
            &[key],
            &[
                "topic 0a1b.pins",
                "correct import.topics",
                "there: 0a1b.pin",
            ],
        ),
    ] {
        let message = import(topics, "old", keys).0.unwrap_err();
        for part in parts {
            assert!(message.contains(part), "{message}");
        }
    }
}

#[test]
fn what_cant_be_read_is_counted_by_reason() {
    let mut passed_over = PassedOver::new();
    for (key, bytes, is_archived, readable) in [
        ("a.json", 1, false, true),
        ("a.jsonl", 1, false, true),
        ("a.ndjson.zst", 1, false, true),
        ("a.json.gz", 1, false, true),
        ("a.txt", 1, false, false),
        ("a", 1, false, false),
        ("a.gz", 1, false, false),
        ("_SUCCESS", 0, false, false),
        ("a.json", 0, false, false),
        ("a.json", 1, true, false),
    ] {
        let object = ListedObject {
            bytes,
            is_archived,
            ..listed(key, 0)
        };
        assert_eq!(is_readable(&object, &mut passed_over), readable, "{key}");
    }
    let counts: Vec<(&str, u64)> = passed_over
        .iter()
        .map(|(reason, passed)| (reason.as_str(), passed.objects))
        .collect();
    assert_eq!(counts, [("archive-class", 1), ("empty", 1), ("suffix", 4)]);
    let message = nothing("import.prefix", "there", &passed_over);
    assert!(message.contains("empty 1, such as a.json"), "{message}");
}

#[test]
fn a_pipelines_own_objects_are_not_imported() {
    let mut config = testing::config();
    for (prefix, own, refused) in [
        ("topics", "topics", true),
        ("topics/x", "topics", true),
        ("/", "topics", true),
        ("runs", "", true),
        ("state/a", "topics", true),
        ("events", "", false),
        ("data.pinterest.pin/partition=0", "", true),
        ("events", "topics", false),
        ("old-topics", "topics", false),
    ] {
        config.zone.prefix = own.into();
        let is_own = Own::of(&config, None).has(&folder(prefix));
        assert_eq!(is_own, refused, "{prefix} {own}");
    }
}

#[test]
fn a_source_is_the_archives_bucket_under_any_name_of_its_store() {
    let mut config = testing::config();
    let aws = || Some("https://s3.eu-west-1.amazonaws.com".to_owned());
    let url = |url: &str| Some(url.to_owned());
    for (archive, endpoint, bucket, own) in [
        (url("http://s3:9000"), url("http://S3:9000/"), "data", true),
        (url("http://s3:9000"), url("http://s4:9000"), "data", false),
        (url("http://s3:9000"), url("http://s3:9000"), "old", false),
        (url("http://s3:9000"), aws(), "data", false),
        (None, aws(), "data", true),
    ] {
        config.zone.bucket = "data".into();
        config.zone.s3.endpoint = archive;
        let request = SourceRequest {
            bucket: bucket.into(),
            endpoint,
            ..SourceRequest::default()
        };
        let source = request.source(&config);
        let is_own = Own::of(&config, Some(&source)).has("runs/");
        assert_eq!(is_own, own, "{source:?}");
    }
}

#[test]
fn a_source_has_what_the_archive_has_unless_it_is_given() {
    let config = testing::config();
    let source = |request: SourceRequest| request.source(&config);
    let same = source(SourceRequest {
        bucket: "old".into(),
        ..SourceRequest::default()
    });
    assert_eq!((same.bucket.as_str(), &same.s3), ("old", &config.zone.s3));
    let other = source(SourceRequest {
        bucket: "old".into(),
        endpoint: Some("https://s3.example".into()),
        region: Some("eu-west-1".into()),
        credentials: Some("/keys".into()),
        ca: None,
        virtual_host: true,
    });
    let s3 = &other.s3;
    assert_eq!(
        (s3.endpoint.as_deref(), s3.region.as_str(), &s3.ca_file),
        (Some("https://s3.example"), "eu-west-1", &None)
    );
    assert_eq!(s3.credentials_dir, Some("/keys".into()));
    assert!(other.virtual_host && other.has_own_keys && !same.has_own_keys);
}
