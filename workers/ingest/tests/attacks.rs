//! Attacks on the ingest program, as a process with the default memory limit of its container. No
//! broker listens, which is the worst case: all that is accepted stays in memory until the delivery
//! timeout.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking, its helpers too"
)]

use std::{
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use flate2::write::GzEncoder;

/// The container's default memory limit, bytes.
const MEMORY: u64 = 256 << 20;
/// The limit of a request's body, bytes.
const BODY: usize = 4 << 20;
/// More than the time in which a client must send a request's headers or take a response.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(13);

/// How long a good client may wait for its response. Tests run an unoptimised program, and other
/// tests beside it.
const PATIENCE: Duration = Duration::from_secs(10);

struct Ingest {
    process: Child,
    address: SocketAddr,
    admin: SocketAddr,
    folder: PathBuf,
}

impl Ingest {
    fn start() -> Self {
        let [address, admin, broker] = [(); 3].map(|()| free_address());
        let folder = std::env::temp_dir().join(format!("pinpipe-attacks-{}", address.port()));
        fs::create_dir_all(&folder).unwrap();
        let config = folder.join("ingest.yaml");
        let topics: String = ["pin", "geo", "user"]
            .map(|kind| format!("  {kind}: {{name: t.{kind}, deadLetter: t.{kind}.dlq}}\n"))
            .concat();
        fs::write(
            &config,
            format!(
                "configVersion: 1\npipeline: {{namespace: data, name: attacked, uid: u}}\n\
                 kafka: {{bootstrapServers: '{broker}'}}\ntopics:\n{topics}\
                 maxRecordBytes: 65536\nmaxRequestBytes: {BODY}\n"
            ),
        )
        .unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_pinpipe-ingest"))
            .arg(format!("--config={}", config.display()))
            .arg(format!("--port={}", address.port()))
            .arg(format!("--admin-port={}", admin.port()))
            .arg(format!("--memory-bytes={MEMORY}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let ingest = Self {
            process,
            address,
            admin,
            folder,
        };
        let start = Instant::now();
        while get(ingest.admin, "/readyz").is_none() {
            assert!(start.elapsed() < Duration::from_secs(20), "not ready");
            thread::yield_now();
        }
        ingest
    }

    /// The largest resident set so far, bytes.
    fn peak(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM"));
        let kib = line.and_then(|line| line.split_whitespace().nth(1));
        kib.unwrap_or_else(|| panic!("the process is gone: {status}"))
            .parse::<u64>()
            .unwrap()
            * 1024
    }

    /// Asserts that the memory is within the limit and that a good client soon has its response.
    /// The client tries again after 429 and 503, and when the connection was closed.
    fn withstands(&self, attack: &str) {
        let start = Instant::now();
        let request = post("/geo", "[{\"country\": \"Albania\"}]");
        let is_refused = |response: String| response.starts_with("HTTP/1.1 422");
        while !exchange(self.address, &request).is_some_and(is_refused) {
            assert!(start.elapsed() < PATIENCE, "no response: {attack}");
        }
        let took = start.elapsed();
        assert!(took < PATIENCE, "{took:?} to a response: {attack}");
        let peak = self.peak();
        println!("{attack}: {} MiB, {took:?}", peak >> 20);
        assert!(peak < MEMORY, "{} MiB: {attack}", peak >> 20);
    }

    fn connect(&self) -> TcpStream {
        connect(self.address).unwrap()
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        _ = self.process.kill();
        _ = self.process.wait();
        _ = fs::remove_dir_all(&self.folder);
    }
}

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap()
}

fn connect(address: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, CLIENT_TIMEOUT)?;
    stream.set_read_timeout(Some(CLIENT_TIMEOUT))?;
    stream.set_write_timeout(Some(CLIENT_TIMEOUT))?;
    Ok(stream)
}

/// The whole response. `None` if the connection was refused or broke.
fn exchange(address: SocketAddr, request: &[u8]) -> Option<String> {
    let mut stream = connect(address).ok()?;
    stream.write_all(request).ok()?;
    let mut response = Vec::new();
    stream.read_to_end(&mut response).ok()?;
    String::from_utf8(response).ok()
}

fn get(address: SocketAddr, path: &str) -> Option<String> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    exchange(address, request.as_bytes()).filter(|response| response.starts_with("HTTP/1.1 200"))
}

fn post(path: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    post_with(path, "", body)
}

/// A request with more headers, each with its line break.
fn post_with(path: &str, headers: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n\
         {headers}Content-Length: {}\r\n\r\n",
        body.as_ref().len()
    );
    [head.as_bytes(), body.as_ref()].concat()
}

