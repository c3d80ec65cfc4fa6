//! The archive on an object store.

use std::{fs, path::Path};

use pinpipe_config::Compression;
use pinpipe_core::Kind;
use pinpipe_stream::{
    archive::Archive,
    log::Position,
    sink::{Answer, Halt, Part, Sink, SinkError, unavailable_reason},
};

use crate::{
    proxy::Proxy,
    stores,
    support::{archive, archived, batch, pin, topic},
};

/// Commits pins with the offsets `from..to`.
async fn commit(sink: &Archive, from: i64, to: i64, title: &str) -> Result<Answer, SinkError> {
    let topic = topic(Kind::Pin);
    let records: Vec<_> = (from..to)
        .map(|offset| (offset, pin(&format!("k{offset}"), title)))
        .collect();
    let batch = batch(sink, &topic, 0, &records);
    let part = Part {
        partition: 0,
        batch: &batch,
        from: Position::offset(from),
        to: Position::offset(to),
    };
    Ok(sink.commit(&topic, &[part]).await?.remove(0))
}

async fn position(sink: &Archive) -> Option<i64> {
    let positions = sink.positions(&topic(Kind::Pin), &[0]).await.unwrap();
    positions.get(&0).map(|stored| stored.next.next_offset())
}

/// Makes a store ignore the condition of `CompleteMultipartUpload`.
fn ignore_condition_of_posts(request: &mut [u8]) {
    let name = b"if-none-match:";
    if request.starts_with(b"POST ")
        && let Some(at) = request.windows(name.len()).position(|part| part == name)
    {
        request[at..at + name.len()].copy_from_slice(b"x-if-nonematch:"[1..].as_ref());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_completes_uploads_over_what_is_there_is_unsuitable() {
    let (port, credentials) = stores::s3(false);
    let proxy = Proxy::start(*port, ignore_condition_of_posts).await;
    let sink = archive(proxy.port, credentials, "multipart", Compression::None);
    match sink.check().await {
        Err(SinkError::Halt(Halt::StoreUnsuitable(why))) => {
            assert!(
                why.contains("If-None-Match in CompleteMultipartUpload"),
                "{why}"
            );
        }
        other => panic!("{other:?}"),
    }
}

/// A bucket with object lock asks for a checksum of all that is written.
#[tokio::test(flavor = "multi_thread")]
async fn every_put_has_a_checksum() {
    let (port, credentials) = stores::s3(true);
    let proxy = Proxy::start(*port, |_| {}).await;
    let sink = archive(proxy.port, credentials, "checksums", Compression::None);
    assert_eq!(
        commit(&sink, 0, 3, "t").await.unwrap(),
        Answer::Stored(Position::offset(3))
    );
    assert_eq!(position(&sink).await, Some(3));
    let sent = proxy.sent();
    let heads = sent.split("PUT /checksums/topics/").skip(1);
    let heads: Vec<&str> = heads
        .filter_map(|put| Some(put.split_once("\r\n\r\n")?.0))
        .collect();
    // The probe and its part, the format, an index and an object.
    assert!(heads.len() >= 5, "{heads:?}");
    for head in heads {
        assert!(head.contains("\r\nx-amz-checksum-crc32: "), "{head}");
        assert!(!head.contains("aws-chunked"), "{head}");
    }
}

/// Keeps the headers of encryption from a store that has no keys.
fn hide_encryption(request: &mut [u8]) {
    let name = b"x-amz-server-side-encryption";
    let found = |request: &[u8]| request.windows(name.len()).position(|part| part == name);
    while let Some(at) = found(request) {
        request[at..at + 5].copy_from_slice(b"x-not");
    }
}

/// The sink in a bucket whose objects are encrypted with a key.
fn encrypted(port: u16, credentials: &Path, bucket: &str) -> Archive {
    let mut config = archived(port, credentials, bucket, Compression::None);
    config.zone.s3.kms_key_id = Some("alias/pinterest".to_owned());
    Archive::new(config, "data.pinterest.archive".into())
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_written_is_encrypted_with_the_key() {
    let (port, credentials) = stores::s3(false);
    let proxy = Proxy::start(*port, hide_encryption).await;
    let sink = encrypted(proxy.port, credentials, "encrypted");
    assert_eq!(position(&sink).await, None);
    // Larger than a single PUT.
    commit(&sink, 0, 100, &"t".repeat(700_000)).await.unwrap();
    let sent = proxy.sent();
    let heads = sent.split(" /encrypted/topics/").collect::<Vec<_>>();
    let requests = heads.windows(2).map(|pair| {
        let method = pair[0].rsplit(['\n', '\0']).next().unwrap();
        (method, pair[1].split("\r\n\r\n").next().unwrap())
    });
    let mut seen = [0; 3];
    for (method, head) in requests {
        let of = "\r\nx-not-server-side-encryption";
        let is_encrypted = head.contains(&format!("{of}: aws:kms\r\n"))
            && head.contains(&format!("{of}-aws-kms-key-id: alias/pinterest\r\n"));
        let (begins, at) = match method {
            _ if method.ends_with("PUT") && !head.contains("partNumber=") => (true, 0),
            _ if method.ends_with("POST") && head.contains("?uploads") => (true, 1),
            _ => (false, 2),
        };
        seen[at] += 1;
        assert_eq!(is_encrypted, begins, "{method} {head}");
        assert!(is_encrypted || !head.contains(of), "{method} {head}");
    }
    // The probe, the format, an index; the probe's upload and the object's; their parts.
    assert!(seen[0] >= 3 && seen[1] >= 2 && seen[2] >= 5, "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_without_the_key_says_so() {
    let (port, credentials) = stores::s3(true);
    let sink = encrypted(*port, credentials, "without-key");
    let message = match sink.check().await.unwrap_err() {
        SinkError::Unavailable(error) => format!("unavailable: {error:#}"),
        SinkError::Halt(halt) => halt.to_string(),
    };
    // The store's own sentence is "We encountered an internal error".
    for part in ["InternalError: ", "check s3.serverSideEncryption.kmsKeyId"] {
        assert!(message.contains(part), "{message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_that_compress_differently_exclude_each_other() {
    let (port, credentials) = stores::s3(true);
    let one = archive(*port, credentials, "formats", Compression::Gzip);
    assert_eq!(position(&one).await, None);
    commit(&one, 0, 3, "t").await.unwrap();
    let other = archive(*port, credentials, "formats", Compression::Zstd);
    match other.positions(&topic(Kind::Pin), &[0]).await {
        Err(SinkError::Halt(Halt::StoreUnsuitable(why))) => {
            assert!(why.contains("format.json says"), "{why}");
        }
        found => panic!("{found:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_secret_ends_refused_access() {
    let (port, credentials) = stores::s3(true);
    let own = stores::folder().join("renewed");
    fs::create_dir_all(&own).unwrap();
    let renew = |from: &std::path::Path, key: &str| {
        fs::copy(from.join("accessKeyId"), own.join("accessKeyId")).unwrap();
        let secret = fs::read_to_string(from.join("secretAccessKey")).unwrap();
        fs::write(own.join("secretAccessKey"), format!("{secret}{key}")).unwrap();
    };
    renew(credentials, "");
    let sink = archive(*port, &own, "renewed", Compression::None);
    commit(&sink, 0, 3, "t").await.unwrap();
    renew(credentials, "-wrong");
    let other = archive(*port, &own, "renewed", Compression::None);
    let denied = |refused: SinkError| match refused {
        SinkError::Unavailable(error) => {
            assert_eq!(unavailable_reason(&error), "SinkAccessDenied", "{error:#}");
            let message = error.to_string();
            assert!(message.contains("SignatureDoesNotMatch: "), "{message}");
            let advice = message.matches("s3.credentialsSecretRef");
            assert_eq!(advice.count(), 1, "{message}");
        }
        SinkError::Halt(halt) => panic!("{halt}"),
    };
    denied(commit(&other, 3, 6, "t").await.unwrap_err());
    denied(other.check().await.unwrap_err());
    renew(credentials, "");
    assert_eq!(
        commit(&other, 3, 6, "t").await.unwrap(),
        Answer::Stored(Position::offset(6))
    );
}

/// Larger than a single PUT: the condition is that of `CompleteMultipartUpload`.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_worker_s_upload_replaces_nothing() {
    let (port, credentials) = stores::s3(true);
    let [late, other] = [0, 1].map(|_| archive(*port, credentials, "late", Compression::None));
    let title = "t".repeat(700_000);
    assert_eq!(position(&late).await, None);
    // The other worker has taken over at the same position and written less.
    assert_eq!(
        commit(&other, 0, 96, &title).await.unwrap(),
        Answer::Stored(Position::offset(96))
    );
    assert_eq!(
        commit(&late, 0, 100, &title).await.unwrap(),
        Answer::Stored(Position::offset(100))
    );
    assert_eq!(
        commit(&other, 96, 98, &title).await.unwrap(),
        Answer::AlreadyStored(Position::offset(100))
    );
    assert_eq!(position(&other).await, Some(100));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_without_objects_keeps_where_it_begins() {
    let (port, credentials) = stores::s3(true);
    let [first, second] = [0, 1].map(|_| archive(*port, credentials, "begin", Compression::None));
    assert_eq!(position(&first).await, None);
    let start = [(0, Position::offset(7))].into();
    first
        .store_initial_positions(&topic(Kind::Pin), &[].into(), &start)
        .await
        .unwrap();
    assert_eq!(position(&second).await, Some(7));
    // A note of an earlier topic of the name tells nothing.
    let mut replaced = (*topic(Kind::Pin)).clone();
    replaced.id = "another".into();
    let replaced = std::sync::Arc::new(replaced);
    let found = second.positions(&replaced, &[0]).await;
    assert_eq!(found.unwrap().len(), 0);
    let start = [(0, Position::offset(4))].into();
    second
        .store_initial_positions(&replaced, &[].into(), &start)
        .await
        .unwrap();
    let found = first.positions(&replaced, &[0]).await.unwrap();
    assert_eq!(found[&0].next, Position::offset(4));
    assert_eq!(position(&second).await, Some(7));
    commit(&first, 7, 9, "t").await.unwrap();
    assert_eq!(position(&second).await, Some(9));
}
