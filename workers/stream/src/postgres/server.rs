//! The server a Secret's URL names, and the messages about reaching it.
//!
//! Messages name host, port and Secret and pass the server's own sentence on. They never quote the
//! URL, which holds the password.

use std::fmt;

use anyhow::{Context as _, anyhow};
use pinpipe_runtime::{
    config::secret_file,
    failure::{Class, of_sqlstate},
};
use tokio_postgres::{Config, config::Host, error::SqlState};

use super::failure::sentence;
use crate::sink::SecretRefused;

/// The port of a URL that names none.
const DEFAULT_PORT: u16 = 5432;

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

/// Where the URL comes from, for messages: the Secret and its key, or else the file.
pub fn secret(config: &pinpipe_config::Postgres) -> String {
    match &config.secret {
        Some(secret) => secret.clone(),
        None => format!("URL in {}", config.url_file.display()),
    }
}

/// Reads and parses the Secret's URL.
pub fn read(config: &pinpipe_config::Postgres) -> anyhow::Result<(Config, Server)> {
    let secret = secret(config);
    let url = secret_file(&config.url_file, config.secret.as_deref())
        .context("PostgreSQL's URL can't be read")?;
    // The parser's error is left out: it may quote a part of the URL.
    let parsed: Config = url.parse().map_err(|_| {
        anyhow!(
            "PostgreSQL's URL can't be parsed ({secret}): \
             postgresql://user:password@host:port/database is expected, with special characters \
             in user and password percent-encoded"
        )
    })?;
    let server = Server {
        addresses: addresses(&parsed),
        secret,
    };
    Ok((parsed, server))
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

impl Server {
    /// Why a connection failed.
    pub fn connection_error(&self, error: tokio_postgres::Error) -> anyhow::Error {
        let Some(answer) = error.as_db_error() else {
            return anyhow::Error::new(error).context(format!("{self} can't be reached"));
        };
        let sentence = format!("{self} refuses the connection: {}", sentence(answer));
        let denied = |remedy| anyhow!(SecretRefused::AccessDenied(format!("{sentence}: {remedy}")));
        match answer.code() {
            code if *code == SqlState::INVALID_CATALOG_NAME => {
                anyhow!(SecretRefused::DatabaseMissing(format!(
                    "{sentence}: create the database, or correct its name in the Secret's URL"
                )))
            }
            code if *code == SqlState::INVALID_PASSWORD => {
                denied("correct user and password in the Secret's URL")
            }
            code if *code == SqlState::INSUFFICIENT_PRIVILEGE => {
                denied("let the URL's user connect to the database (GRANT CONNECT)")
            }
            code if of_sqlstate(code.code()) == Class::AccessDenied => {
                denied("correct the Secret's URL, or let the server (pg_hba.conf) accept it")
            }
            _ => anyhow!(sentence),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use pinpipe_config::{StartFrom, WriteMode};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::{super::Postgres, *};
    use crate::sink::{Sink, SinkError, unavailable_reason};

    const PASSWORD: &str = "not-for-messages";

    /// A file with the URL; each test uses another name.
    fn url_file(name: &str, url: &str) -> PathBuf {
        let path =
            std::env::temp_dir().join(format!("pinpipe-stream-{}-{name}", std::process::id()));
        fs::write(&path, url).unwrap();
        path
    }

    fn config(url_file: PathBuf, secret: Option<&str>) -> pinpipe_config::Postgres {
        pinpipe_config::Postgres {
            name: "live".into(),
            url_file,
            secret: secret.map(str::to_owned),
            schema: "public".into(),
            start_from: StartFrom::Earliest,
            write_mode: WriteMode::Upsert,
        }
    }

    /// The sink's message about the URL.
    async fn message(name: &str, url: &str, secret: Option<&str>) -> String {
        unavailable(name, url, secret).await.1
    }

    /// The reason and message by which the sink is unavailable.
    async fn unavailable(name: &str, url: &str, secret: Option<&str>) -> (&'static str, String) {
        let file = url_file(name, url);
        let sink = Postgres::new(config(file.clone(), secret), "group".into());
        let result = sink.check().await;
        fs::remove_file(file).unwrap();
        match result {
            Err(SinkError::Unavailable(error)) => {
                let message = format!("{error:#}");
                assert!(!message.contains(PASSWORD), "{message}");
                (unavailable_reason(&error), message)
            }
            other => panic!("{other:?}"),
        }
    }

    /// A server that answers one connection with an error of PostgreSQL's protocol,
    /// <https://www.postgresql.org/docs/current/protocol-error-fields.html>. Returns its port.
    async fn refusing(code: &str, sentence: &str) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut fields = Vec::new();
        for (field, value) in [('S', "FATAL"), ('V', "FATAL"), ('C', code), ('M', sentence)] {
            fields.extend(format!("{field}{value}\0").into_bytes());
        }
        fields.push(0);
        let mut reply = vec![b'E'];
        reply.extend(u32::try_from(fields.len() + 4).unwrap().to_be_bytes());
        reply.extend(fields);
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let length = stream.read_u32().await.unwrap();
            let mut startup = vec![0; length as usize - 4];
            stream.read_exact(&mut startup).await.unwrap();
            stream.write_all(&reply).await.unwrap();
        });
        port
    }

    #[tokio::test]
    async fn a_refused_connection_passes_the_server_s_sentence_on() {
        for (code, sentence, reason, remedy) in [
            (
                "28000",
                "no pg_hba.conf entry for host \"10.0.0.7\", user \"app\", database \"db\", no \
                 encryption",
                "SinkAccessDenied",
                ": correct the Secret's URL, or let the server (pg_hba.conf) accept it",
            ),
            (
                "28P01",
                "password authentication failed for user \"app\"",
                "SinkAccessDenied",
                ": correct user and password in the Secret's URL",
            ),
            (
                "42501",
                "permission denied for database \"db\"",
                "SinkAccessDenied",
                ": let the URL's user connect to the database (GRANT CONNECT)",
            ),
            (
                "3D000",
                "database \"db\" does not exist",
                "DatabaseMissing",
                ": create the database, or correct its name in the Secret's URL",
            ),
            (
                "53300",
                "sorry, too many clients already",
                "SinkUnavailable",
                "",
            ),
        ] {
            let port = refusing(code, sentence).await;
            let url = format!("postgresql://app:{PASSWORD}@127.0.0.1:{port}/db");
            let message = format!(
                "PostgreSQL at 127.0.0.1:{port} (Secret warehouse, key url) refuses the \
                 connection: {sentence} ({code}){remedy}"
            );
            assert_eq!(
                unavailable("refused", &url, Some("Secret warehouse, key url")).await,
                (reason, message)
            );
        }
    }

    #[tokio::test]
    async fn an_unreachable_server_is_named_with_the_system_s_sentence() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let url = format!("postgresql://app:{PASSWORD}@127.0.0.1:{port}/db");
        let message = message("unreachable", &url, None).await;
        let start = format!("PostgreSQL at 127.0.0.1:{port} (URL in ");
        assert!(message.starts_with(&start), "{message}");
        assert!(message.contains("can't be reached: "), "{message}");
        assert!(message.contains("Connection refused"), "{message}");
    }

    #[tokio::test]
    async fn an_unusable_url_is_never_quoted() {
        for (name, url) in [
            ("unparsable", format!("postgres:/app:{PASSWORD}@db?x=y")),
            ("option", format!("postgresql://app:p@x?{PASSWORD}=w@db/x")),
        ] {
            let message = message(name, &url, Some("Secret warehouse, key url")).await;
            let start = "PostgreSQL's URL can't be parsed (Secret warehouse, key url): ";
            assert!(message.starts_with(start), "{message}");
        }
    }

    #[tokio::test]
    async fn a_missing_url_names_secret_and_key() {
        let message = message("empty", "\n", Some("Secret warehouse, key url")).await;
        let expected = "PostgreSQL's URL can't be read: Secret warehouse, key url is empty: ";
        assert!(message.starts_with(expected), "{message}");
    }

    #[test]
    fn every_host_of_the_url_is_named_with_its_port() {
        for (url, expected) in [
            ("postgresql://db.x/db", "db.x:5432"),
            ("postgresql://u:p@[fd00::2]:6432/db", "[fd00::2]:6432"),
            ("postgresql://u:p@[fd00::2]/db", "[fd00::2]:5432"),
            ("hostaddr=fd00::2", "[fd00::2]:5432"),
            ("postgresql://a:1,b:2/db", "a:1, b:2"),
            ("host=a,b port=6432", "a:6432, b:6432"),
        ] {
            assert_eq!(addresses(&url.parse().unwrap()), expected);
        }
    }
}
