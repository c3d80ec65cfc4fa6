use std::collections::BTreeSet;

use super::*;

fn good() -> Finding {
    Finding::good(reasons::AVAILABLE, "fine")
}

fn findings() -> Findings {
    let (topics, ingest) = (good(), Some(good()));
    Findings {
        suspension: None,
        annotations: None,
        topics,
        ingest,
        stream: Some(good()),
        archive: None,
        sinks: Vec::new(),
        batch: None,
        emulator: None,
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

#[test]
fn ready_is_all_of_them_and_names_the_first_that_is_not() {
    let conditions = findings().conditions();
    let types: Vec<_> = conditions.iter().map(|(type_, _)| *type_).collect();
    assert_eq!(
        types,
        ["Ready", "TopicsReady", "IngestReady", "StreamReady"]
    );
    assert_eq!(
        conditions[0].1,
        Finding::good(reasons::READY, "everything works")
    );

    let bad = Findings {
        ingest: Some(Finding::bad(reasons::IMAGE_NOT_PULLABLE, "no image")),
        emulator: Some(Finding::bad(reasons::CRASHING, "crash")),
        ..findings()
    };
    let ready = bad.conditions().remove(0).1;
    assert_eq!(
        ready,
        Finding::bad(
            reasons::IMAGE_NOT_PULLABLE,
            "ingest: no image (also not ready: emulator)"
        )
    );
}

#[test]
fn a_batch_run_that_fails_leaves_the_pipeline_ready_unless_none_can_be_started() {
    let with = |reason| {
        let batch = Some(Finding::bad(reason, "no"));
        Findings {
            batch,
            ..findings()
        }
        .conditions()
    };
    for reason in [
        reasons::RUN_FAILED,
        reasons::BATCH_OVERDUE,
        reasons::UNSCHEDULABLE,
        reasons::IMAGE_NOT_PULLABLE,
        reasons::PODS_REFUSED,
    ] {
        let found = with(reason);
        assert_eq!(
            found[0].1,
            Finding::good(reasons::READY, "everything works")
        );
        assert!(found.contains(&(condition_types::BATCH_READY, Finding::bad(reason, "no"))));
        assert!(
            found.iter().all(|(type_, _)| !SUMMARY[1..].contains(type_)),
            "{reason}"
        );
    }
    for reason in NOT_DEPLOYED {
        assert_eq!(with(reason)[0].1, Finding::bad(reason, "batch: no"));
    }
}

#[test]
fn an_event_tells_when_batch_runs_go_wrong_and_when_they_are_well_again() {
    let write = |before: &[Condition], batch: Finding| {
        let findings = Findings {
            batch: Some(batch),
            ..findings()
        };
        conditions(before, findings.conditions(), Some(1), at(100))
    };
    let good = |reason| Finding::good(reason, "good");
    let bad = |reason| Finding::bad(reason, "bad");
    let reason = |before: &[Condition], now: &[Condition]| {
        changed_batch(before, now).map(|batch| batch.reason.clone())
    };
    let scheduled = write(&[], good(reasons::SCHEDULED));
    assert_eq!(reason(&[], &scheduled), None);
    let running = write(&scheduled, good(reasons::RUNNING));
    assert_eq!(reason(&scheduled, &running), None);
    let failed = write(&running, bad(reasons::RUN_FAILED));
    assert_eq!(
        reason(&running, &failed).as_deref(),
        Some(reasons::RUN_FAILED)
    );
    assert_eq!(reason(&failed, &failed), None);
    let stuck = write(&failed, bad(reasons::UNSCHEDULABLE));
    assert_eq!(
        reason(&failed, &stuck).as_deref(),
        Some(reasons::UNSCHEDULABLE)
    );
    assert_eq!(
        reason(&stuck, &scheduled).as_deref(),
        Some(reasons::SCHEDULED)
    );
    let missing = write(&scheduled, bad(reasons::SECRET_MISSING));
    assert_eq!(
        reason(&scheduled, &missing),
        None,
        "the event of Ready says it"
    );
}

#[test]
fn a_suspended_pipeline_is_ready_without_its_broker() {
    let away = Findings {
        topics: Finding::bad(reasons::BROKER_UNREACHABLE, "away"),
        ..findings()
    };
    let suspension = |finding| Findings {
        suspension: Some(finding),
        ..away.clone()
    };
    let suspended = suspension(Finding::good(reasons::SUSPENDED, "resume")).conditions();
    assert_eq!(
        suspended[0],
        (
            condition_types::READY,
            Finding::good(reasons::SUSPENDED, "resume")
        )
    );
    assert_eq!(suspended[1].0, condition_types::SUSPENDED);
    let draining = suspension(Finding::bad(reasons::DRAINING, "reads on")).conditions();
    assert_eq!(
        draining[0].1,
        Finding::bad(reasons::DRAINING, "suspension: reads on")
    );
    assert!(!away.conditions()[0].1.ok);
}

#[test]
fn transition_times_move_with_the_status_alone() {
    let first = conditions(&[], findings().conditions(), Some(1), at(100));
    assert!(
        first
            .iter()
            .all(|c| c.last_transition_time == Time(at(100)))
    );

    let again = conditions(&first, findings().conditions(), Some(1), at(200));
    assert_eq!(again, first, "the same findings give the same conditions");

    let other_words = Findings {
        ingest: Some(Finding::good(reasons::AVAILABLE, "still fine")),
        ..findings()
    };
    let reworded = conditions(&first, other_words.conditions(), Some(2), at(200));
    assert!(
        reworded
            .iter()
            .all(|c| c.last_transition_time == Time(at(100)) && c.observed_generation == Some(2))
    );

    let worse = Findings {
        ingest: Some(Finding::bad(reasons::CRASHING, "crash")),
        ..findings()
    };
    let fallen = conditions(&first, worse.conditions(), Some(1), at(300));
    for condition in &fallen {
        let moved = matches!(
            condition.type_.as_str(),
            "Ready" | "Reconciling" | "IngestReady"
        );
        assert_eq!(
            condition.last_transition_time,
            Time(at(if moved { 300 } else { 100 })),
            "{}",
            condition.type_
        );
    }
}

#[test]
fn a_removed_annotation_is_reported_and_changes_no_other_condition() {
    let asked = Findings {
        annotations: Some(Finding::bad(reasons::ANNOTATION_REMOVED, "no use")),
        ..findings()
    };
    let conditions = asked.conditions();
    assert_eq!(
        conditions[0].1,
        Finding::bad(reasons::ANNOTATION_REMOVED, "annotation: no use")
    );
    assert!(conditions.len() == 5 && conditions[1..].iter().all(|(_, finding)| finding.ok));
}

/// A reason of `Ready` → the condition that goes with it.
#[test]
fn a_pipeline_that_is_not_ready_is_reconciling_or_stalled_and_a_ready_one_is_neither() {
    for (finding, expected) in [
        (good(), None),
        (Finding::good(reasons::SUSPENDED, ""), None),
        (
            Finding::bad(reasons::PROGRESSING, "0 of 1"),
            Some(condition_types::RECONCILING),
        ),
        (
            Finding::bad(reasons::BROKER_UNREACHABLE, "away"),
            Some(condition_types::RECONCILING),
        ),
        (
            Finding::bad(reasons::INVALID_SPEC, "no"),
            Some(condition_types::STALLED),
        ),
        (
            Finding::bad(reasons::TOPIC_MISSING, "gone"),
            Some(condition_types::STALLED),
        ),
        (
            Finding::bad(reasons::TOPIC_CONFLICT, "another's"),
            Some(condition_types::STALLED),
        ),
    ] {
        let found = summary(finding.clone());
        assert_eq!(found[0], (condition_types::READY, finding.clone()));
        let expected = expected.map(|type_| {
            (
                type_,
                Finding {
                    ok: true,
                    ..finding
                },
            )
        });
        assert_eq!(found.get(1), expected.as_ref());
        assert!(found.iter().all(|(type_, _)| SUMMARY.contains(type_)));
    }
}

#[test]
fn ready_counts_as_changed_when_its_status_or_reason_changes() {
    let write = |before: &[Condition], ingest: Finding| {
        let ingest = Some(ingest);
        conditions(
            before,
            Findings {
                ingest,
                ..findings()
            }
            .conditions(),
            Some(1),
            at(100),
        )
    };
    let progress = |message: &str| Finding::bad(reasons::PROGRESSING, message);
    let first = write(&[], progress("0 of 2"));
    assert_eq!(
        changed_ready(&[], &first).map(|ready| ready.reason.as_str()),
        Some(reasons::PROGRESSING)
    );
    let more = write(&first, progress("1 of 2"));
    assert_eq!(changed_ready(&first, &more), None, "other words");
    let crashed = write(&more, Finding::bad(reasons::CRASHING, "no url"));
    assert!(changed_ready(&more, &crashed).is_some(), "another reason");
    assert!(
        changed_ready(&crashed, &write(&crashed, good())).is_some(),
        "another status"
    );
}

#[test]
fn a_sentence_of_a_worker_is_written_once_while_only_its_numbers_move() {
    let stopped = |message: &str| Findings {
        stream: Some(Finding::bad(reasons::OFFSET_OUT_OF_RANGE, message)),
        ..findings()
    };
    let first = conditions(
        &[],
        stopped("position 5 of t[0], the log holds 9 to 99").conditions(),
        Some(1),
        at(100),
    );
    let moved = stopped("position 5 of t[0], the log holds 10 to 1204").conditions();
    assert_eq!(conditions(&first, moved, Some(1), at(200)), first);
    for other in [
        "position 5 of u[0], the log holds 9 to 99",
        "position 5 of t[1], the log holds 9 to 99",
        "position 5 of t1[0], the log holds 9 to 99",
        "position 5 of t[0], the log holds 9 to 99 MiB",
    ] {
        let moved = conditions(&first, stopped(other).conditions(), Some(1), at(200));
        assert_ne!(moved, first, "{other}");
    }
    // The numbers of another reason are what changed.
    let progress = |message: &str| Findings {
        ingest: Some(Finding::bad(reasons::PROGRESSING, message)),
        ..findings()
    };
    let first = conditions(&[], progress("0 of 2 pods").conditions(), Some(1), at(100));
    assert_ne!(
        conditions(
            &first,
            progress("1 of 2 pods").conditions(),
            Some(1),
            at(100)
        ),
        first
    );
}

#[test]
fn a_part_that_was_removed_loses_its_condition() {
    let first = conditions(&[], findings().conditions(), Some(1), at(100));
    let without = Findings {
        stream: None,
        ..findings()
    };
    let then = conditions(&first, without.conditions(), Some(2), at(200));
    assert!(then.iter().all(|c| c.type_ != "StreamReady"));
}

#[test]
fn every_reason_is_documented() {
    let page = include_str!("../../../docs/reference/conditions.md");
    let (mut documented, mut stalled) = (BTreeSet::new(), BTreeSet::new());
    for row in page.lines().filter_map(|line| line.strip_prefix("| ")) {
        // The first column lists reasons, or in another table conditions, separated by commas.
        let first = row.split(" | ").next().unwrap_or_default();
        for entry in first.split(", ") {
            let marked = entry.strip_suffix("\\*");
            let name = marked.unwrap_or(entry).trim_matches('`');
            documented.insert(name);
            stalled.extend(marked.map(|_| name));
        }
    }
    let constants = include_str!("../../../crds/src/reasons.rs")
        .lines()
        .filter_map(|line| line.strip_prefix("pub const ")?.split('"').nth(1));
    let missing: Vec<_> = constants
        .filter(|reason| !documented.contains(reason))
        .collect();
    assert_eq!(missing, [""; 0], "not in a table of the page");
    assert_eq!(
        stalled,
        BTreeSet::from(reasons::STALLED),
        "marked on the page"
    );
}

#[test]
fn long_messages_are_cut_between_characters() {
    assert!(shorten(&"ü".repeat(2000)).len() <= 1024);
    assert_eq!(shorten("short"), "short");
}

#[test]
fn the_first_answer_of_a_registry_stays_while_the_image_is_the_same() {
    let written = |before: &[Condition], message: &str| {
        let ingest = Some(Finding::bad(reasons::IMAGE_NOT_PULLABLE, message));
        let findings = Findings {
            ingest,
            ..findings()
        }
        .conditions();
        conditions(before, findings, Some(1), at(100))
    };
    let first = written(&[], "the image r/i:1 can't be pulled: check spec.image");
    let answered = written(
        &first,
        "the image r/i:1 can't be pulled (read udp 10.0.0.1:531): check",
    );
    assert_ne!(answered, first, "an answer is added");
    let again = "the image r/i:1 can't be pulled (read udp 10.0.0.1:9): check";
    assert_eq!(written(&answered, again), answered);
    let other = "the image r/i:2 can't be pulled (read udp 10.0.0.1:9): check";
    assert_ne!(written(&answered, other), answered);
}

/// Causes of an earlier and a later attempt to reach the brokers → whether the sentence changes.
#[test]
fn the_cause_of_an_outage_stays_while_an_attempt_finds_no_other() {
    let (refused, dns) = (
        "Connect failed: Connection refused",
        "Failed to resolve 'k:9092': Name or service not known",
    );
    let (slow, ended) = (
        "Connection setup timed out in state CONNECT",
        "Disconnected",
    );
    let written = |before: &[Condition], servers: &str, cause: Option<&str>| {
        let error = pinpipe_runtime::kafka::Unreachable {
            bootstrap_servers: servers.to_owned(),
            cause: cause.map(ToOwned::to_owned),
        };
        let findings = Findings {
            topics: Finding::bad(reasons::BROKER_UNREACHABLE, error.to_string()),
            archive: Some(Finding::bad(reasons::PROGRESSING, "0 of 1 pods")),
            ..findings()
        };
        conditions(before, findings.conditions(), Some(1), at(100))
    };
    for (earlier, later, changes) in [
        (Some(refused), None, false),
        (Some(refused), Some(refused), false),
        (Some(refused), Some(dns), true),
        (Some(refused), Some(slow), false),
        (None, Some(slow), false),
        (Some(slow), None, false),
        (Some(slow), Some(ended), false),
        (Some(slow), Some(refused), true),
        (None, Some(refused), true),
    ] {
        let first = written(&[], "k:9092", earlier);
        let then = written(&first, "k:9092", later);
        assert_eq!(then != first, changes, "{earlier:?} {later:?}");
        if changes {
            assert_eq!(then, written(&[], "k:9092", later));
        }
        assert_ne!(written(&first, "other:9092", later), first);
    }
}
