//! Servers that tests and measurements talk to, as processes of this machine on 127.0.0.1: a Kafka
//! broker, a Kubernetes API server, PostgreSQL, Cassandra, an object store.
//!
//! This crate makes commands and the files they need. The caller starts them and owns the processes
//! and their logs; [`stores`] does that for test programs. With the feature `acls` it sets rights
//! of a broker's users, too. [`documented_metrics`] compares what programs expose with their docs.

#[cfg(feature = "acls")]
pub mod acls;
pub mod cassandra;
pub mod certificates;
pub mod documented_metrics;
pub mod kafka;
pub mod kubernetes;
pub mod postgres;
pub mod process;
pub mod s3;
pub mod stores;

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    process::Command,
    time::Duration,
};

/// Makes the command of a program from its name. The caller decides where it is found and in which
/// environment it runs.
pub type Programs<'a> = &'a dyn Fn(&str) -> Command;

/// The response to `GET` over HTTP/1.0; None without a response or if its status isn't 200.
#[must_use]
pub fn get(port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&address(port), Duration::from_secs(1)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    stream
        .write_all(format!("GET {path} HTTP/1.0\r\nhost: 127.0.0.1\r\n\r\n").as_bytes())
        .ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.lines()
        .next()?
        .contains(" 200")
        .then(|| body.to_owned())
}

/// Whether a TCP connection to a port of 127.0.0.1 succeeds.
#[must_use]
pub fn listens(port: u16) -> bool {
    TcpStream::connect_timeout(&address(port), Duration::from_secs(1)).is_ok()
}

fn address(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}
