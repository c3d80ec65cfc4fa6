//! The answers in which a record counts, by the state of the last run.

use std::collections::{BTreeMap, btree_map::Entry};

use pinpipe_config::inspect::{Place, PlaceKind, PlaceState};
use pinpipe_core::{Kind, questions::QUESTIONS};
use serde_json::Value;

use super::{
    Known, place,
    state::{Lake, Row, Wanted},
    unknown,
};

/// What a question needs of a pin and of what joins it. The rest takes no part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    Country,
    PostYear,
    Category,
    Poster,
    Followers,
    AgeGroup,
    JoinYear,
}

/// What each question needs, by name: see the questions' SQL.
fn needs(question: &str) -> &'static [Need] {
    use Need::{AgeGroup, Category, Country, Followers, JoinYear, PostYear, Poster};
    match question {
        "popular_category_by_country" => &[Country, Category],
        "popular_category_by_year" => &[PostYear, Category],
        "top_poster_by_country" => &[Country, Poster, Followers],
        "popular_category_by_age_group" => &[AgeGroup, Category],
        "median_followers_by_age_group" => &[AgeGroup, Followers],
        "median_followers_by_join_year" => &[JoinYear, Followers],
        USERS_ALONE => &[JoinYear],
        _ => &[JoinYear, AgeGroup, Followers],
    }
}

/// The question that reads users alone.
const USERS_ALONE: &str = "users_joined_by_year";

/// Rows that join: any may be missing.
#[derive(Clone, Copy, Default)]
struct Joined<'a> {
    pin: Option<&'a Row>,
    geo: Option<&'a Row>,
    user: Option<&'a Row>,
}

impl Need {
    /// The value, or why there is none.
    fn of(self, rows: Joined<'_>) -> Result<String, String> {
        match self {
            Self::Country => text(rows.geo, Kind::Geo, "country"),
            Self::Category => text(rows.pin, Kind::Pin, "category"),
            Self::Poster => text(rows.pin, Kind::Pin, "poster_name"),
            Self::Followers => text(rows.pin, Kind::Pin, "follower_count"),
            Self::PostYear => year(rows.geo, Kind::Geo, "timestamp", 2018, 2022),
            Self::JoinYear => year(rows.user, Kind::User, "date_joined", 2015, 2020),
            Self::AgeGroup => {
                let age = text(rows.user, Kind::User, "age")?;
                let group = match age.parse() {
                    Ok(18..=24) => "18-24",
                    Ok(25..=35) => "25-35",
                    Ok(36..=50) => "36-50",
                    Ok(51..=i64::MAX) => "50+",
                    _ => return Err(format!("the user's age is {age}: no age group")),
                };
                Ok(format!("age_group {group}"))
            }
        }
        .map(|value| match self {
            Self::AgeGroup => value,
            Self::Country => format!("country {value}"),
            Self::Category => format!("category {value}"),
            Self::Poster => format!("poster_name {value}"),
            Self::Followers => format!("follower_count {value}"),
            Self::PostYear => format!("post_year {value}"),
            Self::JoinYear => format!("join_year {value}"),
        })
    }
}

/// A column of a row that may be missing.
fn text(row: Option<&Row>, kind: Kind, column: &str) -> Result<String, String> {
    let row = row.ok_or_else(|| format!("no {kind} record joins it"))?;
    match row.get(column) {
        Some(Value::String(text)) => Ok(text.clone()),
        None | Some(Value::Null) => Err(format!("{column} of the {kind} record is null")),
        Some(other) => Ok(other.to_string()),
    }
}

fn year(
    row: Option<&Row>,
    kind: Kind,
    column: &str,
    first: i32,
    last: i32,
) -> Result<String, String> {
    let time = text(row, kind, column)?;
    match time.get(..4).and_then(|year| year.parse::<i32>().ok()) {
        Some(year) if (first..=last).contains(&year) => Ok(year.to_string()),
        _ => Err(format!(
            "{column} of the {kind} record, {time}, is not of the years {first} to {last}"
        )),
    }
}

