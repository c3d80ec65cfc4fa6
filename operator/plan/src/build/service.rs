//! Services in front of ingest and the archive.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Service, ServicePort, ServiceSpec},
    apimachinery::pkg::{apis::meta::v1::ObjectMeta, util::intstr::IntOrString},
};
use pinpipe_config::{CONTROL_PORT, HTTP_PORT};
use pinpipe_crds::ServiceType;

use super::{Builder, labels};
use crate::{component::Component, model::Ingest};

impl Builder<'_> {
    pub(super) fn ingest_service(&mut self, ingest: &Ingest) {
        let type_ = ingest.service_type.map(|type_| match type_ {
            ServiceType::ClusterIp => "ClusterIP",
            ServiceType::NodePort => "NodePort",
            ServiceType::LoadBalancer => "LoadBalancer",
        });
        let spec = ServiceSpec {
            type_: type_.map(str::to_owned),
            ..self.service_spec(&Component::Ingest, "http", HTTP_PORT)
        };
        let annotations = ingest.service_annotations.clone();
        self.service(&Component::Ingest, annotations, spec);
    }

    /// Headless, since the batch worker asks every pod of the archive to flush; a pod that isn't
    /// ready has buffers to flush, too.
    pub(super) fn archive_service(&mut self) {
        let spec = ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            publish_not_ready_addresses: Some(true),
            ..self.service_spec(&Component::Archive, "control", CONTROL_PORT)
        };
        self.service(&Component::Archive, BTreeMap::new(), spec);
    }

    fn service(
        &mut self,
        component: &Component,
        annotations: BTreeMap<String, String>,
        spec: ServiceSpec,
    ) {
        let metadata = ObjectMeta {
            annotations: (!annotations.is_empty()).then_some(annotations),
            ..labels::metadata(self.pipeline, component)
        };
        self.push(&Service {
            metadata,
            spec: Some(spec),
            status: None,
        });
    }

    fn service_spec(&self, component: &Component, port: &str, number: u16) -> ServiceSpec {
        ServiceSpec {
            selector: Some(labels::pod_selector(self.pipeline, component)),
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
}
