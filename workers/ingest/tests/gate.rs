//! Tokens, TLS, rate limits and health of the ingest program, as a process that `curl` posts to.
//! No broker listens: a request that has passed the gate is refused for its record, with 422.
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]

mod program;

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpStream},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

use pinpipe_servers::{
    certificates::{Authority, Files},
    get,
    stores::{folder, port},
};

use program::Program;

const DEADLINE: Duration = Duration::from_secs(30);
/// More than the time that a client has for a handshake.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(13);
/// What every token of the tests has in it.
const MARKER: &str = "planted-marker";

/// The program, which is killed when it is dropped.
struct Ingest {
    process: Child,
    own: PathBuf,
    http: u16,
    admin: u16,
    authority: Option<Authority>,
}

/// The answer to a request.
#[derive(Debug)]
struct Answer {
    status: u16,
    /// Headers and body.
    text: String,
}

impl Ingest {
    /// Starts the program with further settings, which may name folders in `own`.
    fn start(own: PathBuf, authority: Option<Authority>, settings: &str) -> Self {
        let broker = port();
        let topics: String = ["pin", "geo", "user"]
            .map(|kind| format!("  {kind}: {{name: t.{kind}, deadLetter: t.{kind}.dlq}}\n"))
            .concat();
        let config = format!(
            "configVersion: 1\npipeline: {{namespace: data, name: gated, uid: u}}\n\
             kafka: {{bootstrapServers: '127.0.0.1:{broker}'}}\ntopics:\n{topics}\
             maxRecordBytes: 65536\nmaxRequestBytes: 1048576\n{settings}"
        );
        let Program {
            child: process,
            http,
            admin,
        } = program::start(&own, &config, &[("RUST_LOG", "trace")]);
        let ingest = Self {
            process,
            own,
            http,
            admin,
            authority,
        };
        ingest.until("ready", || get(admin, "/readyz").is_some());
        ingest
    }

    fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.own.join("log")).unwrap()).into_owned()
    }

    fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        let begun = Instant::now();
        while !is_so() {
            assert!(begun.elapsed() < DEADLINE, "{what}: {}", self.log());
            thread::park_timeout(Duration::from_millis(20));
        }
    }

    /// The answer to a request of `curl` with these arguments.
    fn curl(&self, path: &str, arguments: &[&str]) -> Answer {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--include", "--max-time", "10"]);
        let scheme = match &self.authority {
            None => "http",
            Some(authority) => {
                curl.arg("--cacert").arg(authority.certificate());
                "https"
            }
        };
        curl.arg(format!("{scheme}://localhost:{}{path}", self.http));
        let output = curl.args(arguments).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let status = text.split_whitespace().nth(1);
        let status = status.and_then(|status| status.parse().ok());
        let error = String::from_utf8_lossy(&output.stderr);
        let status = status.ok_or_else(|| format!("{error} {}", self.log()));
        Answer {
            status: status.unwrap(),
            text,
        }
    }

    /// The answer to a post of a record without a key, as the client with this token.
    fn post(&self, token: Option<&str>) -> Answer {
        let header = token.map(|token| format!("Authorization: Bearer {token}"));
        let mut arguments = vec!["--json", "{\"country\": \"Albania\"}"];
        arguments.extend(header.iter().flat_map(|header| ["--header", header]));
        self.curl("/geo", &arguments)
    }

    fn admin(&self, path: &str) -> String {
        get(self.admin, path).unwrap()
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        _ = self.process.kill();
        _ = self.process.wait();
    }
}

/// A new folder of a test.
fn new_folder(name: &str) -> PathBuf {
    let own = folder().join(name);
    fs::create_dir_all(&own).unwrap();
    own
}

/// Mounts a Secret of these keys, all at once as the kubelet does.
fn mount(at: &Path, version: &str, keys: &[(&str, Vec<u8>)]) {
    let data = at.with_extension(version);
    fs::create_dir(&data).unwrap();
    for (key, content) in keys {
        fs::write(data.join(key), content).unwrap();
    }
    let link = at.with_extension("new");
    symlink(data, &link).unwrap();
    fs::rename(link, at).unwrap();
}

fn token(name: &str) -> String {
    format!("{MARKER}-{name}")
}

fn mount_tokens(at: &Path, version: &str, tokens: &[(&str, &str)]) {
    let keys: Vec<_> = tokens
        .iter()
        .map(|(name, token)| (*name, format!("{token}\n").into_bytes()))
        .collect();
    mount(at, version, &keys);
}

