//! The pod of an inspection: the batch worker with the configurations and Secrets of all components
//! that read or write records. Whoever inspects creates it, not the operator.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        batch::v1::CronJob,
        core::v1::{
            Affinity, Container, EmptyDirVolumeSource, EnvVar, Pod, PodSpec, PodTemplateSpec,
            ResourceRequirements, Volume, VolumeMount,
        },
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{ObjectMeta, OwnerReference},
    },
};
use kube::{Resource as _, ResourceExt as _};
use pinpipe_config::{
    SCRATCH_DIR,
    inspect::{INSPECT_ARCHIVE, INSPECT_BATCH, INSPECT_DIR, INSPECT_SINKS},
};
use pinpipe_crds::PinterestPipeline;

use super::merge::add_volumes;
use crate::{
    component::Component,
    names::{
        COMPONENT_LABEL, CONFIG_ANNOTATION, IMAGE_ANNOTATION, INSTANCE_LABEL, KAFKA_ANNOTATION,
        MANAGED_BY_LABEL, NAME_LABEL,
    },
};

/// Name of an inspection's container, and value of its pod's component label. It is no component's,
/// so that no Service, workload, policy or budget of the pipeline selects the pod.
pub const INSPECTION: &str = "inspect";
/// Variable of a batch run alone: the name of its Job.
const RUN: &str = "PINPIPE_RUN";
/// Variable with the log filter.
const LOG: &str = "RUST_LOG";
/// Volume for temporary files.
const SCRATCH: &str = "tmp";

/// What an inspection's pod is made from.
#[derive(Clone, Copy, Debug)]
pub struct Inspection<'a> {
    /// The pipeline.
    pub pipeline: &'a PinterestPipeline,
    /// Its `CronJob`, if it has one.
    pub cron_job: Option<&'a CronJob>,
    /// Its Deployments.
    pub deployments: &'a [Deployment],
    /// The only stream sink to look at. None: all.
    pub sink: Option<&'a str>,
    /// Image of the batch worker. None: that of the `CronJob`, or beside the stream workers'.
    pub image: Option<&'a str>,
    /// Most memory that the pod may take.
    pub memory: &'a str,
    /// The command and its arguments, after `inspect`.
    pub command: &'a [String],
    /// When the cluster ends the pod, seconds after its start.
    pub deadline_seconds: i64,
}

/// An inspection's pod.
#[derive(Clone, Debug, PartialEq)]
pub struct InspectionPod {
    /// The pod, without a name: the API server makes one.
    pub pod: Pod,
    /// Sentences about components that it can't inspect.
    pub left_out: Vec<String>,
}

/// A component, its pods' template, and the folder of its configuration.
struct Part<'a> {
    component: Component,
    template: &'a PodTemplateSpec,
    folder: String,
}

/// Builds the pod. The error is a sentence.
pub fn inspection_pod(inspection: &Inspection<'_>) -> Result<InspectionPod, String> {
    let parts = parts(inspection)?;
    let base = parts.first().and_then(|part| part.template.spec.as_ref());
    let Some((base, container)) = base.and_then(|base| Some((base, base.containers.first()?)))
    else {
        return Err(format!(
            "pipeline {} has neither an archive nor a stream sink that is deployed, so that there \
             is nothing to look into: see kubectl pinpipe status -n {} {}",
            inspection.pipeline.name_any(),
            inspection.pipeline.namespace().unwrap_or_default(),
            inspection.pipeline.name_any(),
        ));
    };
    let container = Container {
        name: INSPECTION.to_owned(),
        image: Some(image(inspection)?),
        image_pull_policy: container.image_pull_policy.clone(),
        args: Some(arguments(inspection.command)),
        env: Some(env(&parts)),
        resources: Some(resources(inspection.memory)),
        volume_mounts: Some(vec![VolumeMount {
            name: SCRATCH.to_owned(),
            mount_path: SCRATCH_DIR.to_owned(),
            ..VolumeMount::default()
        }]),
        security_context: container.security_context.clone(),
        termination_message_policy: container.termination_message_policy.clone(),
        ..Container::default()
    };
    let mut spec = PodSpec {
        containers: vec![container],
        volumes: Some(vec![scratch(base)]),
        image_pull_secrets: base.image_pull_secrets.clone(),
        node_selector: base.node_selector.clone(),
        tolerations: base.tolerations.clone(),
        affinity: base.affinity.clone().map(|affinity| Affinity {
            pod_anti_affinity: None,
            ..affinity
        }),
        priority_class_name: base.priority_class_name.clone(),
        security_context: base.security_context.clone(),
        service_account_name: base.service_account_name.clone(),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        restart_policy: Some("Never".to_owned()),
        active_deadline_seconds: Some(inspection.deadline_seconds),
        termination_grace_period_seconds: Some(1),
        ..PodSpec::default()
    };
    let left_out = add_parts(&mut spec, &parts);
    let pod = Pod {
        metadata: metadata(inspection.pipeline, &parts),
        spec: Some(spec),
        status: None,
    };
    Ok(InspectionPod { pod, left_out })
}

