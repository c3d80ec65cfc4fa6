//! Settings of Kafka clients.

use pinpipe_config::kafka_setting_problem;
use pinpipe_crds::Kafka;

use super::Problem;

/// Finds settings that users may not choose, and values that no client takes.
pub(super) fn check(kafka: &Kafka, problems: &mut Vec<Problem>) {
    let settings = kafka.settings.iter().flatten();
    problems.extend(settings.filter_map(|(name, value)| {
        Some(Problem {
            field: "spec.broker.kafka.settings",
            message: kafka_setting_problem(name, value)?,
        })
    }));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::{
        samples::{all_there, images, pipeline},
        validate::validate,
    };

    #[test]
    fn each_setting_that_is_refused_is_named() {
        let settings = json!({"acks": "1", "linger.ms": "soon", "fetch.min.bytes": "1000"});
        let kafka = json!({"bootstrapServers": "k:1", "settings": settings});
        let pipeline = pipeline(json!({"broker": {"kafka": kafka}}));
        let problems = validate(&pipeline, &all_there(&pipeline), &images()).unwrap_err();
        let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(problems.len(), 2, "{problems:?}");
        for (problem, begin) in problems.iter().zip([
            "spec.broker.kafka.settings: acks can't be set",
            "spec.broker.kafka.settings: linger.ms must be an integer from 0 to 1000",
        ]) {
            assert!(problem.starts_with(begin), "{problem}");
        }
    }
}
