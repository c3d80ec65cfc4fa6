use super::*;

pub(super) fn user(fields: &str) -> (User<'static>, Vec<(&'static str, &'static str)>) {
    let json = format!(r#"{{"ind": 1, {fields}}}"#).leak();
    let cleaned = cleaned(Kind::User, json);
    let repairs = repairs(&cleaned);
    let Record::User(user) = cleaned.record else {
        panic!("{json} gave {cleaned:?}")
    };
    (user, repairs)
}

#[test]
fn user_names_join_the_names_that_are_present() {
    for (fields, name, repair) in [
        (
            r#""first_name": " Abigail ", "last_name": "Ali\u0000""#,
            Some("Abigail Ali"),
            None,
        ),
        (r#""first_name": "Abigail""#, Some("Abigail"), None),
        (
            r#""last_name": "Ali", "first_name": " ""#,
            Some("Ali"),
            None,
        ),
        (r#""last_name": null"#, None, None),
        (
            r#""first_name": 7, "last_name": true"#,
            Some("7 true"),
            None,
        ),
        (
            r#""first_name": {}, "last_name": "Ali""#,
            Some("Ali"),
            Some("first_name"),
        ),
        (
            r#""first_name": "Abigail", "last_name": "\udfff""#,
            Some("Abigail"),
            Some("last_name"),
        ),
    ] {
        let (user, repairs) = user(fields);
        let expected: Vec<_> = repair
            .map(|field| (field, "unreadable"))
            .into_iter()
            .collect();
        assert_eq!(
            (user.user_name.as_deref(), repairs),
            (name, expected),
            "{fields}"
        );
    }
}

#[test]
fn ages() {
    for (value, age, repair) in [
        ("0", Some(0), None),
        ("150", Some(150), None),
        (r#""20.0""#, Some(20), None),
        ("null", None, None),
        ("200", None, Some("out-of-range")),
        ("-1", None, Some("out-of-range")),
        ("20.5", None, Some("unreadable")),
        ("2e1", None, Some("unreadable")),
        ("true", None, Some("unreadable")),
        (r#""twenty""#, None, Some("unreadable")),
    ] {
        let (user, repairs) = user(&format!(r#""age": {value}"#));
        let expected: Vec<_> = repair.map(|reason| ("age", reason)).into_iter().collect();
        assert_eq!((user.age, repairs), (age, expected), "{value}");
    }
}
