//! Deployments of the workers that always run: ingest, the stream workers, the archive, the
//! emulator.

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment},
        core::v1::{Lifecycle, LifecycleHandler, SleepAction},
    },
    apimachinery::pkg::util::intstr::IntOrString,
};
use pinpipe_config::{HTTP_PORT, WorkerConfig};

use super::{Builder, config_map, labels, pod, pod::Worker};
use crate::{
    component::Component,
    model::{Archive, Emulator, Ingest, Replicas, Secrets, Sink},
};

/// Old `ReplicaSets` kept for a rollback, and with them their `ConfigMaps`.
const HISTORY: i32 = 3;
/// How long an ingest pod goes on taking requests after it was told to stop, so that every node has
/// removed it from the Service by then.
const SERVICE_DRAIN_SECONDS: i64 = 3;

impl Builder<'_> {
    pub(super) fn ingest(&mut self, ingest: &Ingest) {
        self.ingest_service(ingest);
        let lifecycle = Lifecycle {
            pre_stop: Some(LifecycleHandler {
                sleep: Some(SleepAction {
                    seconds: SERVICE_DRAIN_SECONDS,
                }),
                ..LifecycleHandler::default()
            }),
            ..Lifecycle::default()
        };
        let worker = Worker {
            secrets: ingest.secrets.as_ref(),
            ports: vec![pod::port("http", HTTP_PORT), pod::admin_port()],
            lifecycle: Some(lifecycle),
            ..Worker::new(Component::Ingest, "ingest", &ingest.pods)
        };
        let config = config_map::ingest(self.pipeline, ingest);
        self.deployment(&worker, &config, &ingest.replicas, rolling());
    }

    pub(super) fn stream(&mut self, sink: &Sink) {
        let component = Component::stream(&sink.name);
        let worker = Worker {
            secrets: Some(&sink.secrets),
            ports: vec![pod::admin_port(), pod::control_port()],
            grace_seconds: 60,
            ..Worker::new(component, "stream", &sink.pods)
        };
        let config = config_map::stream(self.pipeline, self.observed, sink);
        self.deployment(&worker, &config, &sink.replicas, rolling());
    }

    pub(super) fn archive(&mut self, archive: &Archive) {
        self.archive_service();
        let worker = Worker {
            secrets: Some(&archive.secrets),
            ports: vec![pod::admin_port(), pod::control_port()],
            grace_seconds: 60,
            ..Worker::new(Component::Archive, "stream", &archive.pods)
        };
        let config = config_map::archive(self.pipeline, self.observed, archive);
        // Two writers of a partition are safe but obstruct each other, so the old pod stops before
        // the new one starts.
        self.deployment(
            &worker,
            &config,
            &Replicas::Fixed(1),
            strategy("Recreate", None),
        );
    }

    pub(super) fn emulator(&mut self, emulator: &Emulator) {
        let worker = Worker {
            secrets: emulator.secrets.as_ref(),
            grace_seconds: 10,
            ..Worker::new(Component::Emulator, "emulator", &emulator.pods)
        };
        let config = config_map::emulator(self.pipeline, emulator);
        self.deployment(
            &worker,
            &config,
            &Replicas::Fixed(1),
            strategy("Recreate", None),
        );
    }

    /// Adds a Deployment with its configuration, network policy, disruption budget and autoscaler.
    /// A component that waits for another one's new image keeps the pod template it has, which
    /// names the configuration it has.
    fn deployment(
        &mut self,
        worker: &Worker<'_>,
        config: &impl WorkerConfig,
        replicas: &Replicas,
        strategy: DeploymentStrategy,
    ) {
        let component = &worker.component;
        let kept = self.rollout.kept_template(component, self.observed);
        let template = if let Some(template) = kept {
            template
        } else {
            let config = self.config_map(component, config);
            if worker.secrets.is_some_and(Secrets::awaited) {
                return;
            }
            pod::service(self.pipeline, worker, &config)
        };
        self.push(&Deployment {
            metadata: labels::metadata(self.pipeline, component),
            spec: Some(DeploymentSpec {
                replicas: self.replicas(component, replicas),
                revision_history_limit: Some(HISTORY),
                selector: labels::label_selector(self.pipeline, component),
                strategy: Some(strategy),
                template,
                ..DeploymentSpec::default()
            }),
            status: None,
        });
        self.network_policy(worker);
        self.disruption_budget(component, replicas);
        self.autoscaler(component, replicas);
    }

    /// Number of pods. None: an autoscaler sets it.
    fn replicas(&self, component: &Component, replicas: &Replicas) -> Option<i32> {
        let suspended = self.pipeline.suspend && !self.observed.draining.contains(component);
        let stopped = self.observed.unsuitable_topics && component.sink().is_some();
        if suspended || stopped {
            return Some(0);
        }
        match replicas {
            Replicas::Fixed(pods) => Some(*pods),
            // An autoscaler ignores a Deployment without pods.
            Replicas::Autoscaled { min, .. } if self.observed.at_zero.contains(component) => {
                Some(*min)
            }
            Replicas::Autoscaled { .. } | Replicas::LeftAlone => None,
        }
    }
}

/// A new pod is ready before an old one stops.
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
