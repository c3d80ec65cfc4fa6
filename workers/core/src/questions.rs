//! The eight questions every batch run asks, as SQL for `DataFusion`.
//!
//! They are asked of two tables, each with the latest row per key:
//!
//! - `facts`: `pin LEFT JOIN geo ON index_id = geo.ind LEFT JOIN "user" ON index_id = "user".ind`,
//!   with the columns `category`, `poster_name`, `follower_count`, `country`, `timestamp`, `age`
//!   and `date_joined`. geo and user are unique by the number, pins are not, and each pin counts.
//!   Each question leaves out nulls of what it groups by, so that its join is an inner one.
//! - `user`, of which `date_joined` is enough.
//!
//! Columns are those of [`crate::columns`]; `timestamp` and `date_joined` are timestamps in
//! microseconds, UTC. One join for all questions, and none of them needs memory for more than its
//! groups and distinct follower counts: those of large data can spill.
//!
//! - Nulls take no part: a group with nothing left stays out.
//! - Ties go to the first text in UTF-8 byte order, which is how Arrow compares texts.
//! - Medians are exact and taken of 64-bit floats, so that the mean of two middle values keeps its
//!   half.
//! - Answers come ordered by their key columns.

/// One question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// Its name, also that of its answer's table.
    pub name: &'static str,
    /// The answer's columns, in order.
    pub columns: &'static [Column],
    /// The columns that tell the answer's rows apart.
    pub key: &'static [&'static str],
    /// The question itself.
    pub sql: &'static str,
}

/// A column of an answer; never null.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: &'static str,
    /// Its type.
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

/// A question by its name: what all start from, then `questions/<name>.sql`.
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

/// The questions, in the contract's order.
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
