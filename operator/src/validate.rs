//! Phase 2: plain data in, a [`ValidatedPipeline`] or a list of problems out.
//!
//! Every default stands here and nowhere else. They are frozen for `v1alpha1` by the golden test:
//! changing one would change pipelines that nobody touched.

mod pipeline;
mod pods;
mod requests;
mod reset;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use k8s_openapi::{
    api::core::v1::ResourceRequirements, apimachinery::pkg::api::resource::Quantity,
};
use pinpipe_config::Quality;
use pinpipe_crds::{
    Amounts, BatchSink, PinterestPipeline, PullPolicy, Resources, S3, StreamSink, TopicOverride,
};

use crate::{
    claims::Claim,
    dereference::{CASSANDRA_KEYS, Dereferenced, S3_KEYS, SecretKey},
};

pub use pipeline::{
    Archive, Batch, CassandraSink, Emulator, Image, Ingest, Mount, Secrets, Sink, Topic,
    ValidatedPipeline,
};
pub use pods::{Pods, Replicas, Spread, Target};
pub use requests::{FORGET_ANNOTATION, Forgotten, RUN_ANNOTATION, Requests};
pub use reset::{RESET_ANNOTATION, RESET_FORMS, SinkReset};

/// Where workers' images come from unless a pipeline says otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Images {
    /// `ghcr.io/pinpipe`.
    pub registry: String,
    /// `0.1.0`.
    pub tag: String,
    /// By worker, `sha256:…`, where the operator was given them.
    pub digests: BTreeMap<String, String>,
}

/// Something in a resource that can't be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The field, `spec.archive.rotate.interval`.
    pub field: &'static str,
    /// What is wrong, and what to do.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

impl Secrets {
    fn of(child: &str, mounts: Vec<Mount>, found: &Dereferenced) -> Self {
        let (mut digest, mut missing) = (String::new(), Vec::new());
        for mount in &mounts {
            for (key, _) in &mount.files {
                match found.secrets.get(&(mount.secret.clone(), key.clone())) {
                    Some(SecretKey::Digest(one)) => digest.push_str(one),
                    Some(SecretKey::NoKey) => {
                        missing.push(format!("Secret {} has no key {key}: add it", mount.secret));
                    }
                    Some(SecretKey::NoSecret) | None => {
                        missing.push(format!(
                            "Secret {} is missing: create it with the key {key}",
                            mount.secret
                        ));
                    }
                }
            }
        }
        let digest = if missing.is_empty() {
            Some(crate::build::hash(&digest))
        } else {
            found.previous.get(child).cloned()
        };
        Self {
            mounts,
            digest,
            missing,
        }
    }
}

fn child(pipeline: &str, component: &str) -> String {
    format!("{pipeline}-{component}")
}

