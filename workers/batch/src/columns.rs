//! The three clean tables in Arrow: schemas and builders.
//!
//! Columns are in the contract's order. Coordinates are a list of two floats and timestamps are UTC
//! microseconds, which Delta has as types and which convert to Cassandra's lists and timestamps.
//! `downloaded` and `age` are bounded to 32 bits.

use std::{mem, sync::Arc};

use arrow::{
    array::{
        ArrayRef, Float64Builder, Int32Builder, Int64Builder, ListBuilder, RecordBatch,
        StringBuilder, TimestampMicrosecondBuilder,
    },
    datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit},
    error::ArrowError,
};
use pinpipe_core::{Geo, Kind, Pin, Record, User};

const UTC: &str = "UTC";

fn time() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into()))
}

fn coordinate() -> Arc<Field> {
    Arc::new(Field::new("element", DataType::Float64, false))
}

/// The schema of a clean table.
pub fn schema(kind: Kind) -> SchemaRef {
    let text = |name| Field::new(name, DataType::Utf8, true);
    let fields = match kind {
        Kind::Pin => vec![
            Field::new("unique_id", DataType::Utf8, false),
            Field::new("index_id", DataType::Int64, false),
            text("title"),
            text("category"),
            text("description"),
            text("poster_name"),
            Field::new("follower_count", DataType::Int64, true),
            text("tag_list"),
            text("is_image_or_video"),
            text("image_src"),
            Field::new("downloaded", DataType::Int32, true),
            text("save_location"),
        ],
        Kind::Geo => vec![
            Field::new("ind", DataType::Int64, false),
            text("country"),
            Field::new("coordinates", DataType::List(coordinate()), true),
            Field::new("timestamp", time(), true),
        ],
        Kind::User => vec![
            Field::new("ind", DataType::Int64, false),
            text("user_name"),
            Field::new("age", DataType::Int32, true),
            Field::new("date_joined", time(), true),
        ],
    };
    Arc::new(Schema::new(fields))
}

/// Builds batches of one clean table from records.
#[derive(Debug)]
pub struct TableBuilder {
    schema: SchemaRef,
    columns: Columns,
    rows: usize,
}

#[derive(Debug)]
enum Columns {
    Pin(Box<Pins>),
    Geo(Geos),
    User(Users),
}

#[derive(Debug, Default)]
struct Pins {
    unique_id: StringBuilder,
    index_id: Int64Builder,
    title: StringBuilder,
    category: StringBuilder,
    description: StringBuilder,
    poster_name: StringBuilder,
    follower_count: Int64Builder,
    tag_list: StringBuilder,
    is_image_or_video: StringBuilder,
    image_src: StringBuilder,
    downloaded: Int32Builder,
    save_location: StringBuilder,
}

#[derive(Debug)]
struct Geos {
    ind: Int64Builder,
    country: StringBuilder,
    coordinates: ListBuilder<Float64Builder>,
    timestamp: TimestampMicrosecondBuilder,
}

#[derive(Debug)]
struct Users {
    ind: Int64Builder,
    user_name: StringBuilder,
    age: Int32Builder,
    date_joined: TimestampMicrosecondBuilder,
}

impl Columns {
    fn new(kind: Kind) -> Self {
        let times = || TimestampMicrosecondBuilder::new().with_timezone(UTC);
        match kind {
            Kind::Pin => Self::Pin(Box::default()),
            Kind::Geo => Self::Geo(Geos {
                ind: Int64Builder::new(),
                country: StringBuilder::new(),
                coordinates: ListBuilder::new(Float64Builder::new()).with_field(coordinate()),
                timestamp: times(),
            }),
            Kind::User => Self::User(Users {
                ind: Int64Builder::new(),
                user_name: StringBuilder::new(),
                age: Int32Builder::new(),
                date_joined: times(),
            }),
        }
    }
}

impl TableBuilder {
    /// An empty table.
    pub fn new(kind: Kind) -> Self {
        Self {
            schema: schema(kind),
            columns: Columns::new(kind),
            rows: 0,
        }
    }

    /// Rows pushed since the last [`TableBuilder::finish`].
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Appends a record. Records of another kind than the table's are ignored.
    pub fn push(&mut self, record: &Record<'_>) {
        match (&mut self.columns, record) {
            (Columns::Pin(columns), Record::Pin(pin)) => columns.push(pin),
            (Columns::Geo(columns), Record::Geo(geo)) => columns.push(geo),
            (Columns::User(columns), Record::User(user)) => columns.push(user),
            _ => return,
        }
        self.rows += 1;
    }

    /// Removes and returns the rows as one batch.
    pub fn finish(&mut self) -> Result<RecordBatch, ArrowError> {
        self.rows = 0;
        let columns = match &mut self.columns {
            Columns::Pin(columns) => mem::take(&mut **columns).finish(),
            Columns::Geo(columns) => columns.finish(),
            Columns::User(columns) => columns.finish(),
        };
        RecordBatch::try_new(Arc::clone(&self.schema), columns)
    }
}

