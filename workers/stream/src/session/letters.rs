//! The commit of positions to the group of the dead letters.

use crate::{
    log::{Log, Position},
    sink::Source,
};

/// Commits positions to the group of the dead letters. Returns for each partition what is committed
/// now, or none if that failed. A topic that the worker has no right to keeps no other from being
/// committed.
pub(super) async fn commit_letters(
    log: &impl Log,
    positions: Vec<(Source, Position)>,
) -> Vec<(Source, Option<Position>)> {
    let mut answers = Vec::with_capacity(positions.len());
    for of_topic in positions.chunk_by(|(one, _), (other, _)| one.topic == other.topic) {
        let of_partition = |(source, position): &(Source, Position)| (source.partition, *position);
        let list: Vec<_> = of_topic.iter().map(of_partition).collect();
        let committed = log.commit_letters(&of_topic[0].0.topic, &list).await;
        if let Err(error) = &committed {
            tracing::debug!(
                error = format!("{error:#}"),
                "positions can't be committed to the group of the dead letters: retrying"
            );
        }
        let answer = |(source, position): &(Source, Position)| {
            (source.clone(), committed.is_ok().then_some(*position))
        };
        answers.extend(of_topic.iter().map(answer));
    }
    answers
}
