//! The proxy between an operator and the broker. It forwards everything and records writes.

use std::{
    collections::HashMap,
    io,
    net::Ipv4Addr,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Result;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    select,
    sync::watch,
};

use crate::traffic::Traffic;

/// The requests that write, with their API keys. Source: Kafka protocol guide, "Api Keys".
const WRITES: [(i16, &str); 6] = [
    (19, "CreateTopics"),
    (20, "DeleteTopics"),
    (33, "AlterConfigs"),
    (37, "CreatePartitions"),
    (44, "IncrementalAlterConfigs"),
    (45, "AlterPartitionReassignments"),
];

/// Serves at the address that the broker advertises to clients of its listener `broker`. While the
/// returned switch is on, every connection is closed.
pub fn serve(
    listener: std::net::TcpListener,
    broker: u16,
    traffic: Arc<Traffic>,
) -> Result<watch::Sender<bool>> {
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let outage = watch::Sender::new(false);
    let is_out = outage.subscribe();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let traffic = Arc::clone(&traffic);
            let mut is_out = is_out.clone();
            tokio::spawn(async move {
                // When either side closes its connection, both are closed; that is no error.
                select! {
                    biased;
                    _ = is_out.wait_for(|is_out| *is_out) => {}
                    _ = forward(client, broker, &traffic) => {}
                }
            });
        }
    });
    Ok(outage)
}

async fn forward(client: TcpStream, broker: u16, traffic: &Traffic) -> io::Result<()> {
    let broker = TcpStream::connect((Ipv4Addr::LOCALHOST, broker)).await?;
    let (from_client, mut to_client) = client.into_split();
    let (from_broker, mut to_broker) = broker.into_split();
    let (mut from_client, mut from_broker) =
        (BufReader::new(from_client), BufReader::new(from_broker));
    // Unanswered writes by correlation id.
    let open: Mutex<HashMap<i32, &str>> = Mutex::default();
    let requests = async {
        loop {
            let frame = frame(&mut from_client).await?;
            if let Some((correlation, write)) = write(&frame) {
                traffic.attempt(write.to_owned());
                open.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(correlation, write);
            }
            to_broker.write_all(&frame).await?;
        }
    };
    let responses = async {
        loop {
            let frame = frame(&mut from_broker).await?;
            let correlation = number(&frame, 4).map(i32::from_be_bytes);
            let write = correlation.and_then(|id| {
                open.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .remove(&id)
            });
            if write.is_some_and(|write| traffic.done(write.to_owned())) {
                return Ok(());
            }
            to_client.write_all(&frame).await?;
        }
    };
    select! {
        ended = requests => ended,
        ended = responses => ended,
    }
}

/// A request or response, with its length of four bytes.
async fn frame(from: &mut (impl tokio::io::AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let length = from.read_u32().await?;
    let mut frame = length.to_be_bytes().to_vec();
    frame.resize(4 + length as usize, 0);
    from.read_exact(&mut frame[4..]).await?;
    Ok(frame)
}

/// The correlation id and the name of a request that writes. API key, version and correlation id
/// follow the length.
fn write(frame: &[u8]) -> Option<(i32, &'static str)> {
    let key = i16::from_be_bytes(number(frame, 4)?);
    let (_, name) = WRITES.into_iter().find(|(known, _)| *known == key)?;
    Some((i32::from_be_bytes(number(frame, 8)?), name))
}

fn number<const N: usize>(frame: &[u8], at: usize) -> Option<[u8; N]> {
    frame.get(at..at + N)?.try_into().ok()
}
