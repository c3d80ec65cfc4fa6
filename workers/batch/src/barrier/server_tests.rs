//! The barrier on a real broker, which the test starts.

use std::fs;

use pinpipe_config::{Authentication, SaslMechanism};
use pinpipe_servers::stores;
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
};

use super::*;
use crate::testing::{self, TestDir};

#[tokio::test(flavor = "multi_thread")]
async fn a_corrected_password_is_taken_up_by_the_run_that_waits() {
    let (everybody, users) = stores::kafka_with_users(&[("batch", "right")], &[]);
    let mut config = testing::config();
    let topics = &config.topics;
    let topics = [&topics.pin, &topics.geo, &topics.user].map(|topic| topic.name.clone());
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", format!("127.0.0.1:{everybody}"))
        .create()
        .unwrap();
    let new = topics
        .each_ref()
        .map(|topic| NewTopic::new(topic, 1, TopicReplication::Fixed(1)));
    let created = admin.create_topics(&new, &AdminOptions::new()).await;
    assert!(created.unwrap().iter().all(Result::is_ok));

    let folder = TestDir::new();
    fs::write(folder.path().join("username"), "batch").unwrap();
    fs::write(folder.path().join("password"), "wrong").unwrap();
    config.kafka.bootstrap_servers = format!("127.0.0.1:{users}");
    config.kafka.authentication = Some(Authentication {
        mechanism: SaslMechanism::ScramSha512,
        credentials_dir: folder.path().to_owned(),
    });
    let mut archive = Archive::new(&config, Access::read(&config.kafka).unwrap()).unwrap();
    let ends = {
        let topics = topics.clone();
        move |archive: &Progress| archive.ends(&topics)
    };
    let refused = archive.query(ends.clone()).await.unwrap_err();
    let refused = format!("{refused:#}");
    assert!(refused.contains("SASL authentication error"), "{refused}");

    fs::write(folder.path().join("password"), "right").unwrap();
    assert_eq!(archive.query(ends).await.unwrap().len(), 3);
}
