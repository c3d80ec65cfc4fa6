//! Whether a live table in write mode Append has one row of each record that its sink has passed.
//!
//! Offsets without a row are looked up in the topic, or in raw objects where it has expired: there
//! may be no record, or one that was rejected or refused.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use pinpipe_config::{
    StartFrom, WriteMode,
    inspect::{Check, Finding, Outcome},
};
use pinpipe_stream::postgres::sql::Sql;
use tokio_postgres::types::Type;

use super::{
    Take, Topic,
    lookup::{MAX_CLEAN, Records, lookup},
};
use crate::{
    inspect::{
        components::{Components, Live},
        deadletters::Letters,
        form,
        trace::{positions, sql},
    },
    postgres::Reader,
    store::Store,
};

/// Most findings of one kind in a partition.
const MAX_FINDINGS: usize = 100;
/// Most ranges without rows that are looked up in a partition.
const MAX_GAPS: usize = 10_000;

/// Checks the live table of a topic in one sink.
pub async fn check(
    components: &Components,
    store: Option<&Store>,
    live: &Live,
    topic: &Topic,
    found: Take<'_, Finding>,
) -> Result<()> {
    let sql = sql(live);
    let place = live.table_name(topic.kind);
    let not_counted = |message: String| Finding {
        outcome: Outcome::NotCounted,
        partition: None,
        message,
        ..topic.finding(Check::LiveRows, &place, 0)
    };
    if live.postgres.write_mode == WriteMode::Upsert {
        return found(not_counted(
            "not counted: a sink with writeMode Upsert has one row per key, not per record"
                .to_owned(),
        ));
    }
    let tables = match read(live, &sql, topic).await {
        Ok(tables) => tables,
        Err(error) => {
            return found(Finding {
                outcome: Outcome::Problem,
                ..not_counted(format!("it can't be checked: {error:#}"))
            });
        }
    };
    let without = topic.retained.keys().filter(|partition| {
        let mut tables = tables.iter();
        !tables.any(|table| table.partition == **partition)
    });
    for partition in without {
        found(Finding {
            outcome: Outcome::NotCounted,
            message: "not counted: the sink has no position in this partition: it has stored \
                      nothing of it, or its positions are lost"
                .to_owned(),
            ..topic.finding(Check::LiveRows, &place, *partition)
        })?;
    }
    for table in tables {
        let blank = topic.finding(Check::LiveRows, &place, table.partition);
        for finding in partition(components, store, live, topic, &table, &blank).await? {
            found(finding)?;
        }
    }
    Ok(())
}

/// What a live table has of a partition.
#[derive(Debug)]
struct Table {
    partition: i32,
    exists: bool,
    /// The sink's position.
    next: i64,
    /// First offset that is checked; `None` if there is none to begin with.
    start: Option<i64>,
    rows: i64,
    /// Offsets with several rows, and how many.
    doubled: Vec<(i64, i64)>,
    /// Rows at the position or behind it.
    beyond: i64,
    /// Ranges of offsets without rows.
    gaps: Vec<(i64, i64)>,
}

/// Reads all partitions in one transaction, so that rows and positions fit.
async fn read(live: &Live, sql: &Sql, topic: &Topic) -> Result<Vec<Table>> {
    let reader = Reader::open(&live.database()).await?;
    let (mut tables, name) = (Vec::new(), sql.live(topic.kind));
    let exists = reader.has(&name).await?;
    for (partition, next) in positions(&reader, sql, live, &topic.name).await? {
        let mut table = Table {
            partition,
            exists,
            next,
            start: None,
            rows: 0,
            doubled: Vec::new(),
            beyond: 0,
            gaps: Vec::new(),
        };
        if exists {
            let query = Query {
                reader: &reader,
                table: &name,
                topic,
            };
            let read = query.read(live, &mut table).await;
            read.with_context(|| format!("reading {name}"))?;
        }
        tables.push(table);
    }
    Ok(tables)
}

struct Query<'a> {
    reader: &'a Reader,
    table: &'a str,
    topic: &'a Topic,
}

