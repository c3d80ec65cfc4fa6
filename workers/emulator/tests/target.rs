//! Connections to a server as ingest has one: by TLS, with tokens.
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use axum::{Router, http::HeaderMap, routing::post};
use pinpipe_emulator::target::{Connection, Target};
use pinpipe_runtime::server::{self, Acceptor};
use pinpipe_servers::{
    certificates::{Authority, Files},
    stores::folder,
};
use tokio_util::sync::CancellationToken;

const DEADLINE: Duration = Duration::from_secs(30);

/// A server that answers with the token it was sent. Returns its port and what stops it.
fn start(tls: Option<Acceptor>) -> (u16, CancellationToken) {
    let answer = async |headers: HeaderMap, body: String| {
        let token = headers.get("authorization");
        let token = token.map_or("none", |token| token.to_str().unwrap());
        format!("{token}, {body}")
    };
    let router = Router::new().route("/base/pin", post(answer));
    let listener = server::listen(0).unwrap();
    let port = listener.local_addr().unwrap().port();
    let stop = CancellationToken::new();
    tokio::spawn(server::serve_tls(listener, router, 8, tls, stop.clone()));
    (port, stop)
}

fn acceptor(files: &Files) -> Acceptor {
    let own = files.certificate.parent().unwrap().to_owned();
    Acceptor::read(own, "certificateSecretRef").unwrap()
}

fn tokens(name: &str, files: &[(&str, &str)]) -> PathBuf {
    let own = folder().join(name);
    fs::create_dir_all(own.join("..data")).unwrap();
    for (key, token) in files {
        fs::write(own.join(key), token).unwrap();
    }
    own
}

fn connection(url: &str, certificate: Option<&Path>, tokens: Option<&Path>) -> Connection {
    let owned = |path: Option<&Path>| path.map(Path::to_owned);
    Connection::new(Target::new(url, owned(certificate), owned(tokens)).unwrap())
}

async fn text(connection: &mut Connection) -> String {
    let response = connection.post("pin", "{}".to_owned()).await.unwrap();
    assert_eq!(response.status, 200);
    String::from_utf8(response.body.to_vec()).unwrap()
}

#[tokio::test]
async fn the_certificate_in_the_secret_is_trusted_alone_and_the_first_token_is_sent() {
    let authority = Authority::new(folder().join("target-authority")).unwrap();
    let issue = |name: &str| {
        let at = folder().join(format!("target-{name}"));
        authority.issue("elsewhere.example", 10, &at).unwrap()
    };
    let (own, other) = (issue("own"), issue("other"));
    let (port, _stop) = start(Some(acceptor(&own)));
    let url = format!("https://127.0.0.1:{port}/base/");
    let keys = tokens("target-tokens", &[("b", "second"), ("a", "first\n")]);
    let mut good = connection(&url, Some(&own.certificate), Some(&keys));
    assert_eq!(text(&mut good).await, "Bearer first, {}");
    fs::write(keys.join("a"), "renewed").unwrap();
    assert_eq!(text(&mut good).await, "Bearer renewed, {}");

    for certificate in [Some(other.certificate.as_path()), None] {
        let mut refused = connection(&url, certificate, None);
        let error = refused.post("pin", String::new()).await.unwrap_err();
        let error = format!("{error:#}");
        assert!(error.contains("certificate verify failed"), "{error}");
    }
}

#[tokio::test]
async fn a_connection_that_the_server_has_closed_is_opened_again() {
    let (port, stop) = start(None);
    let url = format!("http://localhost:{port}/base");
    let mut connection = connection(&url, None, None);
    assert_eq!(text(&mut connection).await, "none, {}");
    let begun = Instant::now();
    stop.cancel();
    let router = Router::new().route("/base/pin", post(async || "again"));
    let listener = loop {
        // Until the first server has closed the port.
        if let Ok(listener) = server::listen(port) {
            break listener;
        }
        assert!(begun.elapsed() < DEADLINE);
        tokio::task::yield_now().await;
    };
    let served = server::serve(listener, router, 8, CancellationToken::new());
    tokio::spawn(served);
    let mut answers = Vec::new();
    while answers.last().is_none_or(|answer| answer != "again") {
        // The first request may meet the end of the old connection.
        if let Ok(response) = connection.post("pin", "{}".to_owned()).await {
            answers.push(String::from_utf8(response.body.to_vec()).unwrap());
        }
        assert!(begun.elapsed() < DEADLINE, "{answers:?}");
    }
}

#[test]
fn a_target_must_be_a_url_of_http_or_https() {
    for url in ["127.0.0.1:8080", "ftp://x", "", "http://"] {
        let error = Target::new(url, None, None).unwrap_err().to_string();
        assert!(
            error.contains("is not an http:// or https:// URL"),
            "{error}"
        );
    }
}
