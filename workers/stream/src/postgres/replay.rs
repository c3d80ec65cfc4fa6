//! Writing records again that the live tables have had before, such as by corrected rules.

use pinpipe_core::Kind;

use super::{Postgres, commit::copy, failure::Failed, rows::Rows, sql::Sql};
use crate::sink::{Answer, Batch as _, Refusal, SinkError};

/// What became of rows that were written again.
#[derive(Debug)]
pub enum Replayed {
    /// So many of them are in the table now; rows of later records have stayed.
    Written(u64),
    /// The server will never take one of them. None of them is written.
    Refused(Refusal),
}

impl Postgres {
    /// Writes a closed batch into the live table of its kind, in one transaction, whatever the
    /// stored positions: a row replaces one that is not later. Positions stay as they are. Only for
    /// tables that have one row a key ([`pinpipe_config::WriteMode::Upsert`]).
    pub async fn replay(&self, kind: Kind, rows: &Rows) -> Result<Replayed, SinkError> {
        if rows.records() == 0 {
            return Ok(Replayed::Written(0));
        }
        self.with(kind, async |connection| {
            let begin = Sql::begin(kind);
            let written = connection.transaction(&begin, async |client| {
                copy(client, kind, &[rows]).await?;
                Ok(client.execute_typed(&self.sql.insert(kind), &[]).await?)
            });
            match written.await {
                Ok(written) => Ok(Replayed::Written(written)),
                Err(Failed::Rows(Answer::Refused(refusal))) => Ok(Replayed::Refused(refusal)),
                Err(failed) => Err(failed.into_error()),
            }
        })
        .await
    }
}
