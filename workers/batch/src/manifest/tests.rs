use super::*;

fn imported(modified: i64, number: u32) -> Imported {
    Imported {
        modified,
        number,
        bytes: 1,
        etag: Some("\"e\"".into()),
    }
}

#[test]
fn imported_records_are_ordered_by_time_object_and_place_and_before_all_others() {
    let archived = Order {
        time: 0,
        partition: 0,
        offset: 0,
    };
    let orders = [
        imported(5, 9).order(-1, 0),
        imported(6, 0).order(-3, 0),
        imported(6, 0).order(-3, u32::MAX),
        imported(6, 1).order(-3, 0),
        imported(6, 0).order(-2, 0),
        imported(i64::MAX, u32::MAX >> 1).order(-1, 0),
        archived,
    ];
    assert!(orders.is_sorted_by(|a, b| a < b), "{orders:?}");
}

#[test]
fn a_later_import_has_a_later_place() {
    let at = |secs| place(DateTime::from_timestamp(secs, 0).unwrap());
    let places = [1_796_000_000, 1_796_000_001, 3_899_999_999].map(at);
    assert!(
        places.is_sorted_by(|a, b| a < b) && places[2] < 0,
        "{places:?}"
    );
}

#[test]
fn a_run_is_later_than_the_last_one_whatever_the_clock_says() {
    let at = |micros| DateTime::from_timestamp_micros(micros).unwrap();
    assert_eq!(run_time(at(100) + TimeDelta::nanoseconds(7), None), at(100));
    assert_eq!(run_time(at(100), Some(at(99))), at(100));
    assert_eq!(run_time(at(100), Some(at(100))), at(101));
    assert_eq!(
        run_time(at(100), Some(at(500))),
        at(501),
        "a clock that is behind"
    );
}

#[test]
fn a_manifest_reads_back_as_it_was_written() {
    let positions =
        |offset| Positions::from([("t.pin".to_owned(), BTreeMap::from([(0, offset), (10, 5)]))]);
    let object = |format| RawObject {
        kind: Kind::Pin,
        partition: 0,
        key: "topics/t.pin/x".into(),
        format,
    };
    let time = |micros| DateTime::from_timestamp_micros(micros).unwrap();
    for kind in [
        RunKind::Incremental,
        RunKind::Full,
        RunKind::Backfill {
            from: time(0),
            to: time(5_000),
        },
        RunKind::Import,
    ] {
        let manifest = Manifest {
            run: "r".into(),
            run_time: time(1_795_000_000_123_456),
            release: "1.2.3".into(),
            kind,
            state: Some("q".into()),
            state_id: "u-1".into(),
            buckets: 128,
            from: positions(0),
            to: positions(7),
            begin: positions(3),
            covered: positions(0),
            import: Import {
                source: Some(Source {
                    bucket: "old".into(),
                    s3: S3::default(),
                    has_own_keys: true,
                    virtual_host: true,
                }),
                request: "{}".into(),
                passed_over: {
                    let mut passed_over = PassedOver::new();
                    pass_over(&mut passed_over, "suffix", "a.txt");
                    passed_over
                },
            },
            objects: vec![
                object(Format::Archive),
                object(Format::Imported(imported(5, 1))),
                object(Format::Connector(7)),
                object(Format::Single(1)),
            ],
        };
        let text = serde_json::to_string(&manifest).unwrap();
        assert_eq!(
            serde_json::from_str::<Manifest>(&text).unwrap(),
            manifest,
            "{text}"
        );
    }
}

#[test]
fn a_manifest_without_state_is_read_as_a_full_run() {
    let old = r#"{"run": "r", "runTime": "2026-11-21T10:00:00Z",
        "from": {"t": {"0": 0}}, "to": {"t": {"0": 7}},
        "objects": [{"kind": "pin", "partition": 0, "key": "k"}]}"#;
    let manifest: Manifest = serde_json::from_str(old).unwrap();
    assert_eq!(
        (&manifest.kind, &manifest.state, manifest.buckets),
        (&RunKind::Full, &None, MIN_BUCKETS)
    );
    assert_eq!(
        (
            manifest.objects[0].format.clone(),
            manifest.window("t", 0).offsets
        ),
        (Format::Archive, 0..7)
    );
}

