//! A connection in plain text to the server that a Secret's URL names.

use std::time::Duration;

use anyhow::{Result, anyhow};
use pinpipe_config::BatchPostgres;
use pinpipe_runtime::config::secret_file;
use tokio_postgres::{Client, Config, NoTls, error::SqlState};

use super::errors::sentence;
use crate::{failure::Permanent, sink::Interrupted};

/// How long the server may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may be silent before the other side is probed.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Connects once. The error is [`Permanent`] if the server refuses the URL's user, password or
/// database, otherwise [`Interrupted`].
pub async fn connect(config: &BatchPostgres) -> Result<Client> {
    let secret = match &config.secret {
        Some(secret) => secret.clone(),
        None => format!("URL in {}", config.url_file.display()),
    };
    let url = secret_file(&config.url_file, config.secret.as_deref()).map_err(Permanent::from)?;
    // The parser's error is left out: it may quote a part of the URL, which holds the password.
    let mut parsed: Config = url.parse().map_err(|_| {
        Permanent(format!(
            "PostgreSQL's URL can't be parsed ({secret}): \
             postgresql://user:password@host:port/database is expected, with special characters \
             in user and password percent-encoded"
        ))
    })?;
    parsed
        .application_name("pinpipe-batch")
        .connect_timeout(CONNECT_TIMEOUT)
        .keepalives_idle(KEEPALIVE)
        .keepalives_interval(KEEPALIVE / 3)
        .keepalives_retries(3);
    let (client, driver) = parsed
        .connect(NoTls)
        .await
        .map_err(|error| refused(&secret, error))?;
    tokio::spawn(async move {
        if let Err(error) = driver.await {
            tracing::debug!(%error, "a connection to PostgreSQL ended");
        }
    });
    Ok(client)
}

fn refused(secret: &str, error: tokio_postgres::Error) -> anyhow::Error {
    let Some(answer) = error.as_db_error() else {
        let unreachable = anyhow!(error).context(format!("PostgreSQL ({secret}) can't be reached"));
        return Interrupted(unreachable).into();
    };
    let code = answer.code();
    let sentence = format!(
        "PostgreSQL ({secret}) refuses the connection: {}",
        sentence(answer)
    );
    let remedy = if *code == SqlState::INVALID_CATALOG_NAME {
        "create the database, or correct its name in the Secret's URL"
    } else if code.code().starts_with("28") {
        "correct user and password in the Secret's URL, or what the server permits them"
    } else {
        return Interrupted(anyhow!(sentence)).into();
    };
    Permanent(format!("{sentence}: {remedy}")).into()
}
