//! Whether sinks may read the topics, while no broker tells.
//!
//! The reason of `TopicsReady` is the memory: it is `TopicUnsuitable` until a broker answers that
//! the topics are suitable, whatever else is wrong with them meanwhile.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use pinpipe_crds::reasons;

use crate::{
    finding::Finding,
    kafka::{Suitability, TopicsState},
};

/// Whether topics must not be read, by what a broker answered, if one did, and by `TopicsReady` as
/// it was before.
pub(super) fn is_unsuitable(answered: Suitability, before: Option<&Condition>) -> bool {
    match answered {
        Suitability::Suitable => false,
        Suitability::Unsuitable => true,
        Suitability::Unknown => {
            before.is_some_and(|before| before.reason == reasons::TOPIC_UNSUITABLE)
        }
    }
}

/// Keeps the reason while topics must not be read.
pub(super) fn remember(topics: &mut TopicsState, before: Option<&Condition>) {
    let finding = &mut topics.finding;
    if is_unsuitable(topics.suitability, before) && finding.reason != reasons::TOPIC_UNSUITABLE {
        let message = format!(
            "when a broker last answered, records of a topic could not be ordered, so sinks have \
             no pods; {}",
            finding.message
        );
        *finding = Finding::bad(reasons::TOPIC_UNSUITABLE, message);
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;
    use pinpipe_crds::condition_types;

    use super::*;
    use crate::status;

    /// States of topics one after the other: what a broker answered, the reason, and whether sinks
    /// must not read them then.
    #[test]
    fn topics_stay_unsuitable_until_a_broker_says_otherwise() {
        use Suitability::{Suitable, Unknown, Unsuitable};
        use reasons::{
            BROKER_FAILED, BROKER_UNREACHABLE, PARTITIONS_REFUSED, TOPIC_MISSING, TOPIC_UNSUITABLE,
            TOPICS_READY,
        };
        let histories: [&[(Suitability, &'static str, bool)]; 4] = [
            &[
                (Suitable, TOPICS_READY, false),
                (Unknown, BROKER_UNREACHABLE, false),
            ],
            &[
                (Unsuitable, TOPIC_UNSUITABLE, true),
                (Unknown, BROKER_UNREACHABLE, true),
                (Unknown, BROKER_FAILED, true),
                (Suitable, TOPICS_READY, false),
                (Unknown, BROKER_UNREACHABLE, false),
            ],
            // Another problem comes first.
            &[
                (Unsuitable, PARTITIONS_REFUSED, true),
                (Unknown, BROKER_UNREACHABLE, true),
            ],
            &[
                (Unsuitable, TOPIC_MISSING, true),
                (Suitable, TOPIC_MISSING, false),
            ],
        ];
        for history in histories {
            let mut before: Vec<Condition> = Vec::new();
            for (suitability, reason, expected) in history {
                let found = is_unsuitable(*suitability, before.first());
                assert_eq!(found, *expected, "{history:?} {reason}");
                let finding = if *reason == TOPICS_READY {
                    Finding::good(reason, "m")
                } else {
                    Finding::bad(reason, "m")
                };
                let mut topics = TopicsState {
                    topics: Vec::new(),
                    finding,
                    claimed: true,
                    suitability: *suitability,
                };
                remember(&mut topics, before.first());
                // The conditions of sinks don't tell: they may be suspended, or lack a Secret.
                let findings = vec![(condition_types::TOPICS_READY, topics.finding)];
                before = status::conditions(&before, findings, Some(1), Timestamp::UNIX_EPOCH);
            }
        }
    }

    #[test]
    fn the_message_names_the_other_problem_too() {
        let finding = Finding::bad(reasons::BROKER_UNREACHABLE, "no broker answers");
        let mut topics = TopicsState {
            topics: Vec::new(),
            finding,
            claimed: false,
            suitability: Suitability::Unsuitable,
        };
        remember(&mut topics, None);
        assert_eq!(topics.finding.reason, reasons::TOPIC_UNSUITABLE);
        let message = topics.finding.message.clone();
        assert!(message.ends_with("; no broker answers"), "{message}");
        remember(&mut topics, None);
        assert_eq!(topics.finding.message, message);
    }
}