/// Narrows a value that cleaning has bounded to far less than 32 bits.
fn small(value: Option<i64>) -> Option<i32> {
    value.and_then(|value| i32::try_from(value).ok())
}

impl Pins {
    fn push(&mut self, pin: &Pin<'_>) {
        self.unique_id.append_value(&pin.unique_id);
        self.index_id.append_value(pin.index_id);
        self.title.append_option(pin.title.as_deref());
        self.category.append_option(pin.category.as_deref());
        self.description.append_option(pin.description.as_deref());
        self.poster_name.append_option(pin.poster_name.as_deref());
        self.follower_count.append_option(pin.follower_count);
        self.tag_list.append_option(pin.tag_list.as_deref());
        self.is_image_or_video
            .append_option(pin.is_image_or_video.as_deref());
        self.image_src.append_option(pin.image_src.as_deref());
        self.downloaded.append_option(small(pin.downloaded));
        self.save_location
            .append_option(pin.save_location.as_deref());
    }

    fn finish(mut self) -> Vec<ArrayRef> {
        vec![
            Arc::new(self.unique_id.finish()),
            Arc::new(self.index_id.finish()),
            Arc::new(self.title.finish()),
            Arc::new(self.category.finish()),
            Arc::new(self.description.finish()),
            Arc::new(self.poster_name.finish()),
            Arc::new(self.follower_count.finish()),
            Arc::new(self.tag_list.finish()),
            Arc::new(self.is_image_or_video.finish()),
            Arc::new(self.image_src.finish()),
            Arc::new(self.downloaded.finish()),
            Arc::new(self.save_location.finish()),
        ]
    }
}

impl Geos {
    fn push(&mut self, geo: &Geo<'_>) {
        self.ind.append_value(geo.ind);
        self.country.append_option(geo.country.as_deref());
        if let Some(coordinates) = geo.coordinates {
            self.coordinates.values().append_slice(&coordinates);
        }
        self.coordinates.append(geo.coordinates.is_some());
        self.timestamp.append_option(geo.timestamp);
    }

    fn finish(&mut self) -> Vec<ArrayRef> {
        vec![
            Arc::new(self.ind.finish()),
            Arc::new(self.country.finish()),
            Arc::new(self.coordinates.finish()),
            Arc::new(self.timestamp.finish()),
        ]
    }
}

impl Users {
    fn push(&mut self, user: &User<'_>) {
        self.ind.append_value(user.ind);
        self.user_name.append_option(user.user_name.as_deref());
        self.age.append_option(small(user.age));
        self.date_joined.append_option(user.date_joined);
    }

    fn finish(&mut self) -> Vec<ArrayRef> {
        vec![
            Arc::new(self.ind.finish()),
            Arc::new(self.user_name.finish()),
            Arc::new(self.age.finish()),
            Arc::new(self.date_joined.finish()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use pinpipe_core::columns;

    use super::*;
    use crate::cells::{self, Cell};

    #[test]
    fn the_schemas_have_the_contracts_columns_in_its_order() {
        for kind in Kind::ALL {
            let schema = schema(kind);
            let names: Vec<&str> = schema
                .fields()
                .iter()
                .map(|field| field.name().as_str())
                .collect();
            assert_eq!(names, columns::columns(kind), "{kind}");
            assert!(
                !schema
                    .field_with_name(columns::key(kind))
                    .unwrap()
                    .is_nullable(),
                "{kind}"
            );
        }
    }

    #[test]
    fn a_record_becomes_a_row_with_its_nulls() {
        let mut table = TableBuilder::new(Kind::Geo);
        let full = Geo {
            ind: 7,
            country: Some("Albania".into()),
            coordinates: Some([-89.5, 12.25]),
            timestamp: Some(1_598_586_767_000_000),
        };
        table.push(&Record::Geo(full));
        table.push(&Record::Geo(Geo {
            ind: 8,
            country: None,
            coordinates: None,
            timestamp: None,
        }));
        assert_eq!(table.len(), 2);
        let batch = table.finish().unwrap();
        assert_eq!(
            cells::row(&batch, 0).unwrap(),
            [
                Cell::BigInt(7),
                Cell::Text("Albania"),
                Cell::Doubles(vec![-89.5, 12.25]),
                Cell::Time(1_598_586_767_000_000)
            ]
        );
        assert_eq!(
            cells::row(&batch, 1).unwrap(),
            [Cell::BigInt(8), Cell::Null, Cell::Null, Cell::Null]
        );
        assert_eq!(
            (table.len(), table.finish().unwrap().num_rows()),
            (0, 0),
            "the rows were removed"
        );
    }
}
