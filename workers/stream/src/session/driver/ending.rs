//! How a session ends.

use super::Session;
use crate::{clock::Clock, dead_letter::Writer, log::Reader, sink::Sink};

impl<S: Sink, W: Writer, R: Reader, C: Clock> Session<S, W, R, C> {
    /// Stops reading, since the worker stops: what is buffered is stored first.
    pub(super) fn drain(&mut self) {
        self.flush();
        self.drains_until = Some(self.clock.now() + self.drain_timeout);
    }

    /// Whether the worker has stopped and drained; commits the last positions to the group then.
    pub(super) fn has_ended(&mut self, drained: bool) -> bool {
        let Some(deadline) = self.drains_until else {
            return false;
        };
        if !drained && self.clock.now() < deadline {
            return false;
        }
        if !drained {
            tracing::warn!("buffered records could not be stored in time: they are read again");
        }
        let positions = self.state.positions_to_commit();
        self.commit_positions(&positions);
        true
    }

    /// Takes leave of the log once the session has ended. An assignment without an answer would
    /// keep the consumer from leaving its group.
    pub fn close(&self) {
        if self.state.has_open_assignments()
            && let Err(error) = self.log.assign(&[])
        {
            tracing::debug!(
                error = format!("{error:#}"),
                "an assignment was not answered"
            );
        }
        let metrics = &self.worker.metrics;
        for (topic, partition) in self.state.assigned() {
            metrics.remove_partition(topic, partition);
        }
        metrics.buffered_bytes.set(0);
    }
}
