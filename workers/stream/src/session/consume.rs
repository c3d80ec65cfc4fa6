//! A record on its way from the log into its partition's buffer.

use std::time::Instant;

use pinpipe_core::Order;

use super::{state::State, worker::Worker};
use crate::{
    dead_letter::Writer,
    log::{Message, Stamp},
    sink::{Batch as _, Consumed, Sink},
};

/// Cleans a record and pushes it into its partition's open batch, with its dead letter if it gets
/// one.
pub fn consume<S: Sink, W: Writer>(
    worker: &Worker<S, W>,
    state: &mut State<S::Batch, W::Sent>,
    message: &impl Message,
    now: Instant,
) {
    let Some((kind, topic)) = worker.topic(message.topic()) else {
        return;
    };
    let (key, after) = ((kind, message.partition()), message.after());
    let time = match message.stamp() {
        Stamp::Broker(time) => time,
        Stamp::Producer if state.is_history(key, after) => 0,
        Stamp::Producer => {
            if state.accept(key, after).is_some() {
                state.on_stamped_by_producer(key);
            }
            return;
        }
    };
    let refusal = state.refusal(key, after).cloned();
    let Some((buffer, letters)) = state.accept(key, after) else {
        return;
    };
    let raw = message.value().unwrap_or_default();
    let position = Order {
        time,
        partition: message.partition(),
        offset: message.offset(),
    };
    let redriven = worker.redriven(kind, message, position);
    let order = redriven.map_or(position, |redriven| redriven.order);
    let cleaned = pinpipe_core::clean(kind, raw, worker.config.max_record_bytes as usize);
    // It may be read again for its dead letter alone.
    let is_stored = after <= buffer.stored();
    if !is_stored {
        worker.metrics.read(kind, &cleaned);
    }
    let batch = buffer.batch_for(after, now, |source| worker.sink.batch(source));
    let consumed = Consumed {
        raw,
        position,
        after,
        order,
        cleaned: &cleaned,
    };
    if refusal.is_none() && !is_stored {
        batch.push(consumed);
    }
    let record = (message.key(), message.value());
    let mut send = |verdict, sink| {
        buffer.add_dead_letter(raw.len());
        worker.metrics.dead_letter(kind, &verdict);
        let (source, letter) = (buffer.source(), (verdict, redriven));
        let writer = &worker.dead_letters;
        writer.send(&topic.dead_letter, source, position, record, letter, sink)
    };
    if let Some(refusal) = refusal {
        worker.metrics.unstorable(kind);
        letters.add_refused(after, send((&refusal).into(), Some(worker.name.as_str())));
    }
    if letters.wants(after)
        && let Err(rejection) = &cleaned
    {
        letters.add(after, send(rejection.into(), None));
    }
    letters.pass(after);
    state.on_pushed(key, now);
}