/// The components, the one first whose pods the inspection's resembles most.
fn parts<'a>(inspection: &Inspection<'a>) -> Result<Vec<Part<'a>>, String> {
    let batch = inspection.cron_job.and_then(|cron_job| {
        let job = cron_job.spec.as_ref()?.job_template.spec.as_ref()?;
        Some(Part {
            component: Component::Batch,
            template: &job.template,
            folder: INSPECT_BATCH.to_owned(),
        })
    });
    let deployed = inspection.deployments.iter().filter_map(|deployment| {
        let component: Component = deployment.labels().get(COMPONENT_LABEL)?.parse().ok()?;
        let folder = match &component {
            Component::Archive => INSPECT_ARCHIVE.to_owned(),
            Component::Stream(sink) if inspection.sink.is_none_or(|only| only == sink) => {
                format!("{INSPECT_SINKS}/{sink}")
            }
            _ => return None,
        };
        let template = &deployment.spec.as_ref()?.template;
        Some(Part {
            component,
            template,
            folder,
        })
    });
    let mut deployed: Vec<_> = deployed.collect();
    deployed.sort_by(|a, b| a.component.cmp(&b.component));
    let is_there = |sink: &&str| {
        let mut parts = deployed.iter();
        !parts.any(|part| part.component == Component::stream(sink))
    };
    if let Some(sink) = inspection.sink.filter(is_there) {
        return Err(format!(
            "pipeline {} has no Deployment of a stream sink {sink}: --sink takes a name in \
             spec.stream.sinks",
            inspection.pipeline.name_any()
        ));
    }
    Ok(batch.into_iter().chain(deployed).collect())
}

/// Gives the pod the configurations and Secrets of the components. Returns sentences about those
/// that can't be in one pod with others.
fn add_parts(pod: &mut PodSpec, parts: &[Part<'_>]) -> Vec<String> {
    let mut left_out = Vec::new();
    for (number, part) in parts.iter().enumerate() {
        let Some(worker) = &part.template.spec else {
            continue;
        };
        // A sink's name may be too long for the name of a volume.
        let config = format!("config-{number}");
        let folder = format!("{INSPECT_DIR}/{}", part.folder);
        if let Err(volume) = add_volumes(pod, worker, &config, &folder) {
            let component = &part.component;
            let instead = component
                .sink()
                .filter(|_| *component != Component::Archive);
            let instead = instead.map_or_else(String::new, |sink| {
                format!("; to look at it alone, set --sink {sink}")
            });
            left_out.push(format!(
                "{component} is left out: it has another Secret as {volume} than a component \
                 before it, and a pod can't have both{instead}"
            ));
        }
    }
    left_out
}

/// Image of the batch worker.
fn image(inspection: &Inspection<'_>) -> Result<String, String> {
    let of_batch = || {
        let job = &inspection.cron_job?.spec.as_ref()?.job_template.spec;
        let pod = job.as_ref()?.template.spec.as_ref()?;
        pod.containers.first()?.image.clone()
    };
    let beside_stream = || {
        let mut deployments = inspection.deployments.iter();
        deployments.find_map(|deployment| beside(&applied_image(deployment)?, "stream", "batch"))
    };
    let given = inspection.image.map(ToOwned::to_owned);
    let image = given.or_else(of_batch).or_else(beside_stream);
    image.ok_or_else(|| {
        "the pipeline has no batch runs, and the image of the batch worker can't be told from \
         those of its stream workers: set --image, or spec.batch"
            .to_owned()
    })
}

/// Image of a Deployment as the operator applied it; a webhook may have replaced it.
fn applied_image(deployment: &Deployment) -> Option<String> {
    let annotated = deployment.annotations().get(IMAGE_ANNOTATION).cloned();
    let pod = || deployment.spec.as_ref()?.template.spec.as_ref();
    annotated.or_else(|| pod()?.containers.first()?.image.clone())
}

/// The image of a worker in the registry and with the tag of another one's. None: the repositories
/// aren't named by the workers.
fn beside(image: &str, worker: &str, wanted: &str) -> Option<String> {
    let (registry, tag) = registry_and_tag(image, worker)?;
    Some(format!("{registry}/{wanted}:{tag}"))
}

/// Registry and tag of a worker's image. None: its repository isn't named by the worker.
#[must_use]
pub fn registry_and_tag<'a>(image: &'a str, worker: &str) -> Option<(&'a str, &'a str)> {
    let (image, _) = image.split_once('@').unwrap_or((image, ""));
    let (repository, tag) = image.rsplit_once(':')?;
    let registry = repository.strip_suffix(worker)?.strip_suffix('/')?;
    Some((registry, tag))
}

