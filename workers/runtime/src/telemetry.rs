//! Log lines on standard error, as JSON for machines or plain for people.

use std::{
    fmt,
    io::{self, IsTerminal},
    str::FromStr,
};

use tracing_subscriber::EnvFilter;

/// The form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// Text.
    Plain,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "json" => Ok(Self::Json),
            "plain" => Ok(Self::Plain),
            _ => Err(format!("`{text}` is no log format: use json or plain")),
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

/// Sends every event of `tracing`, librdkafka's lines among them, to standard error. `RUST_LOG`
/// chooses which; `info` unless set.
///
/// Standard output stays free for a worker's result. A second call changes nothing.
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
        tracing::debug!(%error, "log lines had been set up before");
    }
}
