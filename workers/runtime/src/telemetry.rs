//! Logging to standard error.

use std::{
    fmt,
    io::{self, IsTerminal},
    str::FromStr,
};

use tracing_subscriber::EnvFilter;

/// Format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// Plain text for people.
    Plain,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "json" => Ok(Self::Json),
            "plain" => Ok(Self::Plain),
            _ => Err(format!("`{text}` is not a log format: use json or plain")),
        }
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Json => "json",
            Self::Plain => "plain",
        })
    }
}

/// Writes `tracing` events, which include librdkafka's log lines, to standard error. `RUST_LOG`
/// sets the filter; the default is `info`.
///
/// Standard output is reserved for a worker's result. A second call has no effect.
pub fn init(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr);
    let result = match format {
        LogFormat::Json => lines
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .try_init(),
        LogFormat::Plain => lines.with_ansi(io::stderr().is_terminal()).try_init(),
    };
    if let Err(error) = result {
        tracing::debug!(%error, "logging is already set up");
    }
}
