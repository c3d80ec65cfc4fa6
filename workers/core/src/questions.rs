//! The eight questions every batch run asks, as SQL for `DataFusion`.
//!
//! The tables are `pin`, `geo` and `user`, latest row per key, with the clean columns ([`crate::columns`]); `timestamp` and
//! `date_joined` are timestamps in microseconds, UTC. `coordinates` is not asked for and may be left out.
//!
//! - Joins are inner, on the shared number; geo and user are unique by it, pins are not, and each pin counts.
//! - Nulls take no part: a group with nothing left stays out.
//! - Ties go to the first text in UTF-8 byte order, which is how Arrow compares texts.
//! - Medians are taken of 64-bit floats, so that the mean of two middle values keeps its half.
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
    Column { name, ty: ColumnType::Text }
}
const fn bigint(name: &'static str) -> Column {
    Column { name, ty: ColumnType::BigInt }
}
const fn double(name: &'static str) -> Column {
    Column { name, ty: ColumnType::Double }
}
const fn int(name: &'static str) -> Column {
    Column { name, ty: ColumnType::Int }
}

/// `50+` means 51 and over; younger or unknown ages have no group.
macro_rules! age_group {
    () => {
        "CASE WHEN u.age BETWEEN 18 AND 24 THEN '18-24' \
              WHEN u.age BETWEEN 25 AND 35 THEN '25-35' \
              WHEN u.age BETWEEN 36 AND 50 THEN '36-50' \
              WHEN u.age >= 51 THEN '50+' END"
    };
}

/// The year of a UTC timestamp.
macro_rules! year {
    ($column:literal) => {
        concat!("CAST(date_part('year', ", $column, ") AS INT)")
    };
}

/// The most frequent category of each group: `$group` is its expression, `$name` its column, `$join` joins its table to pins,
/// `$when` holds for the groups asked for.
macro_rules! popular_category {
    ($name:literal, $group:expr, $join:literal, $when:literal) => {
        concat!(
            "WITH posts AS (SELECT ", $group, " AS ", $name, ", p.category FROM pin p JOIN ", $join, "), \
             counts AS (SELECT ", $name, ", category, count(*) AS category_count FROM posts \
              WHERE ", $when, " AND category IS NOT NULL GROUP BY ", $name, ", category), \
             places AS (SELECT ", $name, ", category, category_count, row_number() OVER \
              (PARTITION BY ", $name, " ORDER BY category_count DESC, category ASC) AS place FROM counts) \
             SELECT ", $name, ", category, category_count FROM places WHERE place = 1 ORDER BY ", $name
        )
    };
}

/// The median of pins' follower counts by groups of their users: `$groups` are their columns.
macro_rules! median_followers {
    ($groups:literal, $when:literal) => {
        concat!(
            "WITH posts AS (SELECT ", year!("u.date_joined"), " AS join_year, ", age_group!(), " AS age_group, \
              CAST(p.follower_count AS DOUBLE) AS followers FROM pin p JOIN \"user\" u ON p.index_id = u.ind \
              WHERE p.follower_count IS NOT NULL) \
             SELECT ", $groups, ", median(followers) AS median_follower_count FROM posts \
              WHERE ", $when, " GROUP BY ", $groups, " ORDER BY ", $groups
        )
    };
}

/// The questions, in the contract's order.
#[rustfmt::skip]
pub const QUESTIONS: [Question; 8] = [
    Question {
        name: "popular_category_by_country",
        columns: &[text("country"), text("category"), bigint("category_count")],
        key: &["country"],
        sql: popular_category!("country", "g.country", "geo g ON p.index_id = g.ind", "country IS NOT NULL"),
    },
    Question {
        name: "popular_category_by_year",
        columns: &[int("post_year"), text("category"), bigint("category_count")],
        key: &["post_year"],
        sql: popular_category!(
            "post_year", year!("g.\"timestamp\""), "geo g ON p.index_id = g.ind", "post_year BETWEEN 2018 AND 2022"
        ),
    },
    Question {
        name: "top_poster_by_country",
        columns: &[text("country"), text("poster_name"), bigint("follower_count")],
        key: &["country"],
        sql: "WITH places AS (SELECT g.country, p.poster_name, p.follower_count, row_number() OVER \
               (PARTITION BY g.country ORDER BY p.follower_count DESC, p.poster_name ASC) AS place \
               FROM pin p JOIN geo g ON p.index_id = g.ind \
               WHERE g.country IS NOT NULL AND p.poster_name IS NOT NULL AND p.follower_count IS NOT NULL) \
              SELECT country, poster_name, follower_count FROM places WHERE place = 1 ORDER BY country",
    },
    Question {
        name: "popular_category_by_age_group",
        columns: &[text("age_group"), text("category"), bigint("category_count")],
        key: &["age_group"],
        sql: popular_category!(
            "age_group", age_group!(), "\"user\" u ON p.index_id = u.ind", "age_group IS NOT NULL"
        ),
    },
    Question {
        name: "median_followers_by_age_group",
        columns: &[text("age_group"), double("median_follower_count")],
        key: &["age_group"],
        sql: median_followers!("age_group", "age_group IS NOT NULL"),
    },
    Question {
        name: "users_joined_by_year",
        columns: &[int("join_year"), bigint("number_users_joined")],
        key: &["join_year"],
        sql: concat!(
            "WITH joined AS (SELECT ", year!("u.date_joined"), " AS join_year FROM \"user\" u) \
             SELECT join_year, count(*) AS number_users_joined FROM joined \
              WHERE join_year BETWEEN 2015 AND 2020 GROUP BY join_year ORDER BY join_year"
        ),
    },
    Question {
        name: "median_followers_by_join_year",
        columns: &[int("join_year"), double("median_follower_count")],
        key: &["join_year"],
        sql: median_followers!("join_year", "join_year BETWEEN 2015 AND 2020"),
    },
    Question {
        name: "median_followers_by_join_year_and_age_group",
        columns: &[int("join_year"), text("age_group"), double("median_follower_count")],
        key: &["join_year", "age_group"],
        sql: median_followers!(
            "join_year, age_group", "join_year BETWEEN 2015 AND 2020 AND age_group IS NOT NULL"
        ),
    },
];
