//! HTTP/1.1 servers of the workers: bounded in connections, in memory for each, and in the time a
//! client may take.
//!
//! A client has [`HEAD_TIMEOUT`] for a TLS handshake and for a request's headers, and
//! [`RESPONSE_TIMEOUT`] to take a response, of which it must take a part within [`WRITE_TIMEOUT`].
//! The time for a body is the route's business. When as many connections are open as are allowed, a
//! new one replaces the one that has waited longest for its client ([`Client`]); if all are being
//! worked on, it gets status 503.

mod connections;
mod timed;
mod tls;

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result};
use axum::{
    Router,
    extract::{ConnectInfo, Request},
};
use hyper::{body::Incoming, server::conn::http1, service::Service as _};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use connections::Connections;
pub use connections::{Client, Work};
use timed::Timed;
pub use tls::Acceptor;

/// How long a client may take for a TLS handshake, and for a request's headers from their first
/// byte on.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may take to receive the next part of a response.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may take to receive a response.
pub const RESPONSE_TIMEOUT: Duration = Duration::from_mins(1);
/// How long a connection may be idle. Longer than the idle timeout of common proxies (60 s), so
/// that they close it first and don't send a request into a closing connection.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// Once the server stops: how long a client may take to send the rest of a request, and then to
/// receive the response.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);
/// The read buffer of a connection, and so the limit of a request's headers, bytes.
const BUFFER_BYTES: usize = 16 * 1024;
/// Pending connections that the kernel keeps.
const BACKLOG: i32 = 1024;
/// Pause after a failed `accept`, such as for want of file descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// The response to a connection over the limit.
const TOO_MANY_CONNECTIONS: &str = "HTTP/1.1 503 Service Unavailable\r\n\
    content-type: application/json\r\ncontent-length: 108\r\nretry-after: 1\r\n\
    connection: close\r\n\r\n\
    {\"error\":\"too-many-connections\",\"message\":\"too many connections are open: send the \
    request again after 1 s\"}";

/// Listens at a port of all the pod's addresses, IPv6 and IPv4; of IPv4 alone where the node has no
/// IPv6. Port 0 stands for any free port.
pub fn listen(port: u16) -> Result<TcpListener> {
    bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))
        .or_else(|error| match error.kind() {
            io::ErrorKind::AddrInUse => Err(error),
            _ => bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))),
        })
        .with_context(|| format!("can't listen on port {port}"))
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.into())
}

/// Serves `router` with at most `connections` open at a time, until `stop` and until the last
/// connection is closed. Requests that are worked on ([`Client::work`]) are finished; other clients
/// have [`STOP_TIMEOUT`]. Each request has the client's address as [`ConnectInfo`].
pub async fn serve(
    listener: TcpListener,
    router: Router,
    connections: usize,
    stop: CancellationToken,
) {
    serve_tls(listener, router, connections, None, stop).await;
}

/// [`serve`], by TLS if there is an acceptor.
pub async fn serve_tls(
    listener: TcpListener,
    router: Router,
    connections: usize,
    tls: Option<Acceptor>,
    stop: CancellationToken,
) {
    let open = Connections::new(connections);
    let tasks = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "can't accept a connection");
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        let Some(permit) = open.admit() else {
            // Tokio assumes that an accepted stream is writable, and the send buffer of a new
            // connection is empty: this writes all or the client is gone.
            if tls.is_none() {
                _ = stream.try_write(TOO_MANY_CONNECTIONS.as_bytes());
            }
            continue;
        };
        let router = TowerToHyperService::new(router.clone());
        let (tls, stop) = (tls.clone(), stop.clone());
        tasks.spawn(async move {
            _ = stream.set_nodelay(true);
            let connection = Connection {
                address,
                client: permit.client(),
                router,
                stop,
            };
            match tls {
                None => connection.serve(stream).await,
                Some(tls) => connection.serve_tls(stream, &tls).await,
            }
            drop(permit);
        });
    }
    drop(listener);
    tasks.close();
    tasks.wait().await;
}

/// A connection to be served until either side closes it.
struct Connection<'a> {
    address: SocketAddr,
    client: &'a Client,
    router: TowerToHyperService<Router>,
    stop: CancellationToken,
}

