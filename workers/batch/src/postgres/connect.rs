//! A connection to the server that a Secret's URL names.

use std::time::Duration;

use anyhow::Result;
use pinpipe_config::BatchPostgres;
use pinpipe_runtime::postgres::{self, Failure, Source};
use tokio_postgres::Client;

use crate::{failure::Permanent, sink::Interrupted};

/// How long the server may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may be silent before the other side is probed.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Connects once. The error is [`Permanent`] if the URL can't be used, or the server refuses its
/// user, password or database, otherwise [`Interrupted`].
pub async fn connect(config: &BatchPostgres) -> Result<Client> {
    let source = Source {
        url_file: &config.url_file,
        secret: config.secret.as_deref(),
        tls: config.tls.as_ref(),
    };
    let mut settings = postgres::read(&source).map_err(Permanent::from)?;
    settings
        .config
        .application_name("pinpipe-batch")
        .connect_timeout(CONNECT_TIMEOUT)
        .keepalives_idle(KEEPALIVE)
        .keepalives_interval(KEEPALIVE / 3)
        .keepalives_retries(3);
    match settings.connect().await {
        Ok((client, _)) => Ok(client),
        Err(error) if error.kind == Failure::Unavailable => Err(Interrupted(error.into()).into()),
        Err(error) => Err(Permanent(error.to_string()).into()),
    }
}
