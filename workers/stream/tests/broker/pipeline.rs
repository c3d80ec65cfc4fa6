//! A pipeline's topics, its worker's process and what they store.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    sync::OnceLock,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use pinpipe_config::{RESET_PATH, ResetState};
use pinpipe_servers::{
    get,
    stores::{folder, kafka_with_users, port, postgres},
};
use rdkafka::{
    ClientConfig, Message as _, Offset, TopicPartitionList,
    admin::{
        AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication,
    },
    client::DefaultClientContext,
    consumer::{BaseConsumer, CommitMode, Consumer as _, StreamConsumer},
    groups::GroupInfo,
    message::Headers as _,
    producer::{FutureProducer, FutureRecord},
};
use tokio_postgres::{Client, NoTls};

const DEADLINE: Duration = Duration::from_mins(1);

/// Waits until something is true.
pub async fn eventually(what: &str, is: impl AsyncFn() -> bool) {
    let begun = Instant::now();
    while !is().await {
        assert!(
            begun.elapsed() < DEADLINE,
            "not within {DEADLINE:?}: {what}"
        );
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// The ports of a Kafka broker.
#[derive(Clone, Copy)]
pub struct Broker {
    /// Of the listener that everybody may use.
    pub clients: u16,
    /// Of the listener for [`USER`], who has to show the password again every three seconds.
    pub sasl: u16,
}

/// The name and the first password of the broker's user.
pub const USER: (&str, &str) = ("app", "first-password");

/// A Kafka broker.
pub fn broker() -> Broker {
    static BROKER: OnceLock<Broker> = OnceLock::new();
    *BROKER.get_or_init(|| {
        let reauthentication = "scram-sha-512.connections.max.reauth.ms=3000";
        let (clients, sasl) = kafka_with_users(&[USER], &[reauthentication]);
        Broker { clients, sasl }
    })
}

fn client() -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set(
        "bootstrap.servers",
        format!("127.0.0.1:{}", broker().clients),
    );
    config
}

pub fn admin() -> AdminClient<DefaultClientContext> {
    client().create().unwrap()
}

/// A pipeline with topics of its own and a schema of its name.
pub struct Pipeline {
    pub name: &'static str,
    pub sql: Client,
    /// How its worker reaches the broker.
    pub kafka: String,
    /// Where its worker stores records.
    pub sink: String,
    /// The reset in its worker's configuration.
    pub reset: Option<&'static str>,
    producer: FutureProducer,
}

impl Pipeline {
    /// Creates the topics. Records of those in `by_producers` are stamped by their producers.
    pub async fn new(name: &'static str, by_producers: &[&str]) -> Self {
        let topic = |topic: &str| format!("{name}.{topic}");
        let names: Vec<(String, &str)> = ["pin", "geo", "user"]
            .into_iter()
            .flat_map(|kind| {
                let stamp = if by_producers.contains(&kind) {
                    "CreateTime"
                } else {
                    "LogAppendTime"
                };
                let letters = format!("{}.dlq", topic(kind));
                [(topic(kind), stamp), (letters, "CreateTime")]
            })
            .collect();
        let topics = names.iter().map(|(name, stamp)| {
            NewTopic::new(name, 3, TopicReplication::Fixed(1)).set("message.timestamp.type", stamp)
        });
        let topics: Vec<_> = topics.collect();
        let created = admin()
            .create_topics(&topics, &AdminOptions::new())
            .await
            .unwrap();
        assert!(created.iter().all(Result::is_ok), "{created:?}");
        let url = format!("host=127.0.0.1 port={} user=postgres", postgres());
        let (sql, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
        tokio::spawn(connection);
        let url_file = folder().join(format!("{name}.url"));
        let url = format!("postgresql://postgres@127.0.0.1:{}/postgres", postgres());
        fs::write(&url_file, url).unwrap();
        Self {
            name,
            sql,
            kafka: format!("{{bootstrapServers: \"127.0.0.1:{}\"}}", broker().clients),
            sink: Self::postgres(name, &url_file),
            reset: None,
            producer: client().set("linger.ms", "0").create().unwrap(),
        }
    }

    /// The sink in the schema `name` of the server whose URL is in a file.
    pub fn postgres(name: &str, url_file: &Path) -> String {
        format!(
            "!postgres {{name: live, urlFile: {}, schema: {name}, startFrom: earliest, \
             writeMode: upsert}}",
            url_file.display()
        )
    }

    /// What the worker has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(folder().join(format!("{}.log", self.name))).unwrap_or_default()
    }

    /// Starts a worker that stores the topics and writes the pipeline's dead letters.
    pub fn worker(&self) -> Worker {
        self.start(true)
    }

    /// Starts such a worker while another sink writes the pipeline's dead letters.
    pub fn worker_without_dead_letters(&self) -> Worker {
        self.start(false)
    }

    fn start(&self, writes_dead_letters: bool) -> Worker {
        let name = self.name;
        let topic = |kind: &str| format!("{{name: {name}.{kind}, deadLetter: {name}.{kind}.dlq}}");
        let reset = self.reset;
        let reset = reset.map_or_else(String::new, |reset| format!("reset: {reset}\n"));
        let config = format!(
            "configVersion: 1\n\
             pipeline: {{namespace: data, name: {name}, uid: u}}\n\
             kafka: {}\n\
             topics:\n  pin: {}\n  geo: {}\n  user: {}\n\
             group: {name}.live\n\
             maxRecordBytes: 65536\n\
             writesDeadLetters: {writes_dead_letters}\n\
             sink: {}\n\
             {reset}",
            self.kafka,
            topic("pin"),
            topic("geo"),
            topic("user"),
            self.sink
        );
        let path = folder().join(format!("{name}.yaml"));
        fs::write(&path, config).unwrap();
        let (admin, log) = (port(), folder().join(format!("{name}.log")));
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(log)
            .unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_pinpipe-stream"))
            .arg("--config")
            .arg(path)
            .args(["--log-format", "plain", "--admin-port", &admin.to_string()])
            .args(["--control-port", &port().to_string()])
            .env("HOSTNAME", format!("{name}-0"))
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Worker { child, admin }
    }

    /// Produces a record, with the time of a clock that is an hour behind.
    pub async fn produce(&self, kind: &str, raw: &str) {
        let topic = format!("{}.{kind}", self.name);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let hour_ago = now.checked_sub(Duration::from_hours(1)).unwrap();
        let record = FutureRecord::<str, str>::to(&topic)
            .payload(raw)
            .key("k")
            .timestamp(i64::try_from(hour_ago.as_millis()).unwrap());
        self.producer.send(record, DEADLINE).await.unwrap();
    }

    /// Lets the broker stamp a topic's records.
    pub async fn stamp_by_broker(&self, kind: &str) {
        let topic = format!("{}.{kind}", self.name);
        let config = AlterConfig::new(ResourceSpecifier::Topic(&topic))
            .set("message.timestamp.type", "LogAppendTime");
        let altered = admin()
            .alter_configs([&config], &AdminOptions::new())
            .await
            .unwrap();
        assert!(altered.iter().all(Result::is_ok), "{altered:?}");
    }

    /// A pin's title.
    pub async fn title(&self, key: &str) -> Option<String> {
        let query = format!("SELECT title FROM {}.pin WHERE unique_id = $1", self.name);
        let row = self.sql.query_opt(&query, &[&key]).await.ok()??;
        row.get(0)
    }

    /// The ids of the members of the worker's consumer group.
    pub fn members(&self) -> Vec<String> {
        let group = format!("{}.live", self.name);
        let consumer: BaseConsumer = client().create().unwrap();
        let list = consumer.fetch_group_list(Some(&group), DEADLINE).unwrap();
        let members = list.groups().iter().flat_map(GroupInfo::members);
        members.map(|member| member.id().to_owned()).collect()
    }

    /// The records before the offsets that the worker's consumer group has committed.
    pub fn committed(&self, kind: &str) -> i64 {
        let mut client = client();
        let consumer = client.set("group.id", format!("{}.live", self.name));
        let consumer: BaseConsumer = consumer.create().unwrap();
        let mut partitions = TopicPartitionList::new();
        partitions.add_partition_range(&format!("{}.{kind}", self.name), 0, 2);
        let committed = consumer.committed_offsets(partitions, DEADLINE).unwrap();
        let offsets = committed.elements();
        let offsets = offsets.iter().map(|element| element.offset().to_raw());
        offsets.map(|offset| offset.unwrap().max(0)).sum()
    }

    /// Commits a position of every partition to the group of the dead letters, for a topic of the
    /// name `<name>.<kind>` that had another id.
    pub fn commit_letters_of_another_topic(&self, kind: &str, position: i64) {
        let mut client = client();
        let group = format!("data.{}.dead-letters", self.name);
        let consumer: BaseConsumer = client.set("group.id", group).create().unwrap();
        let mut list = TopicPartitionList::new();
        for partition in 0..3 {
            let mut element = list.add_partition(&format!("{}.{kind}", self.name), partition);
            element.set_offset(Offset::Offset(position)).unwrap();
            element.set_metadata("another topic's id");
        }
        consumer.commit(&list, CommitMode::Sync).unwrap();
    }

    /// The values, sinks and outcomes of a topic's dead letters.
    pub async fn dead_letters(&self, kind: &str, count: usize) -> Vec<(String, String, String)> {
        let consumer: StreamConsumer = client()
            .set("group.id", format!("{}.test", self.name))
            .set("auto.offset.reset", "earliest")
            .create()
            .unwrap();
        let topic = format!("{}.{kind}.dlq", self.name);
        consumer.subscribe(&[&topic]).unwrap();
        let mut letters = Vec::new();
        while letters.len() < count {
            let letter = tokio::time::timeout(DEADLINE, consumer.recv()).await;
            let letter = letter.unwrap().unwrap();
            let headers = letter.headers().unwrap();
            let header = |name: &str| {
                let header = headers.iter().find(|header| header.key == name);
                let value = header.and_then(|header| header.value).unwrap_or_default();
                String::from_utf8_lossy(value).into_owned()
            };
            let value = letter.payload().unwrap_or_default();
            letters.push((
                String::from_utf8_lossy(value).into_owned(),
                header("pinpipe.sink"),
                header("pinpipe.outcome"),
            ));
        }
        letters
    }
}

/// A worker's process, which is killed when it is dropped.
pub struct Worker {
    child: Child,
    admin: u16,
}

impl Worker {
    /// The status and the text of its readiness.
    pub fn readyz(&self) -> String {
        let url = self.admin;
        let ready = get(url, "/readyz").map(|text| format!("200 {text}"));
        match ready {
            Some(ready) => ready,
            None => not_ready(url).unwrap_or_default(),
        }
    }

    /// What it answers about the reset in its configuration.
    pub fn reset(&self) -> ResetState {
        let answer = get(self.admin, RESET_PATH).unwrap_or_else(|| "{}".to_owned());
        serde_json::from_str(&answer).unwrap()
    }

    /// The number of records that it has stored.
    pub fn committed(&self) -> u64 {
        let metrics = get(self.admin, "/metrics").unwrap_or_default();
        let lines = metrics.lines();
        let committed =
            lines.filter(|line| line.starts_with("pinpipe_stream_committed_records_total"));
        let numbers = committed.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok());
        numbers.sum()
    }

    /// Checks that the process has not ended.
    pub fn must_run(&mut self) {
        assert!(self.child.try_wait().unwrap().is_none());
    }

    /// Stops the process as Kubernetes does.
    pub fn stop(mut self) {
        let id = self.child.id().to_string();
        let told = Command::new("kill").arg(id).status().unwrap();
        assert!(told.success() && self.child.wait().unwrap().success());
    }

    /// Kills the process.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// The whole answer of a worker that is not ready.
fn not_ready(port: u16) -> Option<String> {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream
        .write_all(b"GET /readyz HTTP/1.0\r\nhost: 127.0.0.1\r\n\r\n")
        .ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