impl Connection<'_> {
    async fn serve_tls(self, stream: TcpStream, tls: &Acceptor) {
        let stopped = async {
            self.stop.cancelled().await;
            tokio::time::sleep(STOP_TIMEOUT).await;
        };
        let accepted = tokio::select! {
            accepted = tokio::time::timeout(HEAD_TIMEOUT, tls.accept(stream)) => accepted,
            () = self.client.replaced() => return,
            () = stopped => return,
        };
        if let Ok(Some(stream)) = accepted {
            self.serve(stream).await;
        }
    }

    async fn serve<S: AsyncRead + AsyncWrite + Unpin>(self, stream: S) {
        let Self {
            address,
            client,
            router,
            stop,
        } = self;
        let service = hyper::service::service_fn(|mut request: Request<Incoming>| {
            client.begin_request();
            request.extensions_mut().insert(client.clone());
            request.extensions_mut().insert(ConnectInfo(address));
            let response = router.call(request);
            async {
                let response = response.await;
                client.end_request();
                response
            }
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(IDLE_TIMEOUT)
            .max_buf_size(BUFFER_BYTES)
            .serve_connection(TokioIo::new(Timed::new(stream, client.clone())), service);
        let mut served = std::pin::pin!(served);
        // Errors are those of the client, which gets no response then.
        tokio::select! {
            _ = served.as_mut() => return,
            () = client.replaced() => return,
            () = stop.cancelled() => served.as_mut().graceful_shutdown(),
        }
        let given_up = async {
            tokio::time::sleep(STOP_TIMEOUT).await;
            drop(client.work().await);
            tokio::time::sleep(STOP_TIMEOUT).await;
        };
        tokio::select! {
            _ = served => {}
            () = given_up => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::Extension;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn start(connections: usize) -> (u16, CancellationToken) {
        let router = Router::new().route("/", axum::routing::get(|| async { "ok" }));
        start_with(connections, router)
    }

    fn start_with(connections: usize, router: Router) -> (u16, CancellationToken) {
        let listener = listen(0).unwrap();
        let port = listener.local_addr().unwrap().port();
        let stop = CancellationToken::new();
        tokio::spawn(serve(listener, router, connections, stop.clone()));
        (port, stop)
    }

    async fn get(mut stream: TcpStream) -> String {
        let request = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        _ = stream.write_all(request).await;
        let mut response = String::new();
        _ = stream.read_to_string(&mut response).await;
        response
    }

    #[tokio::test]
    async fn ipv6_and_ipv4_clients_are_served() {
        let (port, _) = start(8);
        for address in [
            SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            SocketAddr::from((Ipv6Addr::LOCALHOST, port)),
        ] {
            let stream = TcpStream::connect(address).await.unwrap();
            assert!(get(stream).await.starts_with("HTTP/1.1 200"), "{address}");
        }
        let error = listen(port).unwrap_err();
        assert_eq!(error.to_string(), format!("can't listen on port {port}"));
    }

    #[tokio::test]
    async fn a_new_connection_replaces_the_longest_idle_one() {
        let (port, stop) = start(2);
        let connect = async || {
            TcpStream::connect((Ipv4Addr::LOCALHOST, port))
                .await
                .unwrap()
        };
        let mut oldest = connect().await;
        let second = connect().await;
        let third = connect().await;
        assert_eq!(oldest.read(&mut [0]).await.unwrap(), 0, "closed");
        for stream in [second, third] {
            assert!(get(stream).await.starts_with("HTTP/1.1 200"));
        }
        stop.cancel();
    }

    #[tokio::test]
    async fn a_connection_is_refused_while_all_are_worked_on() {
        let (begun, mut works) = tokio::sync::mpsc::unbounded_channel();
        let work = async move |Extension(client): Extension<Client>| {
            let _work = client.work().await;
            _ = begun.send(());
            std::future::pending::<()>().await;
        };
        let (port, stop) = start_with(1, Router::new().route("/", axum::routing::get(work)));
        let address = (Ipv4Addr::LOCALHOST, port);
        let mut first = TcpStream::connect(address).await.unwrap();
        let request = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
        first.write_all(request).await.unwrap();
        works.recv().await.unwrap();
        let mut second = TcpStream::connect(address).await.unwrap();
        let mut response = String::new();
        second.read_to_string(&mut response).await.unwrap();
        assert_eq!(response, TOO_MANY_CONNECTIONS);
        stop.cancel();
    }

    #[test]
    fn the_refusal_is_a_whole_response() {
        let (head, body) = TOO_MANY_CONNECTIONS.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())));
        assert!(serde_json::from_str::<serde_json::Value>(body).is_ok());
    }
}
