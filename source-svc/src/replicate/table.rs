//! A table that is followed: its changes → rows → batches → one DoPut for each
//! interval.
//!
//! ```text
//! change ─ transcode ─► rows of COPY's binary form ─ pending ─► decoder ─► batches ─► DoPut
//!                                                    (bounded)      opened with the first batch
//! ```
//!
//! Rows wait, in their compact form, until there is a batch of them or the
//! interval ends: of 2,000 tables with a few changes each, a few are with their
//! writers at once.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use bytes::Bytes;
use prost::Message;
use proto::columns::UNCHANGED;
use proto::lsn::Lsn;
use proto::metrics;
use proto::v1::relation::Kind;
use proto::v1::{self, StageRequest};
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use super::form::{Form, Forms};
use super::pgoutput::{Datum, Tuple};
use super::put::Open;
use super::row::{self, Source};
use super::spool::{Extent, Spool};
use crate::batch::{Batcher, Bounds};
use crate::capture::columns::{Columns, Since};
use crate::capture::shape;
use crate::capture::table::{RESERVED, Table};
use crate::decode::transcode::Transcoder;
use crate::decode::{Column, Decoder};
use crate::error::SourceError;
use crate::send::{self, Upload, WriterAddress, Writers};
use crate::types::Wire;

/// How every COPY begins and ends.
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
const TRAILER: [u8; 2] = (-1i16).to_be_bytes();
/// Room for pending rows that is kept.
const KEEP_BYTES: usize = 1 << 20;

/// The transaction whose changes are being read.
pub struct Transaction {
    pub commit_lsn: Lsn,
    /// Microseconds since 2000-01-01 UTC.
    pub commit_time: i64,
    pub xid: u32,
    /// `commit_lsn`, as rows have it.
    text: String,
}

impl Transaction {
    /// One that is committed there and then.
    pub fn new(commit_lsn: Lsn, commit_time: i64, xid: u32) -> Self {
        Transaction { commit_lsn, commit_time, xid, text: commit_lsn.to_string() }
    }
}

/// What all tables of a Replicate share.
pub struct Shared {
    pub writers: Writers,
    pub spool: Spool,
    /// As [`crate::identity::database`] has it.
    pub database: String,
    pub bounds: Bounds,
    pub max_row_bytes: u64,
}

/// Why a change could not be taken.
#[derive(Debug)]
pub enum Refused {
    /// The log does not say what the table holds.
    Lost(String),
    /// The run cannot go on.
    Failed(SourceError),
}

impl From<SourceError> for Refused {
    fn from(error: SourceError) -> Self {
        Refused::Failed(error)
    }
}

/// A table that is followed.
pub struct Followed {
    pub table: Table,
    /// "namespace.name", for people.
    pub label: String,
    /// Transactions that end at or before it are in the table.
    position: Lsn,
    pub lost: bool,
    /// Why its changes are not understood, unless its columns are others already.
    pub doubt: Option<String>,
    /// What it was when the position was reached; empty: unknown.
    pub shape: String,
    /// As they were before anything else was looked at.
    pub looked: Columns,
    /// What became of them since the position was reached.
    pub since: Since,
    /// Of its rows in the log.
    pub forms: Forms,
    /// The transaction of the last TRUNCATE that the log told of.
    pub truncated_by: Option<u32>,
    /// What came before a TRUNCATE stays.
    pub log: bool,
    writer: WriterAddress,
    stage: StageRequest,
    columns: Vec<Column>,
    /// Of them, so many are not the row's.
    reserved: usize,
    sources: Vec<Source>,
    /// Of the interval at hand.
    changes: Changes,
}

/// What has come of a table in an interval.
#[derive(Default)]
struct Changes {
    truncated: bool,
    /// Whole rows that the decoder has not seen.
    pending: Vec<u8>,
    /// Rows that came before them, put aside before the DoPut began.
    aside: Vec<Extent>,
    open: Option<Open>,
}

