//! One chunk: COPY → decode → batch → send, in one task.
//!
//! ```text
//! reader ── COPY (SELECT …) TO STDOUT (FORMAT binary) ──► batcher ──(2 messages)──► upload
//!    ▲ ended well: back to the pool        progress ──► caller        PutResult ◄──┘
//! ```
//!
//! The COPY is complete when the server has sent the binary trailer, which it
//! writes after the last row only, then CopyDone with nothing between, and a
//! command tag that counts the rows decoded: only then does the writer get the
//! end-of-stream message.
//! Whatever fails first ends the other side: the writer's refusal drops the
//! COPY and with it the session, a failure of the COPY ends the upload without
//! that message. Dropping the future does both.

use std::pin::pin;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use proto::metrics;
use proto::v1;
use tokio::sync::mpsc;
use tonic::Status;

use super::readers::{self, Reader};
use super::{Load, LoadedTable};
use crate::batch::{Batch, Batcher, Bounds};
use crate::decode::Decoder;
use crate::error::SourceError;
use crate::send::{self, Outbox, Upload, WriterAddress};

/// Time between two progress messages.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// Where progress goes.
pub type Progress = mpsc::Sender<Result<v1::ReadChunkResponse, Status>>;

/// A chunk to read and where to send it.
pub struct ChunkJob<'a> {
    /// The load it belongs to.
    pub load: &'a Load,
    /// Its table.
    pub table: &'a LoadedTable,
    /// Its place in the table's plan.
    pub chunk: usize,
    /// Batches close at so many bytes.
    pub batch_bytes: usize,
}

impl ChunkJob<'_> {
    /// Reads the chunk as soon as a reader is free, and answers with the last
    /// message for the caller.
    pub async fn run(
        &self,
        writer: &WriterAddress,
        stage: Bytes,
        progress: &Progress,
    ) -> Result<v1::ReadChunkResponse, SourceError> {
        // Before the upload begins: a writer should not wait for a reader.
        let reader = self.load.readers.take().await?;
        let writer = self.load.writers.take(writer).await?;
        let decoder = Decoder::new(
            self.table.stream.decoder_columns(),
            self.table.stream.policy,
            self.load.max_row_bytes,
        );
        let bounds = Bounds { rows: self.load.config.reader_batch_size, bytes: self.batch_bytes };
        let batcher = Batcher::new(decoder, bounds);
        let schema = self.table.stream.told(batcher.schema(), &self.load.database);
        let flow = metrics::sent(&self.table.stream.relation.label(), "load");
        let Upload { outbox, staged } =
            send::start(writer, stage, schema, self.load.max_row_bytes, flow).await?;
        let mut staged = pin!(staged);
        let mut read = pin!(self.read(reader, batcher, outbox, progress));
        let read = tokio::select! {
            staged = &mut staged => return Err(match staged {
                Err(fault) => SourceError::Writer(fault),
                Ok(_) => SourceError::Internal("the writer answered before the end".to_owned()),
            }),
            read = &mut read => read,
        };
        match read {
            Ok(mut last) => {
                last.staged = staged.await.map_err(SourceError::Writer)?;
                Ok(last)
            }
            // The upload has ended: it knows why.
            Err(ReadError::WriterGone) => Err(match staged.await {
                Err(fault) => SourceError::Writer(fault),
                Ok(_) => SourceError::Internal("the writer answered before the end".to_owned()),
            }),
            Err(ReadError::Source(error)) => Err(error),
        }
    }

    /// COPY to the end, then the end-of-stream message.
    async fn read(
        &self,
        reader: Reader,
        mut batcher: Batcher,
        mut outbox: Outbox,
        progress: &Progress,
    ) -> Result<v1::ReadChunkResponse, ReadError> {
        let label = self.table.stream.relation.label();
        let failed = |source| readers::failed(&format!("reading {label}"), source);
        let decode = |error| SourceError::decode(&label, error);
        let mut report = Report { progress, rows: 0, bytes: 0, last: Instant::now() };
        let tag = {
            let mut data = reader.tap().open();
            let rest = reader.copy_out(&self.statement()).await.map_err(failed)?;
            while let Some(block) = data.next().await {
                data.recycle(batcher.push(block).map_err(decode)?);
                while let Some(batch) = batcher.next_batch().map_err(decode)? {
                    report.add(&batch);
                    self.send(&mut outbox, batch, &label).await?;
                }
            }
            // No data is left, only how it ended.
            if let Some(more) = pin!(rest).next().await {
                more.map_err(failed)?;
                let what = format!("reading {label}: data of a COPY went the wrong way");
                return Err(SourceError::Internal(what).into());
            }
            data.tag().await
        };
        let last = batcher.finish().map_err(decode)?;
        check_count(batcher.decoder().rows(), tag, &label)?;
        if let Some(batch) = last {
            report.add(&batch);
            self.send(&mut outbox, batch, &label).await?;
        }
        // While the keeper lives, its locks have kept every file in place.
        self.load.check_alive()?;
        reader.give_back(&self.load.readers);
        outbox.end().await.map_err(|_| ReadError::WriterGone)?;
        Ok(v1::ReadChunkResponse {
            unrepresentable: batcher
                .decoder()
                .unrepresentable()
                .filter(|(_, values)| *values > 0)
                .map(|(column, values)| v1::UnrepresentableCount {
                    column: column.to_owned(),
                    values,
                })
                .collect(),
            ..report.rest()
        })
    }

    async fn send(&self, outbox: &mut Outbox, batch: Batch, label: &str) -> Result<(), ReadError> {
        let sent = outbox.send(&batch.records).await;
        sent.map_err(|error| match error.explain(label, batch.key) {
            Some(error) => ReadError::Source(error),
            None => ReadError::WriterGone,
        })
    }

    fn statement(&self) -> String {
        let stream = &self.table.stream;
        let planned = &self.table.chunks[self.chunk];
        let mut conditions: Vec<String> =
            planned.conditions.iter().map(|condition| format!("({condition})")).collect();
        conditions.extend(stream.filter.iter().map(|filter| format!("({filter})")));
        let condition = match conditions.is_empty() {
            true => String::new(),
            false => format!(" WHERE {}", conditions.join(" AND ")),
        };
        format!(
            "COPY (SELECT {} FROM {}{condition}) TO STDOUT (FORMAT binary)",
            stream.select_list(),
            planned.from
        )
    }
}

