//! Measurements of `cargo xtask bench` that need a client: reading topics, exporting them as files,
//! load on a REST service, and the latency from ingest to the live table.

mod load;

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fs::{self, File},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::{Parser, Subcommand};
use pinpipe_e2e::run;
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    message::BorrowedMessage,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{MissedTickBehavior, interval, sleep},
};
use tokio_postgres::NoTls;

const TIMEOUT: Duration = Duration::from_secs(20);
const KINDS: [&str; 3] = ["pin", "geo", "user"];
/// The first key of posted records; the emulator's keys are lower.
const FIRST_NUMBER: u64 = 1 << 40;
/// The interval of queries, and so the resolution of latencies.
const POLL_INTERVAL: Duration = Duration::from_millis(2);

#[derive(Parser)]
struct Arguments {
    /// `host:port` of the broker
    #[arg(long)]
    kafka: String,
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Creates the three topics as the operator does
    Topics {
        /// Prefix of their names
        #[arg(long)]
        topics: String,
    },
    /// Reads the three topics to their ends and prints the number of bytes
    Consume {
        /// Prefix of the topics' names
        #[arg(long)]
        topics: String,
    },
    /// Exports the three topics as JSON lines, each with time, partition and offset
    Lines {
        /// Prefix of the topics' names
        #[arg(long)]
        topics: String,
        /// Target folder
        #[arg(long)]
        to: PathBuf,
    },
    /// Posts records over many connections and prints the rate and the latencies
    Load(load::Load),
    /// Posts geo records at a fixed rate and prints p50, p99 and maximum of the time until each has
    /// its row
    Latency {
        /// `host:port` of ingest
        #[arg(long)]
        ingest: String,
        /// URL of PostgreSQL
        #[arg(long)]
        postgres: String,
        /// Name of the live table
        #[arg(long)]
        table: String,
        /// Records per second
        #[arg(long)]
        rate: u32,
        /// Duration
        #[arg(long)]
        seconds: u32,
    },
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    match arguments.task {
        Task::Consume { topics } => {
            let mut bytes = 0;
            read(&arguments.kafka, &topics, |_, message| {
                bytes += message.payload_len();
                Ok(())
            })?;
            println!("{bytes}");
            Ok(())
        }
        Task::Topics { topics } => run(create_topics(&arguments.kafka, &topics)),
        Task::Load(load) => run(load::run(load)),
        Task::Lines { topics, to } => lines(&arguments.kafka, &topics, &to),
        Task::Latency {
            ingest,
            postgres,
            table,
            rate,
            seconds,
        } => run(latency(&ingest, &postgres, &table, rate, seconds)),
    }
}

async fn create_topics(kafka: &str, topics: &str) -> Result<()> {
    let admin: AdminClient<DefaultClientContext> = client(kafka).create()?;
    let names: Vec<String> = KINDS
        .iter()
        .map(|kind| format!("{topics}.{kind}"))
        .collect();
    let new = names.iter().map(|name| {
        NewTopic::new(name, 3, TopicReplication::Fixed(1))
            .set("message.timestamp.type", "LogAppendTime")
    });
    let new: Vec<NewTopic<'_>> = new.collect();
    for created in admin
        .create_topics(&new, &AdminOptions::new().request_timeout(Some(TIMEOUT)))
        .await?
    {
        created.map_err(|(topic, error)| anyhow!("{topic} can't be created: {error}"))?;
    }
    Ok(())
}

fn client(kafka: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", kafka)
        .set("broker.address.family", "v4");
    config
}

/// Reads every record of the three topics with the consumer settings of the stream worker.
fn read(
    kafka: &str,
    topics: &str,
    mut each: impl FnMut(&str, &BorrowedMessage<'_>) -> Result<()>,
) -> Result<()> {
    let consumer: BaseConsumer = client(kafka)
        .set("group.id", "bench-probe")
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .set("queued.max.messages.kbytes", "2048")
        .set("fetch.max.bytes", "8388608")
        .set("fetch.queue.backoff.ms", "1")
        .set("fetch.wait.max.ms", "100")
        .create()?;
    let mut assignment = TopicPartitionList::new();
    let mut open = BTreeMap::new();
    for kind in KINDS {
        let topic = format!("{topics}.{kind}");
        let metadata = consumer.fetch_metadata(Some(&topic), TIMEOUT)?;
        for partition in metadata
            .topics()
            .first()
            .context("the metadata lacks the topic")?
            .partitions()
        {
            let (low, high) = consumer.fetch_watermarks(&topic, partition.id(), TIMEOUT)?;
            if low < high {
                assignment.add_partition_offset(&topic, partition.id(), Offset::Offset(low))?;
                open.insert((topic.clone(), partition.id()), high);
            }
        }
    }
    consumer.assign(&assignment)?;
    let mut left = open.len();
    let ends: BTreeMap<(&str, i32), i64> = open
        .iter()
        .map(|((topic, number), end)| ((topic.as_str(), *number), *end))
        .collect();
    while left > 0 {
        let Some(message) = consumer.poll(TIMEOUT) else {
            bail!("no records for {TIMEOUT:?}")
        };
        let message = message?;
        each(message.topic(), &message)?;
        if ends.get(&(message.topic(), message.partition())) == Some(&(message.offset() + 1)) {
            left -= 1;
        }
    }
    Ok(())
}

fn lines(kafka: &str, topics: &str, to: &Path) -> Result<()> {
    let mut files = BTreeMap::new();
    read(kafka, topics, |topic, message| {
        let (Some(raw), partition) = (message.payload(), message.partition()) else {
            return Ok(());
        };
        let file = match files.entry((topic.to_owned(), partition)) {
            Entry::Occupied(file) => file.into_mut(),
            Entry::Vacant(free) => {
                let folder = to.join(topic.rsplit('.').next().unwrap_or(topic));
                fs::create_dir_all(&folder)?;
                free.insert(BufWriter::new(File::create(
                    folder.join(format!("{partition}.json")),
                )?))
            }
        };
        let time = message.timestamp().to_millis().unwrap_or(0);
        write!(
            file,
            "{{\"_time\":{time},\"_partition\":{partition},\"_offset\":{},",
            message.offset()
        )?;
        // An unescaped line break in JSON is white space.
        let raw = raw.trim_ascii_start();
        let line: Vec<u8> = raw[1..]
            .iter()
            .map(|byte| {
                if matches!(byte, b'\n' | b'\r') {
                    b' '
                } else {
                    *byte
                }
            })
            .collect();
        file.write_all(&line)?;
        Ok(file.write_all(b"\n")?)
    })?;
    files
        .into_values()
        .try_for_each(|mut file| Ok(file.flush()?))
}

/// The first number of records that nobody posted before.
fn first_number() -> Result<u64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
    Ok(FIRST_NUMBER + u64::try_from(now)? * 1000)
}

