//! One record: its kind, its clean values, and what became of each raw field.

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;
use pinpipe_core::{
    Geo, Kind, Pin, Record, Rejection, RepairReason, Repairs, User, clean, columns::columns,
};
use serde::Serialize;
use serde_json::{Value, json, value::RawValue};

/// What becomes of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    /// Every field was read or is missing.
    Clean,
    /// A value was made null.
    Repaired,
    /// It goes to the dead letters.
    Rejected,
}

/// A record and what becomes of it.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Examined {
    /// Where it stands: file, and number in the file.
    pub(super) at: String,
    /// Its kind. None: it is rejected whatever its kind is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) kind: Option<Kind>,
    #[serde(rename = "outcome")]
    pub(super) verdict: Verdict,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rejection: Option<Rejected>,
    /// The clean columns.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) fields: Vec<Field>,
    /// Names of raw fields that no column is made from.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) ignored: Vec<String>,
}

/// Why a record is rejected.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Rejected {
    /// The reason as in headers of dead letters, metrics and answers of ingest.
    pub(super) reason: &'static str,
    /// The reason for people, and what to do.
    pub(super) message: String,
    /// The key field concerned.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'static str>,
}

/// A clean column.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Field {
    pub(super) column: &'static str,
    /// JSON text of the raw fields that it is made from, by name.
    pub(super) raw: BTreeMap<&'static str, String>,
    pub(super) clean: Value,
    pub(super) change: Change,
    /// Why the value is null.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) because: String,
}

/// How a clean value differs from the raw one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Change {
    /// Not at all.
    None,
    /// It means the same in another form.
    Cleaned,
    /// There is no value, or one that stands for none.
    Missing,
    /// It was made null, which is counted.
    Repaired,
}

/// Raw fields by name, the last where a name is repeated.
type Raw = BTreeMap<String, Box<RawValue>>;

/// Cleans a record as the workers do. `kind` is told by its fields unless given.
pub(super) fn examine(
    raw: &[u8],
    kind: Option<Kind>,
    max_bytes: usize,
    at: String,
) -> Result<Examined, String> {
    let fields: Option<Raw> = serde_json::from_slice(raw).ok();
    let kind = match (kind, &fields) {
        (None, Some(fields)) => Some(kind_of(fields).map_err(|error| format!("{at}: {error}"))?),
        (kind, _) => kind,
    };
    let fields = fields.unwrap_or_default();
    // What isn't an object is rejected for the same reason whatever its kind is.
    Ok(match clean(kind.unwrap_or(Kind::Pin), raw, max_bytes) {
        Ok(cleaned) => {
            let kind = cleaned.record.kind();
            let verdict = if cleaned.repairs.is_empty() {
                Verdict::Clean
            } else {
                Verdict::Repaired
            };
            let known = |name: &str| columns(kind).iter().any(|it| sources(it).contains(&name));
            Examined {
                at,
                kind: Some(kind),
                verdict,
                rejection: None,
                fields: compare(&cleaned.record, cleaned.repairs, &fields),
                ignored: fields.keys().filter(|name| !known(name)).cloned().collect(),
            }
        }
        Err(rejection) => Examined {
            at,
            kind,
            verdict: Verdict::Rejected,
            rejection: Some(rejected(rejection)),
            fields: Vec::new(),
            ignored: Vec::new(),
        },
    })
}

fn rejected(rejection: Rejection) -> Rejected {
    Rejected {
        reason: rejection.reason(),
        message: rejection.to_string(),
        field: rejection.field(),
    }
}

/// The kind that has these fields.
fn kind_of(fields: &Raw) -> Result<Kind, &'static str> {
    let has = |kind| {
        let own = columns(kind).iter().flat_map(|column| sources(column));
        // These are in every kind.
        let mut own = own.filter(|name| !["index", "ind"].contains(name));
        own.any(|name| fields.contains_key(*name))
    };
    let kinds: Vec<Kind> = Kind::ALL.into_iter().filter(|kind| has(*kind)).collect();
    match kinds.as_slice() {
        [kind] => Ok(*kind),
        [] => Err("the fields don't tell the record's kind: set --kind to pin, geo or user"),
        _ => Err("the fields are those of several kinds: set --kind to pin, geo or user"),
    }
}

