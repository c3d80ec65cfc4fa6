//! Checks whether an existing live table suits the sink. Pure.
//!
//! The sink only ever adds to a table: it adds missing columns that are nullable. Other columns
//! belong to the user and may stay as long as they need no value.

use std::collections::BTreeSet;

use super::sql::{Column, quoted};

/// An existing column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The column's name.
    pub name: String,
    /// The type, as `format_type` writes it.
    pub ty: String,
    /// Whether the column may be null.
    pub nullable: bool,
    /// Whether the column has a default or is an identity column.
    pub has_default: bool,
}

/// The columns to add to a table, or why it is unsuitable and what to do.
pub fn fit<'a>(
    table: &str,
    wanted: &'a [Column],
    key: &[&str],
    found: &[Found],
    unique: &[Vec<String>],
) -> Result<Vec<&'a Column>, String> {
    check_key(table, key, unique)?;
    let mut missing = Vec::new();
    for column in wanted {
        let name = quoted(column.name);
        match found.iter().find(|found| found.name == column.name) {
            None if column.nullable => missing.push(column),
            None => {
                return Err(format!(
                    "{table} has no column {name} {}, and it can't be added to existing rows: \
                     {REMEDY}",
                    column.ty
                ));
            }
            Some(found) if found.ty != column.ty => {
                return Err(format!(
                    "the column {name} of {table} is {}, {} is needed: ALTER TABLE {table} ALTER \
                     COLUMN {name} TYPE {}, or {REMEDY}",
                    found.ty, column.ty, column.ty
                ));
            }
            Some(found) if column.nullable && !found.nullable => {
                return Err(format!(
                    "the column {name} of {table} is NOT NULL, and records may lack the value: \
                     ALTER TABLE {table} ALTER COLUMN {name} DROP NOT NULL"
                ));
            }
            Some(_) => {}
        }
    }
    let other = |found: &&Found| wanted.iter().all(|column| column.name != found.name);
    if let Some(required) = found
        .iter()
        .filter(other)
        .find(|found| !found.nullable && !found.has_default)
    {
        return Err(format!(
            "the column {name} of {table} is not pinpipe's, is NOT NULL and has no default, so no \
             row can be inserted: ALTER TABLE {table} ALTER COLUMN {name} SET DEFAULT …",
            name = quoted(&required.name)
        ));
    }
    Ok(missing)
}

const REMEDY: &str =
    "rename the table, and the worker creates its own, or name another schema in the sink";

/// Checks that the table has the sink's key among its unique keys.
fn check_key(table: &str, key: &[&str], unique: &[Vec<String>]) -> Result<(), String> {
    let wanted: BTreeSet<&str> = key.iter().copied().collect();
    if unique
        .iter()
        .any(|columns| columns.iter().map(String::as_str).collect::<BTreeSet<_>>() == wanted)
    {
        return Ok(());
    }
    let has = match unique {
        [] => "no unique key".to_owned(),
        keys => keys
            .iter()
            .map(|columns| format!("({})", columns.join(", ")))
            .collect::<Vec<_>>()
            .join(" and "),
    };
    Err(format!(
        "{table} has {has}, the sink's writeMode needs the primary key ({}). If the mode was \
         changed: change it back, or {REMEDY}; the new table gets the records read from then on, \
         or all of them after a reset to earliest",
        key.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use pinpipe_config::WriteMode;
    use pinpipe_core::Kind;

    use super::{super::sql::Sql, *};

    /// The table as the sink creates it.
    fn own(sql: &Sql) -> (Vec<Column>, Vec<Found>, Vec<Vec<String>>) {
        let wanted = sql.columns(Kind::Geo);
        let found = wanted
            .iter()
            .map(|column| Found {
                name: column.name.to_owned(),
                ty: column.ty.to_owned(),
                nullable: column.nullable,
                has_default: false,
            })
            .collect();
        let key = sql
            .key(Kind::Geo)
            .iter()
            .map(|name| (*name).to_owned())
            .collect();
        (wanted, found, vec![key])
    }

    fn fitted(
        mode: WriteMode,
        change: impl FnOnce(&mut Vec<Found>, &mut Vec<Vec<String>>),
    ) -> Result<Vec<String>, String> {
        let sql = Sql::new("s", mode);
        let (wanted, mut found, mut unique) = own(&sql);
        change(&mut found, &mut unique);
        let missing = fit("s.geo", &wanted, &sql.key(Kind::Geo), &found, &unique)?;
        Ok(missing
            .into_iter()
            .map(|column| column.name.to_owned())
            .collect())
    }

    #[test]
    fn the_sink_s_own_table_fits_in_either_mode() {
        for mode in [WriteMode::Upsert, WriteMode::Append] {
            assert_eq!(fitted(mode, |_, _| {}), Ok(vec![]));
        }
    }

    #[test]
    fn missing_columns_are_added_and_the_user_s_own_stay() {
        let added = fitted(WriteMode::Upsert, |found, _| {
            found.retain(|column| column.name != "country");
            for (name, nullable, has_default) in [("note", true, false), ("loaded_at", false, true)]
            {
                found.push(Found {
                    name: name.to_owned(),
                    ty: "text".to_owned(),
                    nullable,
                    has_default,
                });
            }
        });
        assert_eq!(added, Ok(vec!["country".to_owned()]));
    }

    #[test]
    fn an_unsuitable_table_is_refused_with_the_column() {
        type Change = fn(&mut Vec<Found>, &mut Vec<Vec<String>>);
        let cases: [(&str, Change); 6] = [
            (
                "\"country\" of s.geo is integer, text is needed",
                |found, _| found[1].ty = "integer".to_owned(),
            ),
            ("\"country\" of s.geo is NOT NULL", |found, _| {
                found[1].nullable = false;
            }),
            ("no column \"_offset\"", |found, _| {
                found.retain(|column| column.name != "_offset");
            }),
            ("\"own\" of s.geo is not pinpipe's", |found, _| {
                found.push(Found {
                    name: "own".into(),
                    ty: "text".into(),
                    nullable: false,
                    has_default: false,
                });
            }),
            ("has no unique key", |_, unique| unique.clear()),
            (
                "has (_topic, _partition, _offset), the sink's writeMode needs the primary key \
                 (ind)",
                |_, unique| {
                    *unique = vec![
                        ["_topic", "_partition", "_offset"]
                            .map(str::to_owned)
                            .to_vec(),
                    ];
                },
            ),
        ];
        for (expected, change) in cases {
            let message = fitted(WriteMode::Upsert, change).unwrap_err();
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn any_unique_key_of_the_right_columns_suits() {
        let added = fitted(WriteMode::Append, |_, unique| {
            unique[0].reverse();
            unique.insert(0, vec!["id".to_owned()]);
        });
        assert_eq!(added, Ok(vec![]));
    }
}