impl Query<'_> {
    async fn read(&self, live: &Live, table: &mut Table) -> Result<()> {
        let (reader, name) = (self.reader, self.table);
        let (topic, partition) = (&self.topic.name, table.partition);
        let own = "_topic = $1 AND _partition = $2";
        let select = format!(
            "SELECT count(*), count(DISTINCT _offset), min(_offset), \
             count(*) FILTER (WHERE _offset >= $3) FROM {name} WHERE {own}"
        );
        let parameters = [
            (topic as _, Type::TEXT),
            (&partition as _, Type::INT4),
            (&table.next as _, Type::INT8),
        ];
        let rows = reader.rows(&select, &parameters).await?;
        let row = rows.first().context("no answer")?;
        let (rows, distinct): (i64, i64) = (row.get(0), row.get(1));
        let first: Option<i64> = row.get(2);
        (table.rows, table.beyond) = (rows, row.get(3));
        if rows > distinct {
            let select = format!(
                "SELECT _offset, count(*) FROM {name} WHERE {own} GROUP BY _offset \
                 HAVING count(*) > 1 ORDER BY _offset LIMIT {MAX_FINDINGS}"
            );
            let doubled = reader.rows(&select, &parameters[..2]).await?;
            table.doubled = doubled.iter().map(|row| (row.get(0), row.get(1))).collect();
        }
        let retained = self.topic.retained.get(&partition).map(|range| range.start);
        table.start = match live.postgres.start_from {
            StartFrom::Earliest => [first, retained].into_iter().flatten().min(),
            StartFrom::Latest => first,
        };
        table.start = table.start.filter(|start| *start < table.next);
        let Some(start) = table.start else {
            return Ok(());
        };
        let select = format!(
            "SELECT before + 1, _offset FROM (SELECT _offset, \
             lag(_offset, 1, $4 - 1) OVER (ORDER BY _offset) AS before FROM ( \
             SELECT _offset FROM {name} WHERE {own} AND _offset >= $4 AND _offset < $3 \
             UNION SELECT $3) AS present) AS pairs \
             WHERE _offset > before + 1 ORDER BY 1 LIMIT {MAX_GAPS}"
        );
        let [topic, partition, next] = parameters;
        let parameters = [topic, partition, next, (&start as _, Type::INT8)];
        let gaps = reader.rows(&select, &parameters).await?;
        table.gaps = gaps.iter().map(|row| (row.get(0), row.get(1))).collect();
        Ok(())
    }
}

/// What is wrong in a partition, or that nothing is.
async fn partition(
    components: &Components,
    store: Option<&Store>,
    live: &Live,
    topic: &Topic,
    table: &Table,
    blank: &Finding,
) -> Result<Vec<Finding>> {
    if !table.exists {
        let message = format!(
            "the table is missing, and the sink's position is {}",
            table.next
        );
        return Ok(vec![Finding {
            outcome: Outcome::Problem,
            message,
            ..blank.clone()
        }]);
    }
    let records = lookup(components, store, topic, table.partition, &table.gaps).await?;
    let refusals = refusals(components, live, topic, table.partition, &records).await?;
    let missing = refusals.missing;
    let mut findings = doubled(table, blank);
    findings.extend(lacking(&missing, blank));
    if !refusals.unknown.is_empty() {
        let offsets = form::ranges(&refusals.unknown, 10);
        findings.push(Finding {
            outcome: Outcome::NotCounted,
            count: Some(refusals.unknown.len() as u64),
            message: format!(
                "not counted: the records at {offsets} have no rows: their rows are lost, or the \
                 sink refused them and their dead letters have expired"
            ),
            ..blank.clone()
        });
    }
    for (from, to) in &records.unknown {
        findings.push(Finding {
            outcome: Outcome::NotCounted,
            from: Some(*from),
            to: Some(*to),
            count: u64::try_from(to - from).ok(),
            message: format!(
                "not counted: the offsets {from} to {} have no rows, and neither the topic nor the \
                 archive tells any more whether they have records",
                to - 1
            ),
            ..blank.clone()
        });
    }
    if table.gaps.len() >= MAX_GAPS || records.clean.len() >= MAX_CLEAN {
        let message = "not counted to the end: of too many offsets without rows, only the first \
                       were looked up"
            .to_owned();
        findings.push(Finding {
            outcome: Outcome::NotCounted,
            message,
            ..blank.clone()
        });
    }
    if table.beyond > 0 {
        findings.push(Finding {
            outcome: Outcome::NotCounted,
            from: Some(table.next),
            count: u64::try_from(table.beyond).ok(),
            message: format!(
                "not counted: {} rows are at the sink's position {} or behind it: the sink was \
                 reset to before them, or somebody else wrote them",
                table.beyond, table.next
            ),
            ..blank.clone()
        });
    }
    if !findings
        .iter()
        .any(|finding| finding.outcome == Outcome::Problem)
    {
        let refused = records.clean.len() - missing.len() - refusals.unknown.len();
        findings.push(in_order(live, table, &records, refused, blank));
    }
    Ok(findings)
}