/// Raw fields that a column is made from; the first that has a value counts, or all together.
fn sources(column: &'static str) -> &'static [&'static str] {
    match column {
        "index_id" => &["index", "ind"],
        "ind" => &["ind", "index"],
        "coordinates" => &["latitude", "longitude"],
        "user_name" => &["first_name", "last_name"],
        "unique_id" => &["unique_id"],
        "title" => &["title"],
        "category" => &["category"],
        "description" => &["description"],
        "poster_name" => &["poster_name"],
        "follower_count" => &["follower_count"],
        "tag_list" => &["tag_list"],
        "is_image_or_video" => &["is_image_or_video"],
        "image_src" => &["image_src"],
        "downloaded" => &["downloaded"],
        "save_location" => &["save_location"],
        "country" => &["country"],
        "timestamp" => &["timestamp"],
        "age" => &["age"],
        "date_joined" => &["date_joined"],
        _ => &[],
    }
}

fn compare(record: &Record<'_>, repairs: Repairs, raw: &Raw) -> Vec<Field> {
    let columns = columns(record.kind()).iter().copied();
    let fields = columns.zip(values(record)).map(|(column, clean)| {
        let raw: BTreeMap<&str, String> = sources(column)
            .iter()
            .filter_map(|name| Some((*name, raw.get(*name)?.get().to_owned())))
            .collect();
        let (change, because) = change(column, &raw, &clean, repairs);
        Field {
            column,
            raw,
            clean,
            change,
            because,
        }
    });
    fields.collect()
}

fn change(
    column: &'static str,
    raw: &BTreeMap<&'static str, String>,
    clean: &Value,
    repairs: Repairs,
) -> (Change, String) {
    let made_null: Vec<String> = repairs
        .iter()
        .filter(|repair| sources(column).contains(&repair.field))
        .map(|repair| {
            let why = match repair.reason {
                RepairReason::Unreadable => "can't be read as this field's type",
                RepairReason::OutOfRange => "is outside the field's bounds",
            };
            format!("{}: {} {why}", repair.reason.as_str(), repair.field)
        })
        .collect();
    if !made_null.is_empty() {
        return (Change::Repaired, made_null.join("; "));
    }
    if clean.is_null() {
        let because = match raw.len() {
            0 => "",
            1 if column == "coordinates" => "one of latitude and longitude is missing",
            _ if raw.values().all(|value| value == "null") => "",
            _ => "the value stands for a missing one",
        };
        return (Change::Missing, because.to_owned());
    }
    let same = raw
        .values()
        .any(|raw| serde_json::from_str(raw).ok().as_ref() == Some(clean));
    let change = if same && (raw.len() == 1 || column.starts_with("ind")) {
        Change::None
    } else {
        Change::Cleaned
    };
    (change, String::new())
}

/// Values in the order of the columns.
fn values(record: &Record<'_>) -> Vec<Value> {
    match record {
        Record::Pin(Pin {
            unique_id,
            index_id,
            title,
            category,
            description,
            poster_name,
            follower_count,
            tag_list,
            is_image_or_video,
            image_src,
            downloaded,
            save_location,
        }) => vec![
            json!(unique_id),
            json!(index_id),
            json!(title),
            json!(category),
            json!(description),
            json!(poster_name),
            json!(follower_count),
            json!(tag_list),
            json!(is_image_or_video),
            json!(image_src),
            json!(downloaded),
            json!(save_location),
        ],
        Record::Geo(Geo {
            ind,
            country,
            coordinates,
            timestamp,
        }) => vec![
            json!(ind),
            json!(country),
            json!(coordinates),
            json!(timestamp.map(time)),
        ],
        Record::User(User {
            ind,
            user_name,
            age,
            date_joined,
        }) => vec![
            json!(ind),
            json!(user_name),
            json!(age),
            json!(date_joined.map(time)),
        ],
    }
}

/// Microseconds since the epoch as text (RFC 3339), in UTC.
fn time(microseconds: i64) -> String {
    Timestamp::from_microsecond(microseconds)
        .map_or_else(|_| format!("{microseconds} µs"), |time| time.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn examined(raw: &str) -> Examined {
        examine(raw.as_bytes(), None, 65_536, "f:1".to_owned()).unwrap()
    }

    #[test]
    fn every_column_has_sources() {
        for kind in Kind::ALL {
            for column in columns(kind) {
                assert!(!sources(column).is_empty(), "{column}");
            }
        }
    }

    #[test]
    fn every_field_says_what_became_of_it() {
        let raw = r#"{"ind": "7528 ", "first_name": " Ann", "last_name": "Ali", "age": 200,
            "date_joined": "yesterday", "pet": "cat"}"#;
        let user = examined(raw);
        assert_eq!(
            (user.kind, user.verdict),
            (Some(Kind::User), Verdict::Repaired)
        );
        assert_eq!(user.ignored, ["pet"]);
        let told: Vec<_> = user
            .fields
            .iter()
            .map(|field| {
                (
                    field.column,
                    field.clean.to_string(),
                    field.change,
                    &*field.because,
                )
            })
            .collect();
        let text = str::to_owned;
        assert_eq!(
            told,
            [
                ("ind", text("7528"), Change::Cleaned, ""),
                ("user_name", text("\"Ann Ali\""), Change::Cleaned, ""),
                (
                    "age",
                    text("null"),
                    Change::Repaired,
                    "out-of-range: age is outside the field's bounds"
                ),
                (
                    "date_joined",
                    text("null"),
                    Change::Repaired,
                    "unreadable: date_joined can't be read as this field's type"
                ),
            ]
        );
        assert_eq!(user.fields[0].raw["ind"], "\"7528 \"");
    }

    #[test]
    fn a_missing_value_and_an_unchanged_one_are_no_repairs() {
        let geo = examined(
            r#"{"ind": 1, "latitude": 1.5, "country": "Chad", "timestamp": "2020-08-28 03:52:47"}"#,
        );
        assert_eq!(geo.verdict, Verdict::Clean);
        let told: Vec<_> = geo
            .fields
            .iter()
            .map(|field| (field.clean.clone(), field.change))
            .collect();
        assert_eq!(
            told,
            [
                (json!(1), Change::None),
                (json!("Chad"), Change::None),
                (Value::Null, Change::Missing),
                (json!("2020-08-28T03:52:47Z"), Change::Cleaned),
            ]
        );
        let pin = examined(r#"{"unique_id": "a", "ind": 3, "title": "No Title Data Available"}"#);
        let title = &pin.fields[2];
        assert_eq!(title.change, Change::Missing);
        assert_eq!(title.because, "the value stands for a missing one");
    }

    #[test]
    fn rejections_have_the_workers_words() {
        for (raw, reason, kind) in [
            ("{\"age\": 1}", "key-missing", Some(Kind::User)),
            ("nothing", "not-json", None),
            ("7", "not-an-object", None),
        ] {
            let record = examined(raw);
            let rejection = record.rejection.unwrap();
            assert_eq!((record.kind, rejection.reason), (kind, reason));
            let same = clean(Kind::User, raw.as_bytes(), 65_536).unwrap_err();
            assert_eq!(rejection.message, same.to_string());
        }
        let small = examine(b"{\"age\": 1}", None, 3, String::new()).unwrap();
        assert_eq!(small.rejection.unwrap().reason, "too-large");
    }

    #[test]
    fn the_kind_must_be_told_where_fields_don_t() {
        for raw in ["{\"ind\": 1}", "{\"age\": 1, \"country\": \"x\"}"] {
            let error = examine(raw.as_bytes(), None, 100, "f:1".to_owned()).unwrap_err();
            assert!(
                error.starts_with("f:1: ") && error.contains("--kind"),
                "{error}"
            );
        }
    }
}
