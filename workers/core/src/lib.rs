//! Records, cleaning and the eight questions of the pipeline's contract. Pure: no I/O, no async, no
//! Kubernetes.
//!
//! [`clean`] takes the raw bytes of one record and gives a typed, mostly borrowed record, with the
//! fields it had to make null ([`Repairs`]), or the reason why nothing can be kept ([`Rejection`]).
//! It never panics, whatever the bytes.

mod clean;
pub mod columns;
mod json;
mod line;
mod number;
pub mod questions;
mod record;
mod rejection;
mod repair;
mod text;
mod time;

pub use clean::{clean, record_key};
pub use line::single_line;
pub use record::{Cleaned, Geo, Kind, Order, Pin, Record, UnknownKind, User};
pub use rejection::Rejection;
pub use repair::{Repair, RepairReason, Repairs};
