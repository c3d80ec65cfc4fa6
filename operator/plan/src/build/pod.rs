//! Pods: one container each, within Kubernetes' restricted profile, credentials mounted as files.
//!
//! Workers take up a renewed Secret by themselves, so nothing of its content is in a template. Its
//! volume is mounted as a folder: the kubelet doesn't renew a file that is mounted by `subPath`.

use k8s_openapi::{
    api::core::v1::{
        Affinity, Capabilities, ConfigMapVolumeSource, Container, ContainerPort,
        EmptyDirVolumeSource, EnvVar, HTTPGetAction, KeyToPath, Lifecycle, LocalObjectReference,
        PodAffinityTerm, PodAntiAffinity, PodSecurityContext, PodSpec, PodTemplateSpec, Probe,
        ProjectedVolumeSource, ResourceRequirements, SeccompProfile, SecretProjection,
        SecretVolumeSource, SecurityContext, TopologySpreadConstraint, Volume, VolumeMount,
        VolumeProjection, WeightedPodAffinityTerm,
    },
    apimachinery::pkg::{
        api::resource::Quantity, apis::meta::v1::ObjectMeta, util::intstr::IntOrString,
    },
};
use pinpipe_config::{ADMIN_PORT, CONFIG_DIR, CONTROL_PORT, SCRATCH_DIR};
use pinpipe_crds::{LogLevel, PodSecurity, PullPolicy};

use super::{
    config_map::{Config, secrets_dir},
    labels,
};
use crate::{
    component::Component,
    model::{Image, Mount, Pods, Secrets, ValidatedPipeline},
    names::{self, CONFIG_ANNOTATION, KAFKA_ANNOTATION},
};

/// User and group that workers run as; their images have the same.
const USER: i64 = 65532;
/// `ServiceAccount` of pods for which none is named. It is sent explicitly: the API server copies
/// the name to the deprecated field `serviceAccount`, and restores it from there if
/// `serviceAccountName` is removed.
const DEFAULT_ACCOUNT: &str = "default";

/// A worker, as far as its pods differ from those of other workers.
pub(super) struct Worker<'a> {
    pub(super) component: Component,
    /// Name of the image and of the container.
    pub(super) image: &'static str,
    pub(super) pods: &'a Pods,
    pub(super) secrets: Option<&'a Secrets>,
    pub(super) ports: Vec<ContainerPort>,
    pub(super) env: Vec<EnvVar>,
    /// Size limit of the scratch volume. None: there is no such volume.
    pub(super) scratch: Option<&'a Quantity>,
    pub(super) lifecycle: Option<Lifecycle>,
    pub(super) grace_seconds: i64,
}

impl<'a> Worker<'a> {
    /// A worker with an admin port, and neither Secrets nor a scratch volume.
    pub(super) fn new(component: Component, image: &'static str, pods: &'a Pods) -> Self {
        Self {
            component,
            image,
            pods,
            secrets: None,
            ports: vec![admin_port()],
            env: Vec::new(),
            scratch: None,
            lifecycle: None,
            grace_seconds: 30,
        }
    }
}

/// Pods of a worker that runs until it is stopped, with probes of its admin port.
pub(super) fn service(
    pipeline: &ValidatedPipeline,
    worker: &Worker<'_>,
    config: &Config,
) -> PodTemplateSpec {
    let container = Container {
        // A worker starts within a second; a minute allows for a busy node.
        startup_probe: Some(probe("/healthz", 1, 60)),
        liveness_probe: Some(probe("/healthz", 10, 6)),
        readiness_probe: Some(probe("/readyz", 5, 2)),
        ..container(&pipeline.image, worker)
    };
    let account = worker.pods.service_account.as_deref();
    let spec = PodSpec {
        service_account_name: Some(account.unwrap_or(DEFAULT_ACCOUNT).to_owned()),
        ..pod_spec(pipeline, worker, config, container)
    };
    template(pipeline, worker, config, spec)
}

/// Pods of a worker that runs to completion, with the token of its `ServiceAccount`.
pub(super) fn task(
    pipeline: &ValidatedPipeline,
    worker: &Worker<'_>,
    config: &Config,
    service_account: String,
) -> PodTemplateSpec {
    let spec = PodSpec {
        restart_policy: Some("Never".to_owned()),
        service_account_name: Some(service_account),
        automount_service_account_token: Some(true),
        ..pod_spec(pipeline, worker, config, container(&pipeline.image, worker))
    };
    template(pipeline, worker, config, spec)
}

/// Reference to the image of a worker.
pub(super) fn image(image: &Image, worker: &str) -> String {
    let Image { registry, tag, .. } = image;
    let repository = match image.repositories.get(worker) {
        Some(repository) => repository.clone(),
        None => format!("{registry}/{worker}"),
    };
    match image.digests.get(worker) {
        Some(digest) => format!("{repository}:{tag}@{digest}"),
        None => format!("{repository}:{tag}"),
    }
}