fn mount_certificate(at: &Path, version: &str, files: &Files) {
    let read = |path: &Path| fs::read(path).unwrap();
    let keys = [
        ("tls.crt", read(&files.certificate)),
        ("tls.key", read(&files.key)),
    ];
    mount(at, version, &keys);
}

#[test]
fn a_client_posts_by_tls_with_its_token_and_both_are_renewed_live() {
    let own = new_folder("gate-tokens");
    let authority = Authority::new(own.join("authority")).unwrap();
    let issue = |name: &str| authority.issue("localhost", 10, &own.join(name)).unwrap();
    let (tokens, certificate) = (own.join("tokens"), own.join("certificate"));
    let (alice, bob) = (token("alice"), token("bob"));
    mount_tokens(&tokens, "1", &[("alice", &alice), ("bob", &bob)]);
    mount_certificate(&certificate, "1", &issue("first"));
    let settings = format!(
        "tokensDir: {}\ncertificateDir: {}\n",
        tokens.display(),
        certificate.display()
    );
    let mut ingest = Ingest::start(own.clone(), Some(authority.clone()), &settings);

    for path in ["/healthz", "/readyz"] {
        assert_eq!(ingest.curl(path, &[]).status, 200, "{path}");
    }
    let answer = ingest.post(None);
    assert_eq!(answer.status, 401);
    assert!(answer.text.contains("www-authenticate: Bearer\r\n"));
    assert!(
        answer
            .text
            .contains("{\"error\":\"unauthorized\",\"message\":\"")
    );
    let unknown = token("mallory");
    let answer = ingest.post(Some(&unknown));
    assert_eq!(answer.status, 401);
    let asked = "www-authenticate: Bearer error=\"invalid_token\"\r\n";
    assert!(answer.text.contains(asked), "{answer:?}");
    for token in [&alice, &bob] {
        assert_eq!(ingest.post(Some(token)).status, 422);
    }
    for (path, body) in [
        ("/topics/t.pin", "{\"error_code\":40101,"),
        (
            "/streams/t.pin/record",
            "{\"__type\":\"MissingAuthenticationTokenException\",",
        ),
    ] {
        let answer = ingest.curl(path, &["--json", "{}"]);
        assert!(answer.text.contains(body), "{answer:?}");
    }
    // Another scheme is no token.
    let basic = ingest.curl("/pin", &["--user", "a:b", "--json", "{}"]);
    assert!(basic.text.contains("has no bearer token"), "{basic:?}");
    // Nobody learns what paths there are.
    assert_eq!(ingest.curl("/nowhere", &[]).status, 401);

    let renewed = token("alice-renewed");
    mount_tokens(&tokens, "2", &[("alice", &renewed)]);
    ingest.until("renewed", || ingest.post(Some(&renewed)).status == 422);
    assert_eq!(ingest.post(Some(&alice)).status, 401);
    assert_eq!(ingest.post(Some(&bob)).status, 401);
    mount_tokens(&tokens, "3", &[("alice", MARKER)]);
    let problem = "SecretUnusable: spec.ingest.authentication.bearerTokensSecretRef: ";
    let key = "bearerTokensSecretRef, key alice: the token has 14 bytes";
    ingest.until("unusable", || {
        let ready = ingest.admin("/readyz");
        ready.contains(problem) && ready.contains(key)
    });
    assert_eq!(ingest.post(Some(&renewed)).status, 422);

    mount_certificate(&certificate, "2", &issue("second"));
    let taken_up = "spec.ingest.tls.certificateSecretRef: renewed credentials taken up";
    ingest.until("renewed", || ingest.log().contains(taken_up));
    assert_eq!(ingest.post(Some(&renewed)).status, 422);

    let metrics = ingest.admin("/metrics");
    for expected in [
        "pinpipe_ingest_requests_total{client=\"alice\",status=\"4xx\"} ",
        "pinpipe_ingest_requests_total{client=\"anonymous\",status=\"4xx\"} ",
        "pinpipe_ingest_requests_refused_total{reason=\"unauthorized\"} ",
        concat!(
            "pinpipe_certificate_expiry_timestamp_seconds",
            "{field=\"spec.ingest.tls.certificateSecretRef\"} "
        ),
        "pinpipe_build_info{version=\"",
    ] {
        assert!(metrics.contains(expected), "{expected} in {metrics}");
    }
    assert!(
        !metrics.contains("client=\"bob\""),
        "bob has no token any more: {metrics}"
    );
    let shown = [metrics, ingest.admin("/readyz"), ingest.log()];
    for text in shown {
        assert!(!text.contains(MARKER), "a token is shown: {text}");
    }
    assert!(ingest.process.try_wait().unwrap().is_none());
}

