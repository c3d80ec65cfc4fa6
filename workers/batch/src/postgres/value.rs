//! Values in PostgreSQL's binary format.

use std::{
    error::Error,
    time::{Duration, SystemTime},
};

use bytes::BytesMut;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

use crate::cells::Cell;

impl ToSql for Cell<'_> {
    fn to_sql(
        &self,
        ty: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        match self {
            Cell::Null => Ok(IsNull::Yes),
            Cell::Text(value) => value.to_sql(ty, out),
            Cell::Int(value) => value.to_sql(ty, out),
            Cell::BigInt(value) => value.to_sql(ty, out),
            Cell::Double(value) => value.to_sql(ty, out),
            Cell::Doubles(values) => values.to_sql(ty, out),
            Cell::Time(micros) => time(*micros).to_sql(ty, out),
        }
    }

    /// The statements' types are made from those of the cells.
    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

fn time(micros: i64) -> SystemTime {
    let distance = Duration::from_micros(micros.unsigned_abs());
    if micros < 0 {
        SystemTime::UNIX_EPOCH - distance
    } else {
        SystemTime::UNIX_EPOCH + distance
    }
}
