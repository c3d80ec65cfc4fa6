//! Pods: one container each, as Kubernetes' restricted profile asks, credentials mounted as files.

use k8s_openapi::{
    api::core::v1::{
        Affinity, Capabilities, ConfigMapVolumeSource, Container, ContainerPort,
        EmptyDirVolumeSource, EnvVar, HTTPGetAction, KeyToPath, LocalObjectReference,
        PodAffinityTerm, PodAntiAffinity, PodSecurityContext, PodSpec, PodTemplateSpec, Probe,
        ResourceRequirements, SeccompProfile, SecretVolumeSource, SecurityContext,
        TopologySpreadConstraint, Volume, VolumeMount, WeightedPodAffinityTerm,
    },
    apimachinery::pkg::{
        api::resource::Quantity, apis::meta::v1::ObjectMeta, util::intstr::IntOrString,
    },
};
use pinpipe_config::{ADMIN_PORT, CONFIG_DIR, SCRATCH_DIR};
use pinpipe_crds::PullPolicy;

use super::{
    CONFIG_ANNOTATION, SECRETS_ANNOTATION,
    config::{Config, secrets_dir},
    meta,
};
use crate::validate::{Image, Pods, Secrets, ValidatedPipeline};

/// The user and group workers run as; that of their images too.
const USER: i64 = 65532;

/// What differs between workers' pods.
pub(super) struct Worker<'a> {
    /// `ingest`, `stream-live`, …
    pub(super) component: &'a str,
    /// The name of its image, and of its container.
    pub(super) image: &'a str,
    pub(super) config: &'a Config,
    pub(super) secrets: Option<&'a Secrets>,
    pub(super) resources: &'a ResourceRequirements,
    pub(super) pods: &'a Pods,
    /// Ports besides the admin port.
    pub(super) ports: Vec<ContainerPort>,
    pub(super) env: Vec<EnvVar>,
    /// What may be written below `/tmp`. None: nothing.
    pub(super) tmp: Option<&'a Quantity>,
    pub(super) grace_seconds: i64,
}

/// The pods of a worker that serves its health.
pub(super) fn service(pipeline: &ValidatedPipeline, worker: &Worker<'_>) -> PodTemplateSpec {
    let mut template = template(pipeline, worker);
    for container in template
        .spec
        .iter_mut()
        .flat_map(|spec| &mut spec.containers)
    {
        // A worker starts in under a second; a minute is for a node that has much else to do.
        container.startup_probe = Some(Probe {
            period_seconds: Some(1),
            failure_threshold: Some(60),
            ..probe("/healthz")
        });
        container.liveness_probe = Some(Probe {
            period_seconds: Some(10),
            failure_threshold: Some(6),
            ..probe("/healthz")
        });
        container.readiness_probe = Some(Probe {
            period_seconds: Some(5),
            failure_threshold: Some(2),
            ..probe("/readyz")
        });
    }
    template
}

/// The pods of a worker that runs to its end.
pub(super) fn task(
    pipeline: &ValidatedPipeline,
    service_account: String,
    worker: &Worker<'_>,
) -> PodTemplateSpec {
    let mut template = template(pipeline, worker);
    if let Some(spec) = &mut template.spec {
        spec.restart_policy = Some("Never".to_owned());
        spec.service_account_name = Some(service_account);
        spec.automount_service_account_token = Some(true);
    }
    template
}

/// The admin port.
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

fn template(pipeline: &ValidatedPipeline, worker: &Worker<'_>) -> PodTemplateSpec {
    let pods = worker.pods;
    let mut labels = pods.labels.clone();
    labels.extend(meta::labels(pipeline, worker.component));
    let mut annotations = pods.annotations.clone();
    annotations.insert(CONFIG_ANNOTATION.to_owned(), worker.config.hash.clone());
    if let Some(digest) = worker.secrets.and_then(|secrets| secrets.digest.clone()) {
        annotations.insert(SECRETS_ANNOTATION.to_owned(), digest);
    }
    let (volumes, mounts) = volumes(worker);
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(labels),
            annotations: Some(annotations),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            containers: vec![container(&pipeline.image, worker.image, worker, mounts)],
            volumes: Some(volumes),
            image_pull_secrets: pull_secrets(&pipeline.image),
            service_account_name: pods.service_account.clone(),
            node_selector: (!pods.node_selector.is_empty()).then(|| pods.node_selector.clone()),
            tolerations: (!pods.tolerations.is_empty()).then(|| pods.tolerations.clone()),
            topology_spread_constraints: spread(pipeline, worker),
            affinity: worker
                .pods
                .apart
                .map(|label| apart(pipeline, worker, label)),
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            termination_grace_period_seconds: Some(worker.grace_seconds),
            security_context: Some(PodSecurityContext {
                run_as_non_root: Some(true),
                run_as_user: Some(USER),
                run_as_group: Some(USER),
                fs_group: Some(USER),
                seccomp_profile: Some(SeccompProfile {
                    type_: "RuntimeDefault".to_owned(),
                    localhost_profile: None,
                }),
                ..PodSecurityContext::default()
            }),
            ..PodSpec::default()
        }),
    }
}

