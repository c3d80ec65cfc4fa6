//! TLS of a server's connections, by a certificate that may be renewed while it serves.

use std::{
    path::PathBuf,
    pin::Pin,
    sync::{Arc, PoisonError, RwLock},
};

use anyhow::Result;
use openssl::ssl::{
    AlpnError, Ssl, SslAcceptor, SslContext, SslMethod, SslOptions, SslSessionCacheMode,
    select_next_proto,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_openssl::SslStream;

use crate::{config::secret_file, tls::set_certificate};

/// The protocols that are spoken, in the form of ALPN.
const PROTOCOLS: &[u8] = b"\x08http/1.1";
/// The first byte of a handshake.
const HANDSHAKE: u8 = 0x16;

/// The response to a request in plain text.
const PLAIN_TEXT: &str = "HTTP/1.1 400 Bad Request\r\n\
    content-type: application/json\r\ncontent-length: 94\r\nconnection: close\r\n\r\n\
    {\"error\":\"tls-required\",\"message\":\"this port takes TLS connections only: use an \
    https:// URL\"}";

/// Accepts TLS connections. Clones share one certificate.
#[derive(Clone, Debug)]
pub struct Acceptor {
    folder: PathBuf,
    /// The field that names the Secret, for messages.
    field: &'static str,
    context: Arc<RwLock<SslContext>>,
}

impl Acceptor {
    /// Reads the files `tls.crt` and `tls.key` of a mounted Secret, which `field` names. The error
    /// names the key that can't be used, and never quotes it.
    pub fn read(folder: PathBuf, field: &'static str) -> Result<Self> {
        let context = context(&folder, field)?;
        Ok(Self {
            folder,
            field,
            context: Arc::new(RwLock::new(context)),
        })
    }

    /// Reads the files again. Connections that are open keep the certificate they have.
    pub fn renew(&self) -> Result<()> {
        let context = context(&self.folder, self.field)?;
        *self.context.write().unwrap_or_else(PoisonError::into_inner) = context;
        Ok(())
    }

    fn context(&self) -> SslContext {
        let context = self.context.read().unwrap_or_else(PoisonError::into_inner);
        context.clone()
    }

    /// Performs the handshake. None if it fails; a client that speaks plain text is told so.
    pub(super) async fn accept(&self, mut stream: TcpStream) -> Option<SslStream<TcpStream>> {
        let mut first = [0];
        stream.peek(&mut first).await.ok()?;
        if first[0].is_ascii_uppercase() {
            refuse_plain_text(&mut stream).await;
            return None;
        }
        if first[0] != HANDSHAKE {
            return None;
        }
        let ssl = Ssl::new(&self.context()).ok()?;
        let mut stream = SslStream::new(ssl, stream).ok()?;
        match Pin::new(&mut stream).accept().await {
            Ok(()) => Some(stream),
            Err(error) => {
                tracing::debug!(%error, "a TLS handshake has failed");
                None
            }
        }
    }
}

fn context(folder: &std::path::Path, field: &str) -> Result<SslContext> {
    let read = |key: &str| secret_file(&folder.join(key), Some(&format!("{field}, key {key}")));
    let (chain, key) = (read("tls.crt")?, read("tls.key")?);
    let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server())?;
    set_certificate(&mut acceptor, &chain, &key, field)?;
    // A client's sessions take no memory of the server: it gets them as tickets.
    acceptor.set_session_cache_mode(SslSessionCacheMode::OFF);
    acceptor.set_options(SslOptions::NO_RENEGOTIATION);
    acceptor.set_alpn_select_callback(|_, offered| {
        select_next_proto(PROTOCOLS, offered).ok_or(AlpnError::NOACK)
    });
    Ok(acceptor.build().into_context())
}

