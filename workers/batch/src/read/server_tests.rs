//! What imports read from a bucket of others, on a real server.

use std::{fs, path::PathBuf};

use pinpipe_config::Compression;
use pinpipe_core::Kind;
use pinpipe_runtime::{compressed, s3};
use pinpipe_servers::stores;

use super::*;
use crate::{
    cells::{self, Cell},
    failure,
    manifest::{Positions, RELEASE, RunKind},
    plan::{self, ImportRequest, SourceRequest},
    testing::{self, TestDir},
};

/// A bucket of others in another store than the archive's.
struct Theirs {
    config: Batch,
    archive: Store,
    client: aws_sdk_s3::Client,
    bucket: &'static str,
}

/// The rows of one kind: key, and name or title.
type Rows = Vec<(String, String)>;

impl Theirs {
    async fn new(bucket: &'static str) -> Self {
        let mut config = testing::config();
        config.zone = testing::zone(&format!("{bucket}-archive"), stores::s3(true).0);
        let (port, keys) = stores::s3(false);
        let mut theirs = testing::zone(bucket, *port);
        theirs.s3.credentials_dir = Some(keys.clone());
        let client = s3::client(&theirs.s3).await.unwrap();
        s3::ensure_bucket(&client, &theirs.s3, bucket)
            .await
            .unwrap();
        Self {
            archive: Store::open(&config.zone).await.unwrap(),
            config,
            client,
            bucket,
        }
    }

    async fn put(&self, key: &str, body: impl Into<Vec<u8>>) {
        let put = self.client.put_object().bucket(self.bucket).key(key);
        put.body(body.into().into()).send().await.unwrap();
    }

    fn source(&self) -> SourceRequest {
        let (port, keys) = stores::s3(false);
        SourceRequest {
            bucket: self.bucket.into(),
            endpoint: Some(format!("http://127.0.0.1:{port}")),
            credentials: Some(keys.clone()),
            ..SourceRequest::default()
        }
    }

    fn events(&self, kind: Kind, prefix: &str) -> ImportRequest {
        ImportRequest {
            objects: vec![(kind, prefix.into())],
            source: Some(self.source()),
            ..ImportRequest::default()
        }
    }

    async fn plan(&self, request: &ImportRequest) -> Result<Manifest> {
        let at = chrono::DateTime::UNIX_EPOCH;
        let planned = plan::import(&self.config, &self.archive, request, at).await?;
        Ok(Manifest {
            run: "r".into(),
            run_time: at,
            release: RELEASE.into(),
            kind: RunKind::Import,
            state: None,
            state_id: String::new(),
            buckets: 64,
            from: Positions::new(),
            to: Positions::new(),
            begin: Positions::new(),
            covered: Positions::new(),
            import: planned.import,
            objects: planned
                .objects
                .into_iter()
                .map(|(object, _)| object)
                .collect(),
        })
    }

    /// What is read, and the folder that has the rows.
    async fn read(&self, manifest: &Manifest) -> Result<(Read, TestDir)> {
        let folder = TestDir::new();
        let (config, archive) = (&self.config, &self.archive);
        // As the worker that resumes the run would have it.
        let text = serde_json::to_string(manifest)?;
        let manifest = serde_json::from_str(&text)?;
        let (path, progress) = (folder.path(), Progress::default());
        let read = read(config, archive, &manifest, path, 1 << 20, &progress).await?;
        Ok((read, folder))
    }

    /// The latest rows of an import, its counts, and the reasons of what it passed over.
    async fn import(&self, request: &ImportRequest, kind: Kind) -> (Rows, u64, u64, Vec<String>) {
        let manifest = self.plan(request).await.unwrap();
        let (read, _folder) = self.read(&manifest).await.unwrap();
        let (counts, mut rows) = (&read.stats[&kind].counts, Rows::new());
        for spilled in read.rows[&kind].iter().flatten() {
            for batch in spilled.stream.batches() {
                let batch = rows::latest_per_key(kind, batch.unwrap()).unwrap();
                for row in 0..batch.num_rows() {
                    let cells = cells::row(&batch, row).unwrap();
                    rows.push((
                        text(&cells[0]),
                        text(&cells[if kind == Kind::Pin { 2 } else { 1 }]),
                    ));
                }
            }
        }
        rows.sort();
        let mut passed_over = manifest.import.passed_over.clone();
        pass_over_all(&mut passed_over, read.passed_over.clone());
        let reasons = passed_over
            .iter()
            .map(|(reason, passed)| format!("{reason} {}", passed.objects));
        (rows, counts.read, counts.rejected, reasons.collect())
    }
}