/// Fills in defaults, and finds what the schema can't.
pub fn validate(
    pipeline: &PinterestPipeline,
    found: &Dereferenced,
    images: &Images,
) -> Result<ValidatedPipeline, Vec<Problem>> {
    let (metadata, spec) = (&pipeline.metadata, &pipeline.spec);
    let name = metadata.name.clone().unwrap_or_default();
    let namespace = metadata.namespace.clone().unwrap_or_default();
    let mut problems = Vec::new();

    let topics = topics(pipeline, &mut problems);
    let partitions = partitions(pipeline, &topics);
    let mut resets = reset::read(pipeline, &topics);
    let requests = requests::read(pipeline, &topics);
    let ingest = spec.ingest.clone().unwrap_or_default();
    let dead_letters = spec.dead_letters.clone().unwrap_or_default();
    let validated = ValidatedPipeline {
        suspend: spec.suspend.unwrap_or(false),
        draining: BTreeSet::new(),
        at_zero: BTreeSet::new(),
        bootstrap_servers: spec.broker.kafka.bootstrap_servers.clone(),
        topics,
        deletion_policy: spec.broker.kafka.topics.iter().find_map(|topics| topics.deletion_policy).unwrap_or_default(),
        dead_letters: dead_letters.mode.unwrap_or_default(),
        rejected_threshold: dead_letters.thresholds.and_then(|thresholds| thresholds.rejected_ratio),
        ingest: Ingest {
            replicas: pods::ingest_replicas(&ingest),
            max_record_bytes: unsigned(ingest.max_record_bytes, 65_536),
            resources: resources(ingest.resources.as_ref(), ["50m", "64Mi", "256Mi"]),
            pods: pods::several(&ingest.pods),
        },
        sinks: spec
            .stream
            .iter()
            .flat_map(|stream| &stream.sinks)
            .filter_map(|sink| {
                let reset = resets.by_sink.remove(&sink.name);
                stream_sink(&name, sink, partitions, reset, found, &mut problems)
            })
            .collect(),
        archive: spec.archive.as_ref().map(|archive| {
            let rotate = archive.rotate.clone().unwrap_or_default();
            let interval = rotate.interval.as_deref().unwrap_or("5m");
            let rotate_seconds = seconds(interval).unwrap_or_else(|| {
                problems.push(Problem {
                    field: "spec.archive.rotate.interval",
                    message: format!(
                        "`{interval}` is not a duration: write hours, minutes and seconds, such as 90s or 1h30m"
                    ),
                });
                0
            });
            Archive {
                bucket: archive.bucket.clone(),
                prefix: archive.prefix.clone().unwrap_or_else(|| "topics".to_owned()),
                compression: archive.compression.unwrap_or_default(),
                rotate_bytes: unsigned(rotate.bytes, 134_217_728),
                rotate_records: unsigned(rotate.records, 100_000),
                rotate_seconds,
                lag_threshold: archive.thresholds.as_ref().and_then(|thresholds| thresholds.lag),
                endpoint: archive.s3.endpoint.as_deref().map(|url| url.trim_end_matches('/').to_owned()),
                region: archive.s3.region.clone().unwrap_or_else(|| "us-east-1".to_owned()),
                reset: resets.by_sink.remove(reset::ARCHIVE),
                resources: resources(archive.resources.as_ref(), ["50m", "128Mi", "768Mi"]),
                pods: pods::one(&archive.pods),
                secrets: Secrets::of(&child(&name, "archive"), vec![s3_mount(&archive.s3)], found),
            }
        }),
        batch: spec.batch.as_ref().and_then(|batch| {
            let Some(archive) = &spec.archive else {
                problems.push(Problem {
                    field: "spec.batch",
                    message: "a batch run reads the archive's raw objects: add spec.archive or remove spec.batch"
                        .to_owned(),
                });
                return None;
            };
            let mut mounts = vec![s3_mount(&archive.s3)];
            let quality = batch.quality.clone().unwrap_or_default();
            let sinks =
                batch.sinks.iter().filter_map(|sink| cassandra_sink(sink, &mut mounts, &mut problems)).collect();
            Some(Batch {
                schedule: batch.schedule.clone(),
                time_zone: batch.time_zone.clone().unwrap_or_else(|| "UTC".to_owned()),
                resources: resources(batch.resources.as_ref(), ["100m", "256Mi", "2Gi"]),
                pods: pods::one(&batch.pods),
                scratch_size: Quantity(
                    batch.scratch_size.as_ref().map_or_else(|| "16Gi".to_owned(), |size| size.0.clone()),
                ),
                quality: Quality {
                    max_rejected_ratio: quality.max_rejected_ratio,
                    max_repaired_ratio: quality.max_repaired_ratio.unwrap_or_default(),
                },
                sinks,
                secrets: Secrets::of(&child(&name, "batch"), mounts, found),
            })
        }),
        emulator: spec.emulator.as_ref().map(|emulator| Emulator {
            records_per_second: unsigned(emulator.records_per_second, 100),
            seed: unsigned(emulator.seed, 1),
            resources: resources(emulator.resources.as_ref(), ["20m", "32Mi", "128Mi"]),
            pods: pods::one(&emulator.pods),
        }),
        image: image_of(spec.image.as_ref(), images),
        requests,
        reset_problems: resets.problems,
        topic_conflict: Claim::of(pipeline).conflict(&found.claims),
        uid: metadata.uid.clone().unwrap_or_default(),
        namespace,
        name,
    };
    if problems.is_empty() {
        Ok(validated)
    } else {
        Err(problems)
    }
}

/// The names of the topics of pins, geos and users.
#[must_use]
pub fn topic_names(pipeline: &PinterestPipeline) -> [String; 3] {
    let name = pipeline.metadata.name.as_deref().unwrap_or_default();
    let namespace = pipeline.metadata.namespace.as_deref().unwrap_or_default();
    own_topics(pipeline).map(|(kind, own)| {
        own.name
            .unwrap_or_else(|| format!("{namespace}.{name}.{kind}"))
    })
}

