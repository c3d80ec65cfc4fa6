//! The workers' configurations, each in a `ConfigMap`.

use std::{collections::BTreeMap, path::PathBuf};

use k8s_openapi::api::core::v1::ConfigMap;
use pinpipe_config::{self as config, CONFIG_KEY, CONFIG_VERSION, SECRETS_DIR, WorkerConfig};
use pinpipe_crds::{Alias, Compression, RecordKind, StartFrom, WriteMode};

use super::{Builder, Observed, labels, trust};
use crate::{
    component::Component,
    model::{Archive, Batch, BatchSink, Emulator, Ingest, Mount, Pods, Sink, ValidatedPipeline},
    mounts::{INGEST_CERTIFICATE, INGEST_TOKENS},
    names::{self, hash},
};

/// Size limit of a request, in records of the size limit, within the bounds below.
const RECORDS_PER_REQUEST: u32 = 64;
/// Bounds of the size limit of a request, bytes.
const REQUEST_BYTES: (u32, u32) = (1024 * 1024, 16 * 1024 * 1024);
/// How long a batch run waits for the archive to reach the end of the topics, seconds.
const BARRIER_TIMEOUT_SECONDS: u64 = 600;

/// A `ConfigMap` and the hash of its content.
pub(super) struct Config {
    pub(super) name: String,
    pub(super) hash: String,
}

impl Builder<'_> {
    /// Adds the `ConfigMap` of a component. It is immutable and named by its content, so that the
    /// configuration of a running pod never changes.
    pub(super) fn config_map(
        &mut self,
        component: &Component,
        config: &impl WorkerConfig,
    ) -> Config {
        // The keys of these types are text, so they always serialise.
        let yaml = serde_yaml::to_string(config).unwrap_or_default();
        let hash = hash(&yaml);
        let name = format!("{}-{}", self.pipeline.child(component), &hash[..10]);
        self.push(&ConfigMap {
            metadata: labels::named(self.pipeline, component, name.clone()),
            data: Some(BTreeMap::from([(CONFIG_KEY.to_owned(), yaml)])),
            immutable: Some(true),
            ..ConfigMap::default()
        });
        Config { name, hash }
    }
}

pub(super) fn ingest(pipeline: &ValidatedPipeline, ingest: &Ingest) -> config::Ingest {
    let max_record_bytes = pipeline.max_record_bytes;
    config::Ingest {
        config_version: CONFIG_VERSION,
        pipeline: identity(pipeline),
        kafka: trust::kafka(&pipeline.kafka, &ingest.pods),
        topics: topics(pipeline),
        max_record_bytes,
        max_request_bytes: max_record_bytes
            .saturating_mul(RECORDS_PER_REQUEST)
            .clamp(REQUEST_BYTES.0, REQUEST_BYTES.1),
        tokens_dir: tokens_dir(ingest),
        certificate_dir: ingest.tls.then(|| secrets_dir(INGEST_CERTIFICATE)),
        requests_per_second_per_client: ingest.requests_per_second,
        max_connections: ingest.max_connections,
        aliases: ingest.aliases.iter().map(alias).collect(),
    }
}

fn alias(alias: &Alias) -> config::Alias {
    config::Alias {
        name: alias.name.clone(),
        kind: match alias.kind {
            RecordKind::Pin => config::RecordKind::Pin,
            RecordKind::Geo => config::RecordKind::Geo,
            RecordKind::User => config::RecordKind::User,
        },
    }
}

pub(super) fn stream(
    pipeline: &ValidatedPipeline,
    observed: &Observed,
    sink: &Sink,
) -> config::Stream {
    let postgres = config::StreamSink::Postgres(config::Postgres {
        name: sink.name.clone(),
        url_file: secrets_dir("postgres").join("url"),
        secret: sink.secrets.mounts.first().and_then(secret_and_key),
        tls: trust::postgres(sink.tls.as_ref(), &sink.pods),
        schema: sink.schema.clone(),
        start_from: match sink.start_from {
            StartFrom::Earliest => config::StartFrom::Earliest,
            StartFrom::Latest => config::StartFrom::Latest,
        },
        write_mode: match sink.write_mode {
            WriteMode::Upsert => config::WriteMode::Upsert,
            WriteMode::Append => config::WriteMode::Append,
        },
    });
    let component = Component::stream(&sink.name);
    consumer(pipeline, observed, &component, &sink.pods, postgres)
}

pub(super) fn archive(
    pipeline: &ValidatedPipeline,
    observed: &Observed,
    archive: &Archive,
) -> config::Stream {
    let sink = config::StreamSink::Archive(config::Archive {
        zone: raw_zone(archive, &archive.pods),
        rotate: config::Rotate {
            bytes: archive.rotate_bytes,
            records: archive.rotate_records,
            interval_seconds: archive.rotate_seconds,
        },
        compression: match archive.compression {
            Compression::None => config::Compression::None,
            Compression::Gzip => config::Compression::Gzip,
            Compression::Zstd => config::Compression::Zstd,
        },
    });
    consumer(pipeline, observed, &Component::Archive, &archive.pods, sink)
}

