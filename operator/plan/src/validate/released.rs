//! Pipelines that a release stored mean what they meant then.

use std::{collections::BTreeMap, fs, path::PathBuf};

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

#[test]
fn every_stored_sample_can_be_done() {
    for folder in releases("crds/released").into_values() {
        for name in ["minimal.yaml", "whole.yaml", "defaults.yaml", "other.yaml"] {
            assert!(!objects(&validated(folder.join(name))).is_empty(), "{name}");
        }
    }
}

/// What `defaults.yaml` writes down held in its release without being said.
#[test]
fn the_defaults_of_every_release_are_those_of_now() {
    for folder in releases("crds/released").into_values() {
        assert_eq!(
            validated(folder.join("whole.yaml")),
            validated(folder.join("defaults.yaml"))
        );
    }
}

/// A worker refuses a field it doesn't know, so one of an earlier release reads what we write only
/// if that has nothing more.
#[test]
fn workers_of_every_release_are_told_what_their_own_operator_told_them() {
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
        let mut told = 0;
        for object in configs {
            let component = object.body["metadata"]["labels"][COMPONENT_LABEL]
                .as_str()
                .unwrap();
            let now = object.body["data"][CONFIG_KEY].as_str().unwrap();
            let before = fs::read_to_string(samples.join(format!("{component}.yaml"))).unwrap();
            let [now, before] =
                [now, &before].map(|yaml| serde_yaml::from_str::<serde_yaml::Value>(yaml).unwrap());
            assert_eq!(now, before, "{component} of {release}");
            told += 1;
        }
        assert_eq!(told, fs::read_dir(samples).unwrap().count(), "{release}");
    }
    assert_ne!(released.len(), 0);
}
