//! One chunk: the source reads it and streams it to a writer; what comes back
//! is what was staged. Record data does not pass through here.

use bytes::Bytes;
use prost::Message;
use proto::Fault;
use proto::v1::{
    Chunk, ErrorCode, ReadChunkRequest, StageRequest, StagedChunk, UnrepresentableCount,
};

use super::retry::Retry;
use super::{Context, TableRun, incremental};
use crate::assign::Job;
use crate::progress::Progress;
use crate::state::Run;
use crate::writers::Writer;

/// A chunk that is staged.
pub struct Staged {
    /// Its table's index in the run.
    pub table: usize,
    pub chunk: Chunk,
    pub staged: StagedChunk,
    pub unrepresentable: Vec<UnrepresentableCount>,
}

/// A chunk's attempt on the display; what is dropped unfinished does not count.
struct Shown<'p> {
    progress: &'p Progress,
    table: usize,
    chunk: u32,
    staged: bool,
}

impl<'p> Shown<'p> {
    fn begin(progress: &'p Progress, table: usize, chunk: u32) -> Self {
        progress.chunk_begins(table, chunk);
        Shown { progress, table, chunk, staged: false }
    }

    fn staged(mut self) {
        self.staged = true;
        self.progress.chunk_staged(self.table, self.chunk);
    }
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        if !self.staged {
            self.progress.chunk_lost(self.table, self.chunk);
        }
    }
}

/// All that reading a chunk takes.
pub struct Reading {
    job: Job,
    stream: String,
    namespace: String,
    name: String,
    stage: StageRequest,
}

impl Reading {
    /// Of a chunk of `table` under `load_id`.
    pub fn new(
        context: &Context<'_>,
        run: &Run,
        load_id: &str,
        table: &TableRun,
        job: Job,
    ) -> Self {
        let stage = StageRequest {
            destination: Some(context.destination.clone()),
            table: Some(table.stream.table.clone()),
            load_id: load_id.to_owned(),
            chunk_id: job.chunk.id,
            settings_hash: table.settings.hash.clone(),
            processed_at: run.started_at.timestamp_micros(),
            op_type: "r".to_owned(),
            kind: incremental::kind(context, table).into(),
            ..Default::default()
        };
        Reading {
            job,
            stream: table.id.clone(),
            namespace: table.stream.namespace.clone(),
            name: table.stream.name.clone(),
            stage,
        }
    }

    /// Reads until the chunk is staged, `retry_count` times more if need be,
    /// each time through another writer where there is one. Dropping it stops
    /// the reading.
    pub async fn run(self, context: &Context<'_>) -> Result<Staged, Fault> {
        let (table, chunk) = (self.job.table, self.job.chunk.id);
        let what = format!("{}, chunk {chunk}", self.stream);
        let stage = Bytes::from(self.stage.encode_to_vec());
        let mut retry = Retry::new(context.source_config.retry_count);
        loop {
            let assigned = context.writers.take();
            let shown = Shown::begin(&context.progress, table, chunk);
            match self.attempt(context, assigned.writer(), stage.clone()).await {
                Ok((staged, unrepresentable)) => {
                    shown.staged();
                    let chunk = self.job.chunk;
                    return Ok(Staged { table, chunk, staged, unrepresentable });
                }
                Err(fault) => {
                    drop(shown);
                    assigned.failed();
                    let say = |line: &str| context.progress.note(line);
                    retry.again(&what, fault, say).await.map_err(|fault| self.about(fault))?;
                }
            }
        }
    }

    async fn attempt(
        &self,
        context: &Context<'_>,
        writer: &Writer,
        stage: Bytes,
    ) -> Result<(StagedChunk, Vec<UnrepresentableCount>), Fault> {
        let request = ReadChunkRequest {
            load_id: self.stage.load_id.clone(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            chunk_id: self.job.chunk.id,
            writer_address: writer.address.clone(),
            writer_token: writer.token.as_ref().map(|t| t.reveal().to_owned()).unwrap_or_default(),
            stage,
        };
        let mut source = context.source.clone();
        let mut events = source.read_chunk(request).await?.into_inner();
        let mut last = None;
        while let Some(event) = events.message().await? {
            context.progress.read(self.job.table, self.job.chunk.id, event.rows, event.bytes);
            if !event.staged.is_empty() {
                last = Some(event);
            }
        }
        let last = last.ok_or_else(|| {
            Fault::new(ErrorCode::IncompleteStream, "source-svc ended the chunk without its end")
        })?;
        Ok((self.checked(&last.staged)?, last.unrepresentable))
    }

    /// What was staged must be what was asked for.
    fn checked(&self, staged: &Bytes) -> Result<StagedChunk, Fault> {
        let wrong = |what: String| {
            Fault::new(ErrorCode::Internal, format!("the descriptor of what was staged {what}"))
                .remedy("use services of this version")
        };
        let staged =
            StagedChunk::decode(staged.clone()).map_err(|e| wrong(format!("is malformed: {e}")))?;
        if staged.unknown_keys > 0 {
            let what = format!(
                "{} rows of {} have a value in their key that no type of the destination can hold \
                 (infinity, a date out of range), and cannot be told apart",
                staged.unknown_keys, self.stream
            );
            return Err(Fault::new(ErrorCode::Unrepresentable, what).remedy(
                "set the stream's sync_mode to full_refresh, or leave those rows out by a filter",
            ));
        }
        let asked = &self.stage;
        let fits = staged.load_id == asked.load_id
            && staged.chunk_id == asked.chunk_id
            && staged.settings_hash == asked.settings_hash;
        if fits { Ok(staged) } else { Err(wrong("is of another chunk".to_owned())) }
    }

    /// The fault, naming the stream if it does not yet.
    fn about(&self, fault: Fault) -> Fault {
        if fault.message.contains(&self.stream) {
            return fault;
        }
        fault.context(format_args!("reading {}", self.stream))
    }
}
