//! Renewed credentials: the same process sends with them, and no request fails meanwhile. Where
//! their user may not write, it ends and says so.
#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]

mod program;

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, ExitStatus},
    sync::OnceLock,
    time::{Duration, Instant},
};

use pinpipe_servers::{
    acls::{self, Resource, Right},
    get,
    stores::{folder, kafka_with_users},
};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
};

use program::Program;

const DEADLINE: Duration = Duration::from_mins(1);
/// The broker's users and their passwords.
const USERS: [(&str, &str); 3] = [
    ("one", "password-of-one"),
    ("two", "password-of-two"),
    ("reader", "password-of-reader"),
];

/// The broker's ports: for everybody, and for its users.
fn broker() -> (u16, u16) {
    static BROKER: OnceLock<(u16, u16)> = OnceLock::new();
    *BROKER.get_or_init(|| kafka_with_users(&USERS, &[]))
}

async fn create_topics(name: &str) {
    let (port, _) = broker();
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", format!("127.0.0.1:{port}"))
        .create()
        .unwrap();
    let topics = ["pin", "geo", "user"].map(|kind| format!("{name}.{kind}"));
    let topics = topics.each_ref();
    let topics = topics.map(|topic| NewTopic::new(topic, 1, TopicReplication::Fixed(1)));
    let created = admin.create_topics(&topics, &AdminOptions::new());
    assert!(created.await.unwrap().iter().all(Result::is_ok));
}

/// The worker's process, which is killed when it is dropped.
struct Worker {
    /// The folder of its credentials, settings and log.
    own: PathBuf,
    child: Child,
    http: u16,
    admin: u16,
}

impl Worker {
    /// Starts a worker for topics of this name, with the first credentials.
    async fn start(name: &str, user: (&str, &str)) -> Self {
        create_topics(name).await;
        let own = folder().join(name);
        fs::create_dir(&own).unwrap();
        mount(&own, "first", user);
        let topic = |kind: &str| format!("{{name: {name}.{kind}, deadLetter: {name}.{kind}.dlq}}");
        let config = format!(
            "configVersion: 1\n\
             pipeline: {{namespace: data, name: p, uid: u}}\n\
             kafka: {{bootstrapServers: \"127.0.0.1:{}\", authentication: {{mechanism: \
             scramSha512, credentialsDir: {}}}}}\n\
             topics: {{pin: {}, geo: {}, user: {}}}\n\
             maxRecordBytes: 65536\n\
             maxRequestBytes: 1048576\n",
            broker().1,
            own.join("credentials").display(),
            topic("pin"),
            topic("geo"),
            topic("user"),
        );
        let logged = [("RUST_LOG", "info,pinpipe_ingest=debug")];
        let Program { child, http, admin } = program::start(&own, &config, &logged);
        Self {
            own,
            child,
            http,
            admin,
        }
    }

    fn mount(&self, version: &str, user: (&str, &str)) {
        mount(&self.own, version, user);
    }

    fn log(&self) -> String {
        fs::read_to_string(self.own.join("log")).unwrap()
    }

    /// Waits until the process has ended.
    async fn end(&mut self) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(begun.elapsed() < DEADLINE, "{}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The status of a request's answer. None if there is none.
    async fn post(&self, client: &reqwest::Client) -> Option<u16> {
        let request = client
            .post(format!("http://127.0.0.1:{}/pin", self.http))
            .header("content-type", "application/json")
            .body("{\"unique_id\": \"u\", \"index\": 1}");
        Some(request.send().await.ok()?.status().as_u16())
    }

    /// Posts until the answers have this status.
    async fn answers(&self, client: &reqwest::Client, status: u16) {
        let begun = Instant::now();
        loop {
            let found = self.post(client).await;
            if found == Some(status) {
                return;
            }
            assert!(begun.elapsed() < DEADLINE, "{found:?}, {}", self.log());
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Makes these the credentials in a folder, all at once as the kubelet does.
fn mount(own: &Path, version: &str, (name, password): (&str, &str)) {
    let data = own.join(version);
    fs::create_dir(&data).unwrap();
    fs::write(data.join("username"), name).unwrap();
    fs::write(data.join("password"), password).unwrap();
    let link = own.join("new");
    symlink(data, &link).unwrap();
    fs::rename(link, own.join("credentials")).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_while_credentials_are_renewed() {
    let mut worker = Worker::start("renewed", USERS[0]).await;
    let client = reqwest::Client::new();
    worker.answers(&client, 202).await;

    worker.mount("2", USERS[1]);
    let taken_up = "spec.broker.kafka.authentication: renewed credentials taken up";
    let (begun, mut more) = (Instant::now(), 500);
    while more > 0 {
        let posts = [(); 8].map(|()| worker.post(&client));
        let statuses = futures::future::join_all(posts).await;
        assert_eq!(statuses, [Some(202); 8], "{}", worker.log());
        if worker.log().contains(taken_up) {
            more -= 1;
        }
        assert!(begun.elapsed() < DEADLINE, "{}", worker.log());
    }

    let closed = "the producer with the earlier credentials is closed";
    while !worker.log().contains(closed) {
        assert!(begun.elapsed() < DEADLINE, "{}", worker.log());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    worker.mount("3", ("two", ""));
    let begun = Instant::now();
    while !get(worker.admin, "/readyz")
        .unwrap()
        .contains("SecretUnusable: spec.broker.kafka")
    {
        assert_eq!(worker.post(&client).await, Some(202), "{}", worker.log());
        assert!(begun.elapsed() < DEADLINE, "{}", worker.log());
    }
    // Text that is not the password can be used, and is.
    worker.mount("4", ("two", "wrong"));
    worker.answers(&client, 503).await;
    worker.mount("5", USERS[1]);
    worker.answers(&client, 202).await;
    assert!(worker.child.try_wait().unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_process_ends_and_says_so_when_its_user_may_not_write() {
    let mut worker = Worker::start("forbidden", USERS[0]).await;
    let client = reqwest::Client::new();
    worker.answers(&client, 202).await;

    let (clients, _) = broker();
    let (reader, _) = USERS[2];
    let write = Right::RD_KAFKA_ACL_OPERATION_WRITE;
    acls::forbid(clients, Resource::Topic("*"), reader, write);
    // Brokers took it in place of Write once, and still do.
    let numbered = Right::RD_KAFKA_ACL_OPERATION_IDEMPOTENT_WRITE;
    acls::forbid(clients, Resource::Cluster, reader, numbered);
    worker.mount("2", USERS[2]);
    let status = worker.end().await;
    assert!(!status.success(), "{status}");
    let log = worker.log();
    let error = "Error: the Kafka producer can't go on";
    let error = log.lines().find(|line| line.contains(error));
    let right = "grant the worker's user Write of the topics";
    assert!(error.is_some_and(|error| error.contains(right)), "{log}");
}
