//! Runs, and the databases and buckets they are loaded from and into.

use std::{collections::BTreeMap, fs, sync::Arc};

use arrow::{
    array::{ArrayRef, Int64Array, StringArray},
    datatypes::{DataType, Field, Schema},
};
use pinpipe_core::{Geo, Kind, Order, Pin, Record, questions::QUESTIONS};
use pinpipe_servers::stores;

use super::super::*;
use crate::{
    answers::Answer,
    columns::{self, TableBuilder},
    load::{Loading, SinkReport},
    rows::{self, Chunk},
    scratch::{Scratch, Writer},
    state::{Part, State},
    store::Store,
    testing::{self, TestDir},
};

pub const PIPELINE: &str = "data/pinterest";

/// A pin's key and title.
pub type Title = (&'static str, &'static str);

/// A run, by its time in microseconds, and the run that it builds on.
#[derive(Clone)]
pub struct Run {
    pub state_id: &'static str,
    pub time: i64,
    pub base: Option<i64>,
    pub changed: Vec<Title>,
    pub all: Vec<Title>,
    /// The answer: countries with their most popular category.
    pub countries: Vec<(&'static str, &'static str)>,
}

impl Run {
    pub fn full(time: i64, all: &[Title]) -> Self {
        Self {
            state_id: "lake",
            time,
            base: None,
            changed: all.to_vec(),
            all: all.to_vec(),
            countries: vec![("Albania", "art"), ("Zambia", "travel")],
        }
    }

    pub fn next(&self, time: i64, changed: &[Title]) -> Self {
        let mut all: BTreeMap<_, _> = self.all.iter().copied().collect();
        all.extend(changed.iter().copied());
        Self {
            time,
            base: Some(self.time),
            changed: changed.to_vec(),
            all: all.into_iter().collect(),
            countries: vec![("Albania", "quotes")],
            ..self.clone()
        }
    }

    pub fn marker(&self) -> Marker {
        Marker {
            state_id: self.state_id.into(),
            run_time: at(self.time),
        }
    }
}

fn at(micros: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(micros).unwrap()
}

fn pins(titles: &[Title]) -> RecordBatch {
    let mut table = TableBuilder::new(Kind::Pin);
    for (key, title) in titles {
        table.push(&Record::Pin(Pin {
            title: Some((*title).into()),
            ..testing::pin((*key).to_owned(), 7)
        }));
    }
    table.finish().unwrap()
}

/// Geo records at both ends of the time that the contract permits, and one without values.
fn geos() -> RecordBatch {
    let mut table = TableBuilder::new(Kind::Geo);
    for (ind, micros) in [
        (1, Some(-62_135_596_800_000_000)),
        (2, Some(253_402_300_799_999_999)),
        (3, None),
    ] {
        table.push(&Record::Geo(Geo {
            ind,
            country: micros.map(|_| "Côte d'Ivoire".into()),
            coordinates: micros.map(|_| [-89.5, 12.25]),
            timestamp: micros,
        }));
    }
    table.finish().unwrap()
}

fn answer(countries: &[(&'static str, &'static str)]) -> Answer {
    let question = QUESTIONS[0];
    let types = [DataType::Utf8, DataType::Utf8, DataType::Int64];
    let fields = question.columns.iter().zip(types);
    let fields: Vec<Field> = fields
        .map(|(column, data_type)| Field::new(column.name, data_type, false))
        .collect();
    let arrays: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(
            countries.iter().map(|(country, _)| country),
        )),
        Arc::new(StringArray::from_iter_values(
            countries.iter().map(|(_, category)| category),
        )),
        Arc::new(Int64Array::from_iter_values(countries.iter().map(|_| 3))),
    ];
    let rows = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).unwrap();
    Answer { question, rows }
}

/// A database, and the bucket of the runs that are loaded into it.
pub struct Place {
    pub url: String,
    client: Client,
    store: Store,
    folder: TestDir,
}

impl Place {
    pub async fn new(database: &str) -> Self {
        let (client, url) = testing::database(database).await;
        client.batch_execute("SET TIME ZONE 'UTC'").await.unwrap();
        let zone = testing::zone(&database.replace('_', "-"), stores::s3(true).0);
        Self {
            client,
            url,
            store: Store::open(&zone).await.unwrap(),
            folder: TestDir::new(),
        }
    }

    pub fn sink(&self) -> PostgresSink {
        self.sink_of(&self.url)
    }

