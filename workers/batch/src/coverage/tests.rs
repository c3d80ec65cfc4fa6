use super::*;
use crate::manifest::Import;

fn partition() -> RawPartition {
    RawPartition {
        topic: "t".into(),
        partition: 3,
    }
}

fn spans(offsets: &[(i64, i64)]) -> Vec<Span> {
    let span = |&(first, next): &(i64, i64)| Span {
        key: format!("t/{first}"),
        first,
        next,
        topic_id: Some("new".into()),
    };
    offsets.iter().map(span).collect()
}

type Found = Option<(i64, i64)>;

fn found(offsets: &[(i64, i64)], from: Option<i64>) -> (Found, Found) {
    let (front, middle) = gaps(&partition(), &spans(offsets), from);
    let offsets = |gap: Gap| (gap.from, gap.to);
    (front.map(offsets), middle.map(offsets))
}

#[test]
fn objects_that_join_end_to_start_have_no_gap_in_any_order() {
    for offsets in [
        &[][..],
        &[(0, 10)],
        &[(0, 10), (10, 11), (11, 500)],
        &[(11, 500), (0, 10), (10, 11)],
        // The same first offset, once plain and once compressed, and a smaller one within.
        &[(0, 10), (0, 20), (5, 7), (20, 30)],
    ] {
        assert_eq!(found(offsets, Some(0)), (None, None), "{offsets:?}");
    }
    assert_eq!(
        found(&[(40, 60)], Some(50)),
        (None, None),
        "the last run ended within an object"
    );
}

#[test]
fn a_gap_at_the_front_and_one_in_the_middle_are_told_apart() {
    assert_eq!(found(&[(70, 80)], Some(50)), (Some((50, 70)), None));
    assert_eq!(found(&[(70, 80)], None), (None, None), "nothing is known");
    assert_eq!(
        found(&[(0, 10), (12, 20), (30, 40)], Some(0)),
        (None, Some((10, 12)))
    );
    assert_eq!(
        found(&[(5, 10), (10, 20), (30, 40)], Some(0)),
        (Some((0, 5)), Some((20, 30)))
    );
}

fn manifest(kind: RunKind, from: i64, to: i64) -> Manifest {
    let positions = |offset| Positions::from([("t".into(), [(3, offset)].into())]);
    Manifest {
        run: "r".into(),
        run_time: chrono::DateTime::UNIX_EPOCH,
        release: String::new(),
        kind,
        state: None,
        state_id: String::new(),
        buckets: 64,
        from: positions(from),
        to: positions(to),
        begin: Positions::new(),
        covered: Positions::new(),
        import: Import::default(),
        objects: Vec::new(),
    }
}

fn previous(begin: i64) -> State {
    State {
        begin: Positions::from([("t".into(), [(3, begin)].into())]),
        ..crate::testing::state("q")
    }
}

fn read(offsets: &[(i64, i64)]) -> Spans {
    Spans::from([(partition(), spans(offsets))])
}

fn check(
    manifest: &Manifest,
    spans: &Spans,
    previous: Option<&State>,
) -> Result<Coverage, Permanent> {
    let pipeline = Pipeline {
        namespace: "data".into(),
        name: "pins".into(),
        uid: "u".into(),
    };
    super::check(&pipeline, manifest, spans, previous)
}

/// The state of a run that has read objects up to the offset `covered` of the topic `id`.
fn covered(begin: i64, covered: i64, id: &str) -> State {
    State {
        covered: Positions::from([("t".into(), [(3, covered)].into())]),
        topic_ids: [("t".into(), id.into())].into(),
        ..previous(begin)
    }
}

#[test]
fn objects_that_are_lost_at_the_end_are_missed() {
    use RunKind::{Full, Incremental};
    let base = covered(0, 20, "new");
    for (kind, from, offsets, missing) in [
        (Incremental, 20, &[(0, 20)][..], None),
        (Incremental, 20, &[(0, 10)], Some("10 to 19")),
        (Incremental, 20, &[(10, 20), (20, 60)], None),
        // An earlier run has counted 20 to 24 as read, and the next object shows that they had
        // records, or is the one that they are in.
        (Incremental, 25, &[(25, 60)], Some("20 to 24")),
        (Incremental, 25, &[(20, 60)], None),
        // An expiry rule may have deleted what was written since.
        (Incremental, 20, &[(40, 60)], None),
        (Incremental, 20, &[], None),
        (Full, 0, &[(0, 20)], None),
        (Full, 0, &[(0, 60)], None),
        (Full, 0, &[(0, 10)], Some("10 to 19")),
        (Full, 0, &[], Some("0 to 19")),
    ] {
        let mut spans = read(offsets);
        spans.retain(|_, spans| !spans.is_empty());
        let checked = check(&manifest(kind.clone(), from, 60), &spans, Some(&base));
        match (missing, checked) {
            (None, Ok(coverage)) => {
                let end = offsets.iter().map(|(_, next)| *next).max();
                assert_eq!(coverage.covered["t"][&3], end.unwrap_or(20), "{offsets:?}");
                assert_eq!(coverage.topic_ids["t"], "new");
            }
            (Some(missing), Err(error)) => {
                let expected =
                    format!("of t[3] are missing: no object covers the offsets {missing}");
                assert!(error.to_string().contains(&expected), "{error}");
            }
            (_, checked) => panic!("{kind:?} {from} {offsets:?}: {checked:?}"),
        }
    }
    let empty = check(&manifest(Full, 0, 0), &Spans::new(), Some(&base));
    assert!(empty.is_ok(), "a topic that is new and empty");
}

