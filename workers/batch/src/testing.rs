//! Helpers for the tests of several modules.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api,
    api::{ObjectMeta, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use pinpipe_config::{Batch, Compression, RawZone, S3, Stream, Topic, Topics};
use pinpipe_core::{Kind, Order, Pin};
use pinpipe_runtime::raw_zone::{Index, LineOrder, ObjectMetadata, RawPartition};
use pinpipe_servers::stores;
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, CommitMode, Consumer as _},
    producer::{FutureProducer, FutureRecord},
};
use tokio_postgres::{Client, NoTls};

use crate::{
    manifest::{Format, Positions, RawObject},
    read::topic,
    state::State,
    store::Store,
};

/// A pin without any value but its key and index.
pub fn pin(unique_id: String, index_id: i64) -> Pin<'static> {
    Pin {
        unique_id: unique_id.into(),
        index_id,
        title: None,
        category: None,
        description: None,
        poster_name: None,
        follower_count: None,
        tag_list: None,
        is_image_or_video: None,
        image_src: None,
        downloaded: None,
        save_location: None,
    }
}

/// A configuration, without the addresses of servers that are there.
pub fn config() -> Batch {
    let sample = include_str!("../../config/samples/0.1.0/batch.yaml");
    pinpipe_config::parse(sample).unwrap()
}

/// A new database of the tests' PostgreSQL, connected to, and its URL.
pub async fn database(name: &str) -> (Client, String) {
    let url = format!("postgresql://postgres@127.0.0.1:{}/", stores::postgres());
    let client = async |database: &str| {
        let connected = tokio_postgres::connect(&format!("{url}{database}"), NoTls).await;
        let (client, driver) = connected.unwrap();
        tokio::spawn(driver);
        client
    };
    let create = format!("CREATE DATABASE {name}");
    let admin = client("postgres").await;
    admin.batch_execute(&create).await.unwrap();
    (client(name).await, format!("{url}{name}"))
}

/// A bucket of the tests' object store, which is reached by `port`: its own or a proxy's.
pub fn zone(bucket: &str, port: u16) -> RawZone {
    let (_, credentials) = stores::s3(true);
    RawZone {
        bucket: bucket.to_owned(),
        prefix: "topics".to_owned(),
        s3: S3 {
            endpoint: Some(format!("http://127.0.0.1:{port}")),
            region: "us-east-1".to_owned(),
            credentials_dir: Some(credentials.clone()),
            ..S3::default()
        },
    }
}

/// A pin as it is posted.
pub fn json_pin(key: &str, title: &str) -> String {
    format!("{{\"unique_id\": \"{key}\", \"index\": 1, \"title\": \"{title}\"}}")
}

/// Where an archived record stands.
pub const fn at(offset: i64) -> Order {
    Order {
        time: 1_000 + offset,
        partition: 0,
        offset,
    }
}

/// Archives pins, the first one at an offset. `original` is the order of the first one, if that is
/// a re-driven record.
pub async fn archive_pins(
    config: &Batch,
    store: &Store,
    first: i64,
    lines: &[String],
    original: Option<Order>,
) -> RawObject {
    archive(config, store, Kind::Pin, first, lines, original).await
}

/// Archives records of a kind as [`archive_pins`] does pins.
pub async fn archive(
    config: &Batch,
    store: &Store,
    kind: Kind,
    first: i64,
    lines: &[String],
    original: Option<Order>,
) -> RawObject {
    let raw = RawPartition {
        topic: topic(&config.topics, kind).name.clone(),
        partition: 0,
    };
    let (end, prefix) = (first + i64::try_from(lines.len()).unwrap(), store.prefix());
    let offsets: Vec<i64> = (first..end).collect();
    let order = original.map(|order| LineOrder {
        line: 0,
        time: order.time,
        partition: order.partition,
        offset: order.offset,
    });
    let index = Index {
        times: offsets.iter().map(|offset| at(*offset).time).collect(),
        offsets,
        orders: order.into_iter().collect(),
    };
    let metadata = ObjectMetadata {
        next_offset: end,
        record_count: lines.len() as u64,
        min_time: index.times[0],
        max_time: at(end - 1).time,
        cluster_id: "c".into(),
        topic_id: "t".into(),
        index: raw.index_key(prefix, first, end, lines.len()),
    };
    store.put_json(&metadata.index, &index).await.unwrap();
    let key = raw.object_key(prefix, first, Compression::None);
    let client = pinpipe_runtime::s3::client(&config.zone.s3).await.unwrap();
    let put = client.put_object().bucket(&config.zone.bucket).key(&key);
    put.set_metadata(Some(metadata.to_metadata()))
        .body((lines.join("\n") + "\n").into_bytes().into())
        .send()
        .await
        .unwrap();
    RawObject {
        kind,
        partition: 0,
        key,
        format: Format::Archive,
    }
}