/// With what the rows count in the answer to a question, or why they don't. `kind` is that of the
/// record that is traced.
fn counts(question: &str, kind: Kind, rows: Joined<'_>) -> Result<String, String> {
    if question == USERS_ALONE {
        if kind != Kind::User {
            return Err("it reads users alone".to_owned());
        }
    } else if rows.pin.is_none() {
        return Err("no pin joins it".to_owned());
    }
    let values = needs(question).iter().map(|need| need.of(rows));
    Ok(values.collect::<Result<Vec<_>, _>>()?.join(", "))
}

/// The eight answers as places of the record.
pub async fn places(known: &Known<'_>, lake: &Lake<'_>) -> Vec<Place> {
    let kind = known.target.kind;
    let combinations = match combinations(known, lake).await {
        Ok(combinations) => combinations,
        Err(error) => {
            let answers = QUESTIONS.iter();
            return answers
                .map(|question| unknown(PlaceKind::Answer, question.name, &error))
                .collect();
        }
    };
    let answers = QUESTIONS.iter().map(|question| {
        let joined = combinations.iter().map(|rows| rows.joined());
        let (state, note) = outcome(question.name, kind, joined, &lake.last.run);
        Place {
            note,
            ..place(PlaceKind::Answer, question.name, state)
        }
    });
    answers.collect()
}

/// Whether any of the combinations counts, and how.
fn outcome<'a>(
    question: &str,
    kind: Kind,
    combinations: impl Iterator<Item = Joined<'a>>,
    run: &str,
) -> (PlaceState, String) {
    let (mut how, mut why, mut times) = (None, None, 0_u64);
    for rows in combinations {
        match counts(question, kind, rows) {
            Ok(with) => {
                times += 1;
                how.get_or_insert(with);
            }
            Err(reason) => {
                why.get_or_insert(reason);
            }
        }
        // Users alone count once, however many pins they have.
        if question == USERS_ALONE {
            break;
        }
    }
    match (how, why) {
        (Some(how), _) if times > 1 => {
            let note = format!("counts {times} times, first with {how}");
            (PlaceState::Found, note)
        }
        (Some(how), _) => (PlaceState::Found, format!("counts with {how}")),
        (None, Some(why)) => (PlaceState::Absent, why),
        (None, None) => {
            let why = format!("the state of the run {run} has no such row");
            (PlaceState::Absent, why)
        }
    }
}

/// Rows that join.
#[derive(Clone, Default)]
struct Combination {
    pin: Option<Row>,
    geo: Option<Row>,
    user: Option<Row>,
}

impl Combination {
    const fn joined(&self) -> Joined<'_> {
        Joined {
            pin: self.pin.as_ref(),
            geo: self.geo.as_ref(),
            user: self.user.as_ref(),
        }
    }
}

/// Each pin that joins the traced rows, with its geo record and its user; without pins, those two.
async fn combinations(known: &Known<'_>, lake: &Lake<'_>) -> anyhow::Result<Vec<Combination>> {
    let kind = known.target.kind;
    if lake.rows.is_empty() {
        return Ok(Vec::new());
    }
    let pins = match (kind, known.target.number) {
        (Kind::Pin, _) => lake.rows.clone(),
        (_, Some(number)) => lake.read(Kind::Pin, &Wanted::Index(number)).await?,
        (_, None) => Vec::new(),
    };
    let (mut combinations, mut others) = (Vec::new(), BTreeMap::new());
    for pin in pins {
        let Some(number) = pin.get("index_id").and_then(Value::as_i64) else {
            continue;
        };
        // Most pins have the same number.
        let (geo, user) = match others.entry(number) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let keys = [number.to_string()];
                let geo = lake.read(Kind::Geo, &Wanted::Keys(&keys)).await?.pop();
                let user = lake.read(Kind::User, &Wanted::Keys(&keys)).await?.pop();
                new.insert((geo, user))
            }
        };
        combinations.push(Combination {
            pin: Some(pin),
            geo: geo.clone(),
            user: user.clone(),
        });
    }
    if combinations.is_empty() {
        combinations.push(Combination {
            pin: None,
            geo: lake.rows.first().filter(|_| kind == Kind::Geo).cloned(),
            user: lake.rows.first().filter(|_| kind == Kind::User).cloned(),
        });
    }
    Ok(combinations)
}

#[cfg(test)]
mod tests {
    use pinpipe_core::{Record, clean};

    use super::*;
    use crate::{
        answers::answer_all,
        columns::TableBuilder,
        inspect::form,
        join::{JoinInputs, join},
        testing::TestDir,
    };

