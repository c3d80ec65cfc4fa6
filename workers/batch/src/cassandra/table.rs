//! A Cassandra table and its statements.

use arrow::datatypes::Schema;

use crate::cells::{UnsupportedType, cql_type};

/// A table of clean rows or of an answer.
#[derive(Clone, Debug)]
pub struct Table {
    /// Keyspace and table name, quoted.
    path: String,
    /// Quoted names and CQL types of the columns.
    columns: Vec<(String, &'static str)>,
    /// Quoted names of the key columns; the first one is the partition key.
    key: Vec<String>,
}

impl Table {
    /// A table for rows of `schema` with the primary key `key`, whose first column is the partition
    /// key.
    pub fn new(
        keyspace: &str,
        name: &str,
        schema: &Schema,
        key: &[&str],
    ) -> Result<Self, UnsupportedType> {
        let columns = schema
            .fields()
            .iter()
            .map(|field| Ok((quoted(field.name()), cql_type(field.data_type())?)));
        Ok(Self {
            path: format!("{}.{}", quoted(keyspace), quoted(name)),
            columns: columns.collect::<Result<_, UnsupportedType>>()?,
            key: key.iter().map(|name| quoted(name)).collect(),
        })
    }

    /// Creates the table if it doesn't exist.
    pub fn create(&self) -> String {
        let columns: Vec<String> = self
            .columns
            .iter()
            .map(|(name, cql)| format!("{name} {cql}"))
            .collect();
        let (columns, key) = (columns.join(", "), self.key.join(", "));
        format!(
            "CREATE TABLE IF NOT EXISTS {} ({columns}, PRIMARY KEY ({key}))",
            self.path
        )
    }

    /// Inserts a whole row: one value per column, in order.
    pub fn insert(&self) -> String {
        let names: Vec<&str> = self.columns.iter().map(|(name, _)| name.as_str()).collect();
        let values = vec!["?"; names.len()].join(", ");
        format!(
            "INSERT INTO {} ({}) VALUES ({values})",
            self.path,
            names.join(", ")
        )
    }

    /// Selects the key of every row, and the write time of each other column, microseconds.
    pub fn select_write_times(&self) -> String {
        let mut selected = self.key.clone();
        let others = self.columns.iter().map(|(name, _)| name);
        selected.extend(
            others
                .filter(|name| !self.key.contains(name))
                .map(|name| format!("writetime({name})")),
        );
        format!("SELECT {} FROM {}", selected.join(", "), self.path)
    }

    /// Deletes a row by its key.
    pub fn delete(&self) -> String {
        let key: Vec<String> = self.key.iter().map(|name| format!("{name} = ?")).collect();
        format!("DELETE FROM {} WHERE {}", self.path, key.join(" AND "))
    }
}

/// An identifier quoted for CQL, which keeps its case.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, Field};
    use pinpipe_core::{Kind, columns};

    use super::*;

    #[test]
    fn a_clean_table_has_its_records_key() {
        let schema = crate::columns::schema(Kind::Geo);
        let table = Table::new(
            "pinterest_data",
            "geo_batch",
            &schema,
            &[columns::key(Kind::Geo)],
        )
        .unwrap();
        assert_eq!(
            table.create(),
            "CREATE TABLE IF NOT EXISTS \"pinterest_data\".\"geo_batch\" \
             (\"ind\" bigint, \"country\" text, \"coordinates\" frozen<list<double>>, \
             \"timestamp\" timestamp, PRIMARY KEY (\"ind\"))"
        );
        assert_eq!(
            table.insert(),
            "INSERT INTO \"pinterest_data\".\"geo_batch\" \
             (\"ind\", \"country\", \"coordinates\", \"timestamp\") VALUES (?, ?, ?, ?)"
        );
    }

    #[test]
    fn an_answers_table_is_keyed_by_its_groups() {
        let field = |name, data_type| Field::new(name, data_type, false);
        let schema = Schema::new(vec![
            field("join_year", DataType::Int32),
            field("age_group", DataType::Utf8),
            field("median", DataType::Float64),
            field("users", DataType::Int64),
        ]);
        let table = Table::new("k", "t", &schema, &["join_year", "age_group"]).unwrap();
        assert!(
            table
                .create()
                .ends_with("PRIMARY KEY (\"join_year\", \"age_group\"))"),
            "{}",
            table.create()
        );
        assert_eq!(
            table.select_write_times(),
            "SELECT \"join_year\", \"age_group\", writetime(\"median\"), \
             writetime(\"users\") FROM \"k\".\"t\""
        );
        assert_eq!(
            table.delete(),
            "DELETE FROM \"k\".\"t\" WHERE \"join_year\" = ? AND \"age_group\" = ?"
        );
    }

    #[test]
    fn an_unsupported_type_is_refused() {
        let schema = Schema::new(vec![Field::new("x", DataType::Boolean, false)]);
        assert!(
            Table::new("k", "t", &schema, &["x"])
                .unwrap_err()
                .to_string()
                .contains("Boolean")
        );
    }
}
