//! Ingest, the REST service: accepts records by HTTP and sends them to their Kafka topics. It
//! responds after the broker has confirmed them.
//!
//! A request passes the [`gate`] first. Its path tells its form ([`route`]). Its body is read
//! within a memory budget ([`body`], [`budget`]) and split into raw records without parsing them
//! ([`split`], [`envelope`]). Records are keyed by the cleaning rules of `pinpipe-core` and sent
//! ([`producer`]). The response has one result per record, in request order ([`answer`]). A record
//! reported as accepted is stored. A record reported as unconfirmed may be stored too: sending it
//! again is safe.

pub mod answer;
pub mod body;
pub mod budget;
pub mod describe;
pub mod drain;
pub mod envelope;
pub mod form;
pub mod gate;
pub mod hint;
pub mod http;
pub mod json;
pub mod metrics;
pub mod names;
pub mod openapi;
pub mod problem;
pub mod producer;
pub mod route;
pub mod split;
pub mod syntax;
