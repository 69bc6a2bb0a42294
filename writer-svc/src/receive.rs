//! One DoPut: messages in, one staged chunk or nothing out.
//!
//! ```text
//! async:    first message ─► every message ─► EndOfStream, then the end
//!                │                │ (at most QUEUE wait)      │
//! thread:   layout, stage    decode ─► rows                compare ─► seal
//! ```
//!
//! A client that fails ends its stream as cleanly as one that is done, so only
//! an [`EndOfStream`] with the right counts completes a chunk. The thread's
//! error is the call's answer as soon as it happens; a dropped call stops the
//! thread, whose stage then removes itself.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc;
use arrow_flight::FlightData;
use arrow_flight::flight_descriptor::DescriptorType;
use futures::{Stream, StreamExt};
use prost::Message;
use proto::limits;
use proto::metrics::{self, Held};
use proto::v1::stage_request::Kind;
use proto::v1::{EndOfStream, StageRequest, StagedChunk};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Code, Status};
use tracing::Span;

use crate::Options;
use crate::error::WriterError;
use crate::rows::Way;

/// Messages that wait between the network and the encoder.
pub const QUEUE: usize = 2;

/// Receives one stream to its end and stages it, on one of `threads`.
pub async fn receive<S>(
    mut messages: S,
    options: Arc<Options>,
    threads: &TaskTracker,
) -> Result<StagedChunk, WriterError>
where
    S: Stream<Item = Result<FlightData, Status>> + Unpin,
{
    let first = tokio::time::timeout(limits::FIRST_MESSAGE, messages.next());
    let chunk = match first.await {
        Ok(Some(Ok(first))) => Chunk::of(&first)?,
        Ok(Some(Err(status))) => return Err(broken("a chunk", status)),
        Err(_) => {
            let problem = format!("no message came in {:?}", limits::FIRST_MESSAGE);
            return Err(WriterError::IncompleteStream { stream: "a chunk".to_owned(), problem });
        }
        Ok(None) => return Err(WriterError::InvalidRequest("the stream has no message".into())),
    };
    let name = chunk.name.clone();
    let (parts, queue) = mpsc::channel(QUEUE);
    let cancelled = CancellationToken::new();
    let _cancel = cancelled.clone().drop_guard();
    let span = chunk.span();
    let stage = move || span.in_scope(|| chunk.stage(queue, &options, &cancelled));
    let mut thread = threads.spawn_blocking(stage);
    // Either every message is with the thread, or the stream is to be
    // discarded, or the thread has ended early and says why.
    let fed = tokio::select! {
        fed = feed(messages, parts, &name) => fed,
        ended = &mut thread => return ended.unwrap_or_else(|e| Err(defect(&name, &e))),
    };
    // On an error of the stream, `parts` is gone and the thread discards.
    let staged = thread.await.unwrap_or_else(|e| Err(defect(&name, &e)));
    match (fed, staged) {
        // What the thread found wrong comes first: its end is why feeding failed.
        (Err(_), Err(error)) if !matches!(error, WriterError::IncompleteStream { .. }) => {
            Err(error)
        }
        (fed, staged) => fed.and(staged),
    }
}

fn defect(name: &str, error: &tokio::task::JoinError) -> WriterError {
    WriterError::Internal(format!("staging {name} ended by a defect: {error}"))
}

/// What a stream's thread is given.
enum Part {
    Batch(FlightData, Held),
    End(EndOfStream),
}

/// Hands every message on, in order, as fast as the thread takes them.
async fn feed<S>(mut messages: S, parts: mpsc::Sender<Part>, name: &str) -> Result<(), WriterError>
where
    S: Stream<Item = Result<FlightData, Status>> + Unpin,
{
    let incomplete = |problem: &str| WriterError::IncompleteStream {
        stream: name.to_owned(),
        problem: problem.to_owned(),
    };
    loop {
        let message = match messages.next().await {
            Some(Ok(message)) => message,
            Some(Err(status)) => return Err(broken(name, status)),
            None => return Err(incomplete("it ended without its last message")),
        };
        if !message.data_header.is_empty() {
            let sent = parts.send(Part::Batch(message, metrics::queued())).await;
            sent.map_err(|_| incomplete("staging has ended"))?;
            continue;
        }
        if message.app_metadata.is_empty() || !message.data_body.is_empty() {
            return Err(incomplete("a message is neither a batch nor the stream's end"));
        }
        let end = EndOfStream::decode(message.app_metadata)
            .map_err(|e| incomplete(&format!("its last message cannot be read ({e})")))?;
        return match messages.next().await {
            None => {
                let sent = parts.send(Part::End(end)).await;
                sent.map_err(|_| incomplete("staging has ended"))
            }
            Some(Ok(_)) => Err(incomplete("there are messages after the last one")),
            Some(Err(status)) => Err(broken(name, status)),
        };
    }
}