/// That all rows are there.
fn in_order(
    live: &Live,
    table: &Table,
    records: &Records,
    refused: usize,
    blank: &Finding,
) -> Finding {
    let Some(start) = table.start else {
        let nothing = "no rows, and no record is known that the sink should have";
        let (outcome, message) = if table.next > 0 {
            let next = table.next;
            let message = format!("not counted: {nothing}: its position is {next}");
            (Outcome::NotCounted, message)
        } else {
            (Outcome::Ok, nothing.to_owned())
        };
        return Finding {
            outcome,
            count: Some(0),
            message,
            ..blank.clone()
        };
    };
    let last = table.next - 1;
    let mut message = format!("rows of the offsets {start} to {last}: {}", table.rows);
    for (what, number) in [
        ("; records rejected: ", records.rejected),
        ("; records refused by the sink: ", refused as u64),
        ("; offsets without a record: ", records.without),
    ] {
        if number > 0 {
            message.push_str(what);
            message.push_str(&number.to_string());
        }
    }
    if records.without > 0 {
        message.push_str(
            " (transaction markers, or records that were compacted away, whose rows can't be \
             counted)",
        );
    }
    if live.postgres.start_from == StartFrom::Latest {
        message.push_str("; counted from the first row on, since the sink has startFrom Latest");
    }
    Finding {
        from: Some(start),
        to: Some(table.next),
        count: u64::try_from(table.rows).ok(),
        message,
        ..blank.clone()
    }
}

fn doubled(table: &Table, blank: &Finding) -> Vec<Finding> {
    let findings = table.doubled.iter().map(|(offset, rows)| Finding {
        outcome: Outcome::Problem,
        from: Some(*offset),
        to: Some(offset + 1),
        count: u64::try_from(rows - 1).ok(),
        message: format!("the record at offset {offset} has {rows} rows"),
        ..blank.clone()
    });
    findings.collect()
}

/// A finding per run of offsets.
fn lacking(missing: &[i64], blank: &Finding) -> Vec<Finding> {
    let runs: Vec<&[i64]> = missing.chunk_by(|a, b| a + 1 == *b).collect();
    let (shown, rest) = runs.split_at(runs.len().min(MAX_FINDINGS));
    let finding = |run: &[i64], message: String| Finding {
        outcome: Outcome::Problem,
        from: run.first().copied(),
        to: run.last().map(|last| last + 1),
        count: Some(run.len() as u64),
        message,
        ..blank.clone()
    };
    let mut findings: Vec<Finding> = shown
        .iter()
        .map(|run| {
            let offsets = form::ranges(run, 1);
            let (s, is) = if run.len() == 1 {
                ("", "is")
            } else {
                ("s", "are")
            };
            let message = format!("the row{s} of the record{s} at {offsets} {is} missing");
            finding(run, message)
        })
        .collect();
    let rest: Vec<i64> = rest.concat();
    if !rest.is_empty() {
        let message = format!(
            "{} more rows are missing: {}",
            rest.len(),
            form::ranges(&rest, 10)
        );
        findings.push(finding(&rest, message));
    }
    findings
}

/// What is known of clean records without a row.
#[derive(Debug, Default)]
struct Refusals {
    /// The sink has not refused them.
    missing: Vec<i64>,
    /// Their dead letters would have expired.
    unknown: Vec<i64>,
}

/// Which of the clean records without a row the sink has not refused. Dead letters expire as
/// records do, so nothing is known of refusals of expired records once dead letters have expired.
async fn refusals(
    components: &Components,
    live: &Live,
    topic: &Topic,
    partition: i32,
    records: &Records,
) -> Result<Refusals> {
    let mut missing: BTreeSet<i64> = records.clean.iter().copied().collect();
    if missing.is_empty() {
        return Ok(Refusals::default());
    }
    let letters = Letters::open(components, topic.kind).await?;
    letters
        .each(|letter, _| {
            if letter.id.partition == partition
                && letter.id.sink.as_deref() == Some(&live.postgres.name)
            {
                missing.remove(&letter.id.offset);
            }
        })
        .await?;
    let retained = topic.retained.get(&partition).map(|range| range.start);
    let retained = retained.filter(|_| letters.have_expired());
    let kept = missing.split_off(&retained.unwrap_or(i64::MIN));
    Ok(Refusals {
        missing: kept.into_iter().collect(),
        unknown: missing.into_iter().collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_rows_are_named_by_runs_of_offsets() {
        let topic = Topic {
            kind: pinpipe_core::Kind::Pin,
            name: "t".into(),
            retained: [].into(),
        };
        let blank = topic.finding(Check::LiveRows, "live: s.pin", 0);
        let found = lacking(&[3, 5, 6], &blank);
        let said: Vec<_> = found
            .iter()
            .map(|finding| (finding.from, finding.count, &*finding.message))
            .collect();
        assert_eq!(
            said,
            [
                (Some(3), Some(1), "the row of the record at 3 is missing"),
                (
                    Some(5),
                    Some(2),
                    "the rows of the records at 5 to 6 are missing"
                ),
            ]
        );
        let many: Vec<i64> = (0..300).step_by(2).collect();
        let found = lacking(&many, &blank);
        assert_eq!(found.len(), MAX_FINDINGS + 1);
        assert_eq!(found[MAX_FINDINGS].count, Some(50));
    }
}
