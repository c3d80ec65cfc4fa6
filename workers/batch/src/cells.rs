//! Single values of an Arrow table, for the sinks and for the report.

use arrow::{
    array::{Array, AsArray, RecordBatch},
    datatypes::{DataType, Float64Type, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType},
};
use scylla::{
    cluster::metadata::ColumnType,
    serialize::{
        SerializationError,
        value::SerializeValue,
        writers::{CellWriter, WrittenCellProof},
    },
    value::CqlTimestamp,
};

/// A value of one of the types in clean tables and answers.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell<'a> {
    /// SQL null.
    Null,
    /// Text.
    Text(&'a str),
    /// 32-bit integer.
    Int(i32),
    /// 64-bit integer.
    BigInt(i64),
    /// 64-bit float.
    Double(f64),
    /// List of 64-bit floats without nulls.
    Doubles(Vec<f64>),
    /// Timestamp, microseconds since the epoch, UTC.
    Time(i64),
}

/// An Arrow type that clean tables and answers don't have.
#[derive(Debug, thiserror::Error)]
#[error("unsupported column type {0}")]
pub struct UnsupportedType(pub DataType);

/// The CQL type for an Arrow column.
///
/// Lists are frozen, which makes each a single cell. The elements of other lists are separate cells
/// with random names, so writing a list twice with one timestamp, as a repeated run or request
/// does, would duplicate its elements.
pub fn cql_type(data_type: &DataType) -> Result<&'static str, UnsupportedType> {
    match data_type {
        DataType::Utf8 => Ok("text"),
        DataType::Int32 => Ok("int"),
        DataType::Int64 => Ok("bigint"),
        DataType::Float64 => Ok("double"),
        DataType::List(item) if *item.data_type() == DataType::Float64 => {
            Ok("frozen<list<double>>")
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => Ok("timestamp"),
        other => Err(UnsupportedType(other.clone())),
    }
}

/// The values of a row, in column order.
pub fn row(batch: &RecordBatch, row: usize) -> Result<Vec<Cell<'_>>, UnsupportedType> {
    batch
        .columns()
        .iter()
        .map(|column| cell(column.as_ref(), row))
        .collect()
}

fn cell(array: &dyn Array, row: usize) -> Result<Cell<'_>, UnsupportedType> {
    if array.is_null(row) {
        return Ok(Cell::Null);
    }
    Ok(match array.data_type() {
        DataType::Utf8 => Cell::Text(array.as_string::<i32>().value(row)),
        DataType::Int32 => Cell::Int(array.as_primitive::<Int32Type>().value(row)),
        DataType::Int64 => Cell::BigInt(array.as_primitive::<Int64Type>().value(row)),
        DataType::Float64 => Cell::Double(array.as_primitive::<Float64Type>().value(row)),
        DataType::List(item) if *item.data_type() == DataType::Float64 => Cell::Doubles(
            array
                .as_list::<i32>()
                .value(row)
                .as_primitive::<Float64Type>()
                .values()
                .to_vec(),
        ),
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            Cell::Time(array.as_primitive::<TimestampMicrosecondType>().value(row))
        }
        other => return Err(UnsupportedType(other.clone())),
    })
}

impl Cell<'_> {
    /// Approximate size in a request, bytes.
    pub const fn bytes(&self) -> usize {
        4 + match self {
            Cell::Null => 0,
            Cell::Text(text) => text.len(),
            Cell::Int(_) => 4,
            Cell::BigInt(_) | Cell::Double(_) | Cell::Time(_) => 8,
            Cell::Doubles(values) => 4 + values.len() * 12,
        }
    }

    /// The value as JSON. Timestamps, which no answer has, become microseconds.
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Cell::Null => serde_json::Value::Null,
            Cell::Text(value) => (*value).into(),
            Cell::Int(value) => (*value).into(),
            Cell::BigInt(value) | Cell::Time(value) => (*value).into(),
            Cell::Double(value) => (*value).into(),
            Cell::Doubles(values) => values.as_slice().into(),
        }
    }
}

impl SerializeValue for Cell<'_> {
    fn serialize<'b>(
        &self,
        typ: &ColumnType,
        writer: CellWriter<'b>,
    ) -> Result<WrittenCellProof<'b>, SerializationError> {
        match self {
            Cell::Null => Ok(writer.set_null()),
            Cell::Text(value) => value.serialize(typ, writer),
            Cell::Int(value) => value.serialize(typ, writer),
            Cell::BigInt(value) => value.serialize(typ, writer),
            Cell::Double(value) => value.serialize(typ, writer),
            Cell::Doubles(values) => values.serialize(typ, writer),
            // Cassandra's timestamps are milliseconds; times before 1970 are rounded down, too.
            Cell::Time(micros) => CqlTimestamp(micros.div_euclid(1000)).serialize(typ, writer),
        }
    }
}
