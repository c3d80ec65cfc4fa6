use super::{user::user, *};

fn geo(fields: &str) -> (Geo<'static>, Vec<(&'static str, &'static str)>) {
    let json = format!(r#"{{"ind": 1, {fields}}}"#).leak();
    let cleaned = cleaned(Kind::Geo, json);
    let repairs = repairs(&cleaned);
    let Record::Geo(geo) = cleaned.record else {
        panic!("{json} gave {cleaned:?}")
    };
    (geo, repairs)
}

#[test]
fn coordinates_are_both_or_none() {
    let lat = |reason| vec![("latitude", reason)];
    let lon = |reason| vec![("longitude", reason)];
    for (fields, coordinates, repaired) in [
        (
            r#""latitude": 90, "longitude": -180"#,
            Some([90.0, -180.0]),
            vec![],
        ),
        (
            r#""latitude": " -1.5 ", "longitude": "2e1""#,
            Some([-1.5, 20.0]),
            vec![],
        ),
        (r#""latitude": 1"#, None, vec![]),
        (r#""longitude": 1, "latitude": null"#, None, vec![]),
        (r#""longitude": 1, "latitude": """#, None, vec![]),
        (r#""x": 0"#, None, vec![]),
        (
            r#""latitude": 90.1, "longitude": 0"#,
            None,
            lat("out-of-range"),
        ),
        (
            r#""latitude": 0, "longitude": -180.1"#,
            None,
            lon("out-of-range"),
        ),
        (
            r#""latitude": null, "longitude": 200"#,
            None,
            lon("out-of-range"),
        ),
        (
            r#""latitude": 1e400, "longitude": 0"#,
            None,
            lat("out-of-range"),
        ),
        (
            r#""latitude": "north", "longitude": 0"#,
            None,
            lat("unreadable"),
        ),
        (
            r#""latitude": 0, "longitude": true"#,
            None,
            lon("unreadable"),
        ),
        (
            r#""latitude": [1], "longitude": 0"#,
            None,
            lat("unreadable"),
        ),
        (
            r#""latitude": 91, "longitude": "x""#,
            None,
            vec![("latitude", "out-of-range"), ("longitude", "unreadable")],
        ),
    ] {
        let (geo, repairs) = geo(fields);
        assert_eq!(
            (geo.coordinates, repairs),
            (coordinates, repaired),
            "{fields}"
        );
    }
}

#[test]
fn timestamps() {
    for (value, micros, repair) in [
        (
            r#""2020-08-28 03:52:47""#,
            Some(1_598_586_767_000_000),
            None,
        ),
        (
            r#"" 2020-08-28T09:22:47.5+05:30 ""#,
            Some(1_598_586_767_500_000),
            None,
        ),
        ("null", None, None),
        (r#""""#, None, None),
        (r#""yesterday""#, None, Some("unreadable")),
        (r#""2020-08-28""#, None, Some("unreadable")),
        ("1598586767", None, Some("unreadable")),
        ("{}", None, Some("unreadable")),
    ] {
        let expected = |field| {
            repair
                .map(|reason| (field, reason))
                .into_iter()
                .collect::<Vec<_>>()
        };
        let (geo, repairs) = geo(&format!(r#""timestamp": {value}"#));
        assert_eq!(
            (geo.timestamp, repairs),
            (micros, expected("timestamp")),
            "{value}"
        );
        let (user, repairs) = user(&format!(r#""date_joined": {value}"#));
        assert_eq!(
            (user.date_joined, repairs),
            (micros, expected("date_joined")),
            "{value}"
        );
    }
}
