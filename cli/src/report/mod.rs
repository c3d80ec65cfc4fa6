//! `report`: a folder for a bug report, with secrets left out.

mod gather;
mod mask;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use kube::ResourceExt as _;
use serde::Serialize;
use serde_json::Value;

use crate::{
    cluster,
    failure::{Failure, Outcome},
    output::print,
};

/// Arguments of `report`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Pipeline; by default the only one of the namespace
    #[arg(value_name = "PIPELINE")]
    name: Option<String>,

    /// Folder to create; by default `pinpipe-report-<pipeline>`
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,

    /// Last lines of each log
    #[arg(long, value_name = "LINES", default_value_t = 2000)]
    tail: i64,

    #[command(flatten)]
    cluster: cluster::Access,
}

/// Texts of files by path. Nothing gets in without being masked.
#[derive(Default)]
struct Bundle(Vec<(String, String)>);

impl Bundle {
    fn text(&mut self, path: impl Into<String>, text: &str) {
        self.0.push((path.into(), mask::text(text)));
    }

    fn objects(&mut self, path: impl Into<String>, objects: &impl Serialize) {
        // The keys of Kubernetes' types are text, so they always serialise.
        let mut value = serde_json::to_value(objects).unwrap_or_default();
        mask::object(&mut value);
        self.text(path, &yaml(&value));
    }

    fn write(&self, folder: &Path) -> io::Result<()> {
        for (path, text) in &self.0 {
            let file = folder.join(path);
            if let Some(parent) = file.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::write(file, text)?;
        }
        Ok(())
    }
}

fn yaml(value: &Value) -> String {
    serde_yaml::to_string(value).unwrap_or_else(|_| value.to_string())
}

/// Writes the folder. The answer is whether everything could be read.
pub async fn run(arguments: &Arguments) -> Outcome {
    let cluster = arguments.cluster.cluster().await?;
    let pipeline = cluster.the_pipeline(arguments.name.as_deref()).await?;
    let default = || PathBuf::from(format!("pinpipe-report-{}", pipeline.name_any()));
    let folder = arguments.folder.clone().unwrap_or_else(default);
    let unwritten = |error: io::Error| {
        Failure::Usage(format!(
            "{}: {error}; choose another --folder",
            folder.display()
        ))
    };
    // Not into a folder that is there: it may have files of another report.
    fs::create_dir(&folder).map_err(unwritten)?;
    let mut bundle = Bundle::default();
    let lacks = gather::gather(&cluster, &pipeline, arguments.tail, &mut bundle).await;
    if !lacks.is_empty() {
        bundle.text("not-read.txt", &(lacks.join("\n") + "\n"));
    }
    bundle.write(&folder).map_err(unwritten)?;
    let folder = folder.display();
    print(&format!(
        "{folder} has {} files; Secrets weren't read, and credentials in texts are masked. Look \
         through it before you attach it: tar czf {folder}.tar.gz {folder}\n",
        bundle.0.len()
    ))?;
    for lack in &lacks {
        eprintln!("not read: {lack}");
    }
    Ok(lacks.is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn no_file_has_a_planted_secret() {
        let mut bundle = Bundle::default();
        let applied = r#"{"spec":{"template":{"env":[{"name":"A","value":"PLANTED-1"}]}}}"#;
        bundle.objects(
            "pipeline.yaml",
            &json!({
                "metadata": {"annotations": {
                    "kubectl.kubernetes.io/last-applied-configuration": applied,
                }},
                "spec": {
                    "template": {"env": [{"name": "A", "value": "PLANTED-2"}]},
                    "broker": {"kafka": {"clientSettings": {"sasl.password": "PLANTED-3"}}},
                    "archive": {"s3": {"endpoint": "http://key:PLANTED-4@s3:9000"}},
                },
            }),
        );
        bundle.text(
            "logs/a.txt",
            "can't connect to postgres://u:PLANTED-5@db/x: refused\n",
        );
        bundle.text(
            "logs/b.txt",
            "{\"token\":\"PLANTED-6\",\"level\":\"INFO\"}\n",
        );
        for (path, text) in &bundle.0 {
            assert!(!text.contains("PLANTED"), "{path}: {text}");
            assert!(!text.is_empty());
        }
        assert!(bundle.0[0].1.contains("@s3:9000"), "{}", bundle.0[0].1);
    }
}
