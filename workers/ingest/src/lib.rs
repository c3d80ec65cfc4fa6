//! The REST service: records in by HTTP, out to their Kafka topics, answered only after the broker
//! has them.
//!
//! A request is read whole under a budget of memory ([`budget`]), taken apart into raw records
//! without building them ([`split`]), keyed by the core's cleaning rule, sent ([`producer`]) and
//! answered record by record in its own order ([`answer`]). What a client was told is stored, is
//! stored; what it was told to send again may be stored too, and a repeat does no harm.

pub mod answer;
pub mod body;
pub mod budget;
pub mod http;
pub mod metrics;
pub mod problem;
pub mod producer;
pub mod split;
