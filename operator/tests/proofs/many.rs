//! Many pipelines on one broker: they settle, cause few requests and no write at rest, and no flood
//! when the broker is gone for all of them. A Secret that is deleted and created with another
//! content is seen and rolls nothing, the operator's memory stays bounded, and a pipeline without a
//! broker delays no other.

use std::{
    collections::VecDeque,
    env,
    str::FromStr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Secret};
use kube::{
    Api,
    api::{DeleteParams, ListParams, ObjectMeta, PostParams},
};
use pinpipe_crds::PinterestPipeline;
use serde_json::{Value, json};

use crate::{cluster::Cluster, operator::Operator, pipeline::Pipeline, wait::until};

/// The environment variable with the number of pipelines, and the default.
const COUNT: (&str, usize) = ("PINPIPE_MANY", 100);
/// The environment variable with the least number of seconds at rest, and the default.
const REST: (&str, u64) = ("PINPIPE_MANY_REST", 60);
const NAMESPACE: &str = "many";
/// The largest permitted resident memory of the operator, bytes. About a third of it are pages of
/// the debug build.
const MEMORY: u64 = 150 << 20;
/// The longest resync interval of a ready pipeline, with jitter: at least, and per pipeline.
const RESYNC: (Duration, Duration) = (Duration::from_secs(36), Duration::from_millis(480));
/// The largest permitted rate of requests to the API server at rest, per second.
const REQUESTS: f64 = 20.0;
/// The largest permitted rate of requests to the API server while the broker is gone for all
/// pipelines, per second, in any [`WINDOW`].
const REQUESTS_IN_OUTAGE: f64 = 200.0;
const WINDOW: Duration = Duration::from_secs(10);
/// The pipeline with a Secret of its own, which is deleted and created with another content.
const ROTATED: &str = "p-0";

/// Many pipelines and their operator.
struct Fleet<'a> {
    cluster: &'a Cluster,
    operator: Operator,
    many: usize,
    /// How long it may take until something is true of all pipelines.
    deadline: Duration,
    /// Figures, for the result.
    found: Vec<String>,
}

pub async fn run(cluster: &Cluster) -> Result<String> {
    let many = setting(COUNT)?;
    cluster.namespace_with_secrets(NAMESPACE).await?;
    let mut fleet = Fleet {
        cluster,
        operator: cluster.operator().await?,
        many,
        deadline: Duration::from_secs(180 + many as u64),
        found: Vec::new(),
    };
    fleet.create().await?;
    fleet.settle().await?;
    fleet.rest(Duration::from_secs(setting(REST)?)).await?;
    fleet.outage().await?;
    Ok(fleet.found.join("; "))
}

fn setting<T: FromStr<Err: std::error::Error + Send + Sync + 'static>>(
    (name, default): (&str, T),
) -> Result<T> {
    env::var(name).map_or(Ok(default), |text| text.parse().context(name.to_owned()))
}

