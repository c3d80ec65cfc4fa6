//! The commit of positions to the group of the dead letters.

use crate::log::{Log, Position, TopicPartition};

/// Commits positions to the group of the dead letters. Returns for each partition what is committed
/// now, or none if that failed. A topic that the worker has no right to keeps no other from being
/// committed.
pub(super) async fn commit_letters(
    log: &impl Log,
    mut positions: Vec<(TopicPartition, Position)>,
) -> Vec<(TopicPartition, Option<Position>)> {
    positions.sort_unstable();
    let mut answers = Vec::with_capacity(positions.len());
    for of_topic in positions.chunk_by(|one, other| one.0.0 == other.0.0) {
        let committed = log.commit_letters(of_topic).await;
        if let Err(error) = &committed {
            tracing::debug!(
                error = format!("{error:#}"),
                "positions can't be committed to the group of the dead letters: retrying"
            );
        }
        let answer = |(partition, position): &(TopicPartition, Position)| {
            (partition.clone(), committed.is_ok().then_some(*position))
        };
        answers.extend(of_topic.iter().map(answer));
    }
    answers
}
