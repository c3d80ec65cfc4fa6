//! The command line of every worker.

use std::path::PathBuf;

use crate::telemetry::LogFormat;

/// The options every worker has.
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

    /// The form of log lines: json, or plain for people. Which lines: `RUST_LOG` (info unless set).
    #[arg(long, env = "PINPIPE_LOG_FORMAT", value_name = "FORMAT", default_value_t = LogFormat::Json)]
    pub log_format: LogFormat,
}