/// Sends a body in chunks of one byte.
fn tiny_chunks(address: SocketAddr, bytes: usize) -> Option<String> {
    let mut stream = connect(address).ok()?;
    let head = "POST /pin HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
                Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).ok()?;
    let spaces = b"1\r\n \r\n".repeat(1 << 14);
    for _ in 0..bytes >> 14 {
        stream.write_all(&spaces).ok()?;
    }
    stream.write_all(b"2\r\n{}\r\n0\r\n\r\n").ok()?;
    let mut response = String::new();
    stream.read_to_string(&mut response).ok()?;
    Some(response)
}

/// Attacks `count` times at once. What is answered must be refused.
fn refused(count: usize, attack: &(dyn Fn() -> Option<String> + Sync)) {
    let responses: Vec<_> = thread::scope(|scope| {
        let all: Vec<_> = (0..count).map(|_| scope.spawn(attack)).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    for response in responses.into_iter().flatten() {
        let status = response.lines().next().unwrap_or_default();
        assert!(status.starts_with("HTTP/1.1 4"), "{status}");
    }
}

/// Whether the program has closed the connection. Sends a byte and reads nothing, which would give
/// the program time.
fn is_closed(stream: &mut TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let written = stream.write(b"a");
    written.is_err_and(|error| error.kind() != ErrorKind::WouldBlock)
}

/// Waits until the program has closed all connections.
fn all_closed(mut open: Vec<TcpStream>, attack: &str) {
    let start = Instant::now();
    while !open.is_empty() {
        assert!(
            start.elapsed() < CLIENT_TIMEOUT,
            "{} connections are still open: {attack}",
            open.len()
        );
        open.retain_mut(|stream| !is_closed(stream));
        thread::park_timeout(Duration::from_millis(50));
    }
}

#[test]
fn no_client_takes_the_memory_of_all() {
    // Thousands of connections, in the program, too, which inherits the limit.
    let limit = Command::new("prlimit")
        .args(["--pid", &std::process::id().to_string(), "--nofile=8192:"])
        .status();
    assert!(limit.unwrap().success(), "8,192 open files are needed");
    let ingest = Ingest::start();
    let address = ingest.address;
    ingest.withstands("none");

    // Connections that don't read responses, and some that don't end their headers, stay open while
    // the other attacks go on.
    let many = post("/geo", format!("[{}0]", "0,".repeat(9_999)));
    let pipelined: Vec<u8> = {
        let text = String::from_utf8(many.clone()).unwrap();
        text.replace("Connection: close\r\n", "")
            .repeat(8)
            .into_bytes()
    };
    let slow_readers: Vec<_> = (0..2)
        .map(|_| {
            let mut stream = ingest.connect();
            stream.set_nonblocking(true).unwrap();
            _ = stream.write(&pipelined);
            stream
        })
        .collect();
    let unended: Vec<_> = (0..300)
        .map(|_| {
            let mut stream = ingest.connect();
            let head = b"POST /pin HTTP/1.1\r\nHost: x\r\nX-A: ";
            stream.write_all(head).unwrap();
            stream
        })
        .collect();
    let slow_start = Instant::now();
    ingest.withstands("responses that aren't read");

    let commas = post("/pin", format!("[{}", ",".repeat(BODY - 1)));
    refused(8, &|| exchange(address, &commas));
    ingest.withstands("an array of nothing");

    let deep = post("/pin", format!("{{\"a\": {}", "[".repeat(BODY - 6)));
    let deep_record = post("/pin", format!("[{}", "[".repeat(BODY - 1)));
    refused(2, &|| exchange(address, &deep));
    refused(2, &|| exchange(address, &deep_record));
    ingest.withstands("deep nesting");

    let no_text = [b"[0]".as_slice(), &vec![0xff; BODY - 4], b"]"].concat();
    let no_text = post("/pin", no_text);
    refused(8, &|| exchange(address, &no_text));
    ingest.withstands("invalid UTF-8");

    refused(8, &|| exchange(address, &many));
    ingest.withstands("many errors");

    // Clients that go away while their records wait for the broker.
    let records = post("/geo", format!("[{}{{}}]", "{\"ind\":1},".repeat(9_999)));
    for _ in 0..150 {
        let mut stream = ingest.connect();
        _ = stream.write_all(&records);
    }
    ingest.withstands("records of clients that are gone");

    let big_headers: Vec<_> = (0..800)
        .map(|_| {
            let mut stream = ingest.connect();
            stream.set_nonblocking(true).unwrap();
            _ = stream.write(b"POST /pin HTTP/1.1\r\n");
            _ = stream.write(format!("X-A: {}", "a".repeat(390_000)).as_bytes());
            stream
        })
        .collect();
    ingest.withstands("headers without an end");
    drop(big_headers);

    let idle: Vec<_> = (0..3000).filter_map(|_| connect(address).ok()).collect();
    ingest.withstands("3,000 idle connections");
    drop(idle);

    all_closed(unended, "slow headers");
    all_closed(slow_readers, "responses that aren't read");
    assert!(slow_start.elapsed() < Duration::from_secs(40));
    ingest.withstands("all of them");
    assert!(get(ingest.admin, "/readyz").is_some());
}

#[test]
fn chunks_of_one_byte_take_no_more_memory_than_their_bytes() {
    let ingest = Ingest::start();
    ingest.withstands("none");
    let before = ingest.peak();
    refused(3, &|| tiny_chunks(ingest.address, 1 << 17));
    ingest.withstands("chunks of one byte");
    // One object for each chunk would take 12 MiB more.
    let more = ingest.peak() - before;
    assert!(more < 6 << 20, "{} MiB more", more >> 20);
}

#[test]
fn slow_and_idle_clients_dont_delay_the_end() {
    let mut ingest = Ingest::start();
    let mut open: Vec<_> = (0..30).map(|_| ingest.connect()).collect();
    for (at, stream) in open.iter_mut().enumerate() {
        let head = "POST /pin HTTP/1.1\r\nHost: x\r\n";
        let sent = match at % 3 {
            0 => String::new(),
            1 => head.to_owned(),
            _ => format!("{head}Content-Type: application/json\r\nContent-Length: 9\r\n\r\n["),
        };
        stream.write_all(sent.as_bytes()).unwrap();
    }
    ingest.withstands("none");
    let start = Instant::now();
    let pid = ingest.process.id().to_string();
    assert!(Command::new("kill").arg(&pid).status().unwrap().success());
    let status = ingest.process.wait().unwrap();
    assert!(status.success(), "{status}");
    assert!(
        start.elapsed() < Duration::from_secs(8),
        "{:?}",
        start.elapsed()
    );
    drop(open);
}

#[test]
fn forms_with_an_envelope_are_as_harmless() {
    let ingest = Ingest::start();
    let (topic, stream) = ("/topics/t.geo", "/streams/t.geo/records");
    let fill = |start: &str, filling: &str| {
        let times = (BODY - start.len()) / filling.len();
        format!("{start}{}", filling.repeat(times))
    };
    for (attack, filling) in [
        ("an array of nothing", ","),
        ("deep nesting", "["),
        ("deep objects", "{\"\":"),
        ("a long text", "\\u0061"),
        ("many records", "0,"),
    ] {
        let list = "{\"records\":[";
        let (value, data) = (
            format!("{list}{{\"value\":\""),
            format!("{list}{{\"data\":\""),
        );
        for (path, start) in [
            (topic, list),
            (topic, &value),
            (stream, list),
            (stream, &data),
        ] {
            let body = post(path, fill(start, filling));
            refused(2, &|| exchange(ingest.address, &body));
        }
        ingest.withstands(attack);
    }
    // One text that is larger than a record may be, well-formed.
    let text = "\\u0061".repeat(BODY / 6 - 3);
    let text = post("/streams/t.geo/record", format!("{{\"Data\":\"{text}\"}}"));
    refused(8, &|| exchange(ingest.address, &text));
    ingest.withstands("a text over the limit");
    let names: Vec<_> = (0..BODY / 20).map(|n| format!("\"{n:08}\":0")).collect();
    let wide = post(topic, format!("{{\"records\":[],{}}}", names.join(",")));
    refused(8, &|| exchange(ingest.address, &wide));
    ingest.withstands("many names");
}

#[test]
fn compressed_bodies_take_no_more_memory_than_others() {
    let ingest = Ingest::start();
    let spaces = vec![b' '; 64 << 20];
    let mut gzip = GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(&spaces).unwrap();
    // As members of one stream these are 1 GiB and more.
    let gzip = gzip.finish().unwrap().repeat(20);
    let zstd = zstd::encode_all(spaces.as_slice(), 19)
        .unwrap()
        .repeat(1000);
    assert!(gzip.len() < BODY && zstd.len() < BODY);
    let mut window = zstd::Encoder::new(Vec::new(), 1).unwrap();
    window.window_log(27).unwrap();
    window.write_all(&spaces).unwrap();
    let window = window.finish().unwrap();
    for (attack, encoding, body) in [
        ("a gzip bomb", "gzip", &gzip),
        ("a zstd bomb", "zstd", &zstd),
        ("a large window", "zstd", &window),
        ("no gzip", "gzip", &spaces),
    ] {
        let header = format!("Content-Encoding: {encoding}\r\n");
        let body = &body[..body.len().min(BODY)];
        let request = post_with("/geo", &header, body);
        refused(8, &|| exchange(ingest.address, &request));
        ingest.withstands(attack);
    }
}
