//! Looks into a pipeline's data: a pod of the batch image does it, and its answer is streamed here.

mod answer;
mod lines;
mod pod;
mod results;
mod starting;

use kube::ResourceExt as _;
use pinpipe_config::{RecordKind, inspect::Done};
use serde::de::DeserializeOwned;

use crate::{cluster, failure::Failure, output, time::seconds};

pub use results::{Stream, table};

/// Options of every command that looks into data.
#[derive(Debug, clap::Args)]
pub struct PodOptions {
    /// How long the pod may take to start, and then to answer, such as 90s or 2h; by default 5m, of
    /// what is followed 1h
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    timeout: Option<i64>,

    /// Image of the batch worker; by default that of the pipeline's batch runs
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,

    /// Most memory of the pod
    #[arg(long, value_name = "QUANTITY", default_value = "512Mi")]
    memory: String,

    #[command(flatten)]
    cluster: cluster::Access,

    #[command(flatten)]
    pub output: output::Options,
}

impl PodOptions {
    /// How long the pod may take to start, and then to answer, seconds.
    fn timeout(&self, question: &Question<'_>) -> i64 {
        let default = if question.endless { 3600 } else { 300 };
        self.timeout.unwrap_or(default)
    }
}

/// What is asked of a pipeline's data.
#[derive(Clone, Debug, Default)]
pub struct Question<'a> {
    /// The pipeline. None: the only one of the namespace.
    pub pipeline: Option<&'a str>,
    /// The only stream sink to look at. None: all.
    pub sink: Option<&'a str>,
    /// The worker's command and its arguments.
    pub command: Vec<String>,
    /// Whether the answer goes on until somebody interrupts it.
    pub endless: bool,
}

/// How an answer ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// The pipeline's namespace.
    pub namespace: String,
    /// The pipeline's name.
    pub pipeline: String,
    /// How many things are wrong.
    pub problems: u64,
}

/// Makes a pod that answers a question, and deletes it at the end, also if somebody interrupts.
/// Each result is handed over as it comes.
pub async fn inspect<T: DeserializeOwned>(
    options: &PodOptions,
    question: Question<'_>,
    each: impl FnMut(T) -> Result<(), Failure>,
) -> Result<Ended, Failure> {
    // A large future, which callers would be made of.
    Box::pin(ask(options, question, each)).await
}

/// The results of a question, all at once.
pub async fn collect<T: DeserializeOwned>(
    options: &PodOptions,
    question: Question<'_>,
) -> Result<(Vec<T>, Ended), Failure> {
    let mut results = Vec::new();
    let each = |result| {
        results.push(result);
        Ok(())
    };
    let ended = inspect(options, question, each).await?;
    Ok((results, ended))
}

async fn ask<T: DeserializeOwned>(
    options: &PodOptions,
    question: Question<'_>,
    each: impl FnMut(T) -> Result<(), Failure>,
) -> Result<Ended, Failure> {
    let mut interrupts = pod::interrupts()?;
    let interrupted = || Failure::Cluster("interrupted".to_owned());
    let cluster = options.cluster.cluster().await?;
    let (pipeline, built) = tokio::select! {
        built = pod::build(&cluster, options, &question) => built?,
        () = pod::interrupted(&mut interrupts) => return Err(interrupted()),
    };
    for sentence in &built.left_out {
        eprintln!("{sentence}");
    }
    // A silent log is no error.
    let log = options.cluster.patient_cluster().await?;
    let name = pod::create(&cluster, &built.pod).await?;
    let inspected = answer::Inspected {
        cluster: &cluster,
        log: &log,
        pod: &name,
        timeout: options.timeout(&question),
        endless: question.endless,
    };
    let answer = tokio::select! {
        answer = inspected.answer(each) => answer,
        () = pod::interrupted(&mut interrupts) => {
            if question.endless { Ok(Done::default()) } else { Err(interrupted()) }
        }
    };
    pod::delete(&cluster, &name).await;
    Ok(Ended {
        namespace: cluster.namespace.clone(),
        pipeline: pipeline.name_any(),
        problems: answer?.problems,
    })
}

/// A kind of record as options have it.
#[must_use]
pub const fn kind_text(kind: RecordKind) -> &'static str {
    match kind {
        RecordKind::Pin => "pin",
        RecordKind::Geo => "geo",
        RecordKind::User => "user",
    }
}
