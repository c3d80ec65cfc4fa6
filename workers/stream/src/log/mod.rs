//! Logs: where records come from.

mod position;

pub use position::Position;
