//! The workers that run all the time: ingest, the stream workers, the archive, the emulator.

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment},
        core::v1::{
            Lifecycle, LifecycleHandler, PodTemplateSpec, Service, ServicePort, ServiceSpec,
            SleepAction,
        },
    },
    apimachinery::pkg::util::intstr::IntOrString,
};
use pinpipe_config::{ADMIN_PORT, HTTP_PORT};

use super::{Object, config, meta, object, pod, pod::Worker, scaling};
use crate::validate::{Archive, Emulator, Replicas, Sink, ValidatedPipeline};

/// Old `ReplicaSet`s kept for a roll-back, and with them their `ConfigMap`s.
const HISTORY: i32 = 3;
/// How long an ingest pod goes on taking requests after it was told to stop, so that every node has
/// taken it out of the Service.
const SERVICE_DRAIN_SECONDS: i64 = 3;

pub(super) fn ingest(pipeline: &ValidatedPipeline, objects: &mut Vec<Object>) {
    let component = "ingest";
    let config = config::config_map(pipeline, component, &config::ingest(pipeline), objects);
    objects.push(object(&Service {
        metadata: meta::metadata(pipeline, component, pipeline.child(component)),
        spec: Some(service_spec(pipeline, component, "http", HTTP_PORT)),
        status: None,
    }));
    let mut template = pod::service(
        pipeline,
        &Worker {
            component,
            image: "ingest",
            config: &config,
            secrets: None,
            resources: &pipeline.ingest.resources,
            pods: &pipeline.ingest.pods,
            ports: vec![pod::port("http", HTTP_PORT), pod::admin_port()],
            env: Vec::new(),
            tmp: None,
            grace_seconds: 30,
        },
    );
    for container in template
        .spec
        .iter_mut()
        .flat_map(|spec| &mut spec.containers)
    {
        container.lifecycle = Some(Lifecycle {
            pre_stop: Some(LifecycleHandler {
                sleep: Some(SleepAction {
                    seconds: SERVICE_DRAIN_SECONDS,
                }),
                ..LifecycleHandler::default()
            }),
            ..Lifecycle::default()
        });
    }
    let replicas = &pipeline.ingest.replicas;
    objects.push(deployment(
        pipeline,
        component,
        replicas,
        rolling(),
        template,
    ));
    scaling::several(pipeline, component, None, replicas, objects);
}

pub(super) fn stream(pipeline: &ValidatedPipeline, sink: &Sink, objects: &mut Vec<Object>) {
    let component = &format!("stream-{}", sink.name);
    let config = config::config_map(
        pipeline,
        component,
        &config::stream(pipeline, sink),
        objects,
    );
    if sink.secrets.digest.is_none() {
        return;
    }
    let template = pod::service(
        pipeline,
        &Worker {
            component,
            image: "stream",
            config: &config,
            secrets: Some(&sink.secrets),
            resources: &sink.resources,
            pods: &sink.pods,
            ports: vec![pod::admin_port()],
            env: Vec::new(),
            tmp: None,
            grace_seconds: 60,
        },
    );
    objects.push(deployment(
        pipeline,
        component,
        &sink.replicas,
        rolling(),
        template,
    ));
    scaling::several(
        pipeline,
        component,
        Some(&sink.name),
        &sink.replicas,
        objects,
    );
}

pub(super) fn archive(pipeline: &ValidatedPipeline, archive: &Archive, objects: &mut Vec<Object>) {
    let component = "archive";
    let config = config::config_map(
        pipeline,
        component,
        &config::archive(pipeline, archive),
        objects,
    );
    let mut service = service_spec(pipeline, component, "admin", ADMIN_PORT);
    // Headless: the batch worker asks every pod to flush. One that isn't ready has buffers to
    // flush, too.
    service.cluster_ip = Some("None".to_owned());
    service.publish_not_ready_addresses = Some(true);
    objects.push(object(&Service {
        metadata: meta::metadata(pipeline, component, pipeline.child(component)),
        spec: Some(service),
        status: None,
    }));
    if archive.secrets.digest.is_none() {
        return;
    }
    let template = pod::service(
        pipeline,
        &Worker {
            component,
            image: "stream",
            config: &config,
            secrets: Some(&archive.secrets),
            resources: &archive.resources,
            pods: &archive.pods,
            ports: vec![pod::admin_port()],
            env: Vec::new(),
            tmp: None,
            grace_seconds: 60,
        },
    );
    // One writer a partition: two would be safe, but only in each other's way. So the old pod goes
    // before the new one comes.
    objects.push(deployment(
        pipeline,
        component,
        &Replicas::Fixed(1),
        strategy("Recreate", None),
        template,
    ));
}

pub(super) fn emulator(
    pipeline: &ValidatedPipeline,
    emulator: &Emulator,
    objects: &mut Vec<Object>,
) {
    let component = "emulator";
    let config = config::config_map(
        pipeline,
        component,
        &config::emulator(pipeline, emulator),
        objects,
    );
    let template = pod::service(
        pipeline,
        &Worker {
            component,
            image: "emulator",
            config: &config,
            secrets: None,
            resources: &emulator.resources,
            pods: &emulator.pods,
            ports: vec![pod::admin_port()],
            env: Vec::new(),
            tmp: None,
            grace_seconds: 10,
        },
    );
    objects.push(deployment(
        pipeline,
        component,
        &Replicas::Fixed(1),
        strategy("Recreate", None),
        template,
    ));
}

fn deployment(
    pipeline: &ValidatedPipeline,
    component: &str,
    replicas: &Replicas,
    strategy: DeploymentStrategy,
    template: PodTemplateSpec,
) -> Object {
    object(&Deployment {
        metadata: meta::metadata(pipeline, component, pipeline.child(component)),
        spec: Some(DeploymentSpec {
            replicas: match replicas {
                _ if !pipeline.runs(component) => Some(0),
                Replicas::Fixed(pods) => Some(*pods),
                // An autoscaler leaves alone what has no pods.
                Replicas::Autoscaled { min, .. } if pipeline.at_zero.contains(component) => {
                    Some(*min)
                }
                Replicas::Autoscaled { .. } | Replicas::LeftAlone => None,
            },
            revision_history_limit: Some(HISTORY),
            selector: meta::label_selector(pipeline, component),
            strategy: Some(strategy),
            template,
            ..DeploymentSpec::default()
        }),
        status: None,
    })
}

/// A new pod is ready before an old one goes.
fn rolling() -> DeploymentStrategy {
    let update = RollingUpdateDeployment {
        max_surge: Some(IntOrString::Int(1)),
        max_unavailable: Some(IntOrString::Int(0)),
    };
    strategy("RollingUpdate", Some(update))
}

fn strategy(type_: &str, rolling_update: Option<RollingUpdateDeployment>) -> DeploymentStrategy {
    DeploymentStrategy {
        type_: Some(type_.to_owned()),
        rolling_update,
    }
}

fn service_spec(
    pipeline: &ValidatedPipeline,
    component: &str,
    port: &str,
    number: u16,
) -> ServiceSpec {
    ServiceSpec {
        selector: Some(meta::pod_selector(pipeline, component)),
        ports: Some(vec![ServicePort {
            name: Some(port.to_owned()),
            port: number.into(),
            target_port: Some(IntOrString::String(port.to_owned())),
            protocol: Some("TCP".to_owned()),
            ..ServicePort::default()
        }]),
        ..ServiceSpec::default()
    }
}
