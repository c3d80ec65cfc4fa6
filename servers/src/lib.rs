//! Servers that tests and measurements talk to, as processes of this machine on 127.0.0.1: a Kafka
//! broker, a Kubernetes API server.
//!
//! What is made here are commands and the files they need. Who starts them keeps the process, its
//! log and its end.

pub mod kafka;
pub mod kubernetes;

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    process::Command,
    time::Duration,
};

/// How a program is started, by its name: what finds it, and in which environment it runs, is the
/// caller's business.
pub type Programs<'a> = &'a dyn Fn(&str) -> Command;

/// An answer to `GET` over HTTP/1.0; none: no answer, or another status than 200.
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

/// Whether somebody listens at a port.
#[must_use]
pub fn listens(port: u16) -> bool {
    TcpStream::connect_timeout(&address(port), Duration::from_secs(1)).is_ok()
}

fn address(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}
