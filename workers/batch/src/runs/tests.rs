use super::*;

fn runs() -> Runs {
    Runs::new(&Pipeline {
        namespace: "data".into(),
        name: "pins".into(),
        uid: "u".into(),
    })
}

fn listed(objects: &[(&str, i64)]) -> Vec<Run> {
    let object = |(key, modified): &(&str, i64)| ListedObject {
        key: format!("runs/data.pins/{key}"),
        modified: *modified,
        ..ListedObject::default()
    };
    runs().runs(&objects.iter().map(object).collect::<Vec<_>>())
}

#[test]
fn unfinished_runs_are_resumed_before_a_new_one_starts() {
    let found = listed(&[
        ("b/manifest.json", 1),
        ("b/state.json", 4),
        ("a/manifest.json", 2),
        ("a/state.json", 3),
        ("c/manifest.json", 0),
        ("c/report.json", 9),
    ]);
    let expected = [
        Step::Resume("b".into()),
        Step::Resume("a".into()),
        Step::Start("d".into()),
    ];
    assert_eq!(
        steps(&found, "d"),
        expected,
        "oldest first, regardless of name"
    );
}

#[test]
fn a_run_of_another_job_that_has_state_comes_before_the_own_one_without() {
    let found = listed(&[
        ("own/manifest.json", 1),
        ("other/manifest.json", 2),
        ("other/state.json", 3),
    ]);
    assert_eq!(
        steps(&found, "own"),
        [Step::Resume("other".into()), Step::Resume("own".into())],
        "else the other one builds on a run that isn't the last one, for ever"
    );
}

#[test]
fn a_retried_pod_resumes_its_own_run_and_does_nothing_if_it_has_finished() {
    assert_eq!(
        steps(&listed(&[("a/manifest.json", 1)]), "a"),
        [Step::Resume("a".into())]
    );
    assert_eq!(
        steps(
            &listed(&[("a/manifest.json", 1), ("a/report.json", 2)]),
            "a"
        ),
        []
    );
    assert_eq!(steps(&listed(&[]), "a"), [Step::Start("a".into())]);
}

#[test]
fn a_run_that_has_written_nothing_to_a_sink_is_in_nobodys_way() {
    let failed = listed(&[("bad/manifest.json", 1), ("bad/failed.json", 2)]);
    assert_eq!(steps(&failed, "d"), [Step::Start("d".into())]);
    assert_eq!(steps(&failed, "bad"), [], "it is not repeated");
    assert!(failed[0].has_failed());
    let died = listed(&[("died/manifest.json", 1)]);
    assert_eq!(steps(&died, "d"), [Step::Start("d".into())]);
    assert_eq!(
        steps(&died, "died"),
        [Step::Resume("died".into())],
        "its own worker is started again"
    );
    let loading = listed(&[
        ("a/manifest.json", 1),
        ("a/state.json", 2),
        ("a/failed.json", 3),
    ]);
    assert_eq!(
        steps(&loading, "d"),
        [Step::Resume("a".into()), Step::Start("d".into())],
        "its state comes first: sinks may have its rows"
    );
}

#[test]
fn an_abandoned_import_is_in_nobodys_way_and_known_until_a_run_has_finished() {
    let import = [
        ("import/manifest.json", 1),
        ("import/state.json", 2),
        ("import/abandoned.json", 3),
    ];
    let last = |finished| [("last/manifest.json", 0), ("last/report.json", finished)];
    for (finished, known) in [(1, true), (3, true), (4, false)] {
        let found = listed(&[&import[..], &last(finished)].concat());
        assert_eq!(steps(&found, "daily"), [Step::Start("daily".into())]);
        assert_eq!(steps(&found, "import"), [], "it is not repeated");
        let last = found.iter().find(|run| run.name == "last");
        let names: Vec<&str> = abandoned_after(&found, last)
            .map(|run| run.name.as_str())
            .collect();
        assert_eq!(
            names,
            if known { &["import"][..] } else { &[] },
            "{finished}"
        );
        assert_eq!(abandoned_after(&found, None).count(), 1);
    }
}

#[test]
fn other_objects_are_ignored() {
    let found = listed(&[
        ("latest.json", 3),
        ("a/manifest.json.bak", 1),
        ("b/report.json", 2),
        ("c/deep/manifest.json", 1),
    ]);
    assert_eq!(found, []);
}

#[test]
fn names_that_are_unsafe_in_object_keys_are_refused() {
    for name in ["", "a/b", "..", "a b", "ä"] {
        assert!(check_name(name).is_err(), "{name}");
    }
    for name in ["20261121T100000Z", "pinterest-batch-29384756", "a.b_c"] {
        check_name(name).unwrap();
    }
}
