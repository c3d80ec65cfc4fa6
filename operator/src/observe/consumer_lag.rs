//! What consumer groups have not read yet: their committed offsets against the ends of the logs.

use std::{collections::BTreeMap, time::Duration};

use futures::future::try_join_all;
use pinpipe_plan::{component::Component, names::MANAGER};
use pinpipe_runtime::kafka::{Access, Behind, Positions, Progress, Unreachable, behind};
use tokio::{task::spawn_blocking, time::timeout};

/// Time-out of one request to a broker.
const REQUEST: Duration = Duration::from_secs(5);
/// Time-out of all requests together.
const TOTAL: Duration = Duration::from_secs(20);

/// Partitions that each component has not read to the end, by its consumer group. An error, in a
/// sentence: the lag can't be told now.
pub async fn lag(
    access: &Access,
    topics: &[String],
    groups: BTreeMap<Component, String>,
) -> Result<BTreeMap<Component, Vec<Behind>>, String> {
    let answers = groups.into_iter().map(|(component, group)| {
        let (access, topics) = (access.clone(), topics.to_vec());
        async move {
            let ask = move || {
                let progress = Progress::new(&access, MANAGER, &group, REQUEST)?;
                let ends: Positions = progress.ends(&topics)?;
                anyhow::Ok(behind(&ends, &progress.committed(&ends)?))
            };
            let lag = spawn_blocking(ask)
                .await
                .map_err(|error| error.to_string())?;
            lag.map(|lag| (component, lag))
                .map_err(|error| format!("{error:#}"))
        }
    });
    match timeout(TOTAL, try_join_all(answers)).await {
        Ok(answers) => Ok(answers?.into_iter().collect()),
        Err(_) => Err(Unreachable {
            bootstrap_servers: access.bootstrap_servers.clone(),
            cause: None,
        }
        .to_string()),
    }
}
