use kube::core::PartialObjectMeta;
use serde_json::json;

use super::*;

type Object = PartialObjectMeta<Job>;

fn object(name: &str, version: &str, annotation: &str) -> Object {
    serde_json::from_value(json!({"metadata": {
        "namespace": "data", "name": name, "uid": name, "resourceVersion": version,
        "labels": {INSTANCE_LABEL: "pinterest"}, "annotations": {"a": annotation},
        "managedFields": [{"manager": "hpa", "operation": "Update", "time": null}],
    }}))
    .unwrap()
}

fn sum_of(objects: &[Object]) -> u64 {
    let versions = objects
        .iter()
        .map(|object| known(&object.metadata).1.version);
    versions.fold(0, u64::wrapping_add)
}

#[test]
fn the_sum_of_a_watch_is_that_of_a_list_whatever_the_order_of_events() {
    let watch = ChildCache::default().watch("Job", None, Matters::Always);
    let pipeline = hash(&("data", "pinterest"));
    assert_eq!(watch.sum(pipeline), None, "nothing is listed yet");
    let [a, b, c] = ["a", "b", "c"].map(|name| object(name, "1", ""));
    for event in [
        Event::Init,
        Event::InitApply(a.clone()),
        Event::InitApply(c.clone()),
    ] {
        watch.observe(&event);
    }
    assert_eq!(watch.sum(pipeline), None, "the list isn't complete");
    watch.observe(&Event::<Object>::InitDone);
    watch.observe(&Event::Apply(b));
    let b = object("b", "2", "");
    watch.observe(&Event::Apply(b.clone()));
    watch.observe(&Event::Delete(c));
    assert_eq!(watch.sum(pipeline), Some(sum_of(&[b.clone(), a.clone()])));
    assert_ne!(
        watch.sum(pipeline),
        Some(sum_of(&[object("b", "1", ""), a]))
    );
    // A list in which objects are missing that the watch knew.
    for event in [Event::Init, Event::InitApply(b.clone()), Event::InitDone] {
        watch.observe(&event);
    }
    assert_eq!(watch.sum(pipeline), Some(sum_of(&[b])));
    assert_eq!(watch.sum(hash(&("data", "other"))), Some(0));
}

#[test]
fn a_status_starts_a_reconcile_only_where_it_matters() {
    use Concerned::{Nobody, Owner};
    let cache = ChildCache::default();
    let all = cache.watch("Deployment", None, Matters::Always);
    let ours = cache.watch("HorizontalPodAutoscaler", None, Matters::WhenOurs);
    for (version, annotation, concerns_all, concerns_ours) in [
        ("1", "", Owner, Owner),
        ("2", "", Owner, Nobody),
        ("2", "", Nobody, Nobody),
        ("3", "x", Owner, Owner),
    ] {
        let event = Event::Apply(object("a", version, annotation));
        assert_eq!(all.observe(&event), concerns_all, "{version}");
        assert_eq!(ours.observe(&event), concerns_ours, "{version}");
    }
    let gone = Event::Delete(object("a", "4", "x"));
    assert_eq!(ours.observe(&gone), Owner);
}

#[test]
fn owners_of_objects_deleted_while_the_watch_was_interrupted_are_reconciled() {
    let watch = ChildCache::default().watch("Service", None, Matters::WhenOurs);
    let [first, gone, created] = ["a", "b", "c"].map(|name| object(name, "1", ""));
    let mut other = object("d", "1", "");
    other.metadata.namespace = Some("other".to_owned());
    let list = |objects: &[&Object]| {
        watch.observe(&Event::<Object>::Init);
        for object in objects {
            watch.observe(&Event::InitApply((*object).clone()));
        }
        watch.observe(&Event::<Object>::InitDone)
    };
    assert_eq!(list(&[&first, &gone, &other]), Concerned::Owners(vec![]));
    let owner = ("data".to_owned(), "pinterest".to_owned());
    let owners = Concerned::Owners(vec![owner]);
    assert_eq!(list(&[&first, &created, &other]), owners);
    assert_eq!(list(&[&first, &created, &other]), Concerned::Owners(vec![]));
    watch.observe(&Event::Delete(first));
    assert_eq!(list(&[&created, &other]), Concerned::Owners(vec![]));
}

#[test]
fn a_list_is_used_until_something_moves() {
    let cache = ChildCache::default();
    let objects = vec![json!({"metadata": {"name": "a"}})];
    let keep = || {
        let compressed = compress(&objects).unwrap();
        let listed = Listed {
            sum: 7,
            at: Instant::now(),
            compressed,
        };
        let mut kept = lock(&cache.kept);
        let kept = kept.entry("u".to_owned()).or_default();
        kept.lists.insert("Role".to_owned(), listed);
    };
    let minute = Duration::from_mins(1);
    keep();
    assert_eq!(cache.kept("u", "Role", 7, minute), Some(objects.clone()));
    assert_eq!(
        cache.kept("u", "Role", 8, minute),
        None,
        "the watch saw a change"
    );
    assert_eq!(
        cache.kept("u", "Role", 7, Duration::ZERO),
        None,
        "it is old"
    );
    cache.changes("u", "Role");
    assert_eq!(
        cache.kept("u", "Role", 7, minute),
        None,
        "the operator wrote"
    );
    keep();
    cache.forget("u");
    assert_eq!(cache.kept("u", "Role", 7, minute), None, "it is forgotten");
    keep();
    cache.retain(&HashSet::new());
    assert_eq!(
        cache.kept("u", "Role", 7, minute),
        None,
        "the pipeline is gone"
    );
}

#[test]
fn config_maps_in_use_are_looked_up_again_when_others_are_no_longer_desired() {
    let cache = ChildCache::default();
    let of = Of {
        namespace: "data",
        name: "pinterest",
        uid: "u",
    };
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    for kind in ["Deployment", "CronJob", RUNS, "ConfigMap"] {
        let watch = cache.watch(kind, None, Matters::Always);
        watch.observe(&Event::<Object>::Init);
        watch.observe(&Event::<Object>::InitDone);
    }
    assert!(!cache.is_pruned(of, &names(&["old"])));
    cache.pruned("u", cache.fingerprint(of), names(&["old", "older"]));
    assert!(cache.is_pruned(of, &names(&["old"])));
    // The API server refused the CronJob that would mount the new one, and the spec is back.
    assert!(!cache.is_pruned(of, &names(&["new"])));
    cache.changes("u", "CronJob");
    assert!(!cache.is_pruned(of, &names(&["old"])), "the operator wrote");
}
