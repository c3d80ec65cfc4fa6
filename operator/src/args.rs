//! The operator's command line.

use pinpipe_runtime::telemetry::LogFormat;

use crate::validate::Images;

/// Runs `PinterestPipelines`: watches them in all namespaces and keeps their topics and workers as they say.
#[derive(Clone, Debug, clap::Parser)]
#[command(version)]
pub struct Args {
    /// The registry of the workers' images where a pipeline names none.
    #[arg(long, env = "PINPIPE_IMAGE_REGISTRY", value_name = "REGISTRY", default_value = "ghcr.io/pinpipe")]
    pub image_registry: String,

    /// The tag of the workers' images where a pipeline names none.
    #[arg(long, env = "PINPIPE_IMAGE_TAG", value_name = "TAG", default_value = env!("CARGO_PKG_VERSION"))]
    pub image_tag: String,

    /// How many pipelines are worked on at once.
    #[arg(long, env = "PINPIPE_CONCURRENCY", value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..))]
    pub concurrency: u16,

    /// How long the sinks of a suspended pipeline may take to read the topics to their ends, seconds.
    #[arg(long, env = "PINPIPE_DRAIN_DEADLINE", value_name = "SECONDS", default_value_t = 300)]
    pub drain_deadline: u64,

    /// The port of /healthz, /readyz and /metrics.
    #[arg(long, env = "PINPIPE_ADMIN_PORT", value_name = "PORT", default_value_t = pinpipe_config::ADMIN_PORT)]
    pub admin_port: u16,

    /// The form of log lines: json, or plain for people. Which lines: `RUST_LOG` (info unless set).
    #[arg(long, env = "PINPIPE_LOG_FORMAT", value_name = "FORMAT", default_value_t = LogFormat::Json)]
    pub log_format: LogFormat,
}

impl Args {
    /// Where workers' images come from unless a pipeline says otherwise.
    #[must_use]
    pub fn images(&self) -> Images {
        Images { registry: self.image_registry.clone(), tag: self.image_tag.clone() }
    }
}
