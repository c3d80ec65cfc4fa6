use pinpipe_plan::samples::{validated, whole};
use serde_json::json;

use super::*;

fn after(edit: impl FnOnce(&mut Value)) -> Change {
    let mut spec = whole();
    edit(&mut spec);
    compare(Some(&validated(whole())), &validated(spec), &[])
}

fn restarted(change: &Change) -> Vec<(&str, &str, Vec<&str>)> {
    let restarts = change.restarts.iter();
    restarts
        .map(|restart| {
            let because = restart.because.iter().map(String::as_str).collect();
            (restart.component.as_str(), restart.what, because)
        })
        .collect()
}

#[test]
fn the_same_spec_changes_nothing() {
    let same = after(|_| {});
    assert!(!same.is_any(), "{same:?}");
    assert!(same.restarts.is_empty() && same.batch.is_empty());
}

#[test]
fn a_new_pipeline_creates_everything() {
    let new = compare(None, &validated(whole()), &[]);
    assert!(new.new && new.is_any());
    assert!(
        new.objects
            .iter()
            .all(|object| object.action == Action::Create)
    );
    assert_eq!(new.topics.len(), 6);
    let started = ["stream-live", "archive", "ingest", "emulator"];
    let told: Vec<_> = new
        .restarts
        .iter()
        .map(|it| (&*it.component, it.what))
        .collect();
    assert!(
        started
            .iter()
            .all(|component| told.contains(&(component, "start"))),
        "{told:?}"
    );
    assert_eq!(new.batch, ["runs start by the schedule 0 10 * * *"]);
}

#[test]
fn a_setting_of_a_worker_restarts_its_pods_alone_and_names_the_field() {
    let change = after(|spec| spec["ingest"] = json!({"limits": {"maxConnections": 9}}));
    let restarted = restarted(&change);
    let [("ingest", "restart", because)] = restarted.as_slice() else {
        panic!("{restarted:?}")
    };
    assert!(
        because.contains(&"configuration: maxConnections"),
        "{because:?}"
    );
    assert!(
        !because.iter().any(|field| field.contains("hash")),
        "{because:?}"
    );
    let deployment = change
        .objects
        .iter()
        .find(|object| object.kind == "Deployment")
        .unwrap();
    assert_eq!(deployment.action, Action::Change);
    let maps: Vec<_> = change
        .objects
        .iter()
        .filter(|object| object.kind == "ConfigMap")
        .map(|object| object.action)
        .collect();
    assert_eq!(maps, [Action::Create, Action::Delete]);
}

#[test]
fn a_setting_of_several_workers_is_the_reason_of_each() {
    let change = after(|spec| spec["stream"]["sinks"][0]["postgres"]["schema"] = json!("s"));
    let [("stream-live", "restart", because)] = &*restarted(&change) else {
        panic!("{change:?}")
    };
    assert!(
        because
            .iter()
            .any(|field| field.ends_with("postgres.schema")),
        "{because:?}"
    );
    let change = after(|spec| spec["ingest"] = json!({"maxRecordBytes": 1000}));
    for (component, what, because) in restarted(&change) {
        assert!(what == "restart" && !because.is_empty(), "{component}");
    }
}

#[test]
fn more_pods_are_no_restart() {
    let change = after(|spec| spec["ingest"] = json!({"replicas": 3}));
    assert_eq!(
        restarted(&change),
        [("ingest", "scale", vec!["pods: 2 → 3"])]
    );
}

#[test]
fn a_removed_section_stops_its_pods_and_deletes_its_objects() {
    let change = after(|spec| spec["emulator"] = Value::Null);
    assert_eq!(restarted(&change), [("emulator", "stop", vec![])]);
    assert!(
        change
            .objects
            .iter()
            .all(|object| object.action == Action::Delete)
    );
}

#[test]
fn batch_runs_tell_their_schedule_and_what_the_next_one_has() {
    let change = after(|spec| {
        spec["batch"]["schedule"] = json!("0 11 * * *");
        spec["batch"]["deadline"] = json!("2h");
    });
    assert_eq!(change.batch[0], "schedule: \"0 10 * * *\" → \"0 11 * * *\"");
    assert!(
        change.batch[1].contains("activeDeadlineSeconds"),
        "{:?}",
        change.batch
    );
    assert!(change.restarts.is_empty());
}

#[test]
fn partitions_are_raised_and_never_lowered() {
    let partitions = |number: i32| {
        let mut spec = whole();
        let topics = json!({"partitions": number});
        spec["broker"] = json!({"kafka": {"bootstrapServers": "kafka:9092", "topics": topics}});
        validated(spec)
    };
    let known = |number: i32, created: Created| TopicStatus {
        name: "data.pinterest.pin".to_owned(),
        id: None,
        partitions: number,
        created,
    };
    let told = |from, to, known: &[TopicStatus]| {
        let change = compare(Some(&partitions(from)), &partitions(to), known);
        let mut topics = change.topics.into_iter();
        topics
            .find(|topic| topic.topic == "data.pinterest.pin")
            .map(|topic| topic.what)
    };
    for (from, to, known, begin) in [
        (
            3,
            6,
            known(3, Created::Operator),
            "gets 6 partitions, has 3",
        ),
        (
            3,
            6,
            known(3, Created::Other),
            "keeps its 3 partitions: the operator",
        ),
        (
            6,
            3,
            known(6, Created::Operator),
            "keeps its 6 partitions: Kafka",
        ),
    ] {
        let what = told(from, to, &[known]).unwrap();
        assert!(what.starts_with(begin), "{what}");
    }
    assert_eq!(told(3, 6, &[known(6, Created::Operator)]), None);
}
