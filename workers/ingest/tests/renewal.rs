//! Renewed credentials: the same process sends with them, and no request fails meanwhile.
#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]

use std::{
    fs::{self, File},
    os::unix::fs::symlink,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use pinpipe_servers::{
    get,
    stores::{folder, kafka_with_users, port},
};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
};

const DEADLINE: Duration = Duration::from_mins(1);
/// The broker's users and their passwords.
const USERS: [(&str, &str); 2] = [("one", "password-of-one"), ("two", "password-of-two")];

async fn create_topics(port: u16) {
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", format!("127.0.0.1:{port}"))
        .create()
        .unwrap();
    let topics = ["t.pin", "t.geo", "t.user"];
    let topics = topics.map(|name| NewTopic::new(name, 1, TopicReplication::Fixed(1)));
    let created = admin.create_topics(&topics, &AdminOptions::new());
    assert!(created.await.unwrap().iter().all(Result::is_ok));
}

/// Makes these the credentials, all at once as the kubelet does.
fn mount(version: &str, (name, password): (&str, &str)) {
    let data = folder().join(version);
    fs::create_dir(&data).unwrap();
    fs::write(data.join("username"), name).unwrap();
    fs::write(data.join("password"), password).unwrap();
    let link = folder().join("new");
    symlink(data, &link).unwrap();
    fs::rename(link, folder().join("credentials")).unwrap();
}

/// The worker's process, which is killed when it is dropped.
struct Worker {
    child: Child,
    http: u16,
    admin: u16,
}

impl Worker {
    fn start(broker: u16) -> Self {
        let topic = |kind: &str| format!("{{name: t.{kind}, deadLetter: t.{kind}.dlq}}");
        let config = format!(
            "configVersion: 1\n\
             pipeline: {{namespace: data, name: p, uid: u}}\n\
             kafka: {{bootstrapServers: \"127.0.0.1:{broker}\", authentication: {{mechanism: \
             scramSha512, credentialsDir: {}}}}}\n\
             topics: {{pin: {}, geo: {}, user: {}}}\n\
             maxRecordBytes: 65536\n\
             maxRequestBytes: 1048576\n",
            folder().join("credentials").display(),
            topic("pin"),
            topic("geo"),
            topic("user"),
        );
        let path = folder().join("ingest.yaml");
        fs::write(&path, config).unwrap();
        let log = File::create(folder().join("ingest.log")).unwrap();
        let (http, admin) = (port(), port());
        let child = Command::new(env!("CARGO_BIN_EXE_pinpipe-ingest"))
            .arg("--config")
            .arg(path)
            .args(["--log-format", "plain", "--port", &http.to_string()])
            .args(["--admin-port", &admin.to_string()])
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, http, admin }
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
            assert!(begun.elapsed() < DEADLINE, "{found:?}, {}", log());
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn log() -> String {
    fs::read_to_string(folder().join("ingest.log")).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_while_credentials_are_renewed() {
    let (clients, sasl) = kafka_with_users(&USERS, &[]);
    create_topics(clients).await;
    mount("1", USERS[0]);
    let mut worker = Worker::start(sasl);
    let client = reqwest::Client::new();
    worker.answers(&client, 202).await;

    mount("2", USERS[1]);
    let taken_up = "spec.broker.kafka.authentication: renewed credentials taken up";
    let (begun, mut more) = (Instant::now(), 500);
    while more > 0 {
        let posts = [(); 8].map(|()| worker.post(&client));
        let statuses = futures::future::join_all(posts).await;
        assert_eq!(statuses, [Some(202); 8], "{}", log());
        if log().contains(taken_up) {
            more -= 1;
        }
        assert!(begun.elapsed() < DEADLINE, "{}", log());
    }

    mount("3", ("two", ""));
    let begun = Instant::now();
    while !get(worker.admin, "/readyz")
        .unwrap()
        .contains("SecretUnusable: spec.broker.kafka")
    {
        assert_eq!(worker.post(&client).await, Some(202), "{}", log());
        assert!(begun.elapsed() < DEADLINE, "{}", log());
    }
    // Text that is not the password can be used, and is.
    mount("4", ("two", "wrong"));
    worker.answers(&client, 503).await;
    mount("5", USERS[1]);
    worker.answers(&client, 202).await;
    assert!(worker.child.try_wait().unwrap().is_none());
}
