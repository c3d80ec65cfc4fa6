//! The stream worker as a process, between a Kafka broker and a PostgreSQL server of its own.
#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]

mod pipeline;
mod renewal;
mod resets;

use std::{
    fs,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use pinpipe_servers::{
    acls::{self, ANONYMOUS, Resource, Right},
    certificates::Authority,
    process::Process,
    stores::{folder, has_ipv6, port, postgres, s3_server},
};

use pipeline::{Pipeline, broker, eventually};
use tokio::net::{TcpListener, TcpStream};

/// How soon a record that comes alone can be read, half of the time and always. With
/// other builds running half were there after 29 ms.
const USUALLY: Duration = Duration::from_millis(100);
const ALWAYS: Duration = Duration::from_secs(2);

fn pin(key: &str, title: &str) -> String {
    format!("{{\"unique_id\":\"{key}\",\"index\":1,\"title\":\"{title}\"}}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_is_stored_within_milliseconds() {
    let pipeline = Pipeline::new("soon", &[]).await;
    let mut worker = pipeline.worker();
    let mut times = Vec::new();
    for number in 0..60 {
        let key = format!("k{number}");
        let begun = Instant::now();
        pipeline.produce("pin", &pin(&key, "t")).await;
        eventually("the record is stored", async || {
            pipeline.title(&key).await.is_some()
        })
        .await;
        times.push(begun.elapsed());
    }
    worker.must_run();
    // The first ones wait for the consumer group.
    let mut times = times.split_off(10);
    times.sort();
    let (median, longest) = (times[times.len() / 2], times[times.len() - 1]);
    println!("stored after {median:?}, at the longest {longest:?}");
    assert!(median < USUALLY, "{times:?}");
    assert!(longest < ALWAYS, "{times:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn broker_and_database_are_reached_by_ipv6() {
    if !has_ipv6() {
        println!("not run: this machine has no IPv6");
        return;
    }
    let mut pipeline = Pipeline::new("ipv6", &[]).await;
    pipeline.kafka = format!("{{bootstrapServers: \"[::1]:{}\"}}", broker().clients);
    let url = folder().join("ipv6-url");
    let text = format!("postgresql://postgres@[::1]:{}/postgres", postgres());
    fs::write(&url, text).unwrap();
    pipeline.sink = Pipeline::postgres(pipeline.name, &url);
    let worker = pipeline.worker();
    pipeline.produce("pin", "{\"title\":\"no key\"}").await;
    pipeline.produce("pin", &pin("k", "t")).await;
    eventually("the record is stored", async || {
        pipeline.title("k").await.is_some()
    })
    .await;
    let letters = pipeline.dead_letters("pin", 1).await;
    assert!(letters[0].0.contains("no key"), "{letters:?}");
    eventually("the worker is ready", async || {
        worker.readyz().contains("200 ready")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_starts_before_its_broker_goes_on_once_that_is_there() {
    let mut pipeline = Pipeline::new("early", &[]).await;
    pipeline.produce("pin", &pin("k", "t")).await;
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = closed.local_addr().unwrap();
    drop(closed);
    pipeline.kafka = format!("{{bootstrapServers: \"{address}\"}}");
    let mut worker = pipeline.worker();
    eventually("the worker finds no broker", async || {
        worker.readyz().contains("BrokerUnavailable")
    })
    .await;
    let listener = TcpListener::bind(address).await.unwrap();
    tokio::spawn(async move {
        while let Ok((mut from, _)) = listener.accept().await {
            tokio::spawn(async move {
                let to = (Ipv4Addr::LOCALHOST, broker().clients);
                let mut to = TcpStream::connect(to).await.unwrap();
                _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
            });
        }
    });
    eventually("the record is stored", async || {
        pipeline.title("k").await.is_some()
    })
    .await;
    worker.must_run();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_record_is_set_aside_and_the_others_are_stored() {
    let pipeline = Pipeline::new("refused", &[]).await;
    let _worker = pipeline.worker();
    pipeline.produce("pin", &pin("first", "t")).await;
    eventually("the table is there", async || {
        pipeline.title("first").await.is_some()
    })
    .await;
    let table = format!("{}.pin", pipeline.name);
    let rule = format!("ALTER TABLE {table} ADD CONSTRAINT short CHECK (length(title) < 100)");
    pipeline.sql.batch_execute(&rule).await.unwrap();
    let long = "x".repeat(200);
    for number in 0..30 {
        let title = if number % 10 == 5 { &long } else { "t" };
        pipeline
            .produce("pin", &pin(&format!("k{number}"), title))
            .await;
    }
    eventually("the last record is stored", async || {
        pipeline.title("k29").await.is_some()
    })
    .await;
    let rows = format!("SELECT count(*) FROM {table}");
    let rows: i64 = pipeline.sql.query_one(&rows, &[]).await.unwrap().get(0);
    assert_eq!(rows, 28);
    let letters = pipeline.dead_letters("pin", 3).await;
    for (value, sink, outcome) in letters {
        assert!(value.contains(&long), "{value}");
        assert_eq!((sink.as_str(), outcome.as_str()), ("live", "refused"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_its_producers_stamp_is_not_read_and_the_others_are() {
    let pipeline = Pipeline::new("stamped", &["geo"]).await;
    let worker = pipeline.worker();
    pipeline
        .produce("geo", "{\"ind\":7,\"country\":\"Albania\"}")
        .await;
    eventually("the worker says why it does not read", async || {
        let answer = worker.readyz();
        answer.contains("TopicUnsuitable") && answer.contains("kafka-configs")
    })
    .await;
    pipeline.produce("pin", &pin("p", "t")).await;
    eventually("the other topic is read", async || {
        pipeline.title("p").await.is_some()
    })
    .await;
    pipeline.stamp_by_broker("geo").await;
    let time = format!(
        "SELECT extract(epoch FROM _time)::bigint FROM {}.geo WHERE ind = 7",
        pipeline.name
    );
    eventually("the record is stored once the broker stamps", async || {
        let row = pipeline.sql.query_opt(&time, &[]).await.unwrap();
        row.is_some_and(|row| row.get::<_, i64>(0) == 0)
    })
    .await;
    eventually("the worker is ready again", async || {
        worker.readyz().contains("200")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_may_not_be_read_is_reported_and_the_others_are_read() {
    let pipeline = Pipeline::new("forbidden", &[]).await;
    let geo = Resource::Topic("forbidden.geo");
    let read = Right::RD_KAFKA_ACL_OPERATION_READ;
    acls::forbid(broker().clients, geo, ANONYMOUS, read);
    let mut worker = pipeline.worker();
    pipeline
        .produce("geo", "{\"ind\":7,\"country\":\"Albania\"}")
        .await;
    pipeline.produce("pin", &pin("p", "t")).await;
    eventually("the worker says which right it lacks", async || {
        let answer = worker.readyz();
        answer.contains("200 degraded: ReadNotAuthorized: ") && answer.contains("Read")
    })
    .await;
    eventually("the other topic is read", async || {
        pipeline.title("p").await.is_some()
    })
    .await;
    worker.must_run();
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_that_may_not_be_written_are_sent_once_they_may() {
    let pipeline = Pipeline::new("letters", &[]).await;
    let letters = Resource::Topic("letters.pin.dlq");
    let write = Right::RD_KAFKA_ACL_OPERATION_WRITE;
    acls::forbid(broker().clients, letters, ANONYMOUS, write);
    let worker = pipeline.worker();
    pipeline.produce("pin", "{\"title\":\"no key\"}").await;
    pipeline.produce("pin", &pin("behind", "t")).await;
    eventually("the worker says that it can't write", async || {
        worker
            .readyz()
            .contains("200 degraded: DeadLettersUnavailable: ")
    })
    .await;
    assert_eq!(
        pipeline.title("behind").await,
        None,
        "the position before the dead letter waits"
    );
    acls::remove(broker().clients, letters);
    let letters = pipeline.dead_letters("pin", 1).await;
    assert!(letters[0].0.contains("no key"), "{letters:?}");
    eventually("the record behind it is stored", async || {
        pipeline.title("behind").await.is_some()
    })
    .await;
    eventually("the worker is ready again", async || {
        worker.readyz().contains("200 ready")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_worker_s_successor_stores_within_seconds() {
    let pipeline = Pipeline::new("killed", &[]).await;
    let mut worker = pipeline.worker();
    pipeline.produce("pin", &pin("before", "t")).await;
    eventually("the worker stores", async || {
        pipeline.title("before").await.is_some()
    })
    .await;
    let members = pipeline.members();
    let [killed] = members.as_slice() else {
        panic!("the worker alone is a member: {members:?}");
    };
    worker.kill();
    let begun = Instant::now();
    let mut successor = pipeline.worker();
    pipeline.produce("pin", &pin("after", "t")).await;
    eventually("the successor stores", async || {
        pipeline.title("after").await.is_some()
    })
    .await;
    let took = begun.elapsed();
    println!("the successor stored after {took:?}");
    pipeline.produce("pin", "{\"title\":\"no key\"}").await;
    let letters = pipeline.dead_letters("pin", 1).await;
    assert!(letters[0].0.contains("no key"), "{letters:?}");
    let members = pipeline.members();
    assert!(
        members.contains(killed),
        "it waited for the group: {members:?}"
    );
    eventually("the group has the successor alone", async || {
        let members = pipeline.members();
        members.len() == 1 && !members.contains(killed)
    })
    .await;
    pipeline.produce("pin", &pin("later", "t")).await;
    eventually("the successor goes on", async || {
        pipeline.title("later").await.is_some()
    })
    .await;
    eventually("it commits to the group, as a member", async || {
        pipeline.committed("pin") == 4
    })
    .await;
    successor.kill();
    let next = pipeline.worker();
    pipeline.produce("pin", &pin("last", "t")).await;
    eventually("the successor's successor stores", async || {
        pipeline.title("last").await.is_some()
    })
    .await;
    next.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_the_dead_letters_writer_leaves_none_out_and_repeats_none() {
    let pipeline = Pipeline::new("handover", &[]).await;
    let mut rejected = Vec::new();
    for number in 0..4 {
        let worker = match number {
            1 => pipeline.worker_without_dead_letters(),
            _ => pipeline.worker(),
        };
        rejected.push(format!("not json {number}"));
        pipeline.produce("pin", &rejected[number]).await;
        let key = format!("k{number}");
        pipeline.produce("pin", &pin(&key, "t")).await;
        eventually("the record behind is stored", async || {
            pipeline.title(&key).await.is_some()
        })
        .await;
        worker.stop();
    }
    let letters = pipeline.dead_letters("pin", 4).await;
    let values: Vec<String> = letters.into_iter().map(|(value, ..)| value).collect();
    assert_eq!(values, rejected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_of_a_topic_that_was_created_again_skips_no_dead_letter() {
    let pipeline = Pipeline::new("again", &[]).await;
    let mut rejected = Vec::new();
    for number in 0..2 {
        rejected.push(format!("not json {number}"));
        pipeline.produce("pin", &rejected[number]).await;
        let key = format!("k{number}");
        pipeline.produce("pin", &pin(&key, "t")).await;
        let worker = pipeline.worker();
        eventually("the record behind is stored", async || {
            pipeline.title(&key).await.is_some()
        })
        .await;
        worker.stop();
        // As a worker does that has not noticed yet that its topic was deleted.
        pipeline.commit_letters_of_another_topic("pin", 1000);
    }
    let letters = pipeline.dead_letters("pin", 2).await;
    let values: Vec<String> = letters.into_iter().map(|(value, ..)| value).collect();
    assert_eq!(values, rejected);
}

/// The port of the object store has TLS, and the endpoint is written without.
#[tokio::test(flavor = "multi_thread")]
async fn an_archive_is_not_ready_before_its_store_was_opened() {
    let mut pipeline = Pipeline::new("unopened", &[]).await;
    let own = folder().join("unopened-s3");
    let authority = Authority::new(own.join("authority")).unwrap();
    let files = authority.issue("127.0.0.1", 10, &own).unwrap();
    let (server, https) = (s3_server(&own, false).unwrap(), port());
    let mut weed = server.prepare().unwrap();
    weed.arg(format!("-s3.port.https={https}"))
        .arg(format!("-s3.cert.file={}", files.certificate.display()))
        .arg(format!("-s3.key.file={}", files.key.display()));
    let mut process = Process::start(&mut weed, own.join("log")).unwrap();
    let listens = || std::net::TcpStream::connect(("127.0.0.1", https)).is_ok();
    process
        .wait_until(|| server.is_ready() && listens())
        .unwrap();
    let credentials = own.join("credentials");
    fs::create_dir_all(&credentials).unwrap();
    for name in ["accessKeyId", "secretAccessKey"] {
        fs::write(credentials.join(name), "local").unwrap();
    }
    pipeline.sink = format!(
        "!archive {{zone: {{bucket: unopened, prefix: topics, s3: {{endpoint: \
         \"http://127.0.0.1:{https}\", region: us-east-1, credentialsDir: {}}}}}, rotate: {{bytes: \
         1000000, records: 1, intervalSeconds: 1}}}}",
        credentials.display()
    );
    let worker = pipeline.worker();
    let says = "not ready: StoreUnsuitable: bucket unopened at http://127.0.0.1:";
    eventually("the worker says why it isn't ready", async || {
        let said = worker.readyz();
        assert!(!said.starts_with("200"), "{said}");
        said.contains(says) && said.contains("write https:// in s3.endpoint")
    })
    .await;
}
