//! Whether sinks have read the topics to their ends: what their consumer groups have committed,
//! against the logs.

use std::{collections::BTreeMap, time::Duration};

use futures::future::try_join_all;
use pinpipe_config::Kafka;
use pinpipe_runtime::kafka::{Behind, Positions, Progress, behind};
use tokio::{task::spawn_blocking, time::timeout};

use crate::MANAGER;

/// How long a broker may take to answer one question.
const QUESTION: Duration = Duration::from_secs(5);
/// How long all of them may take.
const TIMEOUT: Duration = Duration::from_secs(20);

/// What each component has not read yet, by its consumer group. An error, in a sentence: it can't
/// be told now.
pub async fn left(
    bootstrap_servers: &str,
    topics: &[String],
    groups: BTreeMap<String, String>,
) -> Result<BTreeMap<String, Vec<Behind>>, String> {
    let kafka = Kafka {
        bootstrap_servers: bootstrap_servers.to_owned(),
    };
    let answers = groups.into_iter().map(|(component, group)| {
        let (kafka, topics) = (kafka.clone(), topics.to_vec());
        async move {
            let ask = move || {
                let progress = Progress::new(&kafka, MANAGER, &group, QUESTION)?;
                let ends: Positions = progress.ends(&topics)?;
                anyhow::Ok(behind(&ends, &progress.committed(&ends)?))
            };
            let left = spawn_blocking(ask)
                .await
                .map_err(|error| error.to_string())?;
            left.map(|left| (component, left))
                .map_err(|error| format!("{error:#}"))
        }
    });
    match timeout(TIMEOUT, try_join_all(answers)).await {
        Ok(answers) => Ok(answers?.into_iter().collect()),
        Err(_) => Err(format!(
            "the Kafka brokers at {bootstrap_servers} do not answer"
        )),
    }
}