#[test]
fn a_handshake_that_doesnt_end_is_closed_and_plain_text_is_answered() {
    let own = new_folder("gate-tls");
    let authority = Authority::new(own.join("authority")).unwrap();
    let certificate = own.join("certificate");
    let files = authority
        .issue("localhost", 10, &own.join("first"))
        .unwrap();
    mount_certificate(&certificate, "1", &files);
    let settings = format!("certificateDir: {}\n", certificate.display());
    let ingest = Ingest::start(own, Some(authority), &settings);
    let connect = || {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, ingest.http)).unwrap();
        stream.set_read_timeout(Some(CLIENT_TIMEOUT)).unwrap();
        stream
    };
    let beginnings: [&[u8]; 3] = [
        b"",
        b"\x16\x03\x01",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
    ];
    let slow = beginnings.map(|beginning| {
        let mut stream = connect();
        stream.write_all(beginning).unwrap();
        stream
    });
    let mut plain = connect();
    plain
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    plain.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("tls-required"));
    assert_eq!(ingest.post(None).status, 422, "without tokens");
    for mut stream in slow {
        let mut rest = Vec::new();
        let closed = stream.read_to_end(&mut rest);
        let is_over = closed.as_ref().err().map(std::io::Error::kind);
        assert_ne!(is_over, Some(std::io::ErrorKind::WouldBlock), "{closed:?}");
    }
}

#[test]
fn a_certificate_that_cant_be_used_is_named_and_waited_for() {
    let own = new_folder("gate-unusable");
    let authority = Authority::new(own.join("authority")).unwrap();
    let certificate = own.join("certificate");
    let issue = |name: &str| authority.issue("localhost", 10, &own.join(name)).unwrap();
    let (first, second) = (issue("first"), issue("second"));
    let mixed = Files {
        key: second.key,
        ..first.clone()
    };
    mount_certificate(&certificate, "1", &mixed);
    let settings = format!("certificateDir: {}\n", certificate.display());
    thread::scope(|scope| {
        let files = &first;
        let log = own.join("log");
        scope.spawn(move || {
            let begun = Instant::now();
            let waits = || fs::read_to_string(&log).is_ok_and(|log| log.contains("waits for a"));
            while !waits() && begun.elapsed() < DEADLINE {
                thread::park_timeout(Duration::from_millis(20));
            }
            mount_certificate(&certificate, "2", files);
        });
        let ingest = Ingest::start(own.clone(), Some(authority.clone()), &settings);
        let reason = "tls.key of certificateSecretRef is not the key of its tls.crt";
        assert!(ingest.log().contains(reason), "{}", ingest.log());
        assert_eq!(ingest.post(None).status, 422);
    });
}

#[test]
fn a_client_over_its_rate_is_told_when_to_come_again() {
    let own = new_folder("gate-rate");
    let tokens = own.join("tokens");
    let (alice, bob) = (token("alice"), token("bob"));
    mount_tokens(&tokens, "1", &[("alice", &alice), ("bob", &bob)]);
    let settings = format!(
        "tokensDir: {}\nrequestsPerSecondPerClient: 1\n",
        tokens.display()
    );
    let ingest = Ingest::start(own, None, &settings);
    ingest.until("over the rate", || {
        let answer = ingest.post(Some(&alice));
        let over = answer.text.contains("\"error\":\"rate-limited\"");
        over && answer.status == 429 && answer.text.contains("retry-after: 1\r\n")
    });
    assert_eq!(ingest.post(Some(&bob)).status, 422);
    // Guesses count for the address.
    ingest.until("guesses", || ingest.post(Some(&token("x"))).status == 429);
    for _ in 0..3 {
        assert_eq!(ingest.curl("/readyz", &[]).status, 200);
    }

    // A client that sends its whole body first sees the answer; one that waits to be told to send
    // it gets it at once.
    let head = "Host: x\r\nConnection: close\r\nContent-Length: 1000000\r\n";
    for (expect, body) in [("", 1_000_000), ("Expect: 100-continue\r\n", 0)] {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, ingest.http)).unwrap();
        let begun = Instant::now();
        let head = format!("POST /pin HTTP/1.1\r\n{head}{expect}\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&vec![b' '; body]).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
        assert!(begun.elapsed() < Duration::from_secs(2), "{expect}");
    }

    let metrics = ingest.admin("/metrics");
    let refused = "pinpipe_ingest_requests_refused_total{reason=\"rate-limited\"} ";
    assert!(metrics.contains(refused), "{metrics}");
    assert!(!ingest.log().contains(MARKER));
}