/// Pods of one template are spread, not those of an older one together with them.
fn spread(
    pipeline: &ValidatedPipeline,
    worker: &Worker<'_>,
) -> Option<Vec<TopologySpreadConstraint>> {
    let constraints = worker
        .pods
        .spread
        .iter()
        .map(|spread| TopologySpreadConstraint {
            max_skew: spread.max_skew,
            topology_key: spread.topology_key.clone(),
            when_unsatisfiable: spread.when_unsatisfiable.to_owned(),
            label_selector: Some(meta::label_selector(pipeline, worker.component)),
            match_label_keys: Some(vec!["pod-template-hash".to_owned()]),
            ..TopologySpreadConstraint::default()
        });
    (!worker.pods.spread.is_empty()).then(|| constraints.collect())
}

/// The like, by a label that not every cluster's nodes have.
fn apart(pipeline: &ValidatedPipeline, worker: &Worker<'_>, label: &str) -> Affinity {
    let term = PodAffinityTerm {
        topology_key: label.to_owned(),
        label_selector: Some(meta::label_selector(pipeline, worker.component)),
        match_label_keys: Some(vec!["pod-template-hash".to_owned()]),
        ..PodAffinityTerm::default()
    };
    let wish = WeightedPodAffinityTerm {
        weight: 100,
        pod_affinity_term: term,
    };
    Affinity {
        pod_anti_affinity: Some(PodAntiAffinity {
            preferred_during_scheduling_ignored_during_execution: Some(vec![wish]),
            ..PodAntiAffinity::default()
        }),
        ..Affinity::default()
    }
}

fn container(
    image: &Image,
    name: &str,
    worker: &Worker<'_>,
    mounts: Vec<VolumeMount>,
) -> Container {
    Container {
        name: name.to_owned(),
        image: Some(match image.digests.get(name) {
            Some(digest) => format!("{}/{name}:{}@{digest}", image.registry, image.tag),
            None => format!("{}/{name}:{}", image.registry, image.tag),
        }),
        image_pull_policy: Some(
            match image.pull_policy {
                PullPolicy::Always => "Always",
                PullPolicy::IfNotPresent => "IfNotPresent",
                PullPolicy::Never => "Never",
            }
            .to_owned(),
        ),
        env: (!worker.env.is_empty()).then(|| worker.env.clone()),
        ports: (!worker.ports.is_empty()).then(|| worker.ports.clone()),
        resources: Some(worker.resources.clone()),
        volume_mounts: Some(mounts),
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
        // What the worker last said before it failed is what the status shows.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        ..Container::default()
    }
}

fn volumes(worker: &Worker<'_>) -> (Vec<Volume>, Vec<VolumeMount>) {
    let mut volumes = vec![Volume {
        name: "config".to_owned(),
        config_map: Some(ConfigMapVolumeSource {
            name: worker.config.name.clone(),
            ..ConfigMapVolumeSource::default()
        }),
        ..Volume::default()
    }];
    let mut mounts = vec![mount("config", CONFIG_DIR, true)];
    for secret in worker.secrets.iter().flat_map(|secrets| &secrets.mounts) {
        let name = format!("secret-{}", secret.purpose);
        mounts.push(mount(
            &name,
            &secrets_dir(&secret.purpose).to_string_lossy(),
            true,
        ));
        volumes.push(Volume {
            name,
            secret: Some(SecretVolumeSource {
                secret_name: Some(secret.secret.clone()),
                default_mode: Some(0o440),
                items: Some(
                    secret
                        .files
                        .iter()
                        .map(|(key, path)| KeyToPath {
                            key: key.clone(),
                            path: path.clone(),
                            mode: None,
                        })
                        .collect(),
                ),
                optional: None,
            }),
            ..Volume::default()
        });
    }
    if let Some(size) = worker.tmp {
        mounts.push(mount("tmp", SCRATCH_DIR, false));
        volumes.push(Volume {
            name: "tmp".to_owned(),
            empty_dir: Some(EmptyDirVolumeSource {
                size_limit: Some(size.clone()),
                medium: None,
            }),
            ..Volume::default()
        });
    }
    (volumes, mounts)
}

fn mount(name: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    }
}

fn pull_secrets(image: &Image) -> Option<Vec<LocalObjectReference>> {
    let secrets: Vec<_> = image
        .pull_secrets
        .iter()
        .map(|name| LocalObjectReference { name: name.clone() })
        .collect();
    (!secrets.is_empty()).then_some(secrets)
}

fn probe(path: &str) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String("admin".to_owned()),
            ..HTTPGetAction::default()
        }),
        timeout_seconds: Some(3),
        ..Probe::default()
    }
}
