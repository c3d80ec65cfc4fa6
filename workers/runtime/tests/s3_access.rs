//! Credentials that the environment gives to pods, and object stores with an authority of their
//! own.
#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]

use std::{
    env,
    io::{Read, Write},
    net::TcpListener,
    path::PathBuf,
    process::Command,
    sync::mpsc::{Receiver, channel},
    thread,
};

use openssl::ssl::{SslAcceptor, SslFiletype, SslMethod};
use pinpipe_config::S3;
use pinpipe_runtime::s3;
use pinpipe_servers::{certificates::Authority, stores::folder};

/// Answers each request; the first to the path of the credentials with those, others with an empty
/// 200. Sends each request's head.
fn answer(mut stream: impl Read + Write) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let body = if head.starts_with("GET /v1/credentials ") {
        r#"{"AccessKeyId":"KEY-OF-THE-POD","SecretAccessKey":"s","Token":"SESSION",
            "Expiration":"2999-01-01T00:00:00Z"}"#
    } else {
        ""
    };
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(answer.as_bytes()).ok()?;
    Some(head)
}

/// The port of a server, by TLS if it has a certificate, and the requests it gets.
fn server(acceptor: Option<SslAcceptor>) -> (u16, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, requests) = channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            let head = match &acceptor {
                Some(acceptor) => acceptor.accept(stream).ok().and_then(answer),
                None => answer(stream),
            };
            if let Some(head) = head {
                let _ = sender.send(head);
            }
        }
    });
    (port, requests)
}

async fn check(endpoint: String, ca_file: Option<PathBuf>) -> anyhow::Result<()> {
    let store = S3 {
        endpoint: Some(endpoint),
        region: "eu-west-1".to_owned(),
        credentials_dir: None,
        ca_file,
    };
    let client = s3::client(&store).await?;
    s3::ensure_bucket(&client, &store, "data").await
}

/// This test program's process with the environment of a pod.
fn in_a_pod(test: &str, variables: &[(&str, String)]) -> bool {
    let mut child = Command::new(env::current_exe().unwrap());
    child.args(["--exact", test, "--ignored"]);
    child.env("AWS_EC2_METADATA_DISABLED", "true");
    child.envs(variables.iter().map(|(name, value)| (name, value)));
    child.status().unwrap().success()
}

#[tokio::test]
#[ignore = "the tests below run it in processes of their own"]
async fn child() {
    let endpoint = env::var("TEST_ENDPOINT").unwrap();
    let ca_file = env::var("TEST_CA").ok().map(PathBuf::from);
    let checked = check(endpoint, ca_file).await;
    match env::var("TEST_ERROR") {
        Ok(says) => {
            let error = format!("{:#}", checked.unwrap_err());
            assert!(error.contains(&says), "{error}");
        }
        Err(_) => checked.unwrap(),
    }
}

#[test]
fn without_a_secret_the_pod_s_role_is_used() {
    let (port, requests) = server(None);
    let address = format!("http://127.0.0.1:{port}");
    let full_uri = "AWS_CONTAINER_CREDENTIALS_FULL_URI";
    let endpoint = ("TEST_ENDPOINT", address.clone());
    let pod = (full_uri, format!("{address}/v1/credentials"));
    assert!(in_a_pod("child", &[endpoint.clone(), pod]));
    let heads: Vec<String> = requests.try_iter().collect();
    assert!(heads[0].starts_with("GET /v1/credentials"), "{heads:?}");
    let signed = heads[1].to_lowercase();
    assert!(signed.contains("credential=key-of-the-pod/"), "{signed}");
    assert!(signed.contains("x-amz-security-token: session"), "{signed}");

    let says = "without credentials".to_owned();
    assert!(in_a_pod("child", &[endpoint, ("TEST_ERROR", says)]));
}

#[test]
fn a_store_with_an_authority_of_its_own_is_trusted_if_it_is_named() {
    let authority = Authority::new(folder().join("authority")).unwrap();
    let files = authority
        .issue("127.0.0.1", 10, &folder().join("s3"))
        .unwrap();
    let mut acceptor = SslAcceptor::mozilla_intermediate(SslMethod::tls_server()).unwrap();
    acceptor
        .set_certificate_file(&files.certificate, SslFiletype::PEM)
        .unwrap();
    acceptor
        .set_private_key_file(&files.key, SslFiletype::PEM)
        .unwrap();
    let (port, _requests) = server(Some(acceptor.build()));
    let pod = [
        ("TEST_ENDPOINT", format!("https://127.0.0.1:{port}")),
        ("AWS_ACCESS_KEY_ID", "key".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "secret".to_owned()),
    ];
    let ca = authority.certificate().display().to_string();
    let trusting = [&pod[..], &[("TEST_CA", ca)]].concat();
    assert!(in_a_pod("child", &trusting));
    let says = "invalid peer certificate: UnknownIssuer".to_owned();
    let stranger = [&pod[..], &[("TEST_ERROR", says)]].concat();
    assert!(in_a_pod("child", &stranger));
}
