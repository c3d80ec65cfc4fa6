//! The eight questions that every batch run answers, as SQL for `DataFusion`.
//!
//! They query two tables with the latest row per key:
//!
//! - `facts`: `pin LEFT JOIN geo ON index_id = geo.ind LEFT JOIN "user" ON index_id = "user".ind`,
//!   with the columns `category`, `poster_name`, `follower_count`, `country`, `timestamp`, `age`
//!   and `date_joined`. Several pins may share an `index_id`; each of them counts.
//! - `user`, of which only the column `date_joined` is needed.
//!
//! Columns are those of [`crate::columns`]; `timestamp` and `date_joined` are timestamps in
//! microseconds, UTC. All questions share one join, and a query keeps only its groups and distinct
//! follower counts in memory, which can spill to disk.
//!
//! - Rows with nulls in the columns of a question are ignored.
//! - Ties go to the first string in UTF-8 byte order, which is how Arrow compares strings.
//! - Medians are exact and computed as 64-bit floats: the mean of two middle values keeps its
//!   fraction.
//! - Answers are ordered by their key columns.

/// One question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// The question's name, also the name of its answer's table.
    pub name: &'static str,
    /// The answer's columns, in order.
    pub columns: &'static [Column],
    /// The columns that identify a row of the answer.
    pub key: &'static [&'static str],
    /// The SQL query.
    pub sql: &'static str,
}

/// A column of an answer. Never null.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// The column's name.
    pub name: &'static str,
    /// The column's type.
    pub ty: ColumnType,
}

/// The types of the answers' columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnType {
    /// UTF-8 text.
    Text,
    /// A 64-bit integer.
    BigInt,
    /// A 64-bit float.
    Double,
    /// A 32-bit integer.
    Int,
}

const fn text(name: &'static str) -> Column {
    Column {
        name,
        ty: ColumnType::Text,
    }
}
const fn bigint(name: &'static str) -> Column {
    Column {
        name,
        ty: ColumnType::BigInt,
    }
}
const fn double(name: &'static str) -> Column {
    Column {
        name,
        ty: ColumnType::Double,
    }
}
const fn int(name: &'static str) -> Column {
    Column {
        name,
        ty: ColumnType::Int,
    }
}

/// A question by its name: the shared `questions/facts.sql` followed by `questions/<name>.sql`.
macro_rules! question {
    ($name:literal, $columns:expr, $key:expr) => {
        Question {
            name: $name,
            columns: $columns,
            key: $key,
            sql: concat!(
                include_str!("questions/facts.sql"),
                include_str!(concat!("questions/", $name, ".sql"))
            ),
        }
    };
}

/// The eight questions.
pub const QUESTIONS: [Question; 8] = [
    question!(
        "popular_category_by_country",
        &[text("country"), text("category"), bigint("category_count")],
        &["country"]
    ),
    question!(
        "popular_category_by_year",
        &[int("post_year"), text("category"), bigint("category_count")],
        &["post_year"]
    ),
    question!(
        "top_poster_by_country",
        &[
            text("country"),
            text("poster_name"),
            bigint("follower_count")
        ],
        &["country"]
    ),
    question!(
        "popular_category_by_age_group",
        &[
            text("age_group"),
            text("category"),
            bigint("category_count")
        ],
        &["age_group"]
    ),
    question!(
        "median_followers_by_age_group",
        &[text("age_group"), double("median_follower_count")],
        &["age_group"]
    ),
    question!(
        "users_joined_by_year",
        &[int("join_year"), bigint("number_users_joined")],
        &["join_year"]
    ),
    question!(
        "median_followers_by_join_year",
        &[int("join_year"), double("median_follower_count")],
        &["join_year"]
    ),
    question!(
        "median_followers_by_join_year_and_age_group",
        &[
            int("join_year"),
            text("age_group"),
            double("median_follower_count")
        ],
        &["join_year", "age_group"]
    ),
];
