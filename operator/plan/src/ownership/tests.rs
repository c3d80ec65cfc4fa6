use serde_json::{Value, json};

use super::*;

fn claim(
    [namespace, name]: [&str; 2],
    second: i64,
    servers: &str,
    topics: &Value,
    ids: &Value,
) -> Claim {
    let created = k8s_openapi::jiff::Timestamp::from_second(second).unwrap();
    let uid = format!("{namespace}-{name}-{second}");
    let kafka = json!({"bootstrapServers": servers, "topics": {"overrides": topics}});
    let pipeline = json!({
        "apiVersion": "pinpipe.dev/v1alpha1",
        "kind": "PinterestPipeline",
        "metadata": {
            "namespace": namespace,
            "name": name,
            "uid": uid,
            "creationTimestamp": created.to_string(),
        },
        "spec": {"broker": {"kafka": kafka}},
        "status": {"topics": ids},
    });
    Claim::of(&serde_json::from_value(pipeline).unwrap())
}

fn pins(topics: &Value, second: i64, [namespace, name]: [&str; 2]) -> Claim {
    claim([namespace, name], second, "k.x:1", topics, &json!([]))
}

fn entry(claim: &Claim, created: Created, id: Option<&str>) -> Entry {
    let id = id.map(ToOwned::to_owned);
    let (pipeline, uid) = (claim.pipeline(), claim.uid.clone());
    Entry {
        pipeline,
        uid,
        created,
        id,
    }
}

fn status(id: Option<&str>, created: Created) -> TopicStatus {
    TopicStatus {
        name: "t".to_owned(),
        id: id.map(ToOwned::to_owned),
        partitions: 3,
        created,
    }
}

#[test]
fn without_an_entry_the_oldest_may_claim_a_topic() {
    let shared = json!({"pin": {"name": "pins"}});
    let older = claim(["a", "one"], 100, "kafka.x:9092", &shared, &json!([]));
    let as_user = json!({"user": {"name": "pins"}});
    let younger = claim(
        ["b", "two"],
        101,
        "other:1,kafka.x:9092",
        &as_user,
        &json!([]),
    );
    assert_eq!(older.conflict(std::slice::from_ref(&younger)), None);
    let message = younger.conflict(std::slice::from_ref(&older)).unwrap();
    let expected = "topic pins belongs to the pipeline a/one, which is older";
    assert!(message.contains(expected), "{message}");
    let twin = claim(["b", "two"], 100, "kafka.x:9092", &shared, &json!([]));
    assert_eq!(
        older.conflict(std::slice::from_ref(&twin)),
        None,
        "created in the same second: the UID decides"
    );
    assert!(twin.conflict(std::slice::from_ref(&older)).is_some());
    let oldest = claim(["c", "zero"], 1, "kafka.x:9092", &shared, &json!([]));
    let message = twin.conflict(&[older, oldest]).unwrap();
    assert!(message.contains("c/zero"), "{message}");
}

#[test]
fn a_default_name_can_be_claimed_by_an_older_override() {
    let older = pins(&json!({"geo": {"name": "b.two.pin"}}), 1, ["a", "one"]);
    let younger = pins(&json!({}), 2, ["b", "two"]);
    let message = younger.conflict(&[older]).unwrap();
    assert!(message.contains("topic b.two.pin belongs to"), "{message}");
}