impl Followed {
    /// `request`: where its changes go; `position`: what it has already.
    pub fn new(
        table: Table,
        request: v1::ReplicateTable,
        looked: Columns,
        since: Since,
    ) -> Result<Self, SourceError> {
        let label = table.stream.relation.label();
        let wrong = |what: String| SourceError::Config(vec![format!("{label}: {what}")]);
        let position = match request.position.as_str() {
            "" => Lsn(0),
            text => text.parse().map_err(|error| wrong(format!("{error}")))?,
        };
        let stage = StageRequest::decode(request.stage)
            .map_err(|error| wrong(format!("no StageRequest: {error}")))?;
        let mut columns: Vec<Column> = RESERVED
            .into_iter()
            .zip([Wire::Text, Wire::TimestampTz, Wire::Text])
            .map(|(name, wire)| Column { field: wire.field(name, false), wire, key: false })
            .collect();
        // Old rows that are whole say what an UPDATE leaves out.
        if !table.full && !table.identity.is_empty() {
            let field = Wire::Bytea.field("_unchanged", true);
            let field = field.with_metadata([(UNCHANGED.to_owned(), String::new())].into());
            columns.push(Column { field, wire: Wire::Bytea, key: false });
        }
        let reserved = columns.len();
        columns.extend(table.stream.decoder_columns().into_iter().map(|mut column| {
            column.key = table.identity.contains(column.field.name());
            column
        }));
        let source = |column: &crate::relation::ColumnInfo| {
            let place = table.published.iter().position(|sent| sent.name == column.name);
            let place = place.ok_or_else(|| wrong(format!("{} is not sent", column.name)))?;
            let delimiter = table.published[place].delimiter;
            let transcoder = Transcoder::new(column.column_type.wire.clone(), delimiter);
            let identity = table.identity.contains(&column.name);
            Ok(Source { name: column.name.clone(), place, transcoder, identity })
        };
        let sources: Result<_, SourceError> = table.stream.columns.iter().map(source).collect();
        let (address, token) = (request.writer_address, request.writer_token);
        let forms = Forms::new(&table.published, &since);
        Ok(Followed {
            sources: sources?,
            table,
            label,
            position,
            lost: false,
            doubt: None,
            shape: request.shape,
            looked,
            since,
            forms,
            truncated_by: None,
            log: request.log,
            writer: WriterAddress { address, token },
            stage,
            columns,
            reserved,
            changes: Changes::default(),
        })
    }

    /// Whether nothing was done to its columns since its position.
    pub fn has_the_same_columns(&self) -> bool {
        shape::told_columns(&self.shape) == self.looked.text()
    }

    /// Rows of partitions that are gone stay, and their keys may come again.
    pub fn keep_removed(&mut self) {
        let kind = self.table.stream.relation.kind;
        self.stage.inserts_replace = kind == Kind::PartitionedTable;
    }

    /// Whether a transaction is one that the table lacks. A position is an end,
    /// and so the transaction that ends at it begins its commit before it.
    pub fn lacks(&self, transaction: &Transaction) -> bool {
        !self.lost && self.doubt.is_none() && transaction.commit_lsn >= self.position
    }

    /// Bytes that wait for the decoder.
    pub fn pending_bytes(&self) -> usize {
        self.changes.pending.len()
    }

    /// Whether its DoPut has begun.
    pub fn is_open(&self) -> bool {
        self.changes.open.is_some()
    }

    /// Whether anything has come of it in this interval.
    pub fn is_touched(&self) -> bool {
        let Changes { truncated, pending, aside, open } = &self.changes;
        *truncated || !pending.is_empty() || !aside.is_empty() || open.is_some()
    }

    /// What has come of it is not wanted; the writer discards what it has got.
    pub fn discard(&mut self) {
        self.changes = Changes::default();
    }

    /// A new row.
    pub fn insert(
        &mut self,
        transaction: &Transaction,
        form: &Form,
        new: Tuple<'_>,
    ) -> Result<u64, Refused> {
        let new = self.values(form, new)?;
        self.append(b'c', transaction, false, |source| new[source.place])?;
        Ok(1)
    }