/// The transport's word on why there is no next message.
fn broken(name: &str, status: Status) -> WriterError {
    let problem = status.message().to_owned();
    let stream = name.to_owned();
    match status.code() {
        // Only a message beyond the decoding limit makes this one.
        Code::OutOfRange => WriterError::RowTooLarge { stream, problem },
        _ => WriterError::IncompleteStream { stream, problem },
    }
}

/// What the first message says.
struct Chunk {
    /// "schema.table chunk 3", for messages.
    name: String,
    request: StageRequest,
    schema: SchemaRef,
}

impl Chunk {
    fn of(first: &FlightData) -> Result<Self, WriterError> {
        let invalid = |problem: String| WriterError::InvalidRequest(problem);
        let descriptor = first
            .flight_descriptor
            .as_ref()
            .filter(|descriptor| descriptor.r#type() == DescriptorType::Cmd)
            .ok_or_else(|| {
                invalid("the first message needs a FlightDescriptor of type CMD".into())
            })?;
        let request = StageRequest::decode(descriptor.cmd.clone())
            .map_err(|e| invalid(format!("FlightDescriptor.cmd is no StageRequest: {e}")))?;
        if Kind::try_from(request.kind).is_err() {
            return Err(invalid(format!("a chunk of the kind {} is not known", request.kind)));
        }
        let stream = request.table.as_ref().map_or("", |table| table.stream.as_str());
        let name = format!("{stream} chunk {}", request.chunk_id);
        let schema = Schema::try_from(first)
            .map_err(WriterError::arrow(format!("decoding the schema of {name}")))?;
        Ok(Chunk { name, request, schema: Arc::new(schema) })
    }

    /// What is traced and logged of it.
    fn span(&self) -> Span {
        let StageRequest { table, chunk_id, load_id, .. } = &self.request;
        let stream = table.as_ref().map_or("", |table| table.stream.as_str());
        let kind = kind(self.request.kind());
        tracing::info_span!("stage", stream, chunk = chunk_id, load = load_id, kind)
    }

    /// The thread: everything from the messages to the sealed stage.
    fn stage(
        self,
        mut parts: mpsc::Receiver<Part>,
        options: &Options,
        cancelled: &CancellationToken,
    ) -> Result<StagedChunk, WriterError> {
        let mut rows = Way::begin(&self.request, &self.schema, options)?;
        let _staging = metrics::staging();
        let stream = self.request.table.as_ref().map_or("", |table| table.stream.as_str());
        let flow = metrics::received(stream, kind(self.request.kind()));
        let mut counted = EndOfStream { complete: true, ..Default::default() };
        loop {
            match parts.blocking_recv() {
                Some(Part::Batch(message, queued)) => {
                    drop(queued);
                    let bytes = message.data_body.len() as u64;
                    let batch = decode(message, &self.schema)
                        .map_err(WriterError::arrow(format!("decoding {}", self.name)))?;
                    counted.rows += batch.num_rows() as u64;
                    counted.batches += 1;
                    flow.add(batch.num_rows() as u64, bytes);
                    rows.push(&batch)?;
                }
                Some(Part::End(end)) if end == counted => break,
                Some(Part::End(end)) => {
                    return Err(self.incomplete(format!(
                        "{} rows in {} batches were sent, {} in {} arrived",
                        end.rows, end.batches, counted.rows, counted.batches
                    )));
                }
                None => return Err(self.incomplete("the caller went away".into())),
            }
        }
        rows.finish(cancelled)
    }

    fn incomplete(&self, problem: String) -> WriterError {
        WriterError::IncompleteStream { stream: self.name.clone(), problem }
    }
}

/// As a label.
fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Data => "data",
        Kind::Changes => "changes",
        Kind::EqualityDeletes => "equality_deletes",
        Kind::PositionDeletes => "position_deletes",
    }
}

/// A record batch that shares the message's memory where it is aligned.
fn decode(message: FlightData, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let header = ipc::root_as_message(&message.data_header)
        .map_err(|e| ArrowError::IpcError(format!("no IPC message: {e}")))?;
    let batch = header
        .header_as_record_batch()
        .ok_or_else(|| ArrowError::IpcError("not a record batch".into()))?;
    let body = Buffer::from(message.data_body);
    // The decoder slices without a look.
    let inside = |buffer: &ipc::Buffer| {
        let (offset, length) = (usize::try_from(buffer.offset()), usize::try_from(buffer.length()));
        matches!((offset, length), (Ok(offset), Ok(length))
            if offset.checked_add(length).is_some_and(|end| end <= body.len()))
    };
    if !batch.buffers().is_some_and(|buffers| buffers.iter().all(inside)) {
        return Err(ArrowError::IpcError("the body is shorter than its buffers".into()));
    }
    let schema = Arc::clone(schema);
    ipc::reader::read_record_batch(&body, batch, schema, &HashMap::new(), None, &header.version())
}

#[cfg(test)]
#[path = "receive_tests.rs"]
mod tests;