#[test]
fn topics_of_other_clusters_are_others() {
    let shared = json!({"pin": {"name": "pins"}});
    let seen = |id: &str| json!([{"name": "pins", "id": id, "partitions": 3}]);
    let none = json!([]);
    for (servers, ids, other_servers, other_ids, expected) in [
        ("kafka.x:9092", &none, "kafka.y:9092", &none, false),
        ("kafka:9092", &none, "kafka:9092", &none, false),
        ("kafka:9092", &none, "kafka.b.svc:9092", &none, false),
        (
            "kafka:9092",
            &none,
            "kafka.a.svc.cluster.local.:9092",
            &none,
            true,
        ),
        ("Kafka.X.svc:9092", &none, "kafka.x:9092", &none, true),
        ("[fd00::1]:9092", &none, "[fd00::1]:9092", &none, true),
        ("kafka.x:9092", &none, "kafka.x:9093", &none, false),
        (
            "kafka.x:9092",
            &seen("i"),
            "10.0.0.1:9092",
            &seen("i"),
            true,
        ),
        (
            "kafka.x:9092",
            &seen("i"),
            "10.0.0.1:9092",
            &seen("j"),
            false,
        ),
    ] {
        let older = claim(["a", "one"], 1, servers, &shared, ids);
        let younger = claim(["b", "two"], 2, other_servers, &shared, other_ids);
        let found = younger.conflict(&[older]).is_some();
        assert_eq!(found, expected, "{servers} {other_servers}");
    }
}

/// A is older and names B's topics. B runs and holds them, however A gets to B's brokers.
#[test]
fn an_older_pipeline_takes_no_topic_that_another_holds() {
    let b = pins(&json!({}), 2, ["b", "two"]);
    let names = json!({"pin": {"name": "b.two.pin"}});
    let record = b.entries(&[TopicStatus {
        name: "b.two.pin".to_owned(),
        ..status(Some("i"), Created::Operator)
    }]);
    let is_held = |topic: &str| record.get(topic).is_some_and(|entry| b.holds(entry));
    for (case, servers) in [
        ("the same address", "k.x:1"),
        ("another address", "10.0.0.1:1"),
    ] {
        let ids = json!([{"name": "b.two.pin", "id": "i", "partitions": 3}]);
        let a = claim(["a", "one"], 1, servers, &names, &ids);
        assert!(!a.holds(&record["b.two.pin"]), "{case}");
        let left = b.clone().without(is_held);
        assert_eq!(left.conflict(&[a]), None, "{case}: B keeps its topics");
    }
}

/// What the record says outlives the pipeline's UID and status; another cluster proves nothing.
/// Entry, id in the status, id at the broker → id and creator.
#[test]
fn what_is_known_about_a_topic() {
    use Created::{Operator, Other, Unknown};
    let me = pins(&json!({}), 2, ["b", "two"]);
    let former = pins(&json!({}), 1, ["b", "two"]);
    let stranger = pins(&json!({}), 1, ["a", "one"]);
    let own = |created, id| Some(entry(&me, created, id));
    let old = |created, id| Some(entry(&former, created, id));
    let i = Some("i");
    for (case, entry, status_id, found, expected) in [
        ("never seen", None, None, i, None),
        ("settled", own(Operator, i), i, i, Some((i, Operator))),
        (
            "somebody else's topic",
            own(Other, i),
            i,
            i,
            Some((i, Other)),
        ),
        (
            "the status was lost",
            own(Operator, i),
            None,
            i,
            Some((i, Operator)),
        ),
        (
            "and the topic, too",
            own(Operator, i),
            None,
            None,
            Some((i, Operator)),
        ),
        (
            "crashed before its id",
            own(Unknown, None),
            None,
            i,
            Some((None, Unknown)),
        ),
        (
            "created, and not shown yet",
            own(Operator, None),
            None,
            None,
            Some((None, Operator)),
        ),
        ("the record was lost", None, i, i, Some((i, Unknown))),
        (
            "moved to another cluster",
            None,
            i,
            Some("j"),
            Some((i, Unknown)),
        ),
        (
            "the same, claimed",
            own(Unknown, None),
            i,
            Some("j"),
            Some((i, Unknown)),
        ),
        (
            "recreated or restored",
            old(Operator, i),
            None,
            i,
            Some((i, Operator)),
        ),
        ("recreated, topic gone", old(Operator, i), None, None, None),
        (
            "recreated, topic replaced",
            old(Operator, i),
            None,
            Some("j"),
            None,
        ),
        (
            "recreated after a crash",
            old(Unknown, None),
            None,
            i,
            Some((None, Unknown)),
        ),
        (
            "taken over",
            Some(entry(&stranger, Operator, i)),
            None,
            i,
            None,
        ),
    ] {
        let status = status_id.map(|id| status(Some(id), Operator));
        let known = me.known("t", entry.as_ref(), status.as_ref(), found);
        let known = known.as_ref();
        let found = known.map(|topic| (topic.id.as_deref(), topic.created));
        assert_eq!(found, expected, "{case}");
    }
}

