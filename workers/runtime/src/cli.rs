//! Command-line options shared by all workers.

use std::path::PathBuf;

use crate::telemetry::LogFormat;

/// Options of every worker.
#[derive(Clone, Debug, clap::Args)]
pub struct WorkerArgs {
    /// The worker's configuration file, written by the operator.
    #[arg(
        long,
        env = "PINPIPE_CONFIG",
        value_name = "PATH",
        default_value = "/etc/pinpipe/config/config.yaml"
    )]
    pub config: PathBuf,

    /// Format of log lines: json, or plain for people. Set the log level with `RUST_LOG`; the
    /// default is info.
    #[arg(
        long,
        env = "PINPIPE_LOG_FORMAT",
        value_name = "FORMAT",
        default_value_t = LogFormat::Json
    )]
    pub log_format: LogFormat,
}
