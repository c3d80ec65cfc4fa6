//! The SQL of the eight questions, run by DataFusion over sample rows with every corner case: ties,
//! bounds, nulls, several pins with one number, and numbers without a matching row.

use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::{arrow::array::RecordBatch, prelude::SessionContext};
use pinpipe_core::questions::{ColumnType, QUESTIONS, Question};

/// `index_id`, category, poster, followers.
const PINS: &str = "
    (1, 'art', 'ann', 10), (1, 'art', 'bob', 20), (1, 'travel', 'bob', 20), (1, NULL, 'cat', NULL),
    (2, 'Zoo', 'dan', 9007199254740993), (2, 'art', NULL, 9007199254740995),
    (2, 'é', 'eve', NULL), (3, 'tattoos', 'fay', 5), (3, 'tattoos', 'gus', 4),
    (3, 'beauty', 'Fay', 5), (3, 'beauty', 'gus', 1), (4, 'beauty', 'hal', 7),
    (5, 'finance', 'ivy', 8), (6, NULL, NULL, NULL), (7, 'quotes', 'jim', 3),
    (8, 'event', 'kim', 2), (9, 'event', 'lee', 1), (99, 'lost', 'max', 1000000)";

/// `ind`, country, timestamp.
const GEOS: &str = "
    (1, 'Albania', '2018-01-01T00:00:00Z'), (2, 'Zambia', '2022-12-31T23:59:59.999999Z'),
    (3, 'albania', '2017-12-31T23:59:59.999999Z'), (4, 'Zambia', '2023-01-01T00:00:00Z'),
    (5, NULL, '2020-06-01T00:00:00Z'), (6, 'Nauru', '2019-01-01T00:00:00Z'),
    (7, 'Peru', NULL), (8, 'Åland', '2020-06-01T00:00:00Z'),
    (9, 'Åland', '2020-06-01T00:00:00Z'), (98, 'Lost', '2020-06-01T00:00:00Z')";

/// `ind`, age, `date_joined`.
const USERS: &str = "
    (1, 18, '2015-01-01T00:00:00Z'), (2, 24, '2020-12-31T23:59:59.999999Z'),
    (3, 25, '2014-12-31T23:59:59.999999Z'), (4, 35, '2021-01-01T00:00:00Z'),
    (5, 36, '2015-06-01T00:00:00Z'), (6, 50, '2016-01-01T00:00:00Z'),
    (7, 51, '2017-01-01T00:00:00Z'), (8, 17, '2017-01-01T00:00:00Z'), (9, NULL, NULL),
    (98, 150, '2020-01-01T00:00:00Z')";

async fn sample_session() -> SessionContext {
    let session = SessionContext::new();
    let time = |column| format!("arrow_cast({column}, 'Timestamp(Microsecond, Some(\"UTC\"))')");
    for table in [
        format!(
            "CREATE TABLE pin AS SELECT column1 AS index_id, column2 AS category, \
             column3 AS poster_name, column4 AS follower_count FROM (VALUES {PINS})"
        ),
        format!(
            "CREATE TABLE geo AS SELECT column1 AS ind, column2 AS country, {} AS \"timestamp\" \
             FROM (VALUES {GEOS})",
            time("column3")
        ),
        format!(
            "CREATE TABLE \"user\" AS SELECT column1 AS ind, column2 AS age, {} AS date_joined \
             FROM (VALUES {USERS})",
            time("column3")
        ),
    ] {
        session.sql(&table).await.unwrap().collect().await.unwrap();
    }
    join(&session).await;
    session
}

/// Creates the table that the questions query, as the contract defines it.
async fn join(session: &SessionContext) {
    let join = "CREATE OR REPLACE TABLE facts AS \
        SELECT category, poster_name, follower_count, country, \"timestamp\", age, date_joined \
        FROM pin LEFT JOIN geo ON index_id = geo.ind LEFT JOIN \"user\" ON index_id = \"user\".ind";
    session.sql(join).await.unwrap().collect().await.unwrap();
}

/// An answer's rows, their cells joined by `|`.
fn rows(batches: &[RecordBatch]) -> Vec<String> {
    let options = FormatOptions::default().with_null("NULL");
    let rows = |batch: &RecordBatch| {
        let cells: Vec<_> = batch
            .columns()
            .iter()
            .map(|column| ArrayFormatter::try_new(column, &options).unwrap())
            .collect();
        let row = |row| {
            cells
                .iter()
                .map(|cell| cell.value(row).to_string())
                .collect::<Vec<_>>()
                .join("|")
        };
        (0..batch.num_rows()).map(row).collect::<Vec<_>>()
    };
    batches.iter().flat_map(rows).collect()
}

async fn check(session: &SessionContext, question: &Question, expected: &[&str]) {
    let frame = session
        .sql(question.sql)
        .await
        .unwrap_or_else(|error| panic!("{}: {error}", question.name));
    let types: Vec<_> = frame
        .schema()
        .fields()
        .iter()
        .map(|field| {
            (
                field.name().clone(),
                field.data_type().to_string().replace("Utf8View", "Utf8"),
            )
        })
        .collect();
    let named: Vec<_> = question
        .columns
        .iter()
        .map(|column| {
            let name = match column.ty {
                ColumnType::Text => "Utf8",
                ColumnType::BigInt => "Int64",
                ColumnType::Double => "Float64",
                ColumnType::Int => "Int32",
            };
            (column.name.to_owned(), name.to_owned())
        })
        .collect();
    assert_eq!(types, named, "{}", question.name);
    assert_eq!(
        rows(&frame.collect().await.unwrap()),
        expected,
        "{}",
        question.name
    );
}

#[tokio::test]
async fn the_eight_questions_are_answered() {
    let expected: [&[&str]; 8] = [
        // Ties are broken by byte order: `Zoo` before `art` before `é`, `beauty` before `tattoos`.
        &[
            "Albania|art|2",
            "Peru|quotes|1",
            "Zambia|Zoo|1",
            "albania|beauty|2",
            "Åland|event|2",
        ],
        &["2018|art|2", "2020|event|2", "2022|Zoo|1"],
        &[
            "Albania|bob|20",
            "Peru|jim|3",
            "Zambia|dan|9007199254740993",
            "albania|Fay|5",
            "Åland|kim|2",
        ],
        &[
            "18-24|art|3",
            "25-35|beauty|3",
            "36-50|finance|1",
            "50+|quotes|1",
        ],
        &["18-24|20.0", "25-35|5.0", "36-50|8.0", "50+|3.0"],
        &["2015|2", "2016|1", "2017|2", "2020|2"],
        &["2015|15.0", "2017|2.5", "2020|9007199254740994.0"],
        &[
            "2015|18-24|20.0",
            "2015|36-50|8.0",
            "2017|50+|3.0",
            "2020|18-24|9007199254740994.0",
        ],
    ];
    let session = sample_session().await;
    for (question, expected) in QUESTIONS.iter().zip(expected) {
        check(&session, question, expected).await;
        let columns: Vec<_> = question.columns.iter().map(|column| column.name).collect();
        assert!(
            columns.starts_with(question.key),
            "{}: the key comes first",
            question.name
        );
    }
}

#[tokio::test]
async fn without_rows_the_answers_are_empty() {
    let session = sample_session().await;
    for table in ["pin", "geo", "\"user\""] {
        let empty = format!("CREATE OR REPLACE TABLE {table} AS SELECT * FROM {table} WHERE false");
        session.sql(&empty).await.unwrap().collect().await.unwrap();
    }
    join(&session).await;
    for question in &QUESTIONS {
        check(&session, question, &[]).await;
    }
}
