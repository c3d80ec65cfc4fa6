//! Stream sinks, the archive and batch runs, with their defaults.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use pinpipe_config::Quality;
use pinpipe_crds::{self as crds, StreamSink, Template, Tls};

use super::{
    Inputs, Problem, duration,
    mounts::{self, same_names},
    percentage, pods, quantity, s3, template, tls, trust, unsigned,
};
use crate::{
    component::Component,
    model::{Archive, Batch, BatchSink, CassandraSink, Mount, PostgresSink, Secrets, Sink},
    names,
};

/// What the sinks of one pipeline are validated with.
pub(super) struct Sinks<'a> {
    /// Name of the pipeline.
    pub(super) pipeline: &'a str,
    /// Template for all components.
    pub(super) template: Option<&'a Template>,
    /// Partitions of all topics together.
    pub(super) partitions: i32,
    /// Secrets of the Kafka cluster.
    pub(super) kafka: &'a [Mount],
    pub(super) inputs: &'a Inputs,
    pub(super) problems: &'a mut Vec<Problem>,
}

impl Sinks<'_> {
    pub(super) fn stream(&mut self, sink: &StreamSink) -> Option<Sink> {
        let Some(postgres) = &sink.postgres else {
            self.unknown_kind("spec.stream.sinks", &sink.name, "postgres");
            return None;
        };
        let secret = &postgres.url_secret_ref;
        let mut mounts = vec![Mount {
            purpose: "postgres".to_owned(),
            secret: secret.name.clone(),
            files: vec![(secret.key.clone(), "url".to_owned())],
            ..Mount::default()
        }];
        mounts.extend(tls::mounts(&postgres.tls, "postgres"));
        let template = template::lay_over(self.template, sink.template.as_ref());
        let (replicas, held_back) = pods::sink_replicas(sink, self.partitions);
        Some(Sink {
            name: sink.name.clone(),
            start_from: sink.start_from.unwrap_or_default(),
            replicas,
            held_back,
            pods: pods::several(&template, ["50m", "64Mi", "512Mi"]),
            schema: postgres
                .schema
                .clone()
                .unwrap_or_else(|| "public".to_owned()),
            tls: certificates(&postgres.tls, "postgres"),
            write_mode: postgres.write_mode.unwrap_or_default(),
            secrets: self.secrets(&Component::stream(&sink.name), &template, mounts),
        })
    }

    pub(super) fn archive(&mut self, archive: &crds::Archive) -> Archive {
        let template = template::lay_over(self.template, archive.template.as_ref());
        let rotate = archive.rotate.clone().unwrap_or_default();
        let interval = rotate.interval.as_deref().unwrap_or("5m");
        let size = rotate.size.as_ref().map_or("128Mi", |size| &size.0);
        let rotate_bytes = self.bytes("spec.archive.rotate.size", size);
        let rotate_seconds = self.seconds("spec.archive.rotate.interval", interval);
        Archive {
            bucket: archive.bucket.clone(),
            prefix: archive
                .prefix
                .clone()
                .unwrap_or_else(|| "topics".to_owned()),
            compression: archive.compression.unwrap_or_default(),
            rotate_bytes,
            rotate_records: unsigned(rotate.records, 100_000),
            rotate_seconds,
            s3: s3::config(&archive.s3),
            pods: pods::one(&template, ["50m", "128Mi", "768Mi"]),
            secrets: self.secrets(&Component::Archive, &template, s3::mounts(&archive.s3)),
        }
    }

    pub(super) fn batch(
        &mut self,
        batch: &crds::Batch,
        archive: Option<&crds::Archive>,
    ) -> Option<Batch> {
        let Some(archive) = archive else {
            let message = "a batch run reads the archive's raw objects: add spec.archive or remove \
                           spec.batch";
            self.problems.push(Problem {
                field: "spec.batch",
                message: message.to_owned(),
            });
            return None;
        };
        let template = template::lay_over(self.template, batch.template.as_ref());
        let mut mounts = s3::mounts(&archive.s3);
        let quality = batch.quality.clone().unwrap_or_default();
        let sinks = batch
            .sinks
            .iter()
            .filter_map(|sink| self.batch_sink(sink, &mut mounts));
        let sinks = sinks.collect();
        let deadline = batch.deadline.as_deref().unwrap_or("6h");
        let scratch = batch.scratch_size.as_ref().map_or("16Gi", |size| &size.0);
        Some(Batch {
            schedule: batch.schedule.clone(),
            time_zone: batch.time_zone.clone().unwrap_or_else(|| "UTC".to_owned()),
            deadline_seconds: self.seconds("spec.batch.deadline", deadline),
            pods: pods::one(&template, ["100m", "256Mi", "2Gi"]),
            scratch_size: Quantity(scratch.to_owned()),
            quality: self.quality(&quality),
            sinks,
            secrets: self.secrets(&Component::Batch, &template, mounts),
        })
    }

    fn quality(&mut self, quality: &crds::Quality) -> Quality {
        let field = "spec.batch.quality.maxRejected";
        let rejected = quality.max_rejected.as_deref();
        let max_rejected = percentage::read(field, rejected, self.problems);
        let repaired = quality.max_repaired.iter().filter_map(|repaired| {
            let field = "spec.batch.quality.maxRepaired";
            let limit = percentage::read(field, Some(&repaired.limit), self.problems)?;
            Some((repaired.field.clone(), limit))
        });
        Quality {
            max_rejected,
            max_repaired: repaired.collect(),
        }
    }

    fn batch_sink(&mut self, sink: &crds::BatchSink, mounts: &mut Vec<Mount>) -> Option<BatchSink> {
        if let Some(cassandra) = &sink.cassandra {
            return Some(BatchSink::Cassandra(cassandra_sink(
                &sink.name, cassandra, mounts,
            )));
        }
        let Some(postgres) = &sink.postgres else {
            self.unknown_kind("spec.batch.sinks", &sink.name, "cassandra or postgres");
            return None;
        };
        let secret = &postgres.url_secret_ref;
        let server = format!("postgres-{}", sink.name);
        mounts.extend(tls::mounts(&postgres.tls, &server));
        mounts.push(Mount {
            purpose: server.clone(),
            secret: secret.name.clone(),
            files: vec![(secret.key.clone(), "url".to_owned())],
            ..Mount::default()
        });
        let schema = postgres.schema.clone();
        Some(BatchSink::Postgres(PostgresSink {
            name: sink.name.clone(),
            tls: certificates(&postgres.tls, &server),
            schema: schema.unwrap_or_else(|| "batch".to_owned()),
            secret: format!("Secret {}, key {}", secret.name, secret.key),
        }))
    }

    /// Seconds of a duration; a text that isn't one is a problem of its field.
    fn seconds(&mut self, field: &'static str, text: &str) -> u64 {
        duration::read(field, text, self.problems)
    }

    /// Bytes of a quantity; a text that isn't one is a problem of its field.
    fn bytes(&mut self, field: &'static str, text: &str) -> u64 {
        quantity::bytes(text).unwrap_or_else(|| {
            let message =
                format!("`{text}` is not a size in bytes: write a quantity such as 128Mi");
            self.problems.push(Problem { field, message });
            0
        })
    }

    fn secrets(
        &self,
        component: &Component,
        template: &Template,
        mut mounts: Vec<Mount>,
    ) -> Secrets {
        mounts.extend_from_slice(self.kafka);
        mounts.extend(trust::mount(template));
        self.inputs
            .secrets_of(&names::child(self.pipeline, component), mounts)
    }

    fn unknown_kind(&mut self, field: &'static str, sink: &str, known: &str) {
        let message = format!(
            "the sink {sink} has no kind that this operator knows: set {known}, or upgrade the \
             operator"
        );
        self.problems.push(Problem { field, message });
    }
}

/// What a configuration says of TLS where the resource names certificates.
fn certificates(tls: &Tls, server: &str) -> Option<pinpipe_config::Tls> {
    (*tls != Tls::default()).then(|| tls::config(tls, server))
}

fn cassandra_sink(
    name: &str,
    cassandra: &crds::Cassandra,
    mounts: &mut Vec<Mount>,
) -> CassandraSink {
    let server = format!("cassandra-{name}");
    if let Some(tls) = &cassandra.tls {
        mounts.extend(tls::mounts(tls, &server));
    }
    if let Some(secret) = &cassandra.credentials_secret_ref {
        mounts.push(Mount {
            purpose: server.clone(),
            secret: secret.name.clone(),
            files: same_names(mounts::USER_KEYS),
            ..Mount::default()
        });
    }
    let keyspace = cassandra.keyspace.clone();
    CassandraSink {
        name: name.to_owned(),
        contact_points: cassandra.contact_points.clone(),
        keyspace: keyspace.unwrap_or_else(|| "pinterest_data".to_owned()),
        replication: cassandra.replication.clone().unwrap_or_default(),
        credentials: cassandra.credentials_secret_ref.is_some(),
        tls: cassandra.tls.as_ref().map(|tls| tls::config(tls, &server)),
    }
}