fn text(cell: &Cell<'_>) -> String {
    match cell {
        Cell::Text(text) => (*text).to_owned(),
        Cell::BigInt(number) => number.to_string(),
        other => panic!("{other:?}"),
    }
}

fn user(ind: u32, name: &str) -> String {
    format!(r#"{{"ind": {ind}, "first_name": "{name}"}}"#)
}

fn rows(expected: &[(&str, &str)]) -> Rows {
    let row = |(key, name): &(&str, &str)| ((*key).to_owned(), (*name).to_owned());
    expected.iter().map(row).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_of_any_form_are_read_from_a_bucket_with_its_own_keys() {
    use Compression::{Gzip, Zstd};
    let theirs = Theirs::new("any-form").await;
    let (a, b) = (user(1, "a"), user(2, "b"));
    let indented = user(3, "c").replace(", ", ",\n    ");
    theirs.put("e/1.json", format!("\u{feff}{a}\n{b}")).await;
    theirs
        .put(
            "e/2.json",
            format!("\u{feff}[{indented},\n{}]", user(4, "d")),
        )
        .await;
    let zipped = compressed::compress(Gzip, user(5, "e").as_bytes()).unwrap();
    theirs.put("e/3.json", zipped.clone()).await;
    theirs.put("e/4.jsonl.gz", user(6, "f")).await;
    let zstd = compressed::compress(Zstd, user(7, "g").as_bytes()).unwrap();
    theirs.put("e/5.ndjson.gz", zstd).await;
    theirs.put("e/6.json.gz", &zipped[..zipped.len() - 4]).await;
    theirs.put("e/7.txt", a.clone()).await;
    theirs.put("e/8.json", "").await;
    theirs
        .put("e/9.json", format!("not json\n{}", user(8, "h")))
        .await;
    let large = user(9, &"x".repeat(3 << 20));
    theirs
        .put("e/large.json", format!("[{large},{}]", user(10, "j")))
        .await;

    let request = theirs.events(Kind::User, "e");
    let (found, read, rejected, passed_over) = theirs.import(&request, Kind::User).await;
    let expected = rows(&[
        ("1", "a"),
        ("10", "j"),
        ("2", "b"),
        ("3", "c"),
        ("4", "d"),
        ("5", "e"),
        ("6", "f"),
        ("7", "g"),
        ("8", "h"),
    ]);
    assert_eq!(found, expected);
    assert_eq!((read, rejected), (12, 2));
    assert_eq!(passed_over, ["corrupt 1", "empty 1", "suffix 1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_one_key_the_object_that_was_written_last_wins() {
    let theirs = Theirs::new("last-wins").await;
    for name in ["event9", "event10", "event100"] {
        let key = format!("e/{name}.json");
        theirs.put(&key, user(1, name)).await;
    }
    let request = theirs.events(Kind::User, "e");
    let (found, ..) = theirs.import(&request, Kind::User).await;
    assert_eq!(found, rows(&[("1", "event100")]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connectors_topics_have_any_names() {
    let theirs = Theirs::new("any-topics").await;
    for (topic, name) in [("0a1b.user", "mine"), ("other", "theirs")] {
        let key = format!("topics/{topic}/partition=0/{topic}+0+0000000000.json");
        theirs.put(&key, format!("{}\n", user(1, name))).await;
    }
    let mut request = ImportRequest {
        connector: Some("topics".into()),
        topics: vec![(Kind::User, "0a1b.user".into())],
        objects: Vec::new(),
        source: Some(theirs.source()),
    };
    let (found, read, _, passed_over) = theirs.import(&request, Kind::User).await;
    assert_eq!((found, read), (rows(&[("1", "mine")]), 1));
    assert_eq!(passed_over, ["other-topic 1"]);
    request.topics[0].1 = "0a1b.users".into();
    let error = theirs.plan(&request).await.err().unwrap();
    assert!(error.to_string().contains("import.topics"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_is_written_again_is_not_the_one_that_was_planned() {
    let theirs = Theirs::new("written-again").await;
    theirs.put("e/1.json", user(1, "a")).await;
    let request = theirs.events(Kind::User, "e");
    let manifest = theirs.plan(&request).await.unwrap();
    theirs.put("e/1.json", user(1, "b")).await;
    let error = theirs.read(&manifest).await.err().unwrap();
    let message = format!("{error:#}");
    assert!(failure::is_permanent(&error), "{message}");
    assert!(message.contains("start another import"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_mistake_is_permanent_and_names_the_value() {
    let mut theirs = Theirs::new("mistakes").await;
    theirs.put("e/readme.txt", "x").await;
    let keys = stores::folder().join("wrong-keys");
    fs::create_dir_all(&keys).unwrap();
    fs::write(keys.join("accessKeyId"), "nobody").unwrap();
    fs::write(keys.join("secretAccessKey"), "nothing").unwrap();
    let empty = stores::folder().join("no-keys");
    fs::create_dir_all(&empty).unwrap();
    let endpoint = |port: u16| Some(format!("http://127.0.0.1:{port}"));
    let with = |source: SourceRequest, prefix: &str| ImportRequest {
        source: Some(source),
        ..theirs.events(Kind::User, prefix)
    };
    for (request, value) in [
        (theirs.events(Kind::User, ""), "import.prefix is empty"),
        (
            theirs.events(Kind::User, "nothing"),
            "correct import.prefix",
        ),
        (theirs.events(Kind::User, "e"), "suffix 1"),
        (
            with(
                SourceRequest {
                    bucket: "no-such-bucket".into(),
                    ..theirs.source()
                },
                "e",
            ),
            "correct import.bucket",
        ),
        (
            with(
                SourceRequest {
                    endpoint: endpoint(stores::s3(true).0),
                    credentials: Some(keys.clone()),
                    ..theirs.source()
                },
                "e",
            ),
            "import.s3.credentialsSecretRef",
        ),
        (
            with(
                SourceRequest {
                    credentials: Some(empty),
                    ..theirs.source()
                },
                "e",
            ),
            "no key accessKeyId of the Secret",
        ),
        (
            with(
                SourceRequest {
                    credentials: Some(PathBuf::from("/nothing")),
                    ..theirs.source()
                },
                "e",
            ),
            "this pod hasn't the Secret",
        ),
    ] {
        let error = theirs.plan(&request).await.err().unwrap();
        let message = format!("{error:#}");
        assert!(failure::is_permanent(&error), "{message}");
        assert!(message.contains(value), "{message}");
    }
    theirs.config.zone.s3.credentials_dir = Some(keys);
    let with_archive_keys = SourceRequest {
        endpoint: endpoint(stores::s3(true).0),
        credentials: None,
        ..theirs.source()
    };
    let request = ImportRequest {
        source: Some(with_archive_keys),
        ..theirs.events(Kind::User, "e")
    };
    let message = format!("{:#}", theirs.plan(&request).await.err().unwrap());
    let expected = "doesn't take the archive's keys; set import.s3.credentialsSecretRef";
    assert!(message.contains(expected), "{message}");
}

/// Memory of a compressed object of 256 MiB without a line break.
#[tokio::test(flavor = "multi_thread")]
async fn an_object_of_any_size_is_not_held_in_memory() {
    let theirs = Theirs::new("huge").await;
    let frame = |text: &[u8]| compressed::compress(Compression::Zstd, text).unwrap();
    let mut object = frame(br#"{"ind": 1, "first_name": ""#);
    object.extend(frame(&vec![b'x'; 16 << 20]).repeat(16));
    theirs.put("e/huge.json", object).await;
    let request = theirs.events(Kind::User, "e");
    let before = crate::memory::peak();
    let (found, read, rejected, _) = theirs.import(&request, Kind::User).await;
    assert_eq!((found.len(), read, rejected), (0, 1, 1));
    if let (Some(before), Some(after)) = (before, crate::memory::peak()) {
        assert!(after - before < 128 << 20, "{} bytes more", after - before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_few_kilobytes_that_expand_to_many_rows_are_read() {
    let theirs = Theirs::new("many-rows").await;
    let lines = "{\"ind\":1,\"first_name\":\"a\"}\n".repeat(200_000);
    let object = compressed::compress(Compression::Zstd, lines.as_bytes()).unwrap();
    assert!(object.len() < 64 << 10, "{} bytes", object.len());
    theirs.put("e/many.json", object).await;
    let request = theirs.events(Kind::User, "e");
    let (found, read, ..) = theirs.import(&request, Kind::User).await;
    assert_eq!((found.len(), read), (1, 200_000));
}

/// A request for a connector's objects in the archive's own bucket.
async fn in_own_bucket(bucket: &'static str) -> (Theirs, ImportRequest) {
    let mut theirs = Theirs::new(bucket).await;
    theirs.bucket = theirs.config.zone.bucket.clone().leak();
    let s3 = &theirs.config.zone.s3;
    theirs.client = s3::client(s3).await.unwrap();
    s3::ensure_bucket(&theirs.client, s3, theirs.bucket)
        .await
        .unwrap();
    let own = theirs.config.topics.user.name.clone();
    for (topic, name) in [("0a1b.user", "old"), (own.as_str(), "own")] {
        let key = format!("topics/{topic}/partition=0/{topic}+0+0000000000.json");
        theirs.put(&key, format!("{}\n", user(1, name))).await;
    }
    let request = ImportRequest {
        connector: Some("topics".into()),
        topics: vec![(Kind::User, "0a1b.user".into())],
        ..ImportRequest::default()
    };
    (theirs, request)
}

#[tokio::test(flavor = "multi_thread")]
async fn old_topics_beside_the_pipeline_s_own_are_imported() {
    let (theirs, mut request) = in_own_bucket("beside-own").await;
    let own_bucket = SourceRequest {
        bucket: theirs.bucket.into(),
        ..SourceRequest::default()
    };
    for source in [None, Some(own_bucket)] {
        request.source = source;
        let (found, read, _, passed_over) = theirs.import(&request, Kind::User).await;
        assert_eq!((found, read), (rows(&[("1", "old")]), 1));
        assert!(passed_over[0].starts_with("other-topic"), "{passed_over:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_s_own_objects_are_refused_however_they_are_named() {
    let (theirs, request) = in_own_bucket("own-refused").await;
    let own_topic = theirs.config.topics.user.name.clone();
    let events = |prefix: &str| ImportRequest {
        objects: vec![(Kind::User, prefix.into())],
        ..ImportRequest::default()
    };
    let connector = |prefix: &str, topic: &str| ImportRequest {
        connector: Some(prefix.into()),
        topics: vec![(Kind::User, topic.into())],
        ..ImportRequest::default()
    };
    let own_bucket = SourceRequest {
        bucket: theirs.bucket.into(),
        endpoint: Some(format!("http://127.0.0.1:{}/", stores::s3(true).0)),
        credentials: theirs.config.zone.s3.credentials_dir.clone(),
        ..SourceRequest::default()
    };
    for refused in [
        ImportRequest {
            topics: Vec::new(),
            ..request
        },
        connector("topics", &own_topic),
        connector("/", "topics"),
        connector("/", "runs"),
        events("topics"),
        events("/"),
    ] {
        for source in [None, Some(own_bucket.clone())] {
            let refused = ImportRequest {
                source,
                ..refused.clone()
            };
            let error = theirs.plan(&refused).await.err();
            let error = format!("{:#}", error.unwrap_or_else(|| panic!("{refused:?}")));
            assert!(error.contains("pinpipe itself wrote"), "{error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_of_which_nothing_can_be_decompressed_fails_with_the_reason() {
    let theirs = Theirs::new("all-corrupt").await;
    let text = user(1, "a").repeat(100);
    let object = compressed::compress(Compression::Gzip, text.as_bytes()).unwrap();
    theirs.put("e/1.json.gz", &object[..12]).await;
    theirs.put("e/2.json.gz", &object[..11]).await;
    let request = theirs.events(Kind::User, "e");
    let manifest = theirs.plan(&request).await.unwrap();
    let error = theirs.read(&manifest).await.err().unwrap();
    let message = format!("{error:#}");
    assert!(failure::is_permanent(&error), "{message}");
    for part in ["e/1.json.gz", "truncated", "import.prefix"] {
        assert!(message.contains(part), "{message}");
    }
}
