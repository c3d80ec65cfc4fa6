//! Load on a REST service: many connections, each of which sends its next request once the answer
//! to the last one has arrived.

use std::{
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{MissedTickBehavior, interval},
};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is sent.
#[derive(Args, Clone)]
pub struct Load {
    /// `host:port` of the service
    #[arg(long)]
    ingest: String,
    /// Bearer token
    #[arg(long)]
    token: Option<String>,
    /// Open connections
    #[arg(long)]
    connections: u32,
    /// Duration
    #[arg(long)]
    seconds: u32,
    /// Requests per second, all connections together; as many as possible unless given
    #[arg(long)]
    rate: Option<u32>,
    /// Records per request: an array unless it is one
    #[arg(long, default_value_t = 1)]
    records: u32,
}

/// Prints the requests, the duration and percentiles of the time from when a request was due until
/// its answer had arrived, as JSON.
pub async fn run(load: Load) -> Result<()> {
    let numbers = Arc::new(AtomicU64::new(super::first_number()?));
    let mut clients = Vec::new();
    for _ in 0..load.connections {
        let stream = TcpStream::connect(&load.ingest).await?;
        stream.set_nodelay(true)?;
        clients.push((load.clone(), stream, Arc::clone(&numbers)));
    }
    let begun = Instant::now();
    let end = begun + Duration::from_secs(load.seconds.into());
    let tasks: Vec<_> = clients
        .into_iter()
        .map(|(load, stream, numbers)| tokio::spawn(one_client(load, stream, numbers, end)))
        .collect();
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await??);
    }
    let seconds = begun.elapsed().as_secs_f64();
    latencies.sort_unstable();
    let percentile = |part: usize| {
        let latency = latencies.get(latencies.len().saturating_sub(1) * part / 100);
        latency.map(|latency| latency.as_secs_f64() * 1000.0)
    };
    let report = json!({
        "requests": latencies.len(),
        "seconds": seconds,
        "p50Milliseconds": percentile(50),
        "p99Milliseconds": percentile(99),
    });
    println!("{report}");
    Ok(())
}

async fn one_client(
    load: Load,
    mut stream: TcpStream,
    numbers: Arc<AtomicU64>,
    end: Instant,
) -> Result<Vec<Duration>> {
    let mut due = load.rate.map(|rate| {
        let mut due = interval(Duration::from_secs(1) * load.connections / rate);
        due.set_missed_tick_behavior(MissedTickBehavior::Burst);
        due
    });
    let (mut latencies, mut request, mut body) = (Vec::new(), String::new(), String::new());
    let mut answer = Vec::new();
    while Instant::now() < end {
        let begun = match &mut due {
            Some(due) => due.tick().await.into_std(),
            None => Instant::now(),
        };
        let first = numbers.fetch_add(load.records.into(), Relaxed);
        write_request(&load, first, &mut request, &mut body)?;
        let answered = tokio::time::timeout(PATIENCE, async {
            stream.write_all(request.as_bytes()).await?;
            read_answer(&mut stream, &mut answer).await
        });
        answered.await.context("no answer in time")??;
        latencies.push(begun.elapsed());
    }
    Ok(latencies)
}

/// One request with records of one kind; the kinds take turns.
fn write_request(load: &Load, first: u64, request: &mut String, body: &mut String) -> Result<()> {
    body.clear();
    let kind = super::KINDS[(first / u64::from(load.records) % 3) as usize];
    if load.records > 1 {
        body.push('[');
    }
    for number in first..first + u64::from(load.records) {
        if number > first {
            body.push(',');
        }
        write_record(kind, number, body)?;
    }
    if load.records > 1 {
        body.push(']');
    }
    request.clear();
    write!(
        request,
        "POST /{kind} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\n",
        load.ingest
    )?;
    if let Some(token) = &load.token {
        write!(request, "authorization: Bearer {token}\r\n")?;
    }
    write!(request, "content-length: {}\r\n\r\n{body}", body.len())?;
    Ok(())
}

fn write_record(kind: &str, number: u64, body: &mut String) -> Result<()> {
    Ok(match kind {
        "pin" => write!(
            body,
            "{{\"index\": {number}, \"unique_id\": \"fbe53c66-3442-4773-b19e-{number:012x}\", \
             \"title\": \"14 amazing things to do in the mountains this summer\", \
             \"description\": \"A short list of places that are worth the way, with pictures of \
             each and a map that shows how to get there.\", \"poster_name\": \"Consuelo Aguirre\", \
             \"follower_count\": \"124k\", \"tag_list\": \"Travel,Mountains,Summer,Hiking\", \
             \"is_image_or_video\": \"image\", \
             \"image_src\": \"https://images.example/originals/e3/39/55/e33955.png\", \
             \"downloaded\": 1, \"save_location\": \"Local save in /data/travel\", \
             \"category\": \"travel\"}}"
        ),
        "geo" => write!(
            body,
            "{{\"ind\": {number}, \"timestamp\": \"2020-08-28 03:52:47\", \
             \"latitude\": -89.9787, \"longitude\": -173.293, \"country\": \"Albania\"}}"
        ),
        _ => write!(
            body,
            "{{\"ind\": {number}, \"first_name\": \"Abigail\", \"last_name\": \"Ali\", \
             \"age\": 20, \"date_joined\": \"2015-10-24 11:23:51\"}}"
        ),
    }?)
}

/// Reads one answer, which must be 202 with a `Content-Length`.
async fn read_answer(stream: &mut TcpStream, answer: &mut Vec<u8>) -> Result<()> {
    answer.clear();
    let mut head = None;
    loop {
        ensure!(
            stream.read_buf(answer).await? > 0,
            "the service closed the connection"
        );
        if head.is_none() {
            head = whole_head(answer)?;
        }
        if head.is_some_and(|length| answer.len() >= length) {
            return Ok(());
        }
    }
}

/// The length of the whole answer once its head is there.
fn whole_head(answer: &[u8]) -> Result<Option<usize>> {
    let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = std::str::from_utf8(&answer[..end])?;
    ensure!(
        head.starts_with("HTTP/1.1 202"),
        "the service answers {}",
        String::from_utf8_lossy(answer)
    );
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let value = value.trim().parse::<usize>().ok()?;
        name.eq_ignore_ascii_case("content-length").then_some(value)
    });
    Ok(Some(
        end + 4 + length.context("an answer without Content-Length")?,
    ))
}