pub(super) fn admin_port() -> ContainerPort {
    port("admin", ADMIN_PORT)
}

pub(super) fn port(name: &str, number: u16) -> ContainerPort {
    ContainerPort {
        name: Some(name.to_owned()),
        container_port: number.into(),
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    }
}

pub(super) fn control_port() -> ContainerPort {
    port("control", CONTROL_PORT)
}

fn template(
    pipeline: &ValidatedPipeline,
    worker: &Worker<'_>,
    config: &Config,
    spec: PodSpec,
) -> PodTemplateSpec {
    let mut labels = worker.pods.labels.clone();
    labels.extend(labels::labels(pipeline, &worker.component));
    let mut annotations = worker.pods.annotations.clone();
    annotations.insert(CONFIG_ANNOTATION.to_owned(), config.hash.clone());
    if worker.component.runs_on_kafka() {
        annotations.insert(KAFKA_ANNOTATION.to_owned(), kafka_hash(pipeline));
    }
    let metadata = ObjectMeta {
        labels: Some(labels),
        annotations: Some(annotations),
        ..ObjectMeta::default()
    };
    PodTemplateSpec {
        metadata: Some(metadata),
        spec: Some(spec),
    }
}

/// Hash of how the workers of a pipeline reach Kafka.
pub(super) fn kafka_hash(pipeline: &ValidatedPipeline) -> String {
    // Types of the configuration always serialise, and a value's fields are sorted.
    let kafka = serde_json::to_value(&pipeline.kafka).unwrap_or_default();
    names::hash(&kafka.to_string())
}

fn pod_spec(
    pipeline: &ValidatedPipeline,
    worker: &Worker<'_>,
    config: &Config,
    container: Container,
) -> PodSpec {
    let pods = worker.pods;
    let pull_secrets = pods.image_pull_secrets.iter();
    let pull_secrets = pull_secrets.map(|name| LocalObjectReference { name: name.clone() });
    let id = match pods.security {
        PodSecurity::Fixed => Some(USER),
        PodSecurity::FromPlatform => None,
    };
    PodSpec {
        containers: vec![container],
        volumes: Some(volumes(worker, config)),
        image_pull_secrets: non_empty(pull_secrets.collect()),
        node_selector: (!pods.node_selector.is_empty()).then(|| pods.node_selector.clone()),
        tolerations: non_empty(pods.tolerations.clone()),
        topology_spread_constraints: non_empty(spread(pipeline, worker)),
        affinity: affinity(pipeline, worker),
        priority_class_name: pods.priority_class.clone(),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        termination_grace_period_seconds: Some(worker.grace_seconds),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: id,
            run_as_group: id,
            fs_group: id,
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".to_owned(),
                localhost_profile: None,
            }),
            ..PodSecurityContext::default()
        }),
        ..PodSpec::default()
    }
}

/// The pods of each template are spread by themselves, not together with those of an older one.
fn spread(pipeline: &ValidatedPipeline, worker: &Worker<'_>) -> Vec<TopologySpreadConstraint> {
    let constraints = worker
        .pods
        .spread
        .iter()
        .map(|spread| TopologySpreadConstraint {
            max_skew: spread.max_skew,
            topology_key: spread.topology_key.clone(),
            when_unsatisfiable: spread.when_unsatisfiable.to_owned(),
            label_selector: Some(labels::label_selector(pipeline, &worker.component)),
            match_label_keys: Some(vec!["pod-template-hash".to_owned()]),
            ..TopologySpreadConstraint::default()
        });
    constraints.collect()
}

/// The affinity that is set, and by default a preferred anti-affinity by a node label; not every
/// node has the label.
fn affinity(pipeline: &ValidatedPipeline, worker: &Worker<'_>) -> Option<Affinity> {
    let set = worker.pods.affinity.clone();
    let Some(label) = worker.pods.apart else {
        return set;
    };
    Some(Affinity {
        pod_anti_affinity: Some(anti_affinity(pipeline, &worker.component, label)),
        ..set.unwrap_or_default()
    })
}

fn anti_affinity(
    pipeline: &ValidatedPipeline,
    component: &Component,
    label: &str,
) -> PodAntiAffinity {
    let preferred = WeightedPodAffinityTerm {
        weight: 100,
        pod_affinity_term: PodAffinityTerm {
            topology_key: label.to_owned(),
            label_selector: Some(labels::label_selector(pipeline, component)),
            match_label_keys: Some(vec!["pod-template-hash".to_owned()]),
            ..PodAffinityTerm::default()
        },
    };
    PodAntiAffinity {
        preferred_during_scheduling_ignored_during_execution: Some(vec![preferred]),
        ..PodAntiAffinity::default()
    }
}

