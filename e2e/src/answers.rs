//! The eight questions in SQL over the live tables, written independently of the batch worker.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::{cassandra, postgres};

/// A question, with SQL in which `{schema}` stands for the schema of the live tables.
pub struct Question {
    /// The answer's name.
    pub name: &'static str,
    /// The columns, in order.
    pub columns: &'static [&'static str],
    sql: &'static str,
}

const AGE_GROUP: &str = "(SELECT ind, date_joined, CASE
    WHEN age BETWEEN 18 AND 24 THEN '18-24' WHEN age BETWEEN 25 AND 35 THEN '25-35'
    WHEN age BETWEEN 36 AND 50 THEN '36-50' WHEN age > 50 THEN '50+' END AS age_group
    FROM {schema}.user_profile)";

const MEDIAN: &str = "percentile_cont(0.5) WITHIN GROUP
    (ORDER BY pin.follower_count::double precision) AS median_follower_count";

/// The eight questions.
pub const QUESTIONS: [Question; 8] = [
    Question {
        name: "popular_category_by_country",
        columns: &["country", "category", "category_count"],
        sql: "SELECT DISTINCT ON (country) country, category, count(*) AS category_count
              FROM {schema}.pin pin JOIN {schema}.geo geo ON pin.index_id = geo.ind
              WHERE country IS NOT NULL AND category IS NOT NULL
              GROUP BY country, category
              ORDER BY country, category_count DESC, category COLLATE \"C\"",
    },
    Question {
        name: "popular_category_by_year",
        columns: &["post_year", "category", "category_count"],
        sql: "SELECT DISTINCT ON (post_year) extract(year FROM \"timestamp\")::int AS post_year,
                category, count(*) AS category_count
              FROM {schema}.pin pin JOIN {schema}.geo geo ON pin.index_id = geo.ind
              WHERE \"timestamp\" >= '2018-01-01' AND \"timestamp\" < '2023-01-01'
                AND category IS NOT NULL
              GROUP BY post_year, category
              ORDER BY post_year, category_count DESC, category COLLATE \"C\"",
    },
    Question {
        name: "top_poster_by_country",
        columns: &["country", "poster_name", "follower_count"],
        sql: "SELECT DISTINCT ON (country) country, poster_name, follower_count
              FROM {schema}.pin pin JOIN {schema}.geo geo ON pin.index_id = geo.ind
              WHERE country IS NOT NULL AND poster_name IS NOT NULL
                AND follower_count IS NOT NULL
              ORDER BY country, follower_count DESC, poster_name COLLATE \"C\"",
    },
    Question {
        name: "popular_category_by_age_group",
        columns: &["age_group", "category", "category_count"],
        sql: "SELECT DISTINCT ON (age_group) age_group, category, count(*) AS category_count
              FROM {schema}.pin pin JOIN {age_group} person ON pin.index_id = person.ind
              WHERE age_group IS NOT NULL AND category IS NOT NULL
              GROUP BY age_group, category
              ORDER BY age_group, category_count DESC, category COLLATE \"C\"",
    },
    Question {
        name: "median_followers_by_age_group",
        columns: &["age_group", "median_follower_count"],
        sql: "SELECT age_group, {median}
              FROM {schema}.pin pin JOIN {age_group} person ON pin.index_id = person.ind
              WHERE age_group IS NOT NULL AND follower_count IS NOT NULL GROUP BY age_group",
    },
    Question {
        name: "users_joined_by_year",
        columns: &["join_year", "number_users_joined"],
        sql: "SELECT extract(year FROM date_joined)::int AS join_year,
                count(*) AS number_users_joined
              FROM {schema}.user_profile
              WHERE date_joined >= '2015-01-01' AND date_joined < '2021-01-01'
              GROUP BY join_year",
    },
    Question {
        name: "median_followers_by_join_year",
        columns: &["join_year", "median_follower_count"],
        sql: "SELECT extract(year FROM date_joined)::int AS join_year, {median}
              FROM {schema}.pin pin
                JOIN {schema}.user_profile person ON pin.index_id = person.ind
              WHERE date_joined >= '2015-01-01' AND date_joined < '2021-01-01'
                AND follower_count IS NOT NULL
              GROUP BY join_year",
    },
    Question {
        name: "median_followers_by_join_year_and_age_group",
        columns: &["join_year", "age_group", "median_follower_count"],
        sql: "SELECT extract(year FROM date_joined)::int AS join_year, age_group, {median}
              FROM {schema}.pin pin JOIN {age_group} person ON pin.index_id = person.ind
              WHERE date_joined >= '2015-01-01' AND date_joined < '2021-01-01'
                AND age_group IS NOT NULL AND follower_count IS NOT NULL
              GROUP BY join_year, age_group",
    },
];

/// The rows of an answer, sorted. Numbers are 64-bit floats, which represent every value here
/// exactly.
pub type Answer = Vec<Vec<Value>>;

impl Question {
    /// The answer of PostgreSQL from the live tables.
    pub async fn answer_in_sql(&self, schema: &str) -> Result<Answer> {
        let sql = self
            .sql
            .replace("{median}", MEDIAN)
            .replace("{age_group}", AGE_GROUP)
            .replace("{schema}", schema);
        self.sorted_rows(&postgres::objects(&sql).await.with_context(|| self.name)?)
    }

    /// The answer stored in Cassandra.
    pub async fn answer_in_cassandra(&self, keyspace: &str) -> Result<Answer> {
        self.sorted_rows(&cassandra::objects(keyspace, self.name).await?)
    }

    /// The answer that a batch sink stored in PostgreSQL.
    pub async fn answer_in_postgres(&self, schema: &str) -> Result<Answer> {
        let columns = self.columns.join(", ");
        let sql = format!("SELECT {columns} FROM {schema}.{}", self.name);
        self.sorted_rows(&postgres::objects(&sql).await?)
    }

    /// The answer in a run's report.
    pub fn answer_in_report(&self, report: &Value) -> Result<Answer> {
        let table = &report["answers"][self.name];
        ensure!(
            table["columns"] == json!(self.columns),
            "{}: columns {}",
            self.name,
            table["columns"]
        );
        let rows = table["rows"]
            .as_array()
            .with_context(|| format!("{}: no rows", self.name))?;
        Ok(sorted(
            rows.iter()
                .map(|row| row.as_array().cloned().unwrap_or_default())
                .collect(),
        ))
    }

    /// Rows from objects that must have exactly this answer's columns.
    fn sorted_rows(&self, rows: &[Value]) -> Result<Answer> {
        let row = |row: &Value| {
            let object = row
                .as_object()
                .filter(|object| object.len() == self.columns.len());
            let object = object
                .with_context(|| format!("{}: a row with other columns: {row}", self.name))?;
            let column = |column: &&str| object.get(*column).cloned();
            self.columns
                .iter()
                .map(column)
                .collect::<Option<Vec<_>>>()
                .with_context(|| format!("{}: {row}", self.name))
        };
        Ok(sorted(rows.iter().map(row).collect::<Result<_>>()?))
    }
}

fn sorted(mut answer: Answer) -> Answer {
    for value in answer.iter_mut().flatten() {
        if let Some(number) = value.as_f64() {
            *value = number.into();
        }
    }
    answer.sort_by_cached_key(|row| row.iter().map(ToString::to_string).collect::<Vec<_>>());
    answer
}