pub(super) fn batch(
    pipeline: &ValidatedPipeline,
    archive: &Archive,
    batch: &Batch,
) -> config::Batch {
    config::Batch {
        config_version: CONFIG_VERSION,
        pipeline: identity(pipeline),
        kafka: trust::kafka(&pipeline.kafka, &batch.pods),
        topics: topics(pipeline),
        max_record_bytes: pipeline.max_record_bytes,
        zone: raw_zone(archive, &batch.pods),
        archive_group: group(pipeline, &Component::Archive),
        archive_control: format!(
            "{}.{}.svc:{}",
            pipeline.child(&Component::Archive),
            pipeline.namespace,
            config::CONTROL_PORT
        ),
        barrier_timeout_seconds: BARRIER_TIMEOUT_SECONDS,
        lease: pipeline.child(&Component::Batch),
        sinks: batch
            .sinks
            .iter()
            .map(|sink| batch_sink(sink, &batch.pods))
            .collect(),
        quality: batch.quality.clone(),
        scratch_dir: PathBuf::from(config::SCRATCH_DIR),
    }
}

fn batch_sink(sink: &BatchSink, pods: &Pods) -> config::BatchSink {
    match sink {
        BatchSink::Cassandra(sink) => config::BatchSink {
            name: sink.name.clone(),
            cassandra: Some(config::Cassandra {
                contact_points: sink.contact_points.clone(),
                keyspace: sink.keyspace.clone(),
                replication: sink.replication.clone(),
                credentials_dir: sink
                    .credentials
                    .then(|| secrets_dir(&format!("cassandra-{}", sink.name))),
                tls: sink.tls.clone().map(|tls| trust::tls(tls, pods)),
            }),
            postgres: None,
        },
        BatchSink::Postgres(sink) => config::BatchSink {
            name: sink.name.clone(),
            cassandra: None,
            postgres: Some(config::BatchPostgres {
                url_file: secrets_dir(&format!("postgres-{}", sink.name)).join("url"),
                secret: Some(sink.secret.clone()),
                tls: trust::postgres(sink.tls.as_ref(), pods),
                schema: sink.schema.clone(),
            }),
        },
    }
}

pub(super) fn emulator(pipeline: &ValidatedPipeline, emulator: &Emulator) -> config::Emulator {
    let ingest = pipeline.ingest.as_ref();
    let takes_tls = ingest.is_some_and(|ingest| ingest.tls);
    config::Emulator {
        config_version: CONFIG_VERSION,
        pipeline: identity(pipeline),
        target: pipeline.ingest_url().unwrap_or_default(),
        records_per_second: emulator.records_per_second,
        seed: emulator.seed,
        certificate_file: takes_tls.then(|| secrets_dir(INGEST_CERTIFICATE).join("tls.crt")),
        tokens_dir: ingest.and_then(tokens_dir),
    }
}

fn tokens_dir(ingest: &Ingest) -> Option<PathBuf> {
    ingest.tokens.then(|| secrets_dir(INGEST_TOKENS))
}

fn consumer(
    pipeline: &ValidatedPipeline,
    observed: &Observed,
    component: &Component,
    pods: &Pods,
    sink: config::StreamSink,
) -> config::Stream {
    let reset = observed.reset.as_ref();
    let reset = reset.filter(|(worker, _)| worker == component);
    config::Stream {
        config_version: CONFIG_VERSION,
        pipeline: identity(pipeline),
        kafka: trust::kafka(&pipeline.kafka, pods),
        topics: topics(pipeline),
        group: group(pipeline, component),
        max_record_bytes: pipeline.max_record_bytes,
        writes_dead_letters: pipeline.dead_letter_writer().as_ref() == Some(component),
        reset: reset.map(|(_, reset)| reset.clone()),
        sink,
    }
}

fn identity(pipeline: &ValidatedPipeline) -> config::Pipeline {
    config::Pipeline {
        namespace: pipeline.namespace.clone(),
        name: pipeline.name.clone(),
        uid: pipeline.uid.clone(),
    }
}

fn topics(pipeline: &ValidatedPipeline) -> config::Topics {
    let [pin, geo, user] = pipeline.topics.each_ref().map(|topic| config::Topic {
        name: topic.name.clone(),
        dead_letter: names::dead_letter(&topic.name),
    });
    config::Topics { pin, geo, user }
}

fn group(pipeline: &ValidatedPipeline, component: &Component) -> String {
    names::group(
        &pipeline.namespace,
        &pipeline.name,
        component.sink().unwrap_or_default(),
    )
}

/// The raw objects as pods with these settings reach them.
fn raw_zone(archive: &Archive, pods: &Pods) -> config::RawZone {
    config::RawZone {
        bucket: archive.bucket.clone(),
        prefix: archive.prefix.clone(),
        s3: trust::s3(&archive.s3, pods),
    }
}

/// The Secret and key behind a mounted file, as a worker's messages name them.
fn secret_and_key(mount: &Mount) -> Option<String> {
    let (key, _) = mount.files.first()?;
    Some(format!("Secret {}, key {key}", mount.secret))
}

/// Folder in which a Secret is mounted.
pub(super) fn secrets_dir(purpose: &str) -> PathBuf {
    PathBuf::from(SECRETS_DIR).join(purpose)
}
