//! What stands between an operator and the broker. It passes everything on and counts writes.

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
};

use crate::tap::Tap;

/// The requests that write, by their API key. Source: Kafka's protocol guide.
const WRITES: [(i16, &str); 6] = [
    (19, "CreateTopics"),
    (20, "DeleteTopics"),
    (33, "AlterConfigs"),
    (37, "CreatePartitions"),
    (44, "IncrementalAlterConfigs"),
    (45, "AlterPartitionReassignments"),
];

/// Serves at a port that the broker names as its own to who comes in by `broker`.
pub fn serve(listener: std::net::TcpListener, broker: u16, tap: Arc<Tap>) -> Result<()> {
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let tap = Arc::clone(&tap);
            // Either side's end is the other's, and nobody's mistake.
            tokio::spawn(async move { pass_on(client, broker, &tap).await });
        }
    });
    Ok(())
}

async fn pass_on(client: TcpStream, broker: u16, tap: &Tap) -> io::Result<()> {
    let broker = TcpStream::connect((Ipv4Addr::LOCALHOST, broker)).await?;
    let (from_client, mut to_client) = client.into_split();
    let (from_broker, mut to_broker) = broker.into_split();
    let (mut from_client, mut from_broker) =
        (BufReader::new(from_client), BufReader::new(from_broker));
    // By correlation id, writes that the broker has not answered.
    let open: Mutex<HashMap<i32, &str>> = Mutex::default();
    let asks = async {
        loop {
            let frame = frame(&mut from_client).await?;
            if let Some((correlation, write)) = write(&frame) {
                tap.attempt(write.to_owned());
                open.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(correlation, write);
            }
            to_broker.write_all(&frame).await?;
        }
    };
    let answers = async {
        loop {
            let frame = frame(&mut from_broker).await?;
            let correlation = number(&frame, 4).map(i32::from_be_bytes);
            let write = correlation.and_then(|id| {
                open.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .remove(&id)
            });
            if write.is_some_and(|write| tap.done(write.to_owned())) {
                return Ok(());
            }
            to_client.write_all(&frame).await?;
        }
    };
    select! {
        ended = asks => ended,
        ended = answers => ended,
    }
}

/// A request or an answer: its length, and as many bytes.
async fn frame(from: &mut (impl tokio::io::AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let length = from.read_u32().await?;
    let mut frame = length.to_be_bytes().to_vec();
    frame.resize(4 + length as usize, 0);
    from.read_exact(&mut frame[4..]).await?;
    Ok(frame)
}

/// The correlation id and the name of a request that writes: behind the length are its key, its
/// version and that id.
fn write(frame: &[u8]) -> Option<(i32, &'static str)> {
    let key = i16::from_be_bytes(number(frame, 4)?);
    let (_, name) = WRITES.into_iter().find(|(known, _)| *known == key)?;
    Some((i32::from_be_bytes(number(frame, 8)?), name))
}

fn number<const N: usize>(frame: &[u8], at: usize) -> Option<[u8; N]> {
    frame.get(at..at + N)?.try_into().ok()
}
