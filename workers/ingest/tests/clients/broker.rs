//! The broker and what its topics hold.

use std::{collections::BTreeMap, time::Duration};

use pinpipe_servers::stores::kafka;
use rdkafka::{
    ClientConfig, Message as _, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer as _},
};

const DEADLINE: Duration = Duration::from_secs(30);
/// Partitions of each topic.
pub const PARTITIONS: i32 = 2;

/// Key and value by partition and offset.
pub type Contents = BTreeMap<(i64, i64), (String, String)>;

fn client() -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", format!("127.0.0.1:{}", kafka()));
    config
}

/// Creates the topics of the three kinds.
pub async fn create_topics(prefix: &str) {
    let admin: AdminClient<DefaultClientContext> = client().create().unwrap();
    let topics = ["pin", "geo", "user"].map(|kind| format!("{prefix}.{kind}"));
    let topics = topics.each_ref();
    let topics = topics.map(|topic| NewTopic::new(topic, PARTITIONS, TopicReplication::Fixed(1)));
    let created = admin.create_topics(&topics, &AdminOptions::new());
    assert!(created.await.unwrap().iter().all(Result::is_ok));
}

/// All that a topic holds.
pub fn contents(topic: &str) -> Contents {
    let consumer: BaseConsumer = client().set("group.id", "reader").create().unwrap();
    let mut all = TopicPartitionList::new();
    let mut wanted = 0;
    for partition in 0..PARTITIONS {
        let (start, end) = consumer
            .fetch_watermarks(topic, partition, DEADLINE)
            .unwrap();
        wanted += usize::try_from(end - start).unwrap();
        let added = all.add_partition_offset(topic, partition, Offset::Beginning);
        added.unwrap();
    }
    consumer.assign(&all).unwrap();
    let mut found = Contents::new();
    while found.len() < wanted {
        let message = consumer.poll(DEADLINE).expect("a record").unwrap();
        let text = |bytes: Option<&[u8]>| String::from_utf8(bytes.unwrap().to_vec()).unwrap();
        let place = (message.partition().into(), message.offset());
        found.insert(place, (text(message.key()), text(message.payload())));
    }
    found
}
