//! The queue of a pipeline's runs: which starts next, which record Jobs of the `CronJob`, and which
//! are no longer kept.

mod decide;
mod records;
mod work;

pub use decide::{
    Ending, Input, Jobs, REPLACED, Start, State, decide, has_ended, held, is_of_run, job_of,
    started,
};
pub use records::{expired, missing, record};
pub use work::{Work, of_reset, of_topic};
