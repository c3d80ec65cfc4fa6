//! The queue of a pipeline's runs: which starts next, which record Jobs of the `CronJob`, and which
//! are no longer kept.

mod decide;
mod records;

pub use decide::{Ending, Input, Jobs, REPLACED, State, decide, has_ended, held, job_of, started};
pub use records::{expired, missing, record};
