//! One-off requests that annotations of a pipeline make.

mod requests;
mod reset_sink;

pub(super) use requests::requests;
pub use reset_sink::RESET_FORMS;
pub(super) use reset_sink::{ARCHIVE, resets};
