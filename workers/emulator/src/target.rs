//! One connection to ingest, which is opened again when it is closed.

use std::{fs, path::PathBuf, pin::Pin, time::Duration};

use anyhow::{Context as _, Result};
use axum::body::{Body, Bytes, to_bytes};
use http::{
    HeaderMap, HeaderValue, Request, StatusCode, Uri,
    header::{AUTHORIZATION, CONTENT_TYPE, HOST},
};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use openssl::ssl::ConnectConfiguration;
use pinpipe_runtime::{config::secret_file, tls};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_openssl::SslStream;

/// How long ingest may take to respond. Longer than its own delivery timeout.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of an answer that are read at most.
const MAX_ANSWER: usize = 64 << 20;

/// Where records are posted.
#[derive(Clone, Debug)]
pub struct Target {
    /// `host:port`.
    authority: String,
    host: String,
    /// Path of the base URL without a slash at its end.
    path: String,
    tls: bool,
    /// The only certificate to trust. None: those of public authorities.
    certificate: Option<PathBuf>,
    /// The folder of tokens.
    tokens: Option<PathBuf>,
}

impl Target {
    /// A target by the base URL of ingest, `http://host:port` or `https://host`.
    pub fn new(url: &str, certificate: Option<PathBuf>, tokens: Option<PathBuf>) -> Result<Self> {
        let uri = url.parse::<Uri>().ok();
        let scheme = uri.as_ref().and_then(|uri| uri.scheme_str());
        let default_port = match scheme {
            Some("http") => Some(80),
            Some("https") => Some(443),
            _ => None,
        };
        let parts = uri.as_ref().and_then(|uri| Some((uri, uri.host()?)));
        let ((uri, host), default_port) = parts.zip(default_port).with_context(|| {
            format!(
                "the target `{url}` is not an http:// or https:// URL: set the URL of ingest, such \
                 as http://127.0.0.1:8080"
            )
        })?;
        Ok(Self {
            authority: format!("{host}:{}", uri.port_u16().unwrap_or(default_port)),
            host: host.trim_matches(['[', ']']).to_owned(),
            path: uri.path().trim_end_matches('/').to_owned(),
            tls: scheme == Some("https"),
            certificate,
            tokens,
        })
    }

    async fn connect(&self) -> Result<SendRequest<Body>> {
        let stream = TcpStream::connect(&self.authority).await?;
        stream.set_nodelay(true)?;
        if !self.tls {
            return open(stream).await;
        }
        let ssl = self.configuration()?.into_ssl(&self.host)?;
        let mut stream = SslStream::new(ssl, stream)?;
        let connected = Pin::new(&mut stream).connect().await;
        connected.context("the TLS connection failed")?;
        open(stream).await
    }

    fn configuration(&self) -> Result<ConnectConfiguration> {
        let Some(file) = &self.certificate else {
            let connector = tls::Tls::default().connector()?;
            return Ok(connector.build().configure()?);
        };
        let connector = tls::connector_for_certificate(&secret_file(file, None)?)?;
        Ok(connector.build().configure()?.verify_hostname(false))
    }

    /// The header with the first token by name, as it is now.
    fn authorization(&self) -> Result<Option<HeaderValue>> {
        let Some(folder) = &self.tokens else {
            return Ok(None);
        };
        let names = fs::read_dir(folder)?.filter_map(|entry| Some(entry.ok()?.file_name()));
        let first = names
            .filter(|name| !name.to_string_lossy().starts_with(".."))
            .min();
        let first = first.context("the Secret with ingest's tokens has no key")?;
        let token = secret_file(&folder.join(first), None)?;
        // The error doesn't have the value.
        let mut header = HeaderValue::try_from(format!("Bearer {token}"))?;
        header.set_sensitive(true);
        Ok(Some(header))
    }
}

async fn open(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<SendRequest<Body>> {
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    // Its errors are those of the requests.
    tokio::spawn(connection);
    Ok(sender)
}

/// A connection to a target.
#[derive(Debug)]
pub struct Connection {
    target: Target,
    open: Option<SendRequest<Body>>,
}

/// A response.
#[derive(Debug)]
pub struct Response {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Connection {
    /// A connection that is opened with the first request.
    #[must_use]
    pub const fn new(target: Target) -> Self {
        Self { target, open: None }
    }

    /// Posts JSON to a path below the target's.
    pub async fn post(&mut self, path: &str, json: String) -> Result<Response> {
        let exchange = timeout(REQUEST_TIMEOUT, self.exchange(path, json));
        exchange.await.context("no response in time")?
    }

    async fn exchange(&mut self, path: &str, json: String) -> Result<Response> {
        let target = &self.target;
        let mut request = Request::post(format!("{}/{path}", target.path))
            .header(HOST, &target.authority)
            .header(CONTENT_TYPE, "application/json")
            .body(Body::from(json))?;
        if let Some(token) = target.authorization()? {
            request.headers_mut().insert(AUTHORIZATION, token);
        }
        let mut open = self.open.take();
        if let Some(sender) = &mut open
            && sender.ready().await.is_err()
        {
            open = None;
        }
        let mut open = match open {
            Some(open) => open,
            None => timeout(CONNECT_TIMEOUT, target.connect())
                .await
                .context("can't connect in time")?
                .context("can't connect")?,
        };
        let (head, body) = open.send_request(request).await?.into_parts();
        let body = to_bytes(Body::new(body), MAX_ANSWER).await?;
        self.open = Some(open);
        Ok(Response {
            status: head.status,
            headers: head.headers,
            body,
        })
    }
}
