//! A Cassandra table and its statements.

use arrow::datatypes::Schema;

use crate::cells::{UnsupportedType, cql_type};

/// A table: a clean one or an answer's.
#[derive(Clone, Debug)]
pub struct Table {
    /// Its name.
    pub name: String,
    /// Keyspace and name, quoted.
    path: String,
    /// Quoted names and types.
    columns: Vec<(String, &'static str)>,
    /// Quoted names; the first is the partition key.
    key: Vec<String>,
}

impl Table {
    /// The table that holds rows of `schema`, told apart by `key`, whose first column is the
    /// partition key.
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
            name: name.to_owned(),
            path: format!("{}.{}", quoted(keyspace), quoted(name)),
            columns: columns.collect::<Result<_, UnsupportedType>>()?,
            key: key.iter().map(|name| quoted(name)).collect(),
        })
    }

    /// Makes it where it is absent.
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

    /// Writes a whole row: one value per column, in order.
    pub fn insert(&self) -> String {
        let names: Vec<&str> = self.columns.iter().map(|(name, _)| name.as_str()).collect();
        let marks = vec!["?"; names.len()].join(", ");
        format!(
            "INSERT INTO {} ({}) VALUES ({marks})",
            self.path,
            names.join(", ")
        )
    }

    /// Key and time of every row, microseconds; the time is that of the last column, which is no
    /// part of an answer's key.
    pub fn written(&self) -> String {
        let last = self.columns.last().map_or("", |(name, _)| name);
        format!(
            "SELECT {}, writetime({last}) FROM {}",
            self.key.join(", "),
            self.path
        )
    }

    /// Deletes a row by its key.
    pub fn delete(&self) -> String {
        let key: Vec<String> = self.key.iter().map(|name| format!("{name} = ?")).collect();
        format!("DELETE FROM {} WHERE {}", self.path, key.join(" AND "))
    }
}

/// A name as CQL takes any, with its case.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, Field};
    use pinpipe_core::{Kind, columns};

    use super::*;

    #[test]
    fn a_clean_table_is_keyed_by_its_record() {
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
            "CREATE TABLE IF NOT EXISTS \"pinterest_data\".\"geo_batch\" (\"ind\" bigint, \"country\" text, \
             \"coordinates\" frozen<list<double>>, \"timestamp\" timestamp, PRIMARY KEY (\"ind\"))"
        );
        assert_eq!(
            table.insert(),
            "INSERT INTO \"pinterest_data\".\"geo_batch\" (\"ind\", \"country\", \"coordinates\", \"timestamp\") VALUES (?, ?, ?, ?)"
        );
    }

    #[test]
    fn an_answer_is_keyed_by_its_groups() {
        let field = |name, data_type| Field::new(name, data_type, false);
        let schema = Schema::new(vec![
            field("join_year", DataType::Int32),
            field("age_group", DataType::Utf8),
            field("median", DataType::Float64),
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
            table.written(),
            "SELECT \"join_year\", \"age_group\", writetime(\"median\") FROM \"k\".\"t\""
        );
        assert_eq!(
            table.delete(),
            "DELETE FROM \"k\".\"t\" WHERE \"join_year\" = ? AND \"age_group\" = ?"
        );
    }

    #[test]
    fn a_type_without_a_place_is_refused() {
        let schema = Schema::new(vec![Field::new("x", DataType::Boolean, false)]);
        assert!(
            Table::new("k", "t", &schema, &["x"])
                .unwrap_err()
                .to_string()
                .contains("Boolean")
        );
    }
}
