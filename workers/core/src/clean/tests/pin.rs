use super::*;

fn pin(fields: &str) -> (Pin<'static>, Vec<(&'static str, &'static str)>) {
    let json = format!(r#"{{"unique_id": "u", "index": 1, {fields}}}"#).leak();
    let cleaned = cleaned(Kind::Pin, json);
    let repairs = repairs(&cleaned);
    let Record::Pin(pin) = cleaned.record else {
        panic!("{json} gave {cleaned:?}")
    };
    (pin, repairs)
}

#[test]
fn placeholder_texts_are_missing_only_in_their_own_field() {
    type Text = fn(Pin<'static>) -> Option<std::borrow::Cow<'static, str>>;
    let fields: [(&str, Text, &[&str]); 6] = [
        ("title", |pin| pin.title, &["No Title Data Available"]),
        (
            "description",
            |pin| pin.description,
            &[
                "No description available",
                "No description available Story format",
            ],
        ),
        ("poster_name", |pin| pin.poster_name, &["User Info Error"]),
        (
            "tag_list",
            |pin| pin.tag_list,
            &["N,o, ,T,a,g,s, ,A,v,a,i,l,a,b,l,e"],
        ),
        ("image_src", |pin| pin.image_src, &["Image src error."]),
        ("category", |pin| pin.category, &[]),
    ];
    let all: Vec<&str> = fields.iter().flat_map(|field| field.2).copied().collect();
    for (field, value, missing) in fields {
        for text in &all {
            let (pin, repairs) = pin(&format!(r#""{field}": " {text}\u0000\n""#));
            let kept = (!missing.contains(text)).then_some(*text);
            assert_eq!(
                (value(pin).as_deref(), repairs),
                (kept, vec![]),
                "{field}: {text}"
            );
        }
        for text in [
            "No title data available",
            "User info error",
            "N,o",
            "user info error",
        ] {
            assert_eq!(
                value(pin(&format!(r#""{field}": "{text}""#)).0).as_deref(),
                Some(text),
                "{field}: {text}"
            );
        }
        for missing in ["null", r#""""#, r#"" \t""#, r#""\u0000""#] {
            let (pin, repairs) = pin(&format!(r#""{field}": {missing}"#));
            assert_eq!((value(pin), repairs), (None, vec![]), "{field}: {missing}");
        }
    }
    assert_eq!(pin(r#""x": 0"#).1, []);
}

#[test]
fn texts_may_be_numbers_or_booleans_but_not_arrays_or_objects() {
    for (value, text, repair) in [
        ("12.50", Some("12.50"), None),
        ("1e3", Some("1e3"), None),
        ("true", Some("true"), None),
        (r#""a\u0000b\u00e9""#, Some("abé"), None),
        ("[]", None, Some("unreadable")),
        (r#"{"a": "b"}"#, None, Some("unreadable")),
        (r#""a\ud800""#, None, Some("unreadable")),
    ] {
        let (pin, repairs) = pin(&format!(r#""title": {value}"#));
        let expected: Vec<_> = repair.map(|reason| ("title", reason)).into_iter().collect();
        assert_eq!((pin.title.as_deref(), repairs), (text, expected), "{value}");
    }
}

#[test]
fn follower_counts() {
    for (value, count, repair) in [
        (r#""124k""#, Some(124_000), None),
        (r#"" 1.2M ""#, Some(1_200_000), None),
        (r#""1,234""#, Some(1_234), None),
        ("512", Some(512), None),
        ("512.9", Some(512), None),
        (r#""User Info Error""#, None, None),
        ("null", None, None),
        (r#""lots""#, None, Some("unreadable")),
        ("5.12e2", None, Some("unreadable")),
        ("true", None, Some("unreadable")),
        ("[1]", None, Some("unreadable")),
        ("-5", None, Some("out-of-range")),
        ("9223372036854775808", None, Some("out-of-range")),
    ] {
        let (pin, repairs) = pin(&format!(r#""follower_count": {value}"#));
        let expected: Vec<_> = repair
            .map(|reason| ("follower_count", reason))
            .into_iter()
            .collect();
        assert_eq!((pin.follower_count, repairs), (count, expected), "{value}");
    }
}

#[test]
fn downloaded_is_0_or_1() {
    for (value, downloaded, repair) in [
        ("0", Some(0), None),
        ("1", Some(1), None),
        ("1.0", Some(1), None),
        (r#"" 1 ""#, Some(1), None),
        ("true", Some(1), None),
        ("false", Some(0), None),
        ("null", None, None),
        (r#""""#, None, None),
        ("2", None, Some("out-of-range")),
        ("-1", None, Some("out-of-range")),
        ("99999999999999999999", None, Some("out-of-range")),
        ("1e0", None, Some("unreadable")),
        (r#""true""#, None, Some("unreadable")),
        (r#""yes""#, None, Some("unreadable")),
        ("[1]", None, Some("unreadable")),
    ] {
        let (pin, repairs) = pin(&format!(r#""downloaded": {value}"#));
        let expected: Vec<_> = repair
            .map(|reason| ("downloaded", reason))
            .into_iter()
            .collect();
        assert_eq!((pin.downloaded, repairs), (downloaded, expected), "{value}");
    }
}

#[test]
fn save_locations_lose_their_prefix() {
    for (text, path) in [
        (
            "Local save in /data/mens-fashion",
            Some("/data/mens-fashion"),
        ),
        (
            r" Local save in \t\u2003/data/mens fashion ",
            Some("/data/mens fashion"),
        ),
        ("Local save in/data", Some("/data")),
        ("Local save in", None),
        ("Local save in ", None),
        (r"Local save\u0020in \u0000", None),
        ("/data", Some("/data")),
        (r"\/data", Some("/data")),
        ("local save in /data", Some("local save in /data")),
        (
            "kept: Local save in /data",
            Some("kept: Local save in /data"),
        ),
    ] {
        let (pin, repairs) = pin(&format!(r#""save_location": "{text}""#));
        assert_eq!(
            (pin.save_location.as_deref(), repairs),
            (path, vec![]),
            "{text}"
        );
    }
}
