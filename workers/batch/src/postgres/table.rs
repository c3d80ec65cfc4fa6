//! A table and its statements. Pure.

use arrow::datatypes::{DataType, TimeUnit};
pub use pinpipe_stream::postgres::sql::quoted;
use tokio_postgres::types::Type;

use crate::{cells::UnsupportedType, sink::SinkTable};

/// The column with the time of the run that wrote the row.
const RUN: &str = "\"_run\"";

/// A table of clean rows or of an answer.
#[derive(Clone, Debug)]
pub struct Table {
    /// Schema and table name, quoted.
    path: String,
    /// The staging table's name, quoted.
    stage: String,
    columns: Vec<Column>,
    /// Quoted names of the key columns.
    key: Vec<String>,
}

#[derive(Clone, Debug)]
struct Column {
    /// Name, quoted.
    name: String,
    ty: Type,
    nullable: bool,
}

impl Column {
    fn definition(&self) -> String {
        let Self { name, ty, nullable } = self;
        let not_null = if *nullable { "" } else { " NOT NULL" };
        format!("{name} {}{not_null}", type_name(ty))
    }
}

fn type_name(ty: &Type) -> &'static str {
    match *ty {
        Type::INT4 => "integer",
        Type::INT8 => "bigint",
        Type::FLOAT8 => "double precision",
        Type::FLOAT8_ARRAY => "double precision[]",
        Type::TIMESTAMPTZ => "timestamp with time zone",
        _ => "text",
    }
}

/// The PostgreSQL type for an Arrow column.
fn column_type(data_type: &DataType) -> Result<Type, UnsupportedType> {
    match data_type {
        DataType::Utf8 => Ok(Type::TEXT),
        DataType::Int32 => Ok(Type::INT4),
        DataType::Int64 => Ok(Type::INT8),
        DataType::Float64 => Ok(Type::FLOAT8),
        DataType::List(item) if *item.data_type() == DataType::Float64 => Ok(Type::FLOAT8_ARRAY),
        DataType::Timestamp(TimeUnit::Microsecond, _) => Ok(Type::TIMESTAMPTZ),
        other => Err(UnsupportedType(other.clone())),
    }
}

/// Whether a table exists. Parameter: its quoted name.
pub const TABLE_EXISTS: &str = "SELECT to_regclass($1) IS NOT NULL";

impl Table {
    /// The table in `schema`.
    pub fn new(schema: &str, table: &SinkTable) -> Result<Self, UnsupportedType> {
        let columns = table.schema.fields().iter().map(|field| {
            Ok(Column {
                name: quoted(field.name()),
                ty: column_type(field.data_type())?,
                nullable: field.is_nullable(),
            })
        });
        Ok(Self {
            path: format!("{}.{}", quoted(schema), quoted(table.name)),
            stage: quoted(&format!("pinpipe_stage_{}", table.name)),
            columns: columns.collect::<Result<_, UnsupportedType>>()?,
            key: table.key.iter().map(|name| quoted(name)).collect(),
        })
    }

    /// The types of the columns, in order.
    pub fn types(&self) -> Vec<Type> {
        self.columns
            .iter()
            .map(|column| column.ty.clone())
            .collect()
    }

    fn names(&self) -> String {
        let names: Vec<&str> = self.columns.iter().map(|column| &*column.name).collect();
        names.join(", ")
    }

    /// Creates the table.
    pub fn create(&self) -> String {
        let columns: Vec<String> = self.columns.iter().map(Column::definition).collect();
        format!(
            "CREATE TABLE {} ({}, {RUN} timestamp with time zone NOT NULL, PRIMARY KEY ({}))",
            self.path,
            columns.join(", "),
            self.key.join(", ")
        )
    }

    /// Creates the staging table, which the transaction's end drops.
    pub fn create_stage(&self) -> String {
        let columns: Vec<String> = self
            .columns
            .iter()
            .map(|column| format!("{} {}", column.name, type_name(&column.ty)))
            .collect();
        format!(
            "CREATE TEMPORARY TABLE {} ({}) ON COMMIT DROP",
            self.stage,
            columns.join(", ")
        )
    }

    /// Empties the staging table.
    pub fn empty_stage(&self) -> String {
        format!("TRUNCATE pg_temp.{}", self.stage)
    }

    /// Copies rows into the staging table.
    pub fn copy(&self) -> String {
        format!(
            "COPY pg_temp.{} ({}) FROM STDIN (FORMAT binary)",
            self.stage,
            self.names()
        )
    }

    /// Writes the staged rows, each replacing the earlier one of its key, whole. Parameter: the
    /// run's time.
    pub fn merge(&self) -> String {
        let names = self.names();
        let set: Vec<String> = self
            .columns
            .iter()
            .filter(|column| !self.key.contains(&column.name))
            .map(|column| column.name.as_str())
            .chain([RUN])
            .map(|name| format!("{name} = excluded.{name}"))
            .collect();
        format!(
            "INSERT INTO {} ({names}, {RUN}) SELECT {names}, $1 FROM pg_temp.{} \
             ON CONFLICT ({}) DO UPDATE SET {}",
            self.path,
            self.stage,
            self.key.join(", "),
            set.join(", ")
        )
    }

    /// Deletes the rows of all runs but one. Parameter: the run's time.
    pub fn delete_others(&self) -> String {
        format!("DELETE FROM {} WHERE {RUN} <> $1", self.path)
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{Field, Schema};
    use pinpipe_core::{Kind, columns};

    use super::*;

    fn geo() -> Table {
        let table = SinkTable {
            name: "geo_batch",
            schema: crate::columns::schema(Kind::Geo),
            key: vec![columns::key(Kind::Geo)],
        };
        Table::new("batch", &table).unwrap()
    }

    #[test]
    fn a_clean_table_has_the_types_of_the_live_one_and_its_records_key() {
        assert_eq!(
            geo().create(),
            "CREATE TABLE \"batch\".\"geo_batch\" (\"ind\" bigint NOT NULL, \"country\" text, \
             \"coordinates\" double precision[], \"timestamp\" timestamp with time zone, \
             \"_run\" timestamp with time zone NOT NULL, PRIMARY KEY (\"ind\"))"
        );
    }

    #[test]
    fn a_row_is_replaced_whole() {
        assert_eq!(
            geo().merge(),
            "INSERT INTO \"batch\".\"geo_batch\" \
             (\"ind\", \"country\", \"coordinates\", \"timestamp\", \"_run\") \
             SELECT \"ind\", \"country\", \"coordinates\", \"timestamp\", $1 \
             FROM pg_temp.\"pinpipe_stage_geo_batch\" ON CONFLICT (\"ind\") DO UPDATE SET \
             \"country\" = excluded.\"country\", \"coordinates\" = excluded.\"coordinates\", \
             \"timestamp\" = excluded.\"timestamp\", \"_run\" = excluded.\"_run\""
        );
    }

    #[test]
    fn an_unsupported_type_is_refused() {
        let table = SinkTable {
            name: "t",
            schema: Schema::new(vec![Field::new("x", DataType::Boolean, false)]).into(),
            key: vec!["x"],
        };
        let error = Table::new("s", &table).unwrap_err();
        assert!(error.to_string().contains("Boolean"), "{error}");
    }
}
