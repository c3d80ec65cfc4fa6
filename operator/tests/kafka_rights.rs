//! Topics that the operator only describes (`topics.management: Existing`), at a broker whose users
//! have no rights but those they are given.
#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]

use std::time::{Duration, Instant};

use pinpipe_config::SaslMechanism;
use pinpipe_crds::{RecordKind, reasons};
use pinpipe_operator::{
    finding::Finding,
    kafka::{Brokers, plan},
};
use pinpipe_plan::build::DesiredTopic;
use pinpipe_runtime::kafka::{Access, User};
use pinpipe_servers::{
    acls::{self, Resource, Right},
    stores::kafka_with_users,
};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
};

const DEADLINE: Duration = Duration::from_mins(1);
const OPERATOR: (&str, &str) = ("operator", "password-of-operator");
const DEAD_LETTERS: &str = "data.p.pin.dlq";
const TOPICS: [&str; 2] = ["data.p.pin", DEAD_LETTERS];

async fn create_topics(port: u16) {
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", format!("127.0.0.1:{port}"))
        .create()
        .unwrap();
    let topics = TOPICS.map(|name| {
        NewTopic::new(name, 1, TopicReplication::Fixed(1))
            .set("message.timestamp.type", "LogAppendTime")
    });
    let created = admin.create_topics(&topics, &AdminOptions::new());
    assert!(created.await.unwrap().iter().all(Result::is_ok));
}

/// The finding about the topics, which takes up to a request's time.
async fn finding(access: &Access) -> Finding {
    let desired = TOPICS.map(|name| DesiredTopic {
        kind: RecordKind::Pin,
        name: name.to_owned(),
        partitions: 1,
        replication_factor: -1,
        config: Vec::new(),
        dead_letters: name == DEAD_LETTERS,
        managed: false,
    });
    let names = TOPICS.map(str::to_owned).into();
    match Brokers::default().describe(access, names).await {
        Ok((_, cluster)) => plan(&desired, &[], &cluster.topics).state.finding,
        Err(error) => error.finding(),
    }
}

/// Waits until the finding about the topics is as wanted: rights take effect a little later.
async fn eventually(access: &Access, wanted: impl Fn(&Finding) -> bool) {
    let begun = Instant::now();
    loop {
        let found = finding(access).await;
        if wanted(&found) {
            return;
        }
        assert!(begun.elapsed() < DEADLINE, "{found:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn existing_topics_need_the_rights_to_describe_them_and_no_others() {
    let (clients, sasl) = kafka_with_users(&[OPERATOR], &[]);
    create_topics(clients).await;
    let (name, password) = OPERATOR;
    let access = Access {
        bootstrap_servers: format!("127.0.0.1:{sasl}"),
        user: Some(User {
            mechanism: SaslMechanism::ScramSha512,
            name: name.to_owned(),
            password: password.to_owned(),
        }),
        ..Access::default()
    };
    let topics = Resource::Topics("data.p.");
    // With a rule about them nobody has rights to the topics but those that rules give.
    let all = Right::RD_KAFKA_ACL_OPERATION_ALL;
    acls::permit(clients, topics, "somebody", &[all]);
    eventually(&access, |found| {
        found.reason == reasons::BROKER_FAILED
            && found.message.contains("data.p.pin: ")
            && found.message.contains("grant the operator's user Describe")
    })
    .await;

    let describe = Right::RD_KAFKA_ACL_OPERATION_DESCRIBE;
    acls::permit(clients, topics, name, &[describe]);
    eventually(&access, |found| {
        found.ok && found.message.contains("DescribeConfigs")
    })
    .await;

    let settings = Right::RD_KAFKA_ACL_OPERATION_DESCRIBE_CONFIGS;
    acls::permit(clients, topics, name, &[settings]);
    eventually(&access, |found| {
        found.ok && found.message == "all 2 topics are there"
    })
    .await;
}