    /// A row in place of another; how many rows that makes.
    pub fn update(
        &mut self,
        transaction: &Transaction,
        form: &Form,
        old: Option<Tuple<'_>>,
        new: Tuple<'_>,
    ) -> Result<u64, Refused> {
        self.require_identity("an UPDATE")?;
        let mut new = self.values(form, new)?;
        let old = old.map(|old| self.values(form, old)).transpose()?;
        let full = self.table.full;
        let (mut moved, mut left_out) = (false, None);
        for source in &self.sources {
            // What the old row carries for certain.
            let before =
                old.as_ref().filter(|_| full || source.identity).map(|old| old[source.place]);
            let value = &mut new[source.place];
            match (*value, before) {
                (Datum::Unchanged, Some(before @ Datum::Text(_))) => *value = before,
                (Datum::Unchanged, _) if left_out.is_none_or(|other: &Source| !other.identity) => {
                    left_out = Some(source);
                }
                _ => {}
            }
            if source.identity && before.is_some_and(|before| before != *value) {
                moved = true;
            }
        }
        let unknown = left_out.filter(|source| source.identity || !self.says_unchanged());
        if let Some(source) = unknown {
            return Err(Refused::Lost(format!(
                "an UPDATE{} left the large value of column {} as it was, and the log does not say \
                 what it is (REPLICA IDENTITY FULL would)",
                if moved { " of the key" } else { "" },
                source.name
            )));
        }
        let takes_along = moved && left_out.is_some();
        // Without a key the row that was is known by all of its values.
        moved |= self.table.identity.is_empty();
        match &old {
            Some(old) if moved => self.delete_row(transaction, old, takes_along)?,
            None if self.table.identity.is_empty() => {
                return Err(Refused::Lost("an UPDATE does not say what its row was".to_owned()));
            }
            _ => {}
        }
        self.append(b'u', transaction, takes_along, |source| new[source.place])?;
        Ok(1 + u64::from(moved))
    }

    /// A row that is gone.
    pub fn delete(
        &mut self,
        transaction: &Transaction,
        form: &Form,
        old: Tuple<'_>,
    ) -> Result<u64, Refused> {
        self.require_identity("a DELETE")?;
        let old = self.values(form, old)?;
        self.delete_row(transaction, &old, false)?;
        Ok(1)
    }

