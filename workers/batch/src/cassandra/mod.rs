//! The Cassandra sink: creates the keyspace and the tables if they don't exist, and writes rows
//! with the run's time as their timestamp.
//!
//! Because of the timestamp, a repeated run writes the same cells, and a late one that another run
//! has overtaken changes nothing. Rows are always written whole, nulls included.

mod errors;
mod find;
mod inserts;
mod keyspace;
mod marker;
mod rows;
#[cfg(test)]
mod server_tests;
mod table;
#[cfg(test)]
mod tls_tests;

use std::{
    collections::{BTreeMap, HashSet},
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use pinpipe_config::Cassandra;
use pinpipe_runtime::{config::secret_file, tls::Tls};
use scylla::{
    client::{
        execution_profile::ExecutionProfile, session::Session, session_builder::SessionBuilder,
    },
    errors::ExecutionError,
    response::query_result::QueryResult,
    serialize::row::SerializeRow,
    statement::prepared::PreparedStatement,
};
use tokio::task::JoinSet;
use tracing::{info, warn};

pub use self::find::find;
use self::{
    errors::{connect_error, request_error},
    inserts::Inserts,
    table::Table,
};
use crate::{
    failure::Permanent,
    retry::{RETRY_TIMEOUT, Retry, retry},
    sink::{Marker, Rows, Sink, SinkTable, Written, is_marker_valid},
};

/// Record batches written concurrently, each by its own task.
const WRITERS: usize = 4;
/// Timeout of one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// How long it may take until all nodes have a schema change.
const AGREEMENT_TIMEOUT: Duration = Duration::from_mins(1);
/// Interval of progress log lines.
const LOG_EVERY: Duration = Duration::from_secs(5);

/// A keyspace of a Cassandra cluster.
#[derive(Clone)]
pub struct CassandraSink {
    session: Arc<Session>,
    keyspace: String,
    /// Whether the last request of any writer failed, so that an outage is logged once and not once
    /// per row.
    unavailable: Arc<AtomicBool>,
}

impl CassandraSink {
    /// Connects, retrying while the cluster is unavailable, and creates the keyspace if it doesn't
    /// exist.
    pub async fn connect(config: &Cassandra) -> Result<Self> {
        let session = retry(RETRY_TIMEOUT, "connecting to Cassandra", || connect(config)).await?;
        let sink = Self {
            session: Arc::new(session),
            keyspace: config.keyspace.clone(),
            unavailable: Arc::new(AtomicBool::new(false)),
        };
        sink.create_keyspace(&config.replication).await?;
        Ok(sink)
    }

    /// Checks first, so that an existing keyspace needs no permission to create keyspaces.
    async fn create_keyspace(&self, replication: &BTreeMap<String, u32>) -> Result<()> {
        let existing = "SELECT keyspace_name FROM system_schema.keyspaces WHERE keyspace_name = ?";
        if !self.schema_names(existing).await?.is_empty() {
            return Ok(());
        }
        let statement = keyspace::create(&self.keyspace, replication);
        info!(statement, "creating the keyspace");
        self.change_schema(&statement)
            .await
            .with_context(|| format!("can't create the keyspace {}", self.keyspace))
    }

    /// Names of the keyspace's tables.
    async fn existing_tables(&self) -> Result<HashSet<String>> {
        self.schema_names("SELECT table_name FROM system_schema.tables WHERE keyspace_name = ?")
            .await
    }

    async fn create_table(&self, name: &str, cql: &str) -> Result<()> {
        self.change_schema(cql).await.with_context(|| {
            format!(
                "can't create the table {name} in the keyspace {}",
                self.keyspace
            )
        })?;
        info!(table = name, "table created");
        Ok(())
    }

    fn table(&self, table: &SinkTable) -> Result<Table> {
        Ok(Table::new(
            &self.keyspace,
            table.name,
            &table.schema,
            &table.key,
        )?)
    }

    /// The names that a query on `system_schema` returns for the keyspace.
    async fn schema_names(&self, query: &str) -> Result<HashSet<String>> {
        let statement = self.prepare_statement(query).await?;
        let rows = self
            .execute(&statement, &(&self.keyspace,))
            .await?
            .into_rows_result()?;
        let names = rows.rows::<(String,)>()?.map(|row| Ok(row?.0));
        names.collect()
    }

    /// Changes the schema. The driver waits until all nodes have the change.
    async fn change_schema(&self, cql: &str) -> Result<()> {
        retry(RETRY_TIMEOUT, "changing Cassandra's schema", || async {
            self.session
                .query_unpaged(cql, ())
                .await
                .map_err(request_error)?;
            Ok(())
        })
        .await
    }

    async fn prepare_statement(&self, cql: &str) -> Result<PreparedStatement> {
        let mut statement = retry(RETRY_TIMEOUT, "preparing a statement", || async {
            self.session
                .prepare(cql)
                .await
                .map_err(|error| request_error(error.into()))
        })
        .await
        .with_context(|| {
            format!("can't prepare `{cql}`; an existing table may have other columns")
        })?;
        // These are reads, and writes with a fixed timestamp, so the driver may repeat them.
        statement.set_is_idempotent(true);
        Ok(statement)
    }

    /// Executes a statement, retrying while the cluster is unavailable.
    async fn execute(
        &self,
        statement: &PreparedStatement,
        values: &(impl SerializeRow + Sync),
    ) -> Result<QueryResult> {
        self.send(|| self.session.execute_unpaged(statement, values))
            .await
    }

    /// Sends a request, retrying while the cluster is unavailable.
    async fn send<F>(&self, request: impl Fn() -> F) -> Result<QueryResult>
    where
        F: Future<Output = Result<QueryResult, ExecutionError>>,
    {
        let mut retry = Retry::new(RETRY_TIMEOUT);
        loop {
            let error = match request().await {
                Ok(result) => {
                    if self.unavailable.swap(false, Ordering::Relaxed) {
                        info!("Cassandra is available again");
                    }
                    return Ok(result);
                }
                Err(error) => request_error(error),
            };
            let (delay, error) = retry.delay(error)?;
            if !self.unavailable.swap(true, Ordering::Relaxed) {
                warn!(
                    error = format!("{error:#}"),
                    "Cassandra is unavailable, retrying"
                );
            }
            tokio::time::sleep(delay).await;
        }
    }
}

#[async_trait]
impl Sink for CassandraSink {
    fn is_atomic(&self) -> bool {
        false
    }

    async fn claim(&self, pipeline: &str) -> Result<()> {
        let existing = self.existing_tables().await?;
        self.claim_keyspace(&existing, pipeline).await.map(drop)
    }

    async fn prepare(&self, pipeline: &str, tables: &[SinkTable]) -> Result<Option<Marker>> {
        let existing = self.existing_tables().await?;
        let mut marker = self.claim_keyspace(&existing, pipeline).await?;
        if !is_marker_valid(&existing, tables)
            && let Some(void) = marker.take()
        {
            // Before the tables exist: whatever happens now, the next run finds no marker either.
            self.delete_marker(&void).await?;
        }
        for table in tables {
            if !existing.contains(table.name) {
                self.create_table(table.name, &self.table(table)?.create())
                    .await?;
            }
        }
        Ok(marker)
    }

    async fn write(
        &self,
        table: &SinkTable,
        total: u64,
        mut rows: Rows<'_>,
        run_time: DateTime<Utc>,
    ) -> Result<Written> {
        let name = table.name;
        let statement = self.prepare_statement(&self.table(table)?.insert()).await?;
        let inserts = Arc::new(Inserts::new(statement, table, run_time)?);
        let mut writers: JoinSet<Result<Written>> = JoinSet::new();
        let context = || format!("writing to the table {name}");
        let (mut all, mut last_logged) = (Written::default(), Instant::now());
        loop {
            while writers.len() < WRITERS
                && let Some(batch) = rows.try_next().await?
            {
                let (sink, inserts) = (self.clone(), Arc::clone(&inserts));
                writers.spawn(async move { sink.write_batch(name, &inserts, &batch).await });
            }
            let Some(written) = writers.join_next().await else {
                return Ok(all);
            };
            all.add(written?.with_context(context)?)
                .with_context(context)?;
            if last_logged.elapsed() >= LOG_EVERY {
                info!(table = name, rows = all.rows, of = total, "writing");
                last_logged = Instant::now();
            }
        }
    }

    /// The deletions' timestamp is one microsecond older than the run's rows, so they can't delete
    /// those.
    async fn delete_older(&self, table: &SinkTable, run_time: DateTime<Utc>) -> Result<u64> {
        let micros = run_time.timestamp_micros();
        let cql = self.table(table)?;
        let select = self.prepare_statement(&cql.select_write_times()).await?;
        let mut delete = self.prepare_statement(&cql.delete()).await?;
        delete.set_timestamp(Some(micros - 1));
        let deleted = AtomicU64::new(0);
        retry(RETRY_TIMEOUT, "deleting rows", || {
            self.delete_found(table.key.len(), &select, &delete, micros, &deleted)
        })
        .await
        .with_context(|| format!("deleting rows of the table {}", table.name))?;
        Ok(deleted.into_inner())
    }

    async fn keep_open(&self) -> Result<()> {
        Ok(())
    }

    async fn mark(&self, marker: &Marker) -> Result<()> {
        self.write_marker(marker).await
    }
}

async fn connect(config: &Cassandra) -> Result<Session> {
    let profile = ExecutionProfile::builder()
        .request_timeout(Some(REQUEST_TIMEOUT))
        .build();
    let mut builder = SessionBuilder::new()
        .known_nodes(&config.contact_points)
        .connection_timeout(Duration::from_secs(5))
        .schema_agreement_timeout(AGREEMENT_TIMEOUT)
        .default_execution_profile_handle(profile.into_handle());
    if let Some(folder) = &config.credentials_dir {
        let secret = |key| secret_file(&folder.join(key), None).map_err(Permanent::from);
        builder = builder.user(secret("username")?, secret("password")?);
    }
    let tls = config.tls.as_ref().map(|tls| {
        let tls = Tls::from_files(tls, &|path| secret_file(path, None))?;
        // The driver compares a certificate with the node's address alone, by which it knows the
        // nodes.
        tls.connector_for_names(host_names(&config.contact_points))
    });
    let tls = tls.transpose().context("cassandra.tls");
    let (connector, refused) = tls.map_err(Permanent::from)?.unzip();
    let connected = builder.tls_context(connector).build().await;
    connected.map_err(|error| connect_error(config, refused.as_ref(), error))
}

/// The host names among the contact points.
fn host_names(contact_points: &[String]) -> Vec<String> {
    let hosts = contact_points.iter().filter_map(|point| {
        let (host, _) = point.rsplit_once(':')?;
        let host = host.trim_matches(['[', ']']);
        host.parse::<IpAddr>().is_err().then(|| host.to_owned())
    });
    hosts.collect()
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
    };

    use super::*;
    use crate::testing::TestDir;

    const MESSAGE: &str = "Provided username pins and/or password are incorrect";

    /// A server that refuses all credentials, by the CQL binary protocol v4.
    async fn refuse_credentials(mut stream: TcpStream) -> std::io::Result<()> {
        loop {
            let mut header = [0; 9];
            stream.read_exact(&mut header).await?;
            let [_, _, stream_high, stream_low, opcode, length @ ..] = header;
            let mut body = vec![0; usize::try_from(u32::from_be_bytes(length)).unwrap()];
            stream.read_exact(&mut body).await?;
            let text = |text: &str| {
                let length = u16::try_from(text.len()).unwrap();
                [&length.to_be_bytes(), text.as_bytes()].concat()
            };
            let (opcode, body) = match opcode {
                // OPTIONS: SUPPORTED, nothing.
                0x05 => (0x06, vec![0, 0]),
                // STARTUP: AUTHENTICATE.
                0x01 => (
                    0x03,
                    text("org.apache.cassandra.auth.PasswordAuthenticator"),
                ),
                // AUTH_RESPONSE: ERROR, bad credentials.
                _ => (
                    0x00,
                    [&0x0100_u32.to_be_bytes()[..], &text(MESSAGE)].concat(),
                ),
            };
            let length = u32::try_from(body.len()).unwrap().to_be_bytes();
            let header = [0x84, 0, stream_high, stream_low, opcode];
            stream
                .write_all(&[&header[..], &length, &body].concat())
                .await?;
        }
    }

    #[test]
    fn only_names_of_contact_points_are_names_of_nodes() {
        let points = [
            "one.example:9042",
            "10.0.0.1:9042",
            "[::1]:9042",
            "two:9042",
        ];
        let names = host_names(&points.map(str::to_owned));
        assert_eq!(names, ["one.example", "two"]);
    }

    #[tokio::test]
    async fn refused_credentials_fail_without_retries_and_with_the_servers_message() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(refuse_credentials(stream));
            }
        });
        let credentials = TestDir::new();
        for key in ["username", "password"] {
            std::fs::write(credentials.file(key), "pins").unwrap();
        }
        let config = Cassandra {
            contact_points: vec![address.clone()],
            keyspace: "pinterest_data".into(),
            replication: BTreeMap::new(),
            credentials_dir: Some(credentials.path().to_owned()),
            tls: None,
        };
        let error = CassandraSink::connect(&config).await.err().unwrap();
        assert!(error.is::<Permanent>(), "{error:#}");
        for part in [&address, "credentialsSecretRef", MESSAGE] {
            assert!(error.to_string().contains(part), "{error:#}");
        }
    }
}