impl Fleet<'_> {
    async fn create(&mut self) -> Result<()> {
        let begun = Instant::now();
        let spec = spec(&self.operator.bootstrap_servers);
        let admin = &self.cluster.admin;
        self.create_secret("first").await?;
        // An address reserved for documentation (RFC 5737), which never answers.
        let without_broker = self::spec("192.0.2.1:9092");
        let broken = Pipeline::new(admin, NAMESPACE, "broken");
        broken.create(&without_broker).await?;
        stream::iter(0..self.many)
            .map(|at| Pipeline::new(admin, NAMESPACE, &format!("p-{at}")))
            .map(|pipeline| {
                let mut spec = spec.clone();
                if pipeline.name == ROTATED {
                    let postgres = &mut spec["stream"]["sinks"][0]["postgres"];
                    postgres["urlSecretRef"]["name"] = json!(ROTATED);
                }
                async move { pipeline.create(&spec).await }
            })
            .buffer_unordered(8)
            .try_collect::<Vec<()>>()
            .await?;
        let (many, seconds) = (self.many, begun.elapsed().as_secs());
        self.found
            .push(format!("{many} pipelines created in {seconds} s"));
        Ok(())
    }

    async fn settle(&mut self) -> Result<()> {
        self.operator.start(&["--namespace", NAMESPACE])?;
        let begun = Instant::now();
        until(
            "all pipelines are ready, except the broken one",
            self.deadline,
            async || {
                // Listing all pipelines is expensive for the API server.
                tokio::time::sleep(Duration::from_secs(1)).await;
                self.are("Ready", "Ready").await
            },
        )
        .await
        .with_context(|| self.operator.log_end())?;
        let settled = begun.elapsed().as_secs();
        self.found
            .push(format!("ready {settled} s after the operator's start"));
        self.check_memory()?;
        // The last pipelines became ready a moment ago, and are reconciled once more for the status
        // of their Deployments.
        let minute = Duration::from_mins(1);
        until("the operator writes nothing more", minute, async || {
            self.operator.traffic.begin(None);
            self.more_reconciles(50, self.deadline).await?;
            let written = self.operator.traffic.attempts();
            ensure!(written.is_empty(), "{written:?}");
            Ok(())
        })
        .await
    }

    /// Creates the Secret of one of the pipelines.
    async fn create_secret(&self, url: &str) -> Result<()> {
        let own = Secret {
            metadata: ObjectMeta {
                name: Some(ROTATED.to_owned()),
                ..ObjectMeta::default()
            },
            string_data: Some([("url".to_owned(), url.to_owned())].into()),
            ..Secret::default()
        };
        self.secrets().create(&PostParams::default(), &own).await?;
        Ok(())
    }

    fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.cluster.admin.clone(), NAMESPACE)
    }

    /// Only the status of the pipeline whose Secret is missing for a while is written at rest, and
    /// when all lists are repeated. The Secret's new content changes no pod template.
    async fn rest(&mut self, least: Duration) -> Result<()> {
        let traffic = &self.operator.traffic;
        traffic.begin(None);
        let admin = &self.cluster.admin;
        let deployments: Api<Deployment> = Api::namespaced(admin.clone(), NAMESPACE);
        let name = format!("{ROTATED}-stream-live");
        let before = deployments.get(&name).await?.spec;
        let (requests, begun) = (traffic.requests(), Instant::now());
        self.secrets()
            .delete(ROTATED, &DeleteParams::default())
            .await?;
        let resync = RESYNC.0.max(RESYNC.1 * u32::try_from(self.many)?);
        let rotated = Pipeline::new(admin, NAMESPACE, ROTATED);
        until("the missing Secret is reported", 2 * resync, async || {
            let status = rotated.get().await?["status"].to_string();
            ensure!(status.contains("SecretMissing"), "{status}");
            Ok(())
        })
        .await?;
        self.create_secret("second").await?;
        until("the new Secret is seen", 2 * resync, async || {
            let status = rotated.get().await?["status"].to_string();
            ensure!(!status.contains("SecretMissing"), "{status}");
            Ok(())
        })
        .await?;
        let after = deployments.get(&name).await?.spec;
        ensure!(after == before, "{name} was changed: {after:?}");
        tokio::time::sleep(least.saturating_sub(begun.elapsed())).await;
        let (time, requests) = (begun.elapsed(), traffic.requests() - requests);
        let rate = requests as f64 / time.as_secs_f64();
        self.found.push(format!(
            "{rate:.1} requests per second in {} s at rest, in which a Secret was renewed",
            time.as_secs()
        ));
        ensure!(rate < REQUESTS, "too many: {}", self.found.join("; "));
        self.operator.api.relist();
        self.more_reconciles(self.many, 2 * resync + self.deadline)
            .await
            .context("every pipeline is reconciled after all lists were repeated")?;
        self.unwritten().await?;
        self.check_memory()?;
        self.are("Ready", "Ready").await
    }

    /// The broker is gone for all pipelines, until all have reported it, and returns.
    async fn outage(&mut self) -> Result<()> {
        let mut rates = Rates::default();
        let begun = Instant::now();
        let requests = self.operator.traffic.requests();
        self.operator.outage.send_replace(true);
        let reported = async |reason: &'static str, rates: &mut Rates| {
            let deadline = 2 * self.deadline;
            until(reason, deadline, async || {
                for _ in 0..5 {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    rates.add(self.operator.traffic.requests());
                }
                self.are("TopicsReady", reason).await
            })
            .await
            .with_context(|| self.operator.log_end())
        };
        reported("BrokerUnreachable", &mut rates).await?;
        let (time, requests) = (begun.elapsed(), self.operator.traffic.requests() - requests);
        self.operator.outage.send_replace(false);
        reported("TopicsReady", &mut rates).await?;
        let recovered = begun.elapsed().saturating_sub(time);
        self.found.push(format!(
            "broker gone for {} s, until all had reported it: {:.1} requests per second, at most \
             {:.1} in {} s; available again for all after {} s",
            time.as_secs(),
            requests as f64 / time.as_secs_f64(),
            rates.highest,
            WINDOW.as_secs(),
            recovered.as_secs(),
        ));
        let found = self.found.join("; ");
        ensure!(rates.highest < REQUESTS_IN_OUTAGE, "too many: {found}");
        self.check_memory()
    }

    /// An error unless all pipelines but the broken one have this reason in a condition.
    async fn are(&self, type_: &str, reason: &str) -> Result<()> {
        let api: Api<PinterestPipeline> = Api::namespaced(self.cluster.admin.clone(), NAMESPACE);
        let pipelines = api.list(&ListParams::default()).await?;
        let is = |pipeline: &&PinterestPipeline| {
            let status = pipeline.status.iter();
            let mut conditions = status.flat_map(|status| &status.conditions);
            pipeline.metadata.name.as_deref() != Some("broken")
                && conditions.any(|found| found.type_ == type_ && found.reason == reason)
        };
        let count = pipelines.iter().filter(is).count();
        ensure!(count == self.many, "{count} of {} are {reason}", self.many);
        Ok(())
    }

    /// An error if a pipeline other than the one whose Secret was missing was written to.
    async fn unwritten(&self) -> Result<()> {
        let mut written = self.operator.traffic.attempts();
        let is_rotated = |write: &String| write.rsplit(' ').next() == Some(ROTATED);
        // An event has a name that the API server makes.
        written.retain(|write| !is_rotated(write) && !write.contains(" events "));
        let broken = Pipeline::new(&self.cluster.admin, NAMESPACE, "broken");
        let broken = broken.get().await?;
        ensure!(
            written.is_empty(),
            "settled pipelines were written to: {written:?}; the broken one is {}",
            broken["status"]
        );
        Ok(())
    }

    fn check_memory(&mut self) -> Result<()> {
        let memory = self.operator.memory()?;
        self.found.push(format!("resident {} MiB", memory >> 20));
        let found = self.found.join("; ");
        ensure!(memory < MEMORY, "more than {} MiB: {found}", MEMORY >> 20);
        Ok(())
    }

    /// Waits until that many more reconciles are complete.
    async fn more_reconciles(&self, reconciles: usize, deadline: Duration) -> Result<()> {
        let before = self.operator.reconciles().await?;
        until("reconciles", deadline, async || {
            let ended = self.operator.reconciles().await? - before;
            ensure!(ended >= reconciles as f64, "{ended} of {reconciles}");
            Ok(())
        })
        .await
    }
}

