//! The statements of the PostgreSQL sink. Pure.

use pinpipe_config::WriteMode;
use pinpipe_core::{Kind, columns};

/// The column of the topic's name, which only appended rows have.
const TOPIC: &str = "_topic";
/// The columns that decide which of two rows is later.
const ORDER: [&str; 3] = ["_time", "_partition", "_offset"];

/// Begins a transaction. The timeouts release the locks on rows when a worker dies in its middle.
/// They are those of this transaction alone.
pub const BEGIN: &str = "BEGIN; SET LOCAL lock_timeout = '20s'; \
    SET LOCAL idle_in_transaction_session_timeout = '20s'; \
    SET LOCAL client_min_messages = warning";

/// A column of a live table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// The column's name.
    pub name: &'static str,
    /// The type, as PostgreSQL's `format_type` writes it.
    pub ty: &'static str,
    /// Whether the column may be null.
    pub nullable: bool,
}

impl Column {
    fn definition(&self) -> String {
        format!(
            "{} {}{}",
            quoted(self.name),
            self.ty,
            if self.nullable { "" } else { " NOT NULL" }
        )
    }
}

/// The statements for the tables of one schema.
#[derive(Clone, Debug)]
pub struct Sql {
    schema: String,
    mode: WriteMode,
}

/// Quotes an identifier.
#[must_use]
pub fn quoted(name: &str) -> String {
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

fn column(name: &'static str) -> Column {
    let (ty, nullable) = match name {
        "index_id" | "ind" | "_offset" => ("bigint", false),
        "unique_id" | TOPIC => ("text", false),
        "_time" => ("timestamp with time zone", false),
        "_partition" => ("integer", false),
        "follower_count" => ("bigint", true),
        "downloaded" | "age" => ("integer", true),
        "coordinates" => ("double precision[]", true),
        "timestamp" | "date_joined" => ("timestamp with time zone", true),
        _ => ("text", true),
    };
    Column { name, ty, nullable }
}

/// The columns of a copied batch, in order.
fn copied(kind: Kind) -> impl Iterator<Item = &'static str> {
    columns::columns(kind).iter().copied().chain(ORDER)
}

/// The quoted columns of a copied batch, in order.
fn names(kind: Kind) -> Vec<String> {
    copied(kind).map(quoted).collect()
}

impl Sql {
    /// The statements for the tables in `schema`, whose rows `mode` writes.
    #[must_use]
    pub fn new(schema: &str, mode: WriteMode) -> Self {
        Self {
            schema: quoted(schema),
            mode,
        }
    }

    /// How rows are written.
    #[must_use]
    pub const fn mode(&self) -> WriteMode {
        self.mode
    }

    /// The columns of a live table, in order.
    #[must_use]
    pub fn columns(&self, kind: Kind) -> Vec<Column> {
        let topic = (self.mode == WriteMode::Append).then_some(TOPIC);
        columns::columns(kind)
            .iter()
            .copied()
            .chain(topic)
            .chain(ORDER)
            .map(column)
            .collect()
    }