/// Makes the pipeline's topics, of one partition each, with their dead letters.
pub async fn create_topics(config: &Batch) {
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", &config.kafka.bootstrap_servers)
        .create()
        .unwrap();
    let topics = [&config.topics.pin, &config.topics.geo, &config.topics.user];
    let names = topics
        .iter()
        .flat_map(|topic| [&topic.name, &topic.dead_letter]);
    let new: Vec<NewTopic> = names
        .map(|name| {
            NewTopic::new(name, 1, TopicReplication::Fixed(1))
                .set("message.timestamp.type", "LogAppendTime")
        })
        .collect();
    let created = admin.create_topics(&new, &AdminOptions::new()).await;
    let created = created.unwrap();
    assert!(created.iter().all(Result::is_ok), "{created:?}");
}

/// A configuration of a pipeline of its own in the tests' servers, without sinks.
pub fn pipeline(name: &str) -> Batch {
    let topic = |kind: &str| Topic {
        name: format!("data.{name}.{kind}"),
        dead_letter: format!("data.{name}.{kind}.dlq"),
    };
    let mut config = config();
    name.clone_into(&mut config.pipeline.name);
    config.kafka.bootstrap_servers = format!("127.0.0.1:{}", stores::kafka());
    config.topics = Topics {
        pin: topic("pin"),
        geo: topic("geo"),
        user: topic("user"),
    };
    config.archive_group = format!("data.{name}.archive");
    config.lease = format!("{name}-batch");
    config.sinks = Vec::new();
    config.zone = zone(&format!("pipeline-{name}"), stores::s3(true).0);
    config
}

/// Posts pins, archives them, and commits the archive's position behind them.
pub async fn post(config: &Batch, pins: &[String]) {
    create_topics(config).await;
    send(config, Kind::Pin, pins).await;
    let store = Store::open(&config.zone).await.unwrap();
    archive_pins(config, &store, 0, pins, None).await;
    commit(config, [i64::try_from(pins.len()).unwrap(), 0, 0]);
}

/// Sends records without a key to the topic of their kind.
pub async fn send(config: &Batch, kind: Kind, records: &[String]) {
    let producer: FutureProducer = archive_client(config).create().unwrap();
    for record in records {
        let topic = &topic(&config.topics, kind).name;
        let record = FutureRecord::<(), _>::to(topic).payload(record);
        let sent = producer.send(record, Duration::from_secs(10)).await;
        sent.unwrap();
    }
}

/// Commits the archive's positions, by kind.
pub fn commit(config: &Batch, ends: [i64; 3]) {
    let consumer: BaseConsumer = archive_client(config).create().unwrap();
    let mut list = TopicPartitionList::new();
    for (kind, end) in Kind::ALL.into_iter().zip(ends) {
        let topic = &topic(&config.topics, kind).name;
        list.add_partition_offset(topic, 0, Offset::Offset(end))
            .unwrap();
    }
    tokio::task::block_in_place(|| consumer.commit(&list, CommitMode::Sync)).unwrap();
}

fn archive_client(config: &Batch) -> ClientConfig {
    let mut client = ClientConfig::new();
    client
        .set("bootstrap.servers", &config.kafka.bootstrap_servers)
        .set("group.id", &config.archive_group);
    client
}

/// The configuration of a stream worker, without the addresses of servers that are there.
pub fn stream() -> Stream {
    let sample = include_str!("../../config/samples/0.1.0/stream-live.yaml");
    pinpipe_config::parse(sample).unwrap()
}

/// A client of the tests' API server, whose namespace `data` exists.
pub async fn kubernetes() -> kube::Client {
    let config = Kubeconfig::read_from(stores::kubernetes()).unwrap();
    let options = KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(config, &options).await;
    let client = kube::Client::try_from(config.unwrap()).unwrap();
    let namespace = Namespace {
        metadata: ObjectMeta {
            name: Some("data".to_owned()),
            ..ObjectMeta::default()
        },
        ..Namespace::default()
    };
    let namespaces: Api<Namespace> = Api::all(client.clone());
    match namespaces.create(&PostParams::default(), &namespace).await {
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        created => drop(created.unwrap()),
    }
    client
}

/// The state of a run that has read nothing.
pub fn state(run: &str) -> State {
    State {
        run: run.into(),
        run_time: None,
        id: String::new(),
        begin: Positions::new(),
        covered: Positions::new(),
        topic_ids: BTreeMap::new(),
        listed: Positions::new(),
        buckets: 64,
        tables: BTreeMap::new(),
        latest: BTreeMap::new(),
    }
}

/// A temporary folder for one test, deleted when dropped.
pub struct TestDir(PathBuf);

impl TestDir {
    /// Creates an empty folder.
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "pinpipe-batch-{}-{}",
            std::process::id(),
            NUMBER.fetch_add(1, Ordering::Relaxed)
        );
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// The path of the folder.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The path of a file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for TestDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
