//! Connections to the PostgreSQL server that a Secret's URL names.
//!
//! Messages name host, port and Secret and pass the server's own sentence on. They never quote the
//! URL, which holds the password.

#[cfg(test)]
mod tests;
mod url;

use std::{error::Error as _, fmt, fs, path::Path};

use anyhow::{Context as _, Result, anyhow, bail};
use openssl::ssl::{SslConnectorBuilder, SslVerifyMode};
use postgres_openssl::MakeTlsConnector;
use tokio_postgres::{
    Client, Config, Error,
    config::Host,
    error::{DbError, SqlState},
};

use self::url::{Mode, TlsParameters, driver_mode};
use crate::{
    config::secret_file,
    failure::{Class, of_sqlstate},
    tls::{self, PUBLIC_CAS, Tls},
};

/// The port of a URL that names none.
const DEFAULT_PORT: u16 = 5432;
/// What the server says of a client without TLS where it requires TLS.
const NO_ENCRYPTION: &str = "no encryption";

/// The files of a sink's Secrets.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The file with the URL.
    pub url_file: &'a Path,
    /// Its Secret and key, as messages name them: `Secret warehouse, key url`.
    pub secret: Option<&'a str>,
    /// The certificates that the resource names.
    pub tls: Option<&'a pinpipe_config::Tls>,
}

/// A PostgreSQL server as messages name it: `PostgreSQL at db.x:5432 (Secret warehouse, key url)`.
#[derive(Clone, Debug)]
pub struct Server {
    addresses: String,
    secret: String,
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { addresses, secret } = self;
        write!(f, "PostgreSQL at {addresses} ({secret})")
    }
}

/// A URL and what it takes to connect.
#[derive(Clone)]
pub struct Settings {
    /// The driver's settings, to which a worker adds its own.
    pub config: Config,
    /// The server.
    pub server: Server,
    connector: MakeTlsConnector,
}

/// Debug output without the password.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Settings");
        shown.field("server", &self.server).finish_non_exhaustive()
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct ConnectError {
    message: String,
    /// Whether the Secret or the server must be corrected.
    pub kind: Failure,
}

/// What kind of failure a connection has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The server doesn't answer, or not now.
    Unavailable,
    /// The server refuses the user or the password.
    AccessDenied,
    /// The database doesn't exist.
    DatabaseMissing,
}

/// Reads the Secret's URL and the certificates.
pub fn read(source: &Source<'_>) -> Result<Settings> {
    let secret = source.name();
    let url =
        secret_file(source.url_file, source.secret).context("PostgreSQL's URL can't be read")?;
    let (mut config, parameters) = url::parse(&url).map_err(|fault| {
        anyhow!(
            "PostgreSQL's URL can't be parsed ({secret}): {fault}; \
             postgresql://user:password@host:port/database is expected, with special characters \
             in user and password percent-encoded"
        )
    })?;
    let tls = certificates(source, &parameters).with_context(|| format!("TLS ({secret})"))?;
    if let Some(fault) = useless(&parameters, &tls) {
        bail!("TLS ({secret}): {fault}");
    }
    let mode = mode(&parameters, &tls);
    if let Some(mode) = mode {
        config.ssl_mode(driver_mode(mode));
    }
    let server = Server {
        addresses: addresses(&config),
        secret,
    };
    Ok(Settings {
        connector: connector(tls.connector()?, mode.unwrap_or(Mode::Prefer)),
        config,
        server,
    })
}

impl Source<'_> {
    /// Where the URL comes from: the Secret and its key, or else the file.
    fn name(&self) -> String {
        match self.secret {
            Some(secret) => secret.to_owned(),
            None => format!("URL in {}", self.url_file.display()),
        }
    }
}

/// The mode that applies: the URL's, or the strictest one where an authority is named. As in libpq,
/// a named authority makes `require` check it.
fn mode(parameters: &TlsParameters, tls: &Tls) -> Option<Mode> {
    match parameters.mode {
        Some(Mode::Require) if tls.ca.is_some() => Some(Mode::VerifyCa),
        None if tls.ca.is_some() || tls.certificate.is_some() => Some(Mode::VerifyFull),
        mode => mode,
    }
}

/// Which certificate has no effect with the URL's mode, and what to do about it.
fn useless(parameters: &TlsParameters, tls: &Tls) -> Option<&'static str> {
    match parameters.mode? {
        Mode::Disable if tls.certificate.is_some() => Some(
            "with sslmode=disable no client certificate is sent: set sslmode=verify-full in the \
             URL, or remove clientCertificateSecretRef",
        ),
        Mode::Disable | Mode::Prefer if tls.ca.is_some() => Some(
            "with this sslmode the server's certificate is not checked: set sslmode=verify-full \
             in the URL, or remove caSecretRef",
        ),
        _ => None,
    }
}

fn connector(mut builder: SslConnectorBuilder, mode: Mode) -> MakeTlsConnector {
    if matches!(mode, Mode::Disable | Mode::Prefer | Mode::Require) {
        builder.set_verify(SslVerifyMode::NONE);
    }
    let mut connector = MakeTlsConnector::new(builder.build());
    if mode == Mode::VerifyCa {
        connector.set_callback(|connection, _| {
            connection.set_verify_hostname(false);
            Ok(())
        });
    }
    connector
}