#[test]
fn only_what_the_broker_confirmed_is_called_the_operators() {
    use Created::{Operator, Other, Unknown};
    for (creation, before, is_new, expected) in [
        (Creation::Created, Unknown, true, Operator),
        (Creation::Created, Unknown, false, Operator),
        (Creation::Existed, Unknown, true, Other),
        (Creation::Existed, Unknown, false, Unknown),
        (Creation::Existed, Operator, false, Operator),
    ] {
        assert_eq!(
            created(creation, before, is_new),
            expected,
            "{creation:?} {before:?} {is_new}"
        );
    }
}

#[test]
fn only_topics_that_the_record_proves_are_deleted() {
    use Created::{Operator, Other, Unknown};
    let me = pins(&json!({}), 2, ["b", "two"]);
    let stranger = pins(&json!({}), 1, ["a", "one"]);
    let own = |created, id| Some(entry(&me, created, id));
    let i = Some("i");
    for (case, entry, status_created, found, expected) in [
        ("created", own(Operator, i), Some(Operator), i, "delete"),
        ("the status was lost", own(Operator, i), None, i, "delete"),
        ("gone", own(Operator, i), Some(Operator), None, "ignore"),
        (
            "replaced",
            own(Operator, i),
            Some(Operator),
            Some("j"),
            "created it again",
        ),
        ("no id", own(Operator, None), None, i, "not recorded"),
        (
            "crashed",
            own(Unknown, None),
            Some(Unknown),
            i,
            "isn't known",
        ),
        ("there before", own(Other, i), Some(Other), i, "ignore"),
        ("never claimed", None, None, i, "ignore"),
        (
            "another cluster",
            None,
            Some(Operator),
            Some("j"),
            "no record",
        ),
        (
            "another cluster without it",
            None,
            Some(Operator),
            None,
            "no record",
        ),
        (
            "proved by a cluster of one's own",
            None,
            Some(Operator),
            i,
            "no record",
        ),
        (
            "another pipeline's",
            Some(entry(&stranger, Operator, i)),
            Some(Operator),
            i,
            "another pipeline",
        ),
    ] {
        let status = status_created.map(|created| status(i, created));
        let found = match deletion(&me, entry.as_ref(), status.as_ref(), found) {
            Deletion::Delete => "delete",
            Deletion::Ignore => "ignore",
            Deletion::Leave(why) => why,
        };
        assert!(found.contains(expected), "{case}: {found}");
    }
}

#[test]
fn names_set_by_hand_are_checked_against_other_namespaces() {
    let topics = json!({
        "pin": {"name": "shop.two.pin"},
        "geo": {"name": "b.places"},
        "user": {"name": "Shop.user"},
    });
    let set = pins(&topics, 1, ["b", "two"]);
    let foreign: Vec<_> = set.foreign_namespaces().collect();
    assert_eq!(foreign, [("shop.two.pin", "shop")]);
    let default = pins(&json!({}), 1, ["b", "two"]);
    assert_eq!(default.foreign_namespaces().count(), 0);
}

#[test]
fn entries_are_small_and_read_back() {
    let me = pins(&json!({}), 1, ["b", "two"]);
    let entries = me.entries(&[status(Some("i"), Created::Operator)]);
    let text = serde_json::to_string(&entries["t"]).unwrap();
    let expected = r#"{"pipeline":"b/two","uid":"b-two-1","created":"Operator","id":"i"}"#;
    assert_eq!(text, expected);
    assert_eq!(serde_json::from_str::<Entry>(&text).unwrap(), entries["t"]);
}