    pub fn sink_of(&self, url: &str) -> PostgresSink {
        let url_file = self.folder.file("url");
        fs::write(&url_file, url).unwrap();
        PostgresSink::new(BatchPostgres {
            url_file,
            secret: Some("Secret warehouse, key url".into()),
            tls: None,
            schema: "batch".into(),
        })
    }

    /// Writes a run's pins and commits nothing yet.
    pub async fn begin(&self, run: &Run) -> PostgresSink {
        let pin = SinkTable {
            name: "pinterest_batch",
            schema: columns::schema(Kind::Pin),
            key: vec![pinpipe_core::columns::key(Kind::Pin)],
        };
        let sink = self.sink();
        sink.prepare(PIPELINE, &[]).await.unwrap();
        let rows = Box::pin(futures::stream::iter([Ok(pins(&run.changed))]));
        sink.write(&pin, 1, rows, at(run.time)).await.unwrap();
        sink
    }

    pub async fn load(&self, run: &Run) -> Result<SinkReport> {
        self.load_into(&self.sink(), run).await
    }

    /// Loads a run as a worker does that has its rows in files and its state in the bucket.
    pub async fn load_into(&self, sink: &dyn Sink, run: &Run) -> Result<SinkReport> {
        let scratch = Scratch::open(&self.folder.file(&run.time.to_string()))?;
        let mut changed = BTreeMap::new();
        for (kind, batch) in [(Kind::Pin, pins(&run.changed)), (Kind::Geo, geos())] {
            let file = scratch.file(&format!("changed-{kind}"));
            let mut writer = Writer::plain(file, &batch.schema())?;
            writer.write(&batch)?;
            changed.insert(kind, vec![writer.finish()?]);
        }
        let mut tables = BTreeMap::new();
        for (kind, batch) in [(Kind::Pin, pins(&run.all)), (Kind::Geo, geos())] {
            tables.insert(kind, vec![self.put_part(&scratch, run, kind, batch).await?]);
        }
        let state = State {
            run: run.time.to_string(),
            run_time: Some(at(run.time)),
            id: run.state_id.into(),
            begin: BTreeMap::new(),
            covered: BTreeMap::new(),
            topic_ids: BTreeMap::new(),
            listed: BTreeMap::new(),
            buckets: 64,
            tables,
            latest: BTreeMap::new(),
        };
        let loading = Loading {
            config: &testing::config(),
            store: &self.store,
            scratch: &scratch,
            state: &state,
            marker: run.marker(),
            base: run.base.map(at),
            is_attempt: false,
            changed: &changed,
            answers: &[answer(&run.countries)],
        };
        loading.load("warehouse", PIPELINE, sink).await
    }

    async fn put_part(
        &self,
        scratch: &Scratch,
        run: &Run,
        kind: Kind,
        batch: RecordBatch,
    ) -> Result<Part> {
        let rows = batch.num_rows();
        let order = Order {
            time: 1,
            partition: 0,
            offset: 0,
        };
        let chunk = Chunk {
            batch,
            orders: vec![order; rows],
            positions: vec![order; rows],
        };
        let batch = rows::state(kind, &chunk.to_rows(kind)?)?;
        let file = scratch.file(&format!("state-{kind}"));
        let mut writer = Writer::compressed(file.clone(), &batch.schema())?;
        writer.write(&batch)?;
        writer.finish()?;
        let key = format!("state/{kind}/{}-{}.arrow", run.state_id, run.time);
        self.store.put_file(&key, &file).await?;
        Ok(Part {
            bucket: 0,
            key,
            rows: rows as u64,
            bytes: 1,
        })
    }

    pub async fn run(&self, sql: &str) {
        self.client.batch_execute(sql).await.unwrap();
    }

    /// The rows that a query returns, each as text.
    pub async fn rows(&self, sql: &str) -> Vec<String> {
        let sql = format!("SELECT q::text FROM ({sql}) AS q");
        let rows = self.client.query(&sql, &[]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// Key, title and the run's time of each pin.
    pub async fn pins(&self) -> Vec<String> {
        let run = "(extract(epoch FROM _run) * 1000000)::bigint";
        let sql = format!("SELECT unique_id, title, {run} FROM batch.pinterest_batch ORDER BY 1");
        self.rows(&sql).await
    }

    pub async fn countries(&self) -> Vec<String> {
        self.rows("SELECT country, category FROM batch.popular_category_by_country ORDER BY 1")
            .await
    }
}
