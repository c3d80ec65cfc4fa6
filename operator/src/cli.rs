//! Command line of the operator.

use std::time::Duration;

use pinpipe_runtime::telemetry::LogFormat;

use pinpipe_plan::model::Images;

use crate::{context::Settings, controller::Scope};

/// Reconciles `PinterestPipelines`: keeps their topics and workers as the resources say
#[derive(Clone, Debug, clap::Parser)]
#[command(version)]
pub struct Args {
    /// Registry of the workers' images where a pipeline names none
    #[arg(
        long,
        env = "PINPIPE_IMAGE_REGISTRY",
        value_name = "REGISTRY",
        default_value = "ghcr.io/pinpipe"
    )]
    pub image_registry: String,

    /// Tag of the workers' images where a pipeline names none
    #[arg(long, env = "PINPIPE_IMAGE_TAG", value_name = "TAG", default_value = env!("CARGO_PKG_VERSION"))]
    pub image_tag: String,

    /// Namespaces whose pipelines are reconciled, repeated or separated by commas; all by default
    #[arg(
        long = "namespace",
        env = "PINPIPE_NAMESPACES",
        value_name = "NAMESPACE",
        value_delimiter = ','
    )]
    pub namespaces: Vec<String>,

    /// The operator's own namespace, in which it keeps its record of topics; by default that of the
    /// pod, or of the kubeconfig
    #[arg(long, env = "PINPIPE_OPERATOR_NAMESPACE", value_name = "NAMESPACE")]
    pub operator_namespace: Option<String>,

    /// Lease that lets one of several replicas work while the others stand by; none by default
    #[arg(
        long,
        env = "PINPIPE_LEASE",
        value_name = "NAME",
        requires = "lease_namespace"
    )]
    pub lease: Option<String>,

    /// Namespace of that Lease, the operator's own
    #[arg(long, env = "PINPIPE_LEASE_NAMESPACE", value_name = "NAMESPACE")]
    pub lease_namespace: Option<String>,

    /// Digests that pin those images: `ingest=sha256:…,stream=sha256:…`
    #[arg(
        long,
        env = "PINPIPE_IMAGE_DIGESTS",
        value_name = "WORKER=DIGEST",
        value_delimiter = ',',
        value_parser = digest
    )]
    pub image_digests: Vec<(String, String)>,

    /// Number of pipelines reconciled at once
    #[arg(long, env = "PINPIPE_CONCURRENCY", value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..))]
    pub concurrency: u16,

    /// How long the sinks of a suspended pipeline may drain their topics, seconds
    #[arg(
        long,
        env = "PINPIPE_DRAIN_DEADLINE",
        value_name = "SECONDS",
        default_value_t = 300
    )]
    pub drain_deadline: u64,

    /// How long the deletion of a pipeline's topics is tried before they are left, seconds
    #[arg(
        long,
        env = "PINPIPE_DELETION_DEADLINE",
        value_name = "SECONDS",
        default_value_t = 300
    )]
    pub deletion_deadline: u64,

    /// Port of /healthz, /readyz and /metrics
    #[arg(long, env = "PINPIPE_ADMIN_PORT", value_name = "PORT", default_value_t = pinpipe_config::ADMIN_PORT)]
    pub admin_port: u16,

    /// Format of log lines, json or plain; `RUST_LOG` selects them (default: info)
    #[arg(long, env = "PINPIPE_LOG_FORMAT", value_name = "FORMAT", default_value_t = LogFormat::Json)]
    pub log_format: LogFormat,
}

impl Args {
    /// Settings of the operator. `namespace` is its own where no argument names one.
    #[must_use]
    pub fn settings(&self, namespace: &str) -> Settings {
        let own = self.operator_namespace.as_deref();
        Settings {
            namespace: own.unwrap_or(namespace).to_owned(),
            images: self.images(),
            concurrency: self.concurrency,
            drain_deadline: Duration::from_secs(self.drain_deadline),
            deletion_deadline: Duration::from_secs(self.deletion_deadline),
        }
    }

    /// Namespaces in which pipelines are reconciled.
    #[must_use]
    pub fn scopes(&self) -> Vec<Scope> {
        Scope::of(&self.namespaces)
    }

    fn images(&self) -> Images {
        Images {
            registry: self.image_registry.clone(),
            tag: self.image_tag.clone(),
            digests: self.image_digests.iter().cloned().collect(),
        }
    }
}

/// Reads `ingest=sha256:…`.
fn digest(text: &str) -> Result<(String, String), String> {
    let (worker, digest) = text
        .split_once('=')
        .ok_or("write it as <worker>=sha256:<64 hexadecimal digits>")?;
    if !["ingest", "stream", "batch", "emulator"].contains(&worker) {
        return Err(format!(
            "there is no worker `{worker}`; there are ingest, stream, batch and emulator"
        ));
    }
    let digits = digest.strip_prefix("sha256:").unwrap_or_default();
    if digits.len() != 64
        || !digits
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    {
        return Err(format!(
            "`{digest}` is not a digest: write sha256: and 64 hexadecimal digits"
        ));
    }
    Ok((worker.to_owned(), digest.to_owned()))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[test]
    fn digests_are_read_or_refused() {
        let of = |text: &str| {
            Args::try_parse_from(["operator", "--image-digests", text])
                .map(|args| args.images().digests.len())
        };
        let digest = format!("sha256:{}", "0a".repeat(32));
        assert_eq!(of(&format!("ingest={digest},batch={digest}")).unwrap(), 2);
        for wrong in [
            "ingest".to_owned(),
            format!("archive={digest}"),
            format!("ingest={}", digest.replace('a', "A")),
        ] {
            assert!(of(&wrong).is_err(), "{wrong}");
        }
    }
}