async fn latency(ingest: &str, postgres: &str, table: &str, rate: u32, seconds: u32) -> Result<()> {
    let (client, connection) = tokio_postgres::connect(postgres, NoTls).await?;
    tokio::spawn(connection);
    let first = first_number()?;
    let count = u64::from(rate) * u64::from(seconds);
    let posting = tokio::spawn(post_all(ingest.to_owned(), first, count, rate));
    let (mut seen, mut appeared) = (first.cast_signed() - 1, BTreeMap::new());
    // Connections are independent, so rows may appear out of order: each query starts after the
    // last number below which all rows are there.
    let statement = client
        .prepare(&format!("SELECT ind FROM {table} WHERE ind > $1"))
        .await?;
    let begun = Instant::now();
    while (appeared.len() as u64) < count {
        let rows = client.query(&statement, &[&seen]).await?;
        let at = Instant::now();
        for row in rows {
            appeared.entry(row.get::<_, i64>(0)).or_insert(at);
        }
        while appeared.contains_key(&(seen + 1)) {
            seen += 1;
        }
        ensure!(
            begun.elapsed() < Duration::from_secs(u64::from(seconds)) + TIMEOUT,
            "{} of {count} rows",
            appeared.len()
        );
        sleep(POLL_INTERVAL).await;
    }
    let posted = posting.await??;
    let mut latencies: Vec<Duration> = posted
        .iter()
        .filter_map(|(number, at)| {
            Some(
                appeared
                    .get(&number.cast_signed())?
                    .saturating_duration_since(*at),
            )
        })
        .collect();
    latencies.sort_unstable();
    let of = |part: usize| latencies[(latencies.len() - 1) * part / 100].as_millis();
    println!("{} ms | {} ms | {} ms", of(50), of(99), of(100));
    Ok(())
}

/// Posts each record when it is due, and returns when that was. There are many connections because
/// each waits for an acknowledgement before the next record.
async fn post_all(
    ingest: String,
    first: u64,
    count: u64,
    rate: u32,
) -> Result<Vec<(u64, Instant)>> {
    const CONNECTIONS: u64 = 32;
    let tasks = (0..CONNECTIONS).map(|connection| {
        let ingest = ingest.clone();
        tokio::spawn(async move {
            let mut stream = TcpStream::connect(&ingest).await?;
            stream.set_nodelay(true)?;
            let mut due = interval(Duration::from_secs(1) * u32::try_from(CONNECTIONS)? / rate);
            due.set_missed_tick_behavior(MissedTickBehavior::Burst);
            let mut sent = Vec::new();
            for number in (first + connection..first + count).step_by(usize::try_from(CONNECTIONS)?)
            {
                sent.push((number, due.tick().await.into_std()));
                post(&mut stream, &ingest, number).await?;
            }
            anyhow::Ok(sent)
        })
    });
    let mut all = Vec::new();
    for task in tasks.collect::<Vec<_>>() {
        all.extend(task.await??);
    }
    Ok(all)
}

async fn post(stream: &mut TcpStream, host: &str, number: u64) -> Result<()> {
    let body = format!(
        "{{\"ind\": {number}, \"timestamp\": \"2020-08-28 03:52:47\", \"latitude\": -89.9, \
         \"longitude\": -173.2, \"country\": \"Peru\"}}"
    );
    let request = format!(
        "POST /geo HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await?;
    let (mut answer, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let read = stream.read(&mut buffer).await?;
        ensure!(read > 0, "ingest closed the connection");
        answer.extend_from_slice(&buffer[..read]);
        let text = String::from_utf8_lossy(&answer);
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let head = head.to_ascii_lowercase();
        let length = head.lines().find_map(|line| {
            line.strip_prefix("content-length:")?
                .trim()
                .parse::<usize>()
                .ok()
        });
        if body.len() >= length.context("a response without content-length")? {
            ensure!(head.starts_with("http/1.1 202"), "ingest answers {text}");
            return Ok(());
        }
    }
}