/// The certificates that the resource names, or else those of files that the URL names.
fn certificates(source: &Source<'_>, parameters: &TlsParameters) -> Result<Tls> {
    let tls = source.tls.cloned().unwrap_or_default();
    let mut tls = Tls::from_files(&tls, &|path| secret_file(path, None))?;
    let file = |parameter: &str, path: &str, field: &str| {
        fs::read_to_string(path).map_err(|_| {
            anyhow!(
                "the URL's {parameter} is a file that the worker's pod doesn't have: remove it \
                 from the URL, and set {field}"
            )
        })
    };
    if let (None, Some(path)) = (&tls.ca, &parameters.ca) {
        // libpq's name for the public authorities.
        let (path, besides) = match path.as_str() {
            "system" => (PUBLIC_CAS, tls.trusted.take()),
            path => (path, None),
        };
        let ca = file("sslrootcert", path, "caSecretRef")?;
        tls.ca = Some(format!("{ca}\n{}", besides.unwrap_or_default()));
    }
    let own = "clientCertificateSecretRef";
    if let (None, [Some(chain), Some(key)]) = (&tls.certificate, &parameters.certificate) {
        tls.certificate = Some((file("sslcert", chain, own)?, file("sslkey", key, own)?));
    }
    Ok(tls)
}

/// `host:port` of each server of the URL.
fn addresses(config: &Config) -> String {
    let ports = config.get_ports();
    // One port may stand for all hosts.
    let port = |at: usize| ports.get(at).or(ports.last()).unwrap_or(&DEFAULT_PORT);
    let names: Vec<String> = if config.get_hosts().is_empty() {
        let addresses = config.get_hostaddrs().iter();
        addresses.map(ToString::to_string).collect()
    } else {
        let hosts = config.get_hosts().iter();
        hosts
            .map(|host| match host {
                Host::Tcp(name) => name.clone(),
                Host::Unix(path) => path.display().to_string(),
            })
            .collect()
    };
    let pairs: Vec<String> = names
        .iter()
        .enumerate()
        .map(|(at, name)| {
            if name.contains(':') {
                format!("[{name}]:{}", port(at))
            } else {
                format!("{name}:{}", port(at))
            }
        })
        .collect();
    pairs.join(", ")
}

impl Settings {
    /// Connects once.
    pub async fn connect(self) -> Result<(Client, Server), ConnectError> {
        let Self {
            config,
            server,
            connector,
        } = self;
        let (client, driver) = config
            .connect(connector)
            .await
            .map_err(|error| server.connect_error(&error))?;
        tokio::spawn(async move {
            if let Err(error) = driver.await {
                tracing::debug!(%error, "a connection to PostgreSQL ended");
            }
        });
        Ok((client, server))
    }
}

impl Server {
    fn connect_error(&self, error: &Error) -> ConnectError {
        let Some(answer) = error.as_db_error() else {
            return ConnectError {
                message: format!("{self} {}", unreachable(error)),
                kind: Failure::Unavailable,
            };
        };
        let code = answer.code();
        let (kind, remedy) = if *code == SqlState::INVALID_CATALOG_NAME {
            let remedy = ": create the database, or correct its name in the Secret's URL";
            (Failure::DatabaseMissing, remedy)
        } else if *code == SqlState::INVALID_PASSWORD {
            let remedy = ": correct user and password in the Secret's URL";
            (Failure::AccessDenied, remedy)
        } else if *code == SqlState::INSUFFICIENT_PRIVILEGE {
            let remedy = ": let the URL's user connect to the database (GRANT CONNECT)";
            (Failure::AccessDenied, remedy)
        } else if answer.message().contains(NO_ENCRYPTION) {
            let remedy = ": the server may require TLS: add sslmode=require or \
                          sslmode=verify-full to the Secret's URL, or correct its pg_hba.conf";
            (Failure::AccessDenied, remedy)
        } else if of_sqlstate(code.code()) == Class::AccessDenied {
            let remedy = ": correct the Secret's URL, or let the server (pg_hba.conf) accept it";
            (Failure::AccessDenied, remedy)
        } else {
            (Failure::Unavailable, "")
        };
        ConnectError {
            message: format!(
                "{self} refuses the connection: {}{remedy}",
                sentence(answer)
            ),
            kind,
        }
    }
}

/// Why the server can't be reached; completes "PostgreSQL at …".
fn unreachable(error: &Error) -> String {
    let mut causes = vec![error.to_string()];
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        // The driver's messages contain those of their causes.
        if !causes.iter().any(|known| known.contains(&text)) {
            causes.push(text);
        }
        source = cause.source();
    }
    let causes = causes.join(": ");
    if let Some(fault) = tls::fault(&causes) {
        return format!("can't be reached: the server's certificate {fault}");
    }
    let remedy = if causes.contains("server does not support TLS") {
        "; turn TLS on at the server, or set sslmode=disable in the Secret's URL"
    } else {
        ""
    };
    format!("can't be reached: {causes}{remedy}")
}

/// The server's own sentence with its SQLSTATE.
#[must_use]
pub fn sentence(answer: &DbError) -> String {
    format!("{} ({})", answer.message(), answer.code().code())
}