    /// `takes_along`: the change that comes next has values of this row.
    fn delete_row(
        &mut self,
        transaction: &Transaction,
        old: &[Datum<'_>],
        takes_along: bool,
    ) -> Result<(), Refused> {
        let full = self.table.full;
        let unknown =
            |source: &&Source| source.identity && !matches!(old[source.place], Datum::Text(_));
        // FULL without a NOT NULL on it: NULL is a value.
        if let Some(source) = self.sources.iter().find(unknown).filter(|_| !full) {
            let what = format!("the old row has no value of the key's column {}", source.name);
            return Err(Refused::Lost(what));
        }
        self.append(b'd', transaction, takes_along, |source| match source.identity || full {
            true => old[source.place],
            false => Datum::Unchanged,
        })
    }

    /// Whether a change says what it does not carry.
    fn says_unchanged(&self) -> bool {
        self.reserved > RESERVED.len()
    }

    /// Everything that the table had is gone, and what came before with it.
    pub fn truncate(&mut self, transaction: &Transaction) {
        self.truncated_by = Some(transaction.xid);
        if self.log {
            self.changes.truncated = true;
            return;
        }
        self.changes = Changes { truncated: true, ..Changes::default() };
    }

    fn require_identity(&self, what: &str) -> Result<(), Refused> {
        if !self.table.identity.is_empty() || self.table.full {
            return Ok(());
        }
        Err(Refused::Lost(format!(
            "{what}, and it has neither a primary key nor another replica identity to tell rows by"
        )))
    }

    /// The values of the table's columns.
    fn values<'a>(&self, form: &Form, tuple: Tuple<'a>) -> Result<Vec<Datum<'a>>, SourceError> {
        form.values(tuple).ok_or_else(|| {
            let (columns, expected) = (tuple.len(), form.columns());
            self.bad("?", format!("a row of {columns} columns, {expected} expected"))
        })
    }

    /// Appends a row to the pending ones.
    fn append<'a>(
        &mut self,
        op: u8,
        transaction: &Transaction,
        moved: bool,
        value: impl Fn(&Source) -> Datum<'a>,
    ) -> Result<(), Refused> {
        let (op, time) = ([op], transaction.commit_time.to_be_bytes());
        let said: [&[u8]; 3] = [&op, &time, transaction.text.as_bytes()];
        let says_unchanged = self.says_unchanged();
        let row = &mut self.changes.pending;
        let appended = row::append(row, said, says_unchanged, moved, &self.sources, &value);
        appended.map_err(|what| self.bad(&row::key(&self.sources, value), what).into())
    }

    fn bad(&self, key: &str, what: String) -> SourceError {
        SourceError::BadData { table: self.label.clone(), key: key.to_owned(), what }
    }

    /// Puts what is pending aside: its DoPut may not begin yet.
    pub async fn put_aside(&mut self, shared: &Shared) -> Result<(), SourceError> {
        let rows = std::mem::take(&mut self.changes.pending);
        let extent = shared.spool.write(rows).await?;
        self.changes.aside.push(extent);
        Ok(())
    }

    /// Sends everything that has come. `interval`: its number.
    pub async fn flush(&mut self, shared: &Shared, interval: u64) -> Result<(), SourceError> {
        if self.changes.pending.is_empty() && self.changes.aside.is_empty() {
            return Ok(());
        }
        let rows = std::mem::take(&mut self.changes.pending);
        let aside = std::mem::take(&mut self.changes.aside);
        let label = self.label.clone();
        let open = self.open(shared, interval).await?;
        for extent in aside {
            let mut left = Some(extent);
            while let Some(extent) = left {
                let (rows, rest) = shared.spool.read(extent).await?;
                open.push(rows, &label).await?;
                left = rest;
            }
        }
        let mut memory = open.push(rows, &label).await?;
        let rest = open.batcher.cut().map_err(|error| SourceError::decode(&label, error))?;
        if let Some(batch) = rest {
            open.send(batch, &label).await?;
        }
        if memory.capacity() <= KEEP_BYTES {
            memory.clear();
            self.changes.pending = memory;
        }
        Ok(())
    }

    /// The decoder's schema, as a writer is told it.
    fn told(&self, schema: &Schema, database: &str) -> SchemaRef {
        let (reserved, columns) = schema.fields().split_at(self.reserved);
        let told = self.table.stream.told(&Schema::new(columns.to_vec()), database);
        let fields: Vec<_> = reserved.iter().chain(told.fields()).cloned().collect();
        Arc::new(Schema::new_with_metadata(fields, told.metadata().clone()))
    }

    async fn open(&mut self, shared: &Shared, interval: u64) -> Result<&mut Open, SourceError> {
        if self.changes.open.is_none() {
            let policy = self.table.stream.policy;
            let decoder = Decoder::new(self.columns.clone(), policy, shared.max_row_bytes);
            let mut batcher = Batcher::new(decoder, shared.bounds);
            batcher.push(HEADER.to_vec()).map_err(|e| SourceError::decode(&self.label, e))?;
            // So that the header is done with before rows come.
            batcher.next_batch().map_err(|e| SourceError::decode(&self.label, e))?;
            let mut stage = self.stage.clone();
            stage.load_id = format!("{}-{interval}", stage.load_id);
            // By their names of now.
            if let Some(table) = stage.table.as_mut().filter(|it| !it.key_columns.is_empty())
                && !self.table.identity.is_empty()
            {
                table.key_columns = self.table.identity.clone();
            }
            let writer = shared.writers.take(&self.writer).await?;
            let stage = Bytes::from(stage.encode_to_vec());
            let schema = self.told(batcher.schema(), &shared.database);
            let flow = metrics::sent(&self.label, "changes");
            let Upload { outbox, staged } =
                send::start(writer, stage, schema, shared.max_row_bytes, flow).await?;
            let staged = AbortOnDropHandle::new(tokio::spawn(staged.in_current_span()));
            self.changes.open = Some(Open { batcher, outbox, staged });
        }
        let open = self.changes.open.as_mut();
        open.ok_or_else(|| SourceError::Internal("an upload that was begun is gone".to_owned()))
    }

    /// The interval is complete: what was staged of it.
    pub async fn finish(
        &mut self,
        shared: &Shared,
        interval: u64,
    ) -> Result<v1::StagedTable, SourceError> {
        self.flush(shared, interval).await?;
        let Changes { truncated, open, .. } = std::mem::take(&mut self.changes);
        let mut staged = v1::StagedTable {
            namespace: self.table.stream.relation.namespace.clone(),
            name: self.table.stream.relation.name.clone(),
            truncated,
            identity: self.table.identity.clone(),
            ..Default::default()
        };
        if let Some(mut open) = open {
            open.push(TRAILER.to_vec(), &self.label).await?;
            let last = open.batcher.finish().map_err(|e| SourceError::decode(&self.label, e))?;
            if let Some(batch) = last {
                open.send(batch, &self.label).await?;
            }
            staged.unrepresentable = open
                .batcher
                .decoder()
                .unrepresentable()
                .filter(|(_, values)| *values > 0)
                .map(|(column, values)| v1::UnrepresentableCount {
                    column: column.to_owned(),
                    values,
                })
                .collect();
            staged.staged = open.end().await?;
        }
        Ok(staged)
    }
}
