//! librdkafka's callbacks.

use std::{
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use pinpipe_runtime::kafka::BrokerErrors;
use rdkafka::{
    ClientContext, Statistics, TopicPartitionList,
    client::OAuthToken,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer as _, ConsumerContext},
    error::{KafkaError, KafkaResult},
    types::RDKafkaRespErr,
};
use tokio::sync::mpsc::UnboundedSender;

use super::super::{Event, Position, TopicPartition};

/// librdkafka's callbacks.
pub(super) struct Context {
    pub events: UnboundedSender<Event>,
    /// Set once the session no longer answers rebalances.
    pub closing: Arc<AtomicBool>,
    /// Why brokers can't be reached.
    pub broker_errors: BrokerErrors,
}

fn partitions(list: &TopicPartitionList) -> Vec<TopicPartition> {
    list.elements()
        .iter()
        .map(|element| (element.topic().to_owned(), element.partition()))
        .collect()
}

impl Context {
    fn send(&self, event: Event) {
        // The receiver is gone once the session has ended.
        let _ = self.events.send(event);
    }
}

impl ClientContext for Context {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = BrokerErrors::ENABLE_REFRESH_OAUTH_TOKEN;

    fn generate_oauth_token(&self, config: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        self.broker_errors.generate_oauth_token(config)
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.broker_errors.log(level, facility, message);
    }

    fn stats(&self, statistics: Statistics) {
        let connected = statistics
            .brokers
            .values()
            .any(|broker| broker.state == "UP" && broker.nodeid >= 0);
        let mut ends = Vec::new();
        for (topic, log) in statistics.topics {
            for (partition, log) in log.partitions {
                if partition >= 0 && log.ls_offset >= 0 {
                    ends.push(((topic.clone(), partition), Position::offset(log.ls_offset)));
                }
            }
        }
        let unreachable = (!connected).then(|| self.broker_errors.unreachable().to_string());
        self.send(Event::Statistics { unreachable, ends });
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.broker_errors.error(error, reason);
    }
}

impl ConsumerContext for Context {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        code: RDKafkaRespErr,
        list: &mut TopicPartitionList,
    ) {
        let assign = code == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        if self.closing.load(Ordering::SeqCst) {
            // librdkafka must be answered even while the consumer leaves the group.
            let answer = if assign {
                consumer.incremental_assign(list)
            } else {
                consumer.incremental_unassign(list)
            };
            if let Err(error) = answer {
                tracing::debug!(%error, "a rebalance while leaving the group failed");
            }
        } else if assign {
            self.send(Event::Assign(partitions(list)));
        } else {
            self.send(Event::Revoke {
                partitions: partitions(list),
                lost: consumer.assignment_lost(),
            });
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, _: &TopicPartitionList) {
        if let Err(error) = result {
            self.send(Event::CommitFailed(error.to_string()));
        }
    }
}