fn container(image: &Image, worker: &Worker<'_>) -> Container {
    let pull_policy = match image.pull_policy {
        PullPolicy::Always => "Always",
        PullPolicy::IfNotPresent => "IfNotPresent",
        PullPolicy::Never => "Never",
    };
    Container {
        name: worker.image.to_owned(),
        image: Some(self::image(image, worker.image)),
        image_pull_policy: Some(pull_policy.to_owned()),
        env: non_empty(env(worker)),
        ports: non_empty(worker.ports.clone()),
        resources: Some(&worker.pods.resources)
            .filter(|resources| **resources != ResourceRequirements::default())
            .cloned(),
        volume_mounts: Some(mounts(worker)),
        lifecycle: worker.lifecycle.clone(),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            run_as_non_root: Some(true),
            capabilities: Some(Capabilities {
                drop: Some(vec!["ALL".to_owned()]),
                add: None,
            }),
            ..SecurityContext::default()
        }),
        // The status shows the last log line of a worker that failed.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        ..Container::default()
    }
}

/// The worker's variables, the log filter, and those that are set.
fn env(worker: &Worker<'_>) -> Vec<EnvVar> {
    let filter = worker.pods.log_level.map(|level| EnvVar {
        name: "RUST_LOG".to_owned(),
        value: Some(
            match level {
                LogLevel::Error => "error",
                LogLevel::Warn => "warn",
                LogLevel::Info => "info",
                LogLevel::Debug => "debug",
                LogLevel::Trace => "trace",
            }
            .to_owned(),
        ),
        value_from: None,
    });
    let own = worker.env.iter().cloned().chain(filter);
    own.chain(worker.pods.env.iter().cloned()).collect()
}

fn volumes(worker: &Worker<'_>, config: &Config) -> Vec<Volume> {
    let mode = match worker.pods.security {
        PodSecurity::Fixed => 0o440,
        // No group may be sure to own the files.
        PodSecurity::FromPlatform => 0o444,
    };
    let config = Volume {
        name: "config".to_owned(),
        config_map: Some(ConfigMapVolumeSource {
            name: config.name.clone(),
            ..ConfigMapVolumeSource::default()
        }),
        ..Volume::default()
    };
    let secrets = secret_mounts(worker).map(|mount| secret(mount, mode));
    let scratch = worker.scratch.map(|size| Volume {
        name: "tmp".to_owned(),
        empty_dir: Some(EmptyDirVolumeSource {
            size_limit: Some(size.clone()),
            medium: None,
        }),
        ..Volume::default()
    });
    [config].into_iter().chain(secrets).chain(scratch).collect()
}

/// The volume of a Secret. A key of it can only be optional in a projected volume.
fn secret(mount: &Mount, mode: i32) -> Volume {
    let items: Vec<_> = mount.files.iter().map(item).collect();
    let name = secret_volume(mount);
    let Some(optional) = mount.optional else {
        let secret = SecretVolumeSource {
            secret_name: Some(mount.secret.clone()),
            default_mode: Some(mode),
            items: non_empty(items),
            optional: None,
        };
        return Volume {
            name,
            secret: Some(secret),
            ..Volume::default()
        };
    };
    let source = |items, optional| VolumeProjection {
        secret: Some(SecretProjection {
            name: mount.secret.clone(),
            items: Some(items),
            optional,
        }),
        ..VolumeProjection::default()
    };
    let optional = item(&(optional.to_owned(), optional.to_owned()));
    Volume {
        name,
        projected: Some(ProjectedVolumeSource {
            default_mode: Some(mode),
            sources: Some(vec![
                source(items, None),
                source(vec![optional], Some(true)),
            ]),
        }),
        ..Volume::default()
    }
}

fn mounts(worker: &Worker<'_>) -> Vec<VolumeMount> {
    let secrets = secret_mounts(worker).map(|secret| {
        mount(
            &secret_volume(secret),
            &secrets_dir(&secret.purpose).to_string_lossy(),
            true,
        )
    });
    let scratch = worker.scratch.map(|_| mount("tmp", SCRATCH_DIR, false));
    [mount("config", CONFIG_DIR, true)]
        .into_iter()
        .chain(secrets)
        .chain(scratch)
        .collect()
}

fn secret_mounts<'a>(worker: &Worker<'a>) -> impl Iterator<Item = &'a Mount> {
    worker
        .secrets
        .into_iter()
        .flat_map(|secrets| &secrets.mounts)
}

fn secret_volume(mount: &Mount) -> String {
    format!("secret-{}", mount.purpose)
}

fn item((key, path): &(String, String)) -> KeyToPath {
    KeyToPath {
        key: key.clone(),
        path: path.clone(),
        mode: None,
    }
}

fn mount(name: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    }
}

fn probe(path: &str, period_seconds: i32, failure_threshold: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String("admin".to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period_seconds),
        failure_threshold: Some(failure_threshold),
        timeout_seconds: Some(3),
        ..Probe::default()
    }
}

/// An empty list is left out: the API server would drop it.
fn non_empty<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}