fn arguments(command: &[String]) -> Vec<String> {
    let inspect = ["inspect", "--folder", INSPECT_DIR].map(ToOwned::to_owned);
    inspect.into_iter().chain(command.iter().cloned()).collect()
}

/// The variables of all components; of one that several have, the first. Unless a log level is set,
/// clients of the stores tell of problems alone: people read it.
fn env(parts: &[Part<'_>]) -> Vec<EnvVar> {
    let mut all: Vec<EnvVar> = Vec::new();
    let pods = parts.iter().filter_map(|part| part.template.spec.as_ref());
    let containers = pods.filter_map(|pod| pod.containers.first());
    for variable in containers.flat_map(|container| container.env.iter().flatten()) {
        if variable.name != RUN && all.iter().all(|other| other.name != variable.name) {
            all.push(variable.clone());
        }
    }
    if all.iter().all(|variable| variable.name != LOG) {
        all.push(EnvVar {
            name: LOG.to_owned(),
            value: Some("warn".to_owned()),
            value_from: None,
        });
    }
    all
}

/// What an inspection takes. Both are set, so that a quota of either takes the pod.
fn resources(memory: &str) -> ResourceRequirements {
    let of = |cpu: &str, memory: &str| {
        let of = [("cpu", cpu), ("memory", memory)];
        of.map(|(name, value)| (name.to_owned(), Quantity(value.to_owned())))
    };
    ResourceRequirements {
        requests: Some(of("50m", "128Mi").into()),
        limits: Some(of("1", memory).into()),
        ..ResourceRequirements::default()
    }
}

/// The scratch volume of batch runs, or a small one.
fn scratch(base: &PodSpec) -> Volume {
    let mut volumes = base.volumes.iter().flatten();
    let of_batch = volumes.find(|volume| volume.empty_dir.is_some());
    Volume {
        name: SCRATCH.to_owned(),
        empty_dir: Some(
            of_batch
                .and_then(|volume| volume.empty_dir.clone())
                .unwrap_or(EmptyDirVolumeSource {
                    size_limit: Some(Quantity("1Gi".to_owned())),
                    medium: None,
                }),
        ),
        ..Volume::default()
    }
}

/// The pod has the labels and annotations that were set for the components, which a policy of the
/// network may ask for.
fn metadata(pipeline: &PinterestPipeline, parts: &[Part<'_>]) -> ObjectMeta {
    let name = pipeline.name_any();
    let (mut labels, mut annotations) = (BTreeMap::new(), BTreeMap::new());
    for part in parts.iter().rev() {
        let metadata = part.template.metadata.clone().unwrap_or_default();
        labels.extend(metadata.labels.unwrap_or_default());
        annotations.extend(metadata.annotations.unwrap_or_default());
    }
    let own = [
        NAME_LABEL,
        (INSTANCE_LABEL, &name),
        (COMPONENT_LABEL, INSPECTION),
        (MANAGED_BY_LABEL, "kubectl-pinpipe"),
    ];
    labels.extend(own.map(|(key, value)| (key.to_owned(), value.to_owned())));
    annotations.retain(|name, _| ![CONFIG_ANNOTATION, KAFKA_ANNOTATION].contains(&name.as_str()));
    ObjectMeta {
        generate_name: Some(format!("{name}-{INSPECTION}-")),
        namespace: pipeline.namespace(),
        labels: Some(labels),
        annotations: Some(annotations),
        owner_references: Some(vec![OwnerReference {
            api_version: PinterestPipeline::api_version(&()).into_owned(),
            kind: PinterestPipeline::kind(&()).into_owned(),
            name,
            uid: pipeline.uid().unwrap_or_default(),
            controller: Some(true),
            block_owner_deletion: None,
        }]),
        ..ObjectMeta::default()
    }
}
