//! The statements of the PostgreSQL sink. Pure: text in, text out.

use pinpipe_core::{Kind, columns};

/// The columns beside the clean ones: what "later" is decided by.
const ORDER_COLUMNS: [(&str, &str); 3] =
    [("_time", "timestamptz NOT NULL"), ("_partition", "integer NOT NULL"), ("_offset", "bigint NOT NULL")];

/// The statements, with names quoted once and for all.
#[derive(Clone, Debug)]
pub struct Sql {
    schema: String,
}

/// Quotes an identifier.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The live table of a kind.
#[must_use]
pub const fn table(kind: Kind) -> &'static str {
    match kind {
        Kind::Pin => "pin",
        Kind::Geo => "geo",
        Kind::User => "user_profile",
    }
}

/// A clean column's type.
fn column_type(column: &str) -> &'static str {
    match column {
        "index_id" | "ind" => "bigint NOT NULL",
        "unique_id" => "text NOT NULL",
        "follower_count" => "bigint",
        "downloaded" | "age" => "integer",
        "coordinates" => "double precision[]",
        "timestamp" | "date_joined" => "timestamptz",
        _ => "text",
    }
}

/// Every column of a live table, quoted, in order.
fn names(kind: Kind) -> Vec<String> {
    columns::columns(kind).iter().copied().chain(ORDER_COLUMNS.map(|(name, _)| name)).map(quoted).collect()
}

impl Sql {
    /// Statements for the tables in `schema`.
    #[must_use]
    pub fn new(schema: &str) -> Self {
        Self { schema: quoted(schema) }
    }

    /// The tables this sink needs, by their quoted names, each with the statement that creates it.
    #[must_use]
    pub fn tables(&self) -> Vec<(String, String)> {
        let positions = (
            self.positions(),
            format!(
                "CREATE TABLE IF NOT EXISTS {} (sink text, topic text, partition integer, cluster_id text NOT NULL, \
                 topic_id text NOT NULL, next_offset bigint NOT NULL, moved_at timestamptz NOT NULL DEFAULT now(), \
                 PRIMARY KEY (sink, topic, partition))",
                self.positions()
            ),
        );
        let live = Kind::ALL.map(|kind| {
            let columns: Vec<String> = columns::columns(kind)
                .iter()
                .map(|name| (*name, column_type(name)))
                .chain(ORDER_COLUMNS)
                .map(|(name, ty)| format!("{} {ty}", quoted(name)))
                .collect();
            let key = quoted(columns::key(kind));
            let table = self.live(kind);
            (table.clone(), format!("CREATE TABLE IF NOT EXISTS {table} ({}, PRIMARY KEY ({key}))", columns.join(", ")))
        });
        std::iter::once(positions).chain(live).collect()
    }

    /// Creates the schema.
    #[must_use]
    pub fn create_schema(&self) -> String {
        format!("CREATE SCHEMA IF NOT EXISTS {}", self.schema)
    }

    fn live(&self, kind: Kind) -> String {
        format!("{}.{}", self.schema, table(kind))
    }

    fn positions(&self) -> String {
        format!("{}.pinpipe_position", self.schema)
    }

    fn stage(kind: Kind) -> String {
        format!("pg_temp.pinpipe_stage_{}", table(kind))
    }

    /// The connection's own table a batch is copied into; emptied by every commit.
    #[must_use]
    pub fn create_stage(&self, kind: Kind) -> String {
        format!("CREATE TEMPORARY TABLE pinpipe_stage_{} (LIKE {}) ON COMMIT DELETE ROWS", table(kind), self.live(kind))
    }

    /// Takes a batch, in binary.
    #[must_use]
    pub fn copy(kind: Kind) -> String {
        format!("COPY {} ({}) FROM STDIN (FORMAT binary)", Self::stage(kind), names(kind).join(", "))
    }