#[test]
fn objects_of_a_recreated_topic_need_a_full_run() {
    let base = covered(0, 80, "old");
    let read = read(&[(50, 60)]);
    let error = check(&manifest(RunKind::Incremental, 40, 60), &read, Some(&base));
    let message = error.unwrap_err().to_string();
    for part in [
        "topic t was recreated",
        "t/50, with the offsets 50 to 59 of t[3]",
        "batch: {full: true}",
    ] {
        assert!(message.contains(part), "{message}");
    }
    let full = check(&manifest(RunKind::Full, 0, 60), &read, Some(&base)).unwrap();
    assert_eq!(full.topic_ids["t"], "new");
    assert_eq!((full.begin["t"][&3], full.covered["t"][&3]), (50, 60));
    // An object that somebody has put in the place of lost ones tells nothing, nor does a state
    // of a release that didn't note the ids.
    let mut by_hand = read.clone();
    by_hand.get_mut(&partition()).unwrap()[0].topic_id = None;
    let incremental = manifest(RunKind::Incremental, 50, 60);
    let unknown = State {
        topic_ids: BTreeMap::new(),
        ..covered(0, 50, "")
    };
    for (read, base) in [(by_hand, covered(0, 50, "old")), (read, unknown)] {
        check(&incremental, &read, Some(&base)).unwrap();
    }
}

#[test]
fn only_a_full_run_needs_the_records_that_expired() {
    let expired = read(&[(70, 80)]);
    let incremental = manifest(RunKind::Incremental, 50, 80);
    let coverage = check(&incremental, &expired, Some(&previous(5))).unwrap();
    assert_eq!(coverage.begin["t"][&3], 5, "where the state began");
    assert_eq!((coverage.gaps[0].from, coverage.gaps[0].to), (50, 70));

    let full = manifest(RunKind::Full, 0, 80);
    let error = check(&full, &expired, Some(&previous(5))).unwrap_err();
    assert!(error.to_string().contains("offsets 5 to 69"), "{error}");
    let error = check(&full, &Spans::new(), Some(&previous(5))).unwrap_err();
    assert!(error.to_string().contains("no later object"), "{error}");
    let coverage = check(&full, &expired, None).unwrap();
    assert_eq!(
        (coverage.begin["t"][&3], coverage.gaps.len()),
        (70, 0),
        "the first run takes what the topic still had when its archive began"
    );
    for kind in [RunKind::Incremental, RunKind::Full] {
        let torn = read(&[(0, 10), (20, 80)]);
        assert!(check(&manifest(kind, 0, 80), &torn, None).is_err());
    }
}

#[test]
fn the_state_begins_where_the_archive_did_not_where_the_run_does() {
    let read = Spans::from([(partition(), spans(&[(45, 60)]))]);
    // A state of a release that didn't note it.
    let mut earlier = previous(0);
    earlier.begin = Positions::new();
    let mut incremental = manifest(RunKind::Incremental, 50, 60);
    let begin = |manifest: &Manifest| check(manifest, &read, Some(&earlier)).unwrap().begin;
    assert_eq!(begin(&incremental), Positions::new(), "it isn't known");
    incremental.begin = Positions::from([("t".into(), [(3, 7)].into())]);
    assert_eq!(begin(&incremental), incremental.begin);
    let added = manifest(RunKind::Incremental, 0, 60);
    assert_eq!(begin(&added)["t"][&3], 45, "a new partition");
}

#[test]
fn the_message_names_partition_offsets_both_objects_and_what_to_do() {
    let (_, middle) = gaps(&partition(), &spans(&[(0, 10), (12, 20)]), Some(0));
    let message = middle.unwrap().into_error().to_string();
    for part in [
        "t[3]",
        "10 to 11",
        "t/0 ends",
        "t/12, begins at 12",
        "Restore",
    ] {
        assert!(message.contains(part), "{message}");
    }
}