/// Why reading ended early.
enum ReadError {
    Source(SourceError),
    WriterGone,
}

impl From<SourceError> for ReadError {
    fn from(error: SourceError) -> Self {
        ReadError::Source(error)
    }
}

/// Counts what was read since the last message to the caller.
struct Report<'a> {
    progress: &'a Progress,
    rows: u64,
    bytes: u64,
    last: Instant,
}

impl Report<'_> {
    fn add(&mut self, batch: &Batch) {
        self.rows += batch.records.num_rows() as u64;
        self.bytes += batch.bytes as u64;
        if self.last.elapsed() < PROGRESS_EVERY {
            return;
        }
        let message =
            v1::ReadChunkResponse { rows: self.rows, bytes: self.bytes, ..Default::default() };
        // A caller that reads slowly gets fewer, larger messages.
        if self.progress.try_send(Ok(message)).is_ok() {
            (self.rows, self.bytes) = (0, 0);
        }
        self.last = Instant::now();
    }

    fn rest(&self) -> v1::ReadChunkResponse {
        v1::ReadChunkResponse { rows: self.rows, bytes: self.bytes, ..Default::default() }
    }
}

/// What was decoded is what the server says it has sent.
fn check_count(rows: u64, tag: Option<u64>, table: &str) -> Result<(), SourceError> {
    if tag == Some(rows) {
        return Ok(());
    }
    Err(SourceError::BadData {
        table: table.to_owned(),
        key: format!("after {rows} rows"),
        what: match tag {
            Some(tag) => format!("the server counted {tag} rows"),
            None => "the server did not say how many rows it had sent".to_owned(),
        },
    })
}
