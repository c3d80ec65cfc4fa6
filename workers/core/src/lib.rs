//! Record types, cleaning rules and the eight batch questions. Pure: no I/O, no async, no
//! Kubernetes.
//!
//! [`clean`] turns the raw bytes of one record into a typed, mostly borrowed record and the list of
//! fields it set to null ([`Repairs`]), or into the reason for rejecting it ([`Rejection`]). It
//! never panics, whatever the bytes.

mod clean;
pub mod columns;
mod escape;
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