#[test]
fn another_release_writes_with_a_later_timestamp() {
    let at = |micros| DateTime::from_timestamp_micros(micros).unwrap();
    let planned = |release: &str| Manifest {
        run: "r".into(),
        run_time: at(100),
        release: release.into(),
        kind: RunKind::Full,
        state: None,
        state_id: String::new(),
        buckets: MIN_BUCKETS,
        from: Positions::new(),
        to: Positions::new(),
        begin: Positions::new(),
        covered: Positions::new(),
        import: Import::default(),
        objects: Vec::new(),
    };
    assert_eq!(
        planned(RELEASE).new_attempt(true, Some(at(99)), Some(at(99))),
        None
    );
    for (release, has_state, last, abandoned, expected) in [
        ("0.0.1", true, None, None, 101),
        ("0.0.1", true, Some(99), None, 101),
        // Another run was published meanwhile.
        (RELEASE, true, Some(100), None, 101),
        (RELEASE, true, Some(500), Some(99), 501),
        // An import was abandoned, whose rows a sink may have.
        (RELEASE, false, Some(50), Some(100), 101),
        (RELEASE, false, None, Some(500), 501),
        (RELEASE, true, Some(500), Some(600), 601),
    ] {
        let (last, abandoned) = (last.map(at), abandoned.map(at));
        let attempt = planned(release).new_attempt(has_state, last, abandoned);
        let attempt = attempt.unwrap();
        let resumed = planned(release).with_attempt(attempt);
        assert_eq!(
            (resumed.run_time, resumed.release.as_str()),
            (at(expected), RELEASE),
            "{release} {last:?} {abandoned:?}"
        );
        assert_eq!(
            resumed.new_attempt(has_state, last, abandoned),
            None,
            "resumed again"
        );
    }
    let overtaken = planned("0.0.1");
    assert_eq!(
        overtaken.new_attempt(false, Some(at(100)), Some(at(200))),
        None,
        "no sink has its rows, and a later timestamp would let them win over newer ones"
    );
    assert!(overtaken.is_overtaken(Some(at(100))) && !overtaken.is_overtaken(Some(at(99))));
}

#[test]
fn a_run_reads_only_its_own_records() {
    let positions = |offset| Positions::from([("t".to_owned(), BTreeMap::from([(0, offset)]))]);
    let time = |millis| DateTime::from_timestamp_millis(millis).unwrap();
    let manifest = |kind| Manifest {
        run: "r".into(),
        run_time: time(0),
        release: String::new(),
        kind,
        state: None,
        state_id: String::new(),
        buckets: MIN_BUCKETS,
        from: positions(10),
        to: positions(20),
        begin: Positions::new(),
        covered: Positions::new(),
        import: Import::default(),
        objects: Vec::new(),
    };
    let read = |kind| {
        let window = manifest(kind).window("t", 0);
        [(9, 900), (10, 1000), (19, 1900), (20, 2000)]
            .map(|(offset, time)| window.contains(offset, time))
    };
    assert_eq!(read(RunKind::Incremental), [false, true, true, false]);
    let after_a_loss = Manifest {
        covered: positions(5),
        ..manifest(RunKind::Incremental)
    };
    assert_eq!(
        after_a_loss.window("t", 0).offsets,
        5..20,
        "objects that were restored are read"
    );
    assert_eq!(read(RunKind::Full), [true, true, true, false]);
    assert_eq!(
        read(RunKind::Backfill {
            from: time(900),
            to: time(1000)
        }),
        [true, false, false, false]
    );
    assert_eq!(read(RunKind::Import), [true; 4]);
    assert!(
        !manifest(RunKind::Full).window("t", 3).contains(0, 0),
        "the manifest doesn't have that partition"
    );
}
