use pinpipe_core::{Kind, clean};

use super::{
    headers::{ORDER_OFFSET, ORDER_PARTITION, find},
    *,
};

const POSITION: Order = Order {
    time: 1000,
    partition: 2,
    offset: 40,
};

fn letter(kind: Kind, raw: &str, redriven: Option<Redriven>) -> DeadLetter {
    let verdict = Verdict::from(&clean(kind, raw.as_bytes(), 1000).unwrap_err());
    let id = DeadLetterId {
        topic_id: "AbC".into(),
        partition: POSITION.partition,
        offset: POSITION.offset,
        sink: None,
    };
    DeadLetter {
        id,
        cluster_id: "c".into(),
        topic: "n.p.geo".into(),
        time: POSITION.time,
        verdict,
        redriven,
    }
}

fn plain(entries: &[(&str, &str)]) -> OwnedHeaders {
    entries
        .iter()
        .fold(OwnedHeaders::new(), |headers, (name, value)| {
            put(headers, name, value)
        })
}

#[test]
fn a_dead_letter_round_trips() {
    let again = Redriven {
        order: Order {
            time: 7,
            partition: 0,
            offset: 3,
        },
        attempt: 2,
    };
    for (kind, raw, redriven, reasons, fields) in [
        (Kind::Geo, "no json", None, "not-json", None),
        (Kind::Geo, "{}", Some(again), "key-missing", Some("ind")),
    ] {
        let letter = letter(kind, raw, redriven);
        let headers = letter.headers(Some(b"k\xff"));
        assert_eq!(
            (text(&headers, REASON), text(&headers, FIELD)),
            (Some(reasons), fields)
        );
        assert_eq!(find(&headers, KEY), Some(&b"k\xff"[..]));
        assert_eq!(Entry::read(&headers), Ok(Entry::DeadLetter(letter)));
    }
}

#[test]
fn a_record_keeps_its_original_order_after_several_redrives() {
    let first = letter(Kind::Geo, "{}", None);
    assert_eq!((first.attempt(), first.order()), (1, POSITION));
    let later = Order {
        time: 5000,
        partition: 0,
        offset: 90,
    };
    let redriven = Redriven::read(&first.redrive_headers(), later).unwrap();
    assert_eq!(
        redriven,
        Some(Redriven {
            order: POSITION,
            attempt: 1
        })
    );
    let second = letter(Kind::Geo, "{}", redriven);
    assert_eq!((second.attempt(), second.order()), (2, POSITION));
    let redriven = Redriven::read(&second.redrive_headers(), later).unwrap();
    assert_eq!(
        redriven,
        Some(Redriven {
            order: POSITION,
            attempt: 2
        })
    );
}

#[test]
fn a_marker_has_the_id_of_its_dead_letter_and_the_name_of_the_redrive() {
    let letter = letter(Kind::Geo, "{}", None);
    for run in [None, Some("fixed")] {
        let mark = Entry::Mark {
            id: letter.id.clone(),
            run: run.map(str::to_owned),
        };
        assert_eq!(Entry::read(&letter.mark_headers(run)), Ok(mark));
    }
}

#[test]
fn dead_letters_of_earlier_releases_are_first_attempts() {
    let headers = plain(&[
        ("pinpipe.topic-id", "AbC"),
        ("pinpipe.partition", "2"),
        ("pinpipe.offset", "40"),
        ("pinpipe.timestamp", "1000"),
        ("pinpipe.reason", "not-json"),
    ]);
    let Ok(Entry::DeadLetter(letter)) = Entry::read(&headers) else {
        panic!()
    };
    assert_eq!(
        (letter.attempt(), letter.order(), letter.verdict.outcome),
        (1, POSITION, Outcome::Rejected)
    );
    assert_eq!(
        (&*letter.verdict.reason, letter.verdict.field),
        ("not-json", None)
    );
    assert_eq!(
        Entry::read(&plain(&[("pinpipe.topic-id", "AbC")])),
        Err(InvalidHeader(PARTITION))
    );
}

#[test]
fn an_order_needs_all_of_its_headers() {
    let whole = [
        (ORDER_TIME, "900"),
        (ORDER_PARTITION, "1"),
        (ORDER_OFFSET, "5"),
    ];
    let with = |at: usize, value| {
        let mut headers = whole;
        headers[at].1 = value;
        Redriven::read(&plain(&headers), POSITION)
    };
    let order = Order {
        time: 900,
        partition: 1,
        offset: 5,
    };
    assert_eq!(with(0, "900"), Ok(Some(Redriven { order, attempt: 1 })));
    assert_eq!(
        Redriven::read(&plain(&[("other", "1")]), POSITION),
        Ok(None)
    );
    for (at, value) in [(0, ""), (0, "1e3"), (1, "-1"), (1, "3000000000"), (2, "x")] {
        assert_eq!(with(at, value), Err(UnusableOrder::Unreadable), "{value}");
    }
    assert_eq!(
        Redriven::read(&plain(&whole[..2]), POSITION),
        Err(UnusableOrder::Unreadable)
    );
    assert_eq!(
        with(0, "1001"),
        Err(UnusableOrder::Later),
        "no later record could ever replace it"
    );
}
