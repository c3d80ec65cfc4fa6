//! Connections as a component's configuration has them: with the authorities that its template
//! trusts besides the public ones.

use pinpipe_config::{Kafka, S3, Tls};

use crate::model::Pods;

pub(super) fn kafka(kafka: &Kafka, pods: &Pods) -> Kafka {
    let mut kafka = kafka.clone();
    kafka.tls = kafka.tls.map(|set| tls(set, pods));
    if let Some(iam) = &mut kafka.aws_msk_iam {
        iam.trusted_ca.clone_from(&pods.trusted_ca);
    }
    kafka
}

pub(super) fn s3(s3: &S3, pods: &Pods) -> S3 {
    S3 {
        trusted_ca: pods.trusted_ca.clone(),
        ..s3.clone()
    }
}

/// TLS of connections to PostgreSQL, of which the URL says whether there is any.
pub(super) fn postgres(set: Option<&Tls>, pods: &Pods) -> Option<Tls> {
    let is_any = set.is_some() || pods.trusted_ca.is_some();
    is_any.then(|| tls(set.cloned().unwrap_or_default(), pods))
}

pub(super) fn tls(set: Tls, pods: &Pods) -> Tls {
    Tls {
        trusted_ca: pods.trusted_ca.clone(),
        ..set
    }
}
