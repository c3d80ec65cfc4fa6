//! What runs write to an object store.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use pinpipe_servers::stores;

use super::*;
use crate::testing;

/// A proxy before a port of 127.0.0.1, and all that clients sent.
fn recording(store: u16) -> (u16, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let sent = Arc::new(Mutex::new(Vec::new()));
    let all = sent.clone();
    thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            let mut server = TcpStream::connect(("127.0.0.1", store)).unwrap();
            let mut replies = server.try_clone().unwrap();
            let mut to_client = client.try_clone().unwrap();
            thread::spawn(move || io::copy(&mut replies, &mut to_client));
            let sent = all.clone();
            thread::spawn(move || {
                let mut buffer = vec![0; 1 << 16];
                while let Ok(count @ 1..) = client.read(&mut buffer) {
                    sent.lock().unwrap().extend_from_slice(&buffer[..count]);
                    if server.write_all(&buffer[..count]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    (port, sent)
}

/// A bucket with object lock asks for a checksum of all that is written.
#[tokio::test(flavor = "multi_thread")]
async fn every_put_has_a_checksum() {
    let (port, sent) = recording(stores::s3(true).0);
    let zone = testing::zone("checksums", port);
    let store = Store::open(&zone).await.unwrap();
    store.put_json("runs/a", &"a").await.unwrap();
    assert!(store.create_json("runs/b", &"b").await.unwrap());
    let file = stores::folder().join("checksums");
    fs::write(&file, "c".repeat(200_000)).unwrap();
    store.put_file("runs/c", &file).await.unwrap();
    let copy = stores::folder().join("copy");
    store.get_file("runs/c", &copy).await.unwrap();
    assert_eq!(fs::read(file).unwrap(), fs::read(copy).unwrap());

    let sent = sent.lock().unwrap();
    let sent = String::from_utf8_lossy(&sent);
    let puts = sent.split("PUT /checksums/").skip(1);
    let heads = puts.filter_map(|put| Some(put.split_once("\r\n\r\n")?.0));
    // Not the bucket's own.
    let heads = heads.filter(|head| head.starts_with("runs/") || head.starts_with("topics/"));
    let heads: Vec<&str> = heads.collect();
    // The probe, two documents and a file.
    assert_eq!(heads.len(), 4, "{heads:?}");
    for head in heads {
        assert!(head.contains("\r\nx-amz-checksum-crc32: "), "{head}");
        assert!(!head.contains("aws-chunked"), "{head}");
    }
}