    /// Moves the batch into the live table: a later record replaces the whole row, nulls included. One of the same order is the same
    /// record, re-driven perhaps because it is cleaned better now. Rows are locked in the order of
    /// their keys, always the same, so that two of these can wait for each other but never in a circle.
    #[must_use]
    pub fn upsert(&self, kind: Kind) -> String {
        let key = quoted(columns::key(kind));
        let all = names(kind);
        let set: Vec<String> =
            all.iter().filter(|name| **name != key).map(|name| format!("{name} = excluded.{name}")).collect();
        let order = match kind {
            Kind::Pin => format!("{key} COLLATE \"C\""),
            Kind::Geo | Kind::User => key.clone(),
        };
        let later = |of: &str| ORDER_COLUMNS.map(|(name, _)| format!("{of}.{}", quoted(name))).join(", ");
        format!(
            "INSERT INTO {live} AS live ({all}) SELECT {all} FROM {stage} ORDER BY {order} ON CONFLICT ({key}) DO UPDATE SET {set} \
             WHERE ({excluded}) >= ({current})",
            live = self.live(kind),
            all = all.join(", "),
            stage = Self::stage(kind),
            set = set.join(", "),
            excluded = later("excluded"),
            current = later("live"),
        )
    }

    /// A topic's positions. Parameters: sink, topic.
    #[must_use]
    pub fn read_positions(&self) -> String {
        format!(
            "SELECT partition, cluster_id, topic_id, next_offset FROM {} WHERE sink = $1 AND topic = $2",
            self.positions()
        )
    }

    /// Stores a first position. Parameters: sink, topic, partition, cluster id, topic id, next offset.
    #[must_use]
    pub fn remember(&self) -> String {
        format!(
            "INSERT INTO {} (sink, topic, partition, cluster_id, topic_id, next_offset) VALUES ($1, $2, $3, $4, $5, $6) \
             ON CONFLICT DO NOTHING",
            self.positions()
        )
    }

    /// Locks a position and reads it. Parameters: sink, topic, partition.
    #[must_use]
    pub fn lock_position(&self) -> String {
        format!(
            "SELECT cluster_id, topic_id, next_offset FROM {} WHERE sink = $1 AND topic = $2 AND partition = $3 FOR UPDATE",
            self.positions()
        )
    }

    /// Moves a locked position. Parameters: sink, topic, partition, next offset.
    #[must_use]
    pub fn move_position(&self) -> String {
        format!(
            "UPDATE {} SET next_offset = $4, moved_at = now() WHERE sink = $1 AND topic = $2 AND partition = $3",
            self.positions()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_upsert_replaces_whole_rows_by_later_ones_in_key_order() {
        let sql = Sql::new("live").upsert(Kind::Geo);
        assert_eq!(
            sql,
            "INSERT INTO \"live\".geo AS live (\"ind\", \"country\", \"coordinates\", \"timestamp\", \"_time\", \"_partition\", \
             \"_offset\") SELECT \"ind\", \"country\", \"coordinates\", \"timestamp\", \"_time\", \"_partition\", \"_offset\" FROM \
             pg_temp.pinpipe_stage_geo ORDER BY \"ind\" ON CONFLICT (\"ind\") DO UPDATE SET \"country\" = excluded.\"country\", \
             \"coordinates\" = excluded.\"coordinates\", \"timestamp\" = excluded.\"timestamp\", \"_time\" = excluded.\"_time\", \
             \"_partition\" = excluded.\"_partition\", \"_offset\" = excluded.\"_offset\" WHERE (excluded.\"_time\", \
             excluded.\"_partition\", excluded.\"_offset\") >= (live.\"_time\", live.\"_partition\", live.\"_offset\")"
        );
    }

    #[test]
    fn a_schema_of_any_name_is_quoted() {
        assert_eq!(Sql::new("a\"b").create_schema(), "CREATE SCHEMA IF NOT EXISTS \"a\"\"b\"");
    }

    #[test]
    fn every_table_has_its_clean_columns_in_the_contract_s_order() {
        let tables = Sql::new("public").tables();
        assert_eq!(tables.len(), 4);
        for (kind, (name, statement)) in Kind::ALL.iter().zip(&tables[1..]) {
            assert_eq!(*name, format!("\"public\".{}", table(*kind)));
            let at: Vec<usize> =
                names(*kind).iter().map(|column| statement.find(&format!("{column} ")).unwrap()).collect();
            assert!(at.is_sorted(), "{statement}");
        }
    }
}
