//! A TCP proxy before a store that loses a request or its reply, or rewrites requests.

use std::{
    net::Ipv4Addr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
};

/// What is lost of a request. The connection ends with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lose {
    /// The store doesn't receive it.
    Request,
    /// The store does what it asks for, and the client doesn't learn of it.
    Reply,
}

/// What is done to the bytes of a client.
type Rewrite = fn(&mut [u8]);

/// A part of the request that is lost.
type Lost = (&'static [u8], Lose);

/// The proxy.
#[derive(Clone)]
pub struct Proxy {
    /// The port of 127.0.0.1 that clients use.
    pub port: u16,
    /// The next request to lose: a part of its bytes.
    lose: Arc<Mutex<Option<Lost>>>,
    /// All that clients sent.
    sent: Arc<Mutex<Vec<u8>>>,
}

impl Proxy {
    /// A proxy before a port of 127.0.0.1.
    pub async fn start(store: u16, rewrite: Rewrite) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let proxy = Self {
            port: listener.local_addr().unwrap().port(),
            lose: Arc::default(),
            sent: Arc::default(),
        };
        let accepting = proxy.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect((Ipv4Addr::LOCALHOST, store)).await;
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.unwrap().into_split();
                let (cut, is_cut) = watch::channel(false);
                tokio::spawn(
                    accepting
                        .clone()
                        .requests(from_client, to_server, rewrite, cut),
                );
                tokio::spawn(replies(from_server, to_client, is_cut));
            }
        });
        proxy
    }

    /// Loses the next request that contains these bytes.
    pub fn lose_next(&self, containing: &'static [u8], lose: Lose) {
        *self.lose.lock().unwrap() = Some((containing, lose));
    }

    /// Whether the request was lost; forgets it.
    pub fn has_lost(&self) -> bool {
        self.lose.lock().unwrap().take().is_none()
    }

    /// All that clients sent, as text.
    pub fn sent(&self) -> String {
        String::from_utf8_lossy(&self.sent.lock().unwrap()).into_owned()
    }

    async fn requests(
        self,
        mut client: OwnedReadHalf,
        mut server: OwnedWriteHalf,
        rewrite: Rewrite,
        cut: watch::Sender<bool>,
    ) {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(count @ 1..) = client.read(&mut buffer).await {
            let mut bytes = buffer[..count].to_vec();
            rewrite(&mut bytes);
            self.sent.lock().unwrap().extend_from_slice(&bytes);
            let lost = {
                let mut lose = self.lose.lock().unwrap();
                let hit = lose.filter(|(part, _)| contains(&bytes, part));
                hit.inspect(|_| *lose = None).map(|(_, lose)| lose)
            };
            if let Some(lose) = lost {
                cut.send_replace(true);
                if lose == Lose::Request {
                    return;
                }
            }
            if server.write_all(&bytes).await.is_err() {
                return;
            }
        }
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// Passes replies on until the connection is cut; then waits for the reply that is lost.
async fn replies(
    mut server: OwnedReadHalf,
    mut client: OwnedWriteHalf,
    is_cut: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(count @ 1..) = server.read(&mut buffer).await {
        if *is_cut.borrow() || client.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
