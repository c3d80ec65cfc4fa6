//! Command line of the operator.

use std::time::Duration;

use pinpipe_runtime::telemetry::LogFormat;

use pinpipe_plan::model::{Images, Policy};

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
    #[arg(
        long,
        env = "PINPIPE_IMAGE_TAG",
        value_name = "TAG",
        default_value = env!("CARGO_PKG_VERSION")
    )]
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

    /// Full names of images that aren't <registry>/<worker>:
    /// `ingest=registry.example/pins-ingest,…`
    #[arg(
        long,
        env = "PINPIPE_IMAGE_REPOSITORIES",
        value_name = "WORKER=REPOSITORY",
        value_delimiter = ',',
        value_parser = repository
    )]
    pub image_repositories: Vec<(String, String)>,

    /// Registries that pipelines may name in spec.image.registry, with everything below them; all
    /// by default
    #[arg(
        long,
        env = "PINPIPE_ALLOWED_REGISTRIES",
        value_name = "REGISTRY",
        value_delimiter = ','
    )]
    pub allowed_registries: Vec<String>,

    /// Refuse pipelines that name a `ServiceAccount`
    #[arg(long, env = "PINPIPE_FORBID_SERVICE_ACCOUNT_NAME")]
    pub forbid_service_account_name: bool,

    /// Number of pipelines reconciled at once
    #[arg(
        long,
        env = "PINPIPE_CONCURRENCY",
        value_name = "N",
        default_value_t = 8,
        value_parser = clap::value_parser!(u16).range(1..)
    )]
    pub concurrency: u16,

    /// Number of pipelines that roll a new image of the operator's at once; the others keep theirs
    #[arg(
        long,
        env = "PINPIPE_ROLLOUT_CONCURRENCY",
        value_name = "N",
        default_value_t = 10,
        value_parser = clap::value_parser!(u16).range(1..)
    )]
    pub rollout_concurrency: u16,

    /// How long the deletion of a pipeline's topics is tried before they are left, seconds
    #[arg(
        long,
        env = "PINPIPE_DELETION_DEADLINE",
        value_name = "SECONDS",
        default_value_t = 300
    )]
    pub deletion_deadline: u64,

    /// Port of /healthz, /readyz and /metrics
    #[arg(
        long,
        env = "PINPIPE_ADMIN_PORT",
        value_name = "PORT",
        default_value_t = pinpipe_config::ADMIN_PORT
    )]
    pub admin_port: u16,

    /// Format of log lines, json or plain; `RUST_LOG` selects them (default: info)
    #[arg(
        long,
        env = "PINPIPE_LOG_FORMAT",
        value_name = "FORMAT",
        default_value_t = LogFormat::Json
    )]
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
            policy: self.policy(),
            concurrency: self.concurrency,
            rollout_concurrency: self.rollout_concurrency,
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
            repositories: self.image_repositories.iter().cloned().collect(),
        }
    }

    fn policy(&self) -> Policy {
        let registries = self.allowed_registries.iter();
        let registries = registries.filter(|registry| !registry.is_empty());
        Policy {
            allowed_registries: registries.cloned().collect(),
            forbid_service_account_name: self.forbid_service_account_name,
        }
    }
}

/// Reads `<worker>=<value>`.
fn of_worker(text: &str) -> Result<(&str, &str), String> {
    let (worker, value) = text.split_once('=').ok_or("write it as <worker>=<value>")?;
    if !["ingest", "stream", "batch", "emulator"].contains(&worker) {
        return Err(format!(
            "there is no worker `{worker}`; there are ingest, stream, batch and emulator"
        ));
    }
    Ok((worker, value))
}

/// Reads `ingest=registry.example/pins-ingest`.
fn repository(text: &str) -> Result<(String, String), String> {
    let (worker, repository) = of_worker(text)?;
    // A tag or a digest would come twice; a port, before a slash, is no tag.
    let last = repository.rsplit('/').next().unwrap_or_default();
    if last.is_empty() || last.contains([':', '@']) {
        return Err(format!(
            "`{repository}` is not an image without tag and digest, such as \
             registry.example/pins-{worker}"
        ));
    }
    Ok((worker.to_owned(), repository.to_owned()))
}

/// Reads `ingest=sha256:…`.
fn digest(text: &str) -> Result<(String, String), String> {
    let (worker, digest) = of_worker(text)?;
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
    fn repositories_are_read_or_refused() {
        let of = |text: &str| {
            Args::try_parse_from(["operator", "--image-repositories", text])
                .map(|args| args.images().repositories)
        };
        let found = of("ingest=r.example:5000/pins-ingest,batch=r.example/b").unwrap();
        assert_eq!(found["ingest"], "r.example:5000/pins-ingest");
        assert_eq!(found.len(), 2);
        for wrong in [
            "ingest",
            "archive=r/a",
            "ingest=",
            "ingest=r/a:1",
            "ingest=r/a@sha256:0",
        ] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
    }

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