/// The highest rate of requests in any [`WINDOW`].
#[derive(Default)]
struct Rates {
    samples: VecDeque<(Instant, usize)>,
    highest: f64,
}

impl Rates {
    fn add(&mut self, requests: usize) {
        self.samples.push_back((Instant::now(), requests));
        while let Some((at, before)) = self.samples.front()
            && at.elapsed() >= WINDOW
        {
            let rate = (requests - before) as f64 / at.elapsed().as_secs_f64();
            self.highest = self.highest.max(rate);
            self.samples.pop_front();
        }
    }
}

fn spec(bootstrap_servers: &str) -> Value {
    json!({
        "broker": {"kafka": {
            "bootstrapServers": bootstrap_servers,
            "topics": {"partitions": 1},
        }},
        "ingest": {"autoscaling": {"minReplicas": 1, "maxReplicas": 2}},
        "stream": {"sinks": [
            {"name": "live", "postgres": {"urlSecretRef": {"name": "warehouse", "key": "url"}}},
        ]},
        "archive": {"bucket": "raw", "s3": {"credentialsSecretRef": {"name": "s3"}}},
        "batch": {"schedule": "0 10 * * *", "sinks": [{"name": "serving", "cassandra": {
            "contactPoints": ["c:9042"],
            "credentialsSecretRef": {"name": "cassandra"},
        }}]},
    })
}