    /// The columns of the primary key.
    #[must_use]
    pub fn key(&self, kind: Kind) -> Vec<&'static str> {
        match self.mode {
            WriteMode::Upsert => vec![columns::key(kind)],
            WriteMode::Append => vec![TOPIC, "_partition", "_offset"],
        }
    }

    /// The tables the sink needs: quoted name, and the statement that creates the table.
    #[must_use]
    pub fn tables(&self) -> Vec<(String, String)> {
        let positions = (
            self.positions(),
            format!(
                "CREATE TABLE IF NOT EXISTS {} (sink text, topic text, partition integer, \
                 cluster_id text NOT NULL, topic_id text NOT NULL, next_offset bigint NOT NULL, \
                 moved_at timestamptz NOT NULL DEFAULT now(), \
                 PRIMARY KEY (sink, topic, partition))",
                self.positions()
            ),
        );
        let live = Kind::ALL.map(|kind| {
            let columns: Vec<String> = self.columns(kind).iter().map(Column::definition).collect();
            let key: Vec<String> = self.key(kind).into_iter().map(quoted).collect();
            let table = self.live(kind);
            let (columns, key) = (columns.join(", "), key.join(", "));
            (
                table.clone(),
                format!("CREATE TABLE IF NOT EXISTS {table} ({columns}, PRIMARY KEY ({key}))"),
            )
        });
        std::iter::once(positions).chain(live).collect()
    }

    /// Adds missing columns to a live table.
    #[must_use]
    pub fn add_columns(&self, kind: Kind, columns: &[&Column]) -> String {
        let added: Vec<String> = columns
            .iter()
            .map(|column| format!("ADD COLUMN IF NOT EXISTS {}", column.definition()))
            .collect();
        format!("ALTER TABLE {} {}", self.live(kind), added.join(", "))
    }

    /// Creates the schema.
    #[must_use]
    pub fn create_schema(&self) -> String {
        format!("CREATE SCHEMA IF NOT EXISTS {}", self.schema)
    }

    /// The live table of a kind, quoted.
    #[must_use]
    pub fn live(&self, kind: Kind) -> String {
        format!("{}.{}", self.schema, table(kind))
    }

    /// The table of positions, quoted.
    #[must_use]
    pub fn positions(&self) -> String {
        format!("{}.pinpipe_position", self.schema)
    }

    fn stage(kind: Kind) -> String {
        format!("pg_temp.pinpipe_stage_{}", table(kind))
    }

    /// Begins the transaction of a commit, with the staging table that batches are copied into. The
    /// table is temporary and emptied by every commit. Nothing is expected of the session: behind a
    /// pooler the next transaction may be in another one, which has the table or doesn't.
    #[must_use]
    pub fn begin(kind: Kind) -> String {
        let columns: Vec<String> = copied(kind).map(|name| column(name).definition()).collect();
        format!(
            "{BEGIN}; CREATE TEMPORARY TABLE IF NOT EXISTS pinpipe_stage_{} ({}) \
             ON COMMIT DELETE ROWS",
            table(kind),
            columns.join(", ")
        )
    }

    /// Copies a batch into the staging table.
    #[must_use]
    pub fn copy(kind: Kind) -> String {
        format!(
            "COPY {} ({}) FROM STDIN (FORMAT binary)",
            Self::stage(kind),
            names(kind).join(", ")
        )
    }

    /// Inserts the staged batch into the live table. Parameter, with append only: topic.
    #[must_use]
    pub fn insert(&self, kind: Kind) -> String {
        match self.mode {
            WriteMode::Upsert => self.upsert(kind),
            WriteMode::Append => self.append(kind),
        }
    }

    /// A later record replaces the whole row, nulls included. So does a record of the same order,
    /// which is the same record re-driven, perhaps after cleaning was corrected. Rows are locked in
    /// the order of their keys, so that two of these statements can't deadlock.
    fn upsert(&self, kind: Kind) -> String {
        let key = quoted(columns::key(kind));
        let all = names(kind);
        let set: Vec<String> = all
            .iter()
            .filter(|name| **name != key)
            .map(|name| format!("{name} = excluded.{name}"))
            .collect();
        let order = match kind {
            Kind::Pin => format!("{key} COLLATE \"C\""),
            Kind::Geo | Kind::User => key.clone(),
        };
        let later = |of: &str| {
            ORDER
                .map(|name| format!("{of}.{}", quoted(name)))
                .join(", ")
        };
        format!(
            "INSERT INTO {live} AS live ({all}) SELECT {all} FROM {stage} ORDER BY {order} \
             ON CONFLICT ({key}) DO UPDATE SET {set} WHERE ({excluded}) >= ({current})",
            live = self.live(kind),
            all = all.join(", "),
            stage = Self::stage(kind),
            set = set.join(", "),
            excluded = later("excluded"),
            current = later("live"),
        )
    }

    /// Rows that exist already, since their partition is read again, stay as they are.
    fn append(&self, kind: Kind) -> String {
        let key: Vec<String> = self.key(kind).into_iter().map(quoted).collect();
        format!(
            "INSERT INTO {live} ({topic}, {all}) SELECT $1::text, {all} FROM {stage} \
             ORDER BY \"_offset\" ON CONFLICT ({key}) DO NOTHING",
            live = self.live(kind),
            topic = quoted(TOPIC),
            all = names(kind).join(", "),
            stage = Self::stage(kind),
            key = key.join(", "),
        )
    }

    /// Whether the live table holds a different record at the partition and offset of a staged row.
    /// A row without a time of the broker's tells nothing: an earlier release stored the same
    /// record with its producer's time. Parameter: topic.
    #[must_use]
    pub fn collides(&self, kind: Kind) -> String {
        format!(
            "SELECT EXISTS (SELECT FROM {} AS stage JOIN {} AS live ON live._topic = $1::text \
             AND live._partition = stage._partition AND live._offset = stage._offset \
             WHERE live._time <> stage._time AND stage._time <> 'epoch')",
            Self::stage(kind),
            self.live(kind)
        )
    }

    /// Reads a topic's positions. Parameters: sink, topic.
    #[must_use]
    pub fn read_positions(&self) -> String {
        format!(
            "SELECT partition, cluster_id, topic_id, next_offset FROM {} \
             WHERE sink = $1 AND topic = $2",
            self.positions()
        )
    }

    /// Stores an initial position unless there is one. Parameters: sink, topic, partition, cluster
    /// id, topic id, next offset.
    #[must_use]
    pub fn insert_position(&self) -> String {
        format!(
            "INSERT INTO {} (sink, topic, partition, cluster_id, topic_id, next_offset) \
             VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING",
            self.positions()
        )
    }

    /// Locks positions in the order of partitions, and reads them. Parameters: sink, topic,
    /// partitions.
    #[must_use]
    pub fn lock_positions(&self) -> String {
        format!(
            "SELECT partition, cluster_id, topic_id, next_offset FROM {} \
             WHERE sink = $1 AND topic = $2 AND partition = ANY ($3) \
             ORDER BY partition FOR UPDATE",
            self.positions()
        )
    }

    /// Moves locked positions from their expected values. Parameters: sink, topic; partitions,
    /// expected and new offsets as arrays.
    #[must_use]
    pub fn move_positions(&self) -> String {
        format!(
            "UPDATE {} AS stored SET next_offset = moved.after, moved_at = now() \
             FROM unnest($3::integer[], $4::bigint[], $5::bigint[]) \
             AS moved (partition, before, after) \
             WHERE stored.sink = $1 AND stored.topic = $2 \
             AND stored.partition = moved.partition AND stored.next_offset = moved.before",
            self.positions()
        )
    }

    /// The table of resets that were carried out, created with the first one.
    #[must_use]
    pub fn resets(&self) -> String {
        format!("{}.pinpipe_reset", self.schema)
    }

    /// Creates the table of resets.
    #[must_use]
    pub fn create_resets(&self) -> String {
        format!(
            "CREATE TABLE IF NOT EXISTS {} (sink text, topic text, id text, \
             carried_out_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (sink, topic, id))",
            self.resets()
        )
    }

    /// Whether a reset was carried out. Parameters: sink, topic, id.
    #[must_use]
    pub fn was_reset(&self) -> String {
        format!(
            "SELECT EXISTS (SELECT FROM {} WHERE sink = $1 AND topic = $2 AND id = $3)",
            self.resets()
        )
    }

    /// Records a reset as carried out, unless it is recorded. Parameters: sink, topic, id.
    #[must_use]
    pub fn note_reset(&self) -> String {
        format!(
            "INSERT INTO {} (sink, topic, id) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
            self.resets()
        )
    }

    /// Sets a position, whatever it was. Parameters: sink, topic, partition, cluster id, topic id,
    /// next offset.
    #[must_use]
    pub fn reset_position(&self) -> String {
        format!(
            "INSERT INTO {} (sink, topic, partition, cluster_id, topic_id, next_offset) \
             VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (sink, topic, partition) DO UPDATE SET \
             cluster_id = excluded.cluster_id, topic_id = excluded.topic_id, \
             next_offset = excluded.next_offset, moved_at = now()",
            self.positions()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_upsert_replaces_whole_rows_by_later_ones_in_key_order() {
        let sql = Sql::new("live", WriteMode::Upsert).insert(Kind::Geo);
        assert_eq!(
            sql,
            "INSERT INTO \"live\".geo AS live (\"ind\", \"country\", \"coordinates\", \
             \"timestamp\", \"_time\", \"_partition\", \"_offset\") \
             SELECT \"ind\", \"country\", \"coordinates\", \"timestamp\", \"_time\", \
             \"_partition\", \"_offset\" FROM pg_temp.pinpipe_stage_geo ORDER BY \"ind\" \
             ON CONFLICT (\"ind\") DO UPDATE SET \"country\" = excluded.\"country\", \
             \"coordinates\" = excluded.\"coordinates\", \
             \"timestamp\" = excluded.\"timestamp\", \"_time\" = excluded.\"_time\", \
             \"_partition\" = excluded.\"_partition\", \"_offset\" = excluded.\"_offset\" \
             WHERE (excluded.\"_time\", excluded.\"_partition\", excluded.\"_offset\") >= \
             (live.\"_time\", live.\"_partition\", live.\"_offset\")"
        );
    }

    #[test]
    fn a_schema_of_any_name_is_quoted() {
        assert_eq!(
            Sql::new("a\"b", WriteMode::Upsert).create_schema(),
            "CREATE SCHEMA IF NOT EXISTS \"a\"\"b\""
        );
    }

    #[test]
    fn appending_keeps_every_record_once() {
        assert_eq!(
            Sql::new("live", WriteMode::Append).insert(Kind::User),
            "INSERT INTO \"live\".user_profile (\"_topic\", \"ind\", \"user_name\", \"age\", \
             \"date_joined\", \"_time\", \"_partition\", \"_offset\") \
             SELECT $1::text, \"ind\", \"user_name\", \"age\", \"date_joined\", \"_time\", \
             \"_partition\", \"_offset\" FROM pg_temp.pinpipe_stage_user_profile \
             ORDER BY \"_offset\" ON CONFLICT (\"_topic\", \"_partition\", \"_offset\") \
             DO NOTHING"
        );
    }

    /// Records that their producers stamped get another time once the broker stamps them.
    #[test]
    fn a_record_without_a_time_collides_with_none() {
        let sql = Sql::new("live", WriteMode::Append).collides(Kind::Geo);
        let times = "live._time <> stage._time AND stage._time <> 'epoch')";
        assert!(sql.ends_with(times), "{sql}");
    }

    #[test]
    fn every_table_has_its_columns_in_the_documented_order() {
        for (mode, key) in [
            (WriteMode::Upsert, None),
            (
                WriteMode::Append,
                Some("\"_topic\", \"_partition\", \"_offset\""),
            ),
        ] {
            let sql = Sql::new("public", mode);
            let tables = sql.tables();
            assert_eq!(tables.len(), 4);
            for (kind, (name, statement)) in Kind::ALL.iter().zip(&tables[1..]) {
                assert_eq!(*name, format!("\"public\".{}", table(*kind)));
                let columns = sql.columns(*kind);
                assert_eq!(
                    columns.iter().any(|column| column.name == TOPIC),
                    mode == WriteMode::Append
                );
                let at: Vec<usize> = columns
                    .iter()
                    .map(|column| {
                        statement
                            .find(&format!("{} ", quoted(column.name)))
                            .unwrap()
                    })
                    .collect();
                assert!(at.is_sorted(), "{statement}");
                let key = key.map_or_else(|| quoted(columns::key(*kind)), str::to_owned);
                assert!(
                    statement.ends_with(&format!("PRIMARY KEY ({key}))")),
                    "{statement}"
                );
            }
        }
    }

    #[test]
    fn a_column_is_added_once_however_many_workers_find_it_missing() {
        let sql = Sql::new("s", WriteMode::Upsert);
        let columns = sql.columns(Kind::User);
        assert_eq!(
            sql.add_columns(Kind::User, &[&columns[1], &columns[3]]),
            "ALTER TABLE \"s\".user_profile ADD COLUMN IF NOT EXISTS \"user_name\" text, \
             ADD COLUMN IF NOT EXISTS \"date_joined\" timestamp with time zone"
        );
    }
}
