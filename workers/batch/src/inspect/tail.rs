//! The newest records of the topics.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use futures::future::try_join_all;
use pinpipe_config::inspect::TopicRecord;
use pinpipe_core::{Kind, Order};
use rdkafka::{Message as _, message::BorrowedMessage};

use super::{
    args::{TailArgs, kinds},
    components::Components,
    form,
};
use crate::dead_letters::{Ranges, TopicReader, ranges};

/// Takes results.
pub type Take<'a, T> = &'a mut (dyn FnMut(T) -> Result<()> + Send);

/// Gives the newest records of each topic to `take`, the oldest first, and if it is to follow,
/// those that are written from then on.
pub async fn tail(
    components: &Components,
    args: &TailArgs,
    take: Take<'_, TopicRecord>,
) -> Result<()> {
    let mut following = Vec::new();
    for kind in kinds(&args.kind) {
        let topic = &components.topic(kind).name;
        let retained = ranges(components.brokers(), topic)?;
        for record in newest(components, kind, &retained, args.last).await? {
            take(record)?;
        }
        let ends = retained.iter();
        let ends = ends
            .map(|(partition, range)| (*partition, range.end))
            .collect();
        if args.follow {
            let reader = TopicReader::following(components.brokers(), topic, &ends)?;
            following.push((kind, reader));
        }
    }
    let take = &tokio::sync::Mutex::new(take);
    let follow = following.into_iter().map(|(kind, mut reader)| async move {
        while let Some(message) = reader.next().await? {
            (*take.lock().await)(record(kind, &message))?;
        }
        anyhow::Ok(())
    });
    try_join_all(follow).await.map(drop)
}

/// The newest `last` records of a topic, the oldest first.
async fn newest(
    components: &Components,
    kind: Kind,
    retained: &Ranges,
    last: u32,
) -> Result<Vec<TopicRecord>> {
    let topic = &components.topic(kind).name;
    let ends = last_of(retained, i64::from(last));
    let mut reader = TopicReader::between(components.brokers(), topic, &ends)?;
    let mut records = BTreeMap::new();
    while let Some(message) = reader.next().await.context(topic.clone())? {
        let order = Order {
            time: message.timestamp().to_millis().unwrap_or_default(),
            partition: message.partition(),
            offset: message.offset(),
        };
        records.insert(order, record(kind, &message));
        if records.len() > last as usize {
            records.pop_first();
        }
    }
    Ok(records.into_values().collect())
}

/// The last offsets of each partition.
pub fn last_of(retained: &Ranges, last: i64) -> Ranges {
    let ranges = retained.iter().map(|(partition, range)| {
        let start = range.end.saturating_sub(last).max(range.start);
        (*partition, start..range.end)
    });
    ranges.collect()
}

fn record(kind: Kind, message: &BorrowedMessage<'_>) -> TopicRecord {
    TopicRecord {
        kind: form::kind(kind),
        topic: message.topic().to_owned(),
        partition: message.partition(),
        offset: message.offset(),
        time: message.timestamp().to_millis().map(form::time),
        key: message.key().map(form::text),
        value: message.payload().map(form::text),
    }
}
