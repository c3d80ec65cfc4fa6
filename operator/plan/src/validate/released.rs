//! Pipelines that a release stored mean what they meant then.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
};

use pinpipe_config::CONFIG_KEY;
use pinpipe_crds::PinterestPipeline;

use super::validate;
use crate::{
    build::{Object, Observed, build},
    model::ValidatedPipeline,
    names::COMPONENT_LABEL,
    samples::{all_there, images},
};

/// The folders of releases, by release, below a folder of the repository.
fn releases(folder: &str) -> BTreeMap<String, PathBuf> {
    let folder = PathBuf::from("../..").join(folder);
    let folders = fs::read_dir(folder)
        .unwrap()
        .map(|release| release.unwrap().path());
    folders
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), path))
        .collect()
}

fn validated(path: PathBuf) -> ValidatedPipeline {
    let pipeline: PinterestPipeline =
        serde_yaml::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    validate(&pipeline, &all_there(&pipeline), &images()).unwrap()
}

fn objects(pipeline: &ValidatedPipeline) -> Vec<Object> {
    build(pipeline, &Observed::default()).objects
}

/// Each sample has a workload for each section of its spec.
#[test]
fn every_stored_sample_is_deployed() {
    for folder in releases("crds/released").into_values() {
        for name in ["minimal.yaml", "whole.yaml", "defaults.yaml", "other.yaml"] {
            let path = folder.join(name);
            let text = fs::read_to_string(&path).unwrap();
            let spec = serde_yaml::from_str::<serde_yaml::Value>(&text).unwrap()["spec"].clone();
            let sinks = spec
                .get("stream")
                .and_then(|stream| stream["sinks"].as_sequence());
            let sinks = sinks.into_iter().flatten();
            let sinks = sinks.map(|sink| format!("stream-{}", sink["name"].as_str().unwrap()));
            let sections = ["ingest", "archive", "batch", "emulator"].into_iter();
            let sections = sections.filter(|section| spec.get(section).is_some());
            let expected: BTreeSet<_> = sections.map(ToOwned::to_owned).chain(sinks).collect();
            let objects = objects(&validated(path));
            let workloads = objects
                .iter()
                .filter(|object| matches!(object.resource.kind.as_str(), "Deployment" | "CronJob"));
            let component = |object: &Object| {
                let label = &object.body["metadata"]["labels"][COMPONENT_LABEL];
                label.as_str().unwrap().to_owned()
            };
            assert_eq!(
                workloads.map(component).collect::<BTreeSet<_>>(),
                expected,
                "{name}"
            );
        }
    }
}

/// `defaults.yaml` is `whole.yaml` with the defaults of its release written out.
#[test]
fn the_defaults_of_every_release_still_apply() {
    for folder in releases("crds/released").into_values() {
        assert_eq!(
            validated(folder.join("whole.yaml")),
            validated(folder.join("defaults.yaml"))
        );
    }
}

/// A worker refuses a field it doesn't know, so a worker of an earlier release can read a
/// configuration only if it has no further field.
#[test]
fn workers_of_every_release_get_the_configuration_that_its_operator_wrote() {
    let released = releases("crds/released");
    for (release, samples) in releases("workers/config/samples") {
        let (_, folder) = released
            .iter()
            .find(|(name, _)| name.ends_with(&release))
            .unwrap();
        let objects = objects(&validated(folder.join("whole.yaml")));
        let configs = objects
            .iter()
            .filter(|object| object.resource.kind == "ConfigMap");
        let mut compared = 0;
        for object in configs {
            let component = object.body["metadata"]["labels"][COMPONENT_LABEL]
                .as_str()
                .unwrap();
            let now = object.body["data"][CONFIG_KEY].as_str().unwrap();
            let before = fs::read_to_string(samples.join(format!("{component}.yaml"))).unwrap();
            let [now, before] =
                [now, &before].map(|yaml| serde_yaml::from_str::<serde_yaml::Value>(yaml).unwrap());
            assert_eq!(now, before, "{component} of {release}");
            compared += 1;
        }
        assert_eq!(
            compared,
            fs::read_dir(samples).unwrap().count(),
            "{release}"
        );
    }
    assert_ne!(released.len(), 0);
}