    fn batch(kind: Kind, raw: &str) -> arrow::array::RecordBatch {
        let mut table = TableBuilder::new(kind);
        let record: Record<'_> = clean(kind, raw.as_bytes(), 1000).unwrap().record;
        table.push(&record);
        table.finish().unwrap()
    }

    /// The questions whose answers have rows, of these records alone.
    async fn answered(records: &[(Kind, String)]) -> Vec<&'static str> {
        let folder = TestDir::new();
        let inputs = JoinInputs::new(folder.path(), 8, 1000);
        for (kind, raw) in records {
            inputs.push(*kind, &batch(*kind, raw)).unwrap();
        }
        let rows = join(inputs.finish().unwrap(), folder.file("joined.arrow")).unwrap();
        let answers = answer_all(&rows, folder.path(), 64 << 20).await.unwrap();
        let answers = answers.into_iter();
        let answered = answers.filter(|answer| answer.rows.num_rows() > 0);
        answered.map(|answer| answer.question.name).collect()
    }

    /// The questions in which these records count.
    fn counted(traced: Kind, records: &[(Kind, String)]) -> Vec<&'static str> {
        let row = |kind: Kind| {
            let found = records.iter().find(|(of, _)| *of == kind)?;
            Some(form::row(&batch(kind, &found.1), 0).unwrap())
        };
        let rows = Combination {
            pin: row(Kind::Pin),
            geo: row(Kind::Geo),
            user: row(Kind::User),
        };
        let counts = |question: &&str| counts(question, traced, rows.joined()).is_ok();
        let names = QUESTIONS.iter().map(|question| question.name);
        names.filter(counts).collect()
    }

    #[tokio::test]
    async fn a_record_counts_where_the_questions_sql_counts_it() {
        let pins = [
            r#""category": "art", "poster_name": "P", "follower_count": "1k""#,
            r#""category": "art", "poster_name": "User Info Error", "follower_count": "x""#,
            r#""poster_name": "P", "follower_count": "0""#,
        ];
        let geos = [
            r#""country": "Albania", "timestamp": "2018-01-01 00:00:00""#,
            r#""timestamp": "2022-12-31T23:59:59-00:01""#,
            r#""country": "Chad", "timestamp": "2017-12-31 23:59:59.999""#,
        ];
        let users = [
            r#""age": 18, "date_joined": "2015-01-01 00:00:00""#,
            r#""age": 17, "date_joined": "2020-12-31 23:59:59""#,
            r#""age": 51, "date_joined": "2021-01-01 00:00:00""#,
            r#""age": 151"#,
        ];
        for pin in pins {
            for geo in geos {
                for user in users {
                    let pin = format!(r#"{{"unique_id": "a", "index": 7, {pin}}}"#);
                    let records = [
                        (Kind::Pin, pin),
                        (Kind::Geo, format!(r#"{{"ind": 7, {geo}}}"#)),
                        (Kind::User, format!(r#"{{"ind": 7, {user}}}"#)),
                    ];
                    let answered = answered(&records).await;
                    assert_eq!(counted(Kind::User, &records), answered, "{records:?}");
                    // A user without a pin, and without a geo record.
                    let alone = &records[2..];
                    assert_eq!(counted(Kind::User, alone), self::answered(alone).await);
                }
            }
        }
    }

    #[test]
    fn what_takes_no_part_says_why() {
        let geo = form::row(&batch(Kind::Geo, r#"{"ind": 7, "country": ""}"#), 0).unwrap();
        let pin = r#"{"unique_id": "a", "index": 7, "category": "art"}"#;
        let pin = form::row(&batch(Kind::Pin, pin), 0).unwrap();
        let alone = Joined {
            geo: Some(&geo),
            ..Joined::default()
        };
        let both = Joined {
            pin: Some(&pin),
            ..alone
        };
        for (question, rows, why) in [
            ("popular_category_by_country", alone, "no pin joins it"),
            (
                "popular_category_by_country",
                both,
                "country of the geo record is null",
            ),
            ("users_joined_by_year", both, "it reads users alone"),
            (
                "popular_category_by_age_group",
                both,
                "no user record joins it",
            ),
        ] {
            assert_eq!(counts(question, Kind::Geo, rows), Err(why.to_owned()));
        }
    }
}