/// What is said of each kind's topic alone.
fn own_topics(pipeline: &PinterestPipeline) -> [(&'static str, TopicOverride); 3] {
    let topics = pipeline.spec.broker.kafka.topics.as_ref();
    let overrides = topics
        .and_then(|topics| topics.overrides.clone())
        .unwrap_or_default();
    [
        ("pin", overrides.pin),
        ("geo", overrides.geo),
        ("user", overrides.user),
    ]
    .map(|(kind, own)| (kind, own.unwrap_or_default()))
}

fn topics(pipeline: &PinterestPipeline, problems: &mut Vec<Problem>) -> [Topic; 3] {
    let wishes = pipeline
        .spec
        .broker
        .kafka
        .topics
        .clone()
        .unwrap_or_default();
    let mut own = own_topics(pipeline).into_iter();
    let topics = topic_names(pipeline).map(|name| Topic {
        name,
        partitions: own
            .next()
            .and_then(|(_, own)| own.partitions)
            .or(wishes.partitions)
            .unwrap_or(3),
        replication_factor: wishes.replication_factor.unwrap_or(-1),
        config: wishes.config.clone().unwrap_or_default(),
    });
    let [pin, geo, user] = &topics;
    if pin.name == geo.name || geo.name == user.name || user.name == pin.name {
        problems.push(Problem {
            field: "spec.broker.kafka.topics.overrides",
            message: "two kinds of record share a topic: give each its own name".to_owned(),
        });
    }
    topics
}

/// Partitions of all topics: as many as there are, where that is known, and else as many as are
/// wished for.
fn partitions(pipeline: &PinterestPipeline, topics: &[Topic; 3]) -> i32 {
    let known = pipeline
        .status
        .as_ref()
        .map(|status| status.topics.as_slice())
        .unwrap_or_default();
    let there = |name: &str| {
        known
            .iter()
            .find(|topic| topic.name == name && topic.id.is_some())
    };
    topics
        .iter()
        .map(|topic| there(&topic.name).map_or(topic.partitions, |known| known.partitions))
        .sum()
}

/// A tag of the pipeline's own is another version, of which the operator's digests say nothing.
fn image_of(set: Option<&pinpipe_crds::Image>, images: &Images) -> Image {
    let set = set.cloned().unwrap_or_default();
    let tag = set.tag.filter(|tag| !tag.is_empty());
    let mut digests = if tag.is_none() {
        images.digests.clone()
    } else {
        BTreeMap::new()
    };
    let own = set.digests.unwrap_or_default();
    let own = [
        ("ingest", own.ingest),
        ("stream", own.stream),
        ("batch", own.batch),
        ("emulator", own.emulator),
    ];
    digests.extend(
        own.into_iter()
            .filter_map(|(worker, digest)| Some((worker.to_owned(), digest?))),
    );
    Image {
        registry: set.registry.unwrap_or_else(|| images.registry.clone()),
        tag: tag.unwrap_or_else(|| images.tag.clone()),
        digests,
        pull_policy: set.pull_policy.unwrap_or(PullPolicy::IfNotPresent),
        pull_secrets: set
            .pull_secrets
            .unwrap_or_default()
            .into_iter()
            .map(|secret| secret.name)
            .collect(),
    }
}

fn stream_sink(
    pipeline: &str,
    sink: &StreamSink,
    partitions: i32,
    reset: Option<SinkReset>,
    found: &Dereferenced,
    problems: &mut Vec<Problem>,
) -> Option<Sink> {
    let Some(postgres) = &sink.postgres else {
        problems.push(Problem {
            field: "spec.stream.sinks",
            message: format!(
                "the sink {} holds no kind this operator knows: set postgres, or upgrade the operator",
                sink.name
            ),
        });
        return None;
    };
    let secret = &postgres.url_secret_ref;
    let mounts = vec![Mount {
        purpose: "postgres".to_owned(),
        secret: secret.name.clone(),
        files: vec![(secret.key.clone(), "url".to_owned())],
    }];
    let (replicas, held_back) = pods::sink_replicas(sink, partitions);
    Some(Sink {
        name: sink.name.clone(),
        start_from: sink.start_from.unwrap_or_default(),
        replicas,
        held_back,
        resources: resources(sink.resources.as_ref(), ["50m", "64Mi", "512Mi"]),
        pods: pods::several(&sink.pods),
        schema: postgres
            .schema
            .clone()
            .unwrap_or_else(|| "public".to_owned()),
        write_mode: postgres.write_mode.unwrap_or_default(),
        lag_threshold: sink
            .thresholds
            .as_ref()
            .and_then(|thresholds| thresholds.lag),
        reset,
        secrets: Secrets::of(
            &child(pipeline, &format!("stream-{}", sink.name)),
            mounts,
            found,
        ),
    })
}

fn cassandra_sink(
    sink: &BatchSink,
    mounts: &mut Vec<Mount>,
    problems: &mut Vec<Problem>,
) -> Option<CassandraSink> {
    let Some(cassandra) = &sink.cassandra else {
        problems.push(Problem {
            field: "spec.batch.sinks",
            message: format!(
                "the sink {} holds no kind this operator knows: set cassandra, or upgrade the operator",
                sink.name
            ),
        });
        return None;
    };
    if let Some(secret) = &cassandra.credentials_secret_ref {
        mounts.push(Mount {
            purpose: format!("cassandra-{}", sink.name),
            secret: secret.name.clone(),
            files: same_names(CASSANDRA_KEYS),
        });
    }
    Some(CassandraSink {
        name: sink.name.clone(),
        contact_points: cassandra.contact_points.clone(),
        keyspace: cassandra
            .keyspace
            .clone()
            .unwrap_or_else(|| "pinterest_data".to_owned()),
        replication_factor: unsigned(cassandra.replication_factor, 1),
        credentials: cassandra.credentials_secret_ref.is_some(),
    })
}

fn s3_mount(s3: &S3) -> Mount {
    Mount {
        purpose: "s3".to_owned(),
        secret: s3.credentials_secret_ref.name.clone(),
        files: same_names(S3_KEYS),
    }
}

fn same_names(keys: [&str; 2]) -> Vec<(String, String)> {
    keys.map(|key| (key.to_owned(), key.to_owned())).into()
}

/// A number the schema holds to be positive.
fn unsigned<S, U: TryFrom<S>>(value: Option<S>, default: U) -> U {
    value
        .and_then(|value| U::try_from(value).ok())
        .unwrap_or(default)
}

/// What is set, or requests of CPU and memory and a limit of memory. No limit of CPU: it would slow
/// down a pod on an idle node.
fn resources(set: Option<&Resources>, [cpu, memory, limit]: [&str; 3]) -> ResourceRequirements {
    let amounts = |amounts: &Amounts| {
        let named = [("cpu", &amounts.cpu), ("memory", &amounts.memory)];
        named
            .into_iter()
            .filter_map(|(name, amount)| {
                Some((name.to_owned(), Quantity(amount.as_ref()?.0.clone())))
            })
            .collect()
    };
    let default = |named: &[(&str, &str)]| {
        Some(
            named
                .iter()
                .map(|(name, amount)| ((*name).to_owned(), Quantity((*amount).to_owned())))
                .collect(),
        )
    };
    match set {
        Some(set) => ResourceRequirements {
            requests: set.requests.as_ref().map(amounts),
            limits: set.limits.as_ref().map(amounts),
            claims: None,
        },
        None => ResourceRequirements {
            requests: default(&[("cpu", cpu), ("memory", memory)]),
            limits: default(&[("memory", limit)]),
            claims: None,
        },
    }
}

/// Reads `1h30m`, `5m`, `90s` as seconds.
fn seconds(interval: &str) -> Option<u64> {
    let (mut total, mut digits) = (0_u64, String::new());
    for c in interval.chars() {
        let unit = match c {
            '0'..='9' => {
                digits.push(c);
                continue;
            }
            'h' => 3600,
            'm' => 60,
            's' => 1,
            _ => return None,
        };
        total = total.checked_add(digits.parse::<u64>().ok()?.checked_mul(unit)?)?;
        digits.clear();
    }
    (digits.is_empty() && total > 0).then_some(total)
}

#[cfg(test)]
mod released;
#[cfg(test)]
pub(crate) mod tests;