/// Reads on after the response until the client closes: it might lose the response otherwise.
async fn refuse_plain_text(stream: &mut TcpStream) {
    if stream.write_all(PLAIN_TEXT.as_bytes()).await.is_ok() {
        _ = stream.shutdown().await;
        let mut rest = [0; 4096];
        while matches!(stream.read(&mut rest).await, Ok(1..)) {}
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, net::Ipv4Addr, path::Path};

    use axum::{Router, routing::get};
    use openssl::ssl::{SslConnector, SslVerifyMode};
    use pinpipe_servers::{
        certificates::{Authority, Files},
        stores::folder,
    };
    use tokio_util::sync::CancellationToken;

    use super::{super::listen, *};

    fn mount(files: &Files, to: &Path) {
        fs::create_dir_all(to).unwrap();
        fs::copy(&files.certificate, to.join("tls.crt")).unwrap();
        fs::copy(&files.key, to.join("tls.key")).unwrap();
    }

    fn start(acceptor: &Acceptor, connections: usize) -> u16 {
        let router = Router::new().route("/", get(|| async { "ok" }));
        let listener = listen(0).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (acceptor, stop) = (Some(acceptor.clone()), CancellationToken::new());
        tokio::spawn(super::super::serve_tls(
            listener,
            router,
            connections,
            acceptor,
            stop,
        ));
        port
    }

    async fn plain(port: u16) -> TcpStream {
        TcpStream::connect((Ipv4Addr::LOCALHOST, port))
            .await
            .unwrap()
    }

    async fn connect(port: u16) -> SslStream<TcpStream> {
        let mut connector = SslConnector::builder(SslMethod::tls_client()).unwrap();
        connector.set_verify(SslVerifyMode::NONE);
        connector.set_alpn_protos(b"\x02h2\x08http/1.1").unwrap();
        let ssl = connector.build().configure().unwrap();
        let ssl = ssl.into_ssl("localhost").unwrap();
        let mut stream = SslStream::new(ssl, plain(port).await).unwrap();
        Pin::new(&mut stream).connect().await.unwrap();
        stream
    }

    /// The response to a request on an open connection, up to its body.
    async fn ask(stream: &mut SslStream<TcpStream>) -> String {
        let request = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut response = String::new();
        while !response.ends_with("\r\n\r\nok") {
            let mut byte = [0];
            stream.read_exact(&mut byte).await.unwrap();
            response.push(byte[0].into());
        }
        response
    }

    fn serial(stream: &SslStream<TcpStream>) -> String {
        let certificate = stream.ssl().peer_certificate().unwrap();
        let serial = certificate.serial_number().to_bn().unwrap();
        serial.to_hex_str().unwrap().to_string()
    }

    #[tokio::test]
    async fn a_renewed_certificate_is_for_new_connections_and_open_ones_go_on() {
        let authority = Authority::new(folder().join("server-tls")).unwrap();
        let issue = |name: &str| {
            let at = folder().join(format!("server-tls-{name}"));
            authority.issue("localhost", 10, &at).unwrap()
        };
        let (first, second) = (issue("first"), issue("second"));
        let mounted = folder().join("server-tls-mounted");
        mount(&first, &mounted);
        let acceptor = Acceptor::read(mounted.clone(), "certificateSecretRef").unwrap();
        let port = start(&acceptor, 8);

        let mut old = connect(port).await;
        assert_eq!(
            old.ssl().selected_alpn_protocol(),
            Some(b"http/1.1".as_slice())
        );
        assert!(ask(&mut old).await.starts_with("HTTP/1.1 200"));
        mount(&second, &mounted);
        acceptor.renew().unwrap();
        let new = connect(port).await;
        assert_ne!(serial(&old), serial(&new));
        assert!(ask(&mut old).await.starts_with("HTTP/1.1 200"));

        fs::copy(&first.key, mounted.join("tls.key")).unwrap();
        let error = format!("{:#}", acceptor.renew().unwrap_err());
        assert!(
            error.starts_with("tls.key of certificateSecretRef is not the key of its tls.crt"),
            "{error}"
        );
        assert_eq!(serial(&connect(port).await), serial(&new));
        fs::write(mounted.join("tls.crt"), "\n").unwrap();
        let error = format!("{:#}", acceptor.renew().unwrap_err());
        assert!(
            error.starts_with("certificateSecretRef, key tls.crt is empty"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn plain_text_is_answered_and_an_unfinished_handshake_counts_as_a_connection() {
        let authority = Authority::new(folder().join("plain-tls")).unwrap();
        let at = folder().join("plain-tls-own");
        let mounted = folder().join("plain-tls-mounted");
        mount(&authority.issue("localhost", 10, &at).unwrap(), &mounted);
        let acceptor = Acceptor::read(mounted, "certificateSecretRef").unwrap();
        let port = start(&acceptor, 1);

        let mut stream = plain(port).await;
        let request = b"POST /pin HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n12345";
        stream.write_all(request).await.unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).await.unwrap();
        assert_eq!(response, PLAIN_TEXT);
        drop(stream);

        let mut unfinished = plain(port).await;
        unfinished.write_all(&[HANDSHAKE, 3, 1]).await.unwrap();
        let mut good = connect(port).await;
        let closed = unfinished.read(&mut [0]).await;
        assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
        assert!(ask(&mut good).await.starts_with("HTTP/1.1 200"));
    }

    #[test]
    fn the_refusal_is_a_whole_response() {
        let (head, body) = PLAIN_TEXT.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())));
        assert!(serde_json::from_str::<serde_json::Value>(body).is_ok());
    }
}
