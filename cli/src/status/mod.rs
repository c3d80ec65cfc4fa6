//! `status`: one screen about a pipeline, or a table of all pipelines of a namespace.

mod next_step;
mod observe;
mod text;
mod view;

use std::time::Duration;

use kube::{Api, api::ListParams};
use pinpipe_crds::PinterestPipeline;
use tokio::time::sleep;

use crate::{
    cluster::{self, Cluster},
    failure::{Failure, Outcome},
    output::{Cell, Format, Options, Table, print, reader_is_gone, show},
    time::{age, now},
};
use view::{Overview, Status};

/// Pause between two screens of `--watch`, besides the time that samples take.
const BETWEEN_SCREENS: Duration = Duration::from_millis(500);
/// Pause of `--watch` after a request that failed, besides.
const AFTER_FAILURE: Duration = Duration::from_secs(2);
/// Moves the cursor of a terminal home and clears what follows.
const CLEAR: &str = "\u{1b}[H\u{1b}[2J";

/// Arguments of `status`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Pipeline; without one, all of the namespace are listed
    #[arg(value_name = "PIPELINE")]
    name: Option<String>,

    /// List the pipelines of all namespaces
    #[arg(short = 'A', long, conflicts_with = "name")]
    all_namespaces: bool,

    /// Show it again and again, until interrupted
    #[arg(short, long)]
    watch: bool,

    #[command(flatten)]
    cluster: cluster::Access,

    #[command(flatten)]
    options: Options,
}

/// Shows one pipeline or all. The answer is whether all that were shown are ready.
pub async fn run(arguments: &Arguments) -> Outcome {
    let cluster = arguments.cluster.cluster().await?;
    let mut shown = false;
    loop {
        let ready = match &arguments.name {
            Some(name) => one(&cluster, name, arguments).await,
            None => all(&cluster, arguments).await,
        };
        match ready {
            // The cluster may be back soon. Of the first screen, an argument may be wrong.
            Err(Failure::Cluster(failure)) if shown => {
                eprintln!("{} {failure}", now());
                sleep(AFTER_FAILURE).await;
            }
            ready if !arguments.watch || ready.is_err() || reader_is_gone() => return ready,
            _ => shown = true,
        }
        sleep(BETWEEN_SCREENS).await;
    }
}

async fn one(cluster: &Cluster, name: &str, arguments: &Arguments) -> Outcome {
    let pipeline = cluster.pipeline(name).await?;
    let status = Status::of(&observe::observe(cluster, pipeline).await);
    clear(arguments)?;
    let table = text::components(&status);
    show(arguments.options.output, &status, &table, |paint| {
        text::screen(&status, paint)
    })?;
    Ok(status.ready == "True")
}

async fn all(cluster: &Cluster, arguments: &Arguments) -> Outcome {
    let pipelines = if arguments.all_namespaces {
        let api: Api<PinterestPipeline> = Api::all(cluster.client.clone());
        let listed = api.list(&ListParams::default()).await;
        let right = "list pinterestpipelines.pinpipe.dev in all namespaces";
        listed
            .map_err(|error| cluster.failure(right, &error))?
            .items
    } else {
        cluster.pipelines().await?
    };
    if pipelines.is_empty() {
        return Err(Failure::Cluster(cluster.none()));
    }
    let rows: Vec<Overview> = pipelines.iter().map(Overview::of).collect();
    clear(arguments)?;
    let table = listed(&rows, arguments.all_namespaces);
    show(arguments.options.output, &rows, &table, |paint| {
        table.text(paint)
    })?;
    Ok(rows.iter().all(|row| row.ready == "True"))
}

fn clear(arguments: &Arguments) -> Result<(), Failure> {
    use std::io::IsTerminal as _;
    let screen = arguments.watch && std::io::stdout().is_terminal();
    if screen && arguments.options.output == Format::Table {
        print(CLEAR)?;
    }
    Ok(())
}

fn listed(rows: &[Overview], with_namespace: bool) -> Table {
    let header = [
        "namespace",
        "name",
        "ready",
        "reason",
        "last run",
        "answers",
        "next step",
    ];
    let skipped = usize::from(!with_namespace);
    let mut table = Table::new(header.into_iter().skip(skipped));
    for row in rows {
        let cells: [Cell; 7] = [
            (&row.namespace).into(),
            (&row.name).into(),
            text::verdict(&row.ready),
            (&row.reason).into(),
            row.last_run.as_deref().unwrap_or("-").into(),
            row.answers_since
                .map_or_else(|| "-".into(), |since| age(since, now()).into()),
            row.next_step.as_deref().unwrap_or("-").into(),
        ];
        table.row(cells.into_iter().skip(skipped));
    }
    table
}
