//! The eight questions over a few rows each, through the files that a run uses.

use pinpipe_core::{Geo, Pin, Record, User};
use serde_json::{Value, json};

use super::*;
use crate::{
    cells::{self, Cell},
    columns::TableBuilder,
    join::{JoinInputs, Orphans, join},
    testing::{self, TestDir},
};

/// Memory limit of the queries, bytes.
const BUDGET: usize = 64 << 20;

/// Index, category, poster, followers.
type PinRow = (i64, Option<&'static str>, Option<&'static str>, Option<i64>);
/// Ind, country, time posted.
type GeoRow = (i64, Option<&'static str>, Option<&'static str>);
/// Ind, age, time joined.
type UserRow = (i64, Option<i64>, Option<&'static str>);

fn micros(time: &str) -> i64 {
    chrono::DateTime::parse_from_rfc3339(time)
        .unwrap()
        .timestamp_micros()
}

fn joined(folder: &TestDir, tables: &[(Kind, Vec<RecordBatch>)]) -> JoinedRows {
    let inputs = JoinInputs::new(folder.path(), 8, 1000);
    for (kind, batches) in tables {
        for batch in batches {
            inputs.push(*kind, batch).unwrap();
        }
    }
    join(inputs.finish().unwrap(), folder.file("joined.arrow")).unwrap()
}

fn table(kind: Kind, records: impl Iterator<Item = Record<'static>>) -> (Kind, Vec<RecordBatch>) {
    let mut table = TableBuilder::new(kind);
    for record in records {
        table.push(&record);
    }
    (kind, vec![table.finish().unwrap()])
}

/// The rows of the answer to the question `name`, as JSON.
async fn answer_to(name: &str, pins: &[PinRow], geos: &[GeoRow], users: &[UserRow]) -> Value {
    let pin = |(i, &(index_id, category, poster_name, follower_count)): (usize, &PinRow)| {
        Record::Pin(Pin {
            unique_id: format!("pin-{i}").into(),
            index_id,
            title: None,
            category: category.map(Into::into),
            description: None,
            poster_name: poster_name.map(Into::into),
            follower_count,
            tag_list: None,
            is_image_or_video: None,
            image_src: None,
            downloaded: None,
            save_location: None,
        })
    };
    let geo = |&(ind, country, time): &GeoRow| {
        Record::Geo(Geo {
            ind,
            country: country.map(Into::into),
            coordinates: None,
            timestamp: time.map(micros),
        })
    };
    let user = |&(ind, age, time): &UserRow| {
        Record::User(User {
            ind,
            user_name: None,
            age,
            date_joined: time.map(micros),
        })
    };
    let tables = [
        table(Kind::Pin, pins.iter().enumerate().map(pin)),
        table(Kind::Geo, geos.iter().map(geo)),
        table(Kind::User, users.iter().map(user)),
    ];
    let folder = TestDir::new();
    let answers = answer_all(&joined(&folder, &tables), folder.path(), BUDGET)
        .await
        .unwrap();
    let answer = answers
        .iter()
        .find(|answer| answer.question.name == name)
        .unwrap();
    let row = |row| {
        cells::row(&answer.rows, row)
            .unwrap()
            .iter()
            .map(Cell::to_json)
            .collect::<Vec<_>>()
    };
    (0..answer.rows.num_rows()).map(row).collect()
}

fn pin(index: i64, category: &'static str) -> PinRow {
    (index, Some(category), None, None)
}

fn followed(index: i64, followers: impl Into<Option<i64>>) -> PinRow {
    (index, None, None, followers.into())
}

const POSTED: Option<&str> = Some("2020-06-01T00:00:00Z");

#[tokio::test]
async fn without_rows_there_are_eight_empty_answers() {
    let folder = TestDir::new();
    let answers = answer_all(&joined(&folder, &[]), folder.path(), BUDGET)
        .await
        .unwrap();
    assert_eq!(answers.len(), 8);
    for answer in answers {
        assert_eq!(answer.rows.num_rows(), 0, "{}", answer.question.name);
        let names: Vec<_> = answer
            .question
            .columns
            .iter()
            .map(|column| column.name)
            .collect();
        let schema = answer.rows.schema();
        assert_eq!(
            schema
                .fields()
                .iter()
                .map(|field| field.name())
                .collect::<Vec<_>>(),
            names
        );
    }
}

/// The sample that README posts: whoever follows it sees an answer to each question.
#[tokio::test]
async fn the_sample_of_the_examples_answers_every_question() {
    let folder = TestDir::new();
    let tables = Kind::ALL.map(|kind| {
        let file = format!("../../examples/sample/{kind}.json");
        let file = std::fs::read_to_string(file).unwrap();
        let raw: Vec<&serde_json::value::RawValue> = serde_json::from_str(&file).unwrap();
        let mut table = TableBuilder::new(kind);
        for raw in &raw {
            let cleaned = pinpipe_core::clean(kind, raw.get().as_bytes(), 65_536).unwrap();
            table.push(&cleaned.record);
        }
        assert_eq!(table.len(), 200, "{kind}");
        (kind, vec![table.finish().unwrap()])
    });
    let answers = answer_all(&joined(&folder, &tables), folder.path(), BUDGET)
        .await
        .unwrap();
    let empty: Vec<_> = answers
        .iter()
        .filter(|answer| answer.rows.num_rows() < 3)
        .map(|answer| answer.question.name)
        .collect();
    assert_eq!((answers.len(), empty), (8, vec![]));
}

#[tokio::test]
async fn a_countrys_most_popular_category_counts_pins_and_breaks_ties_by_bytes() {
    let pins = [
        // Two pins with the same index count twice.
        pin(1, "travel"),
        pin(1, "travel"),
        pin(2, "art"),
        // A tie, broken by byte order: `Z` before `a` before `ä`.
        pin(3, "äpfel"),
        pin(4, "art"),
        pin(5, "Zen"),
        (6, None, None, None),
        // No geo record.
        pin(99, "lost"),
    ];
    let geos = [
        (1, Some("Albania"), POSTED),
        (2, Some("Albania"), POSTED),
        (3, Some("Chile"), POSTED),
        (4, Some("Chile"), POSTED),
        (5, Some("Chile"), None),
        (6, Some("Aruba"), POSTED),
        (7, Some("Nobody pins here"), POSTED),
        (8, None, POSTED),
    ];
    let answer = answer_to("popular_category_by_country", &pins, &geos, &[]).await;
    assert_eq!(
        answer,
        json!([["Albania", "travel", 2], ["Chile", "Zen", 1]])
    );
}

#[tokio::test]
async fn null_countries_form_no_group() {
    let answer = answer_to(
        "popular_category_by_country",
        &[pin(8, "art")],
        &[(8, None, POSTED)],
        &[],
    )
    .await;
    assert_eq!(answer, json!([]));
}

#[tokio::test]
async fn post_years_are_in_utc_and_range_from_2018_to_2022() {
    let pins: Vec<PinRow> = (1..=7)
        .map(|index| pin(index, "art"))
        .chain([pin(3, "diy"), pin(3, "diy")])
        .collect();
    let geos = [
        (1, None, Some("2017-12-31T23:59:59.999999Z")),
        (2, None, Some("2018-01-01T00:00:00Z")),
        (3, None, Some("2018-06-01T00:00:00Z")),
        // In UTC this is still 2022.
        (4, None, Some("2023-01-01T00:30:00+01:00")),
        (5, None, Some("2022-12-31T23:59:59.999999Z")),
        (6, None, Some("2023-01-01T00:00:00Z")),
        (7, None, None),
    ];
    let answer = answer_to("popular_category_by_year", &pins, &geos, &[]).await;
    assert_eq!(answer, json!([[2018, "art", 2], [2022, "art", 2]]));
}

#[tokio::test]
async fn one_top_poster_per_country() {
    let poster = |index, name, followers| (index, None, name, followers);
    let pins = [
        poster(1, Some("Zoe"), Some(500)),
        poster(1, Some("Ann"), Some(500)),
        poster(2, Some("Bob"), Some(499)),
        // Posters without a name or a follower count are left out.
        poster(2, None, Some(9000)),
        poster(3, Some("Nil"), None),
        poster(4, Some("Big"), Some(i64::MAX)),
    ];
    let geos = [
        (1, Some("Peru"), None),
        (2, Some("Peru"), None),
        (3, Some("Mali"), None),
        (4, Some("Fiji"), POSTED),
    ];
    let answer = answer_to("top_poster_by_country", &pins, &geos, &[]).await;
    assert_eq!(
        answer,
        json!([["Fiji", "Big", i64::MAX], ["Peru", "Ann", 500]])
    );
}

#[tokio::test]
async fn age_groups_have_the_contracts_bounds() {
    let ages = [17, 18, 24, 25, 35, 36, 50, 51, 150];
    let users: Vec<UserRow> = ages
        .iter()
        .map(|&age| (age, Some(age), None))
        .chain([(200, None, None)])
        .collect();
    let mut pins: Vec<PinRow> = ages.iter().map(|&age| pin(age, "art")).collect();
    pins.push(pin(200, "of unknown age"));
    let answer = answer_to("popular_category_by_age_group", &pins, &[], &users).await;
    assert_eq!(
        answer,
        json!([
            ["18-24", "art", 2],
            ["25-35", "art", 2],
            ["36-50", "art", 2],
            ["50+", "art", 2]
        ])
    );
}

#[tokio::test]
async fn medians_are_exact_and_may_be_fractions() {
    let pins = [
        followed(1, 10),
        followed(1, 13),
        followed(1, 1_000_000),
        followed(1, 2),
        followed(2, 7),
        followed(2, None),
        followed(3, None),
        followed(4, 3),
        followed(4, 1),
        followed(4, 2),
    ];
    let users = [
        (1, Some(20), None),
        (2, Some(30), None),
        (3, Some(40), None),
        (4, Some(60), None),
    ];
    let answer = answer_to("median_followers_by_age_group", &pins, &[], &users).await;
    assert_eq!(
        answer,
        json!([["18-24", 11.5], ["25-35", 7.0], ["50+", 2.0]]),
        "no follower counts for 36-50"
    );
}

#[tokio::test]
async fn users_without_pins_are_counted() {
    let joined = [
        "2014-12-31T23:59:59Z",
        "2015-01-01T00:00:00Z",
        "2015-07-01T00:00:00Z",
        "2020-12-31T23:59:59Z",
        "2021-01-01T00:00:00Z",
    ];
    let users: Vec<UserRow> = (0..)
        .zip(joined)
        .map(|(ind, time)| (ind, None, Some(time)))
        .chain([(9, Some(20), None)])
        .collect();
    let answer = answer_to("users_joined_by_year", &[], &[], &users).await;
    assert_eq!(answer, json!([[2015, 2], [2020, 1]]));
}

#[tokio::test]
async fn medians_by_join_year_include_every_age_and_those_by_both_only_age_groups() {
    let pins = [
        followed(1, 10),
        followed(2, 20),
        followed(2, 21),
        followed(3, 30),
        followed(4, 5),
        followed(5, 1),
    ];
    let users = [
        (1, Some(10), Some("2015-03-01T00:00:00Z")),
        (2, Some(20), Some("2015-04-01T00:00:00Z")),
        (3, Some(55), Some("2015-05-01T00:00:00Z")),
        (4, Some(20), Some("2020-01-01T00:00:00Z")),
        (5, Some(20), Some("2021-01-01T00:00:00Z")),
    ];
    let by_year = answer_to("median_followers_by_join_year", &pins, &[], &users).await;
    assert_eq!(by_year, json!([[2015, 20.5], [2020, 5.0]]));
    let by_both = answer_to(
        "median_followers_by_join_year_and_age_group",
        &pins,
        &[],
        &users,
    )
    .await;
    assert_eq!(
        by_both,
        json!([
            [2015, "18-24", 20.5],
            [2015, "50+", 30.0],
            [2020, "18-24", 5.0]
        ])
    );
}

#[test]
fn rows_without_a_match_are_counted_on_both_sides_of_each_join() {
    let pin = |index_id: i64| Record::Pin(testing::pin(index_id.to_string(), index_id));
    let geo = |ind| {
        Record::Geo(Geo {
            ind,
            country: None,
            coordinates: None,
            timestamp: None,
        })
    };
    let user = |ind| {
        Record::User(User {
            ind,
            user_name: None,
            age: None,
            date_joined: None,
        })
    };
    let tables = [
        table(Kind::Pin, (0..100).map(pin)),
        table(Kind::Geo, (30..110).map(geo)),
        table(Kind::User, (1..140).map(user)),
    ];
    let rows = joined(&TestDir::new(), &tables);
    let expected = Orphans {
        pins_without_geo: 30,
        geos_without_pin: 10,
        pins_without_user: 1,
        users_without_pin: 40,
    };
    assert_eq!((rows.orphans, rows.joined.rows), (expected, 100));
}

#[tokio::test]
async fn queries_that_spill_give_the_same_answers() {
    let pins = (0..60_000).map(|i: i64| {
        Record::Pin(Pin {
            category: Some(format!("category {}", i % 7).into()),
            poster_name: Some(format!("poster {i}").into()),
            follower_count: Some(i * 7919 % 1_000_003),
            ..testing::pin(i.to_string(), i % 30_000)
        })
    });
    let geos = (0..30_000).map(|ind| {
        Record::Geo(Geo {
            ind,
            country: Some(format!("country {}", ind % 200).into()),
            coordinates: None,
            timestamp: Some((48 + ind % 6) * 31_557_600_000_000),
        })
    });
    let users = (0..30_000).map(|ind| {
        let date_joined = Some((45 + ind % 7) * 31_557_600_000_000);
        Record::User(User {
            ind,
            user_name: None,
            age: Some(15 + ind % 50),
            date_joined,
        })
    });
    let tables = [
        table(Kind::Pin, pins),
        table(Kind::Geo, geos),
        table(Kind::User, users),
    ];
    let folder = TestDir::new();
    let rows = joined(&folder, &tables);
    let in_memory = answer_all(&rows, folder.path(), 1 << 30).await.unwrap();
    let spilled = answer_all(&rows, folder.path(), 4 << 20).await.unwrap();
    for (in_memory, spilled) in in_memory.iter().zip(spilled) {
        let name = in_memory.question.name;
        assert!(in_memory.rows.num_rows() > 0, "{name}");
        assert_eq!(in_memory.rows, spilled.rows, "{name}");
    }
}
