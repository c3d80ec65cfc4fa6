//! `plan`: what applying a file would change in the cluster. It changes nothing.

mod change;
mod diff;
mod gather;
mod text;

use std::path::PathBuf;

use crate::{
    cluster,
    failure::{Failure, Outcome},
    input::{self, Input},
    output::{Options, show},
    validate::{Before, check, named, no_pipeline},
};
use change::Change;

/// Arguments of `plan`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// File or folder with pipelines, or - for standard input; other objects are ignored
    #[arg(short, long = "filename", value_name = "FILE", required = true)]
    files: Vec<PathBuf>,

    #[command(flatten)]
    cluster: cluster::Access,

    #[command(flatten)]
    options: Options,
}

/// Prints what would change. The answer is whether nothing would.
pub async fn run(arguments: &Arguments) -> Outcome {
    let cluster = arguments.cluster.cluster().await?;
    let mut changes = Vec::new();
    for Input {
        name: file,
        content,
    } in input::documents(&arguments.files)?
    {
        let unreadable = |problem| Failure::Usage(format!("{file}:{problem}"));
        let pipelines = named(&content, &cluster.namespace).map_err(unreadable)?;
        // What is wrong with the file itself takes no cluster.
        let checked = check(&content, &Before::default(), &cluster.namespace);
        if !checked.problems.is_empty() {
            changes.push(gather::refused(&file, checked.problems, None));
            continue;
        }
        let mut before = Before::default();
        let mut found = Vec::new();
        for (full_name, document) in pipelines {
            let gathered = gather::gather(&cluster, &full_name, document).await?;
            if let Some(stored) = gathered.stored() {
                before.insert(full_name, stored);
            }
            found.push(gathered);
        }
        let checked = check(&content, &before, &cluster.namespace);
        if checked.problems.is_empty() {
            changes.extend(found.iter().map(gather::Gathered::change));
        } else {
            let mut one = found.into_iter();
            let gathered = one.next();
            let others = one.next().is_some();
            // Of several pipelines in a file it isn't known which one a problem is of.
            let values = gathered.filter(|_| !others);
            changes.push(gather::refused(&file, checked.problems, values.as_ref()));
        }
    }
    if changes.is_empty() {
        return Err(Failure::Usage(no_pipeline()));
    }
    let format = arguments.options.output;
    show(format, &changes, &text::rows(&changes), |paint| {
        changes
            .iter()
            .map(|change| text::text(change, paint))
            .collect()
    })?;
    if changes.iter().any(|change| !change.refused.is_empty()) {
        return Err(Failure::Usage(
            "the file can't be applied as it is: correct it first".to_owned(),
        ));
    }
    Ok(!changes.iter().any(Change::is_any))
}
