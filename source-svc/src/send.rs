//! Record batches → one Flight DoPut.
//!
//! ```text
//! schema + descriptor · batch · batch · … · EndOfStream        (outbox: 2 messages)
//!                                   ◄── PutResult: what was staged
//! ```
//!
//! A stream is complete only with its EndOfStream message, which
//! [`Outbox::end`] alone sends: an outbox that is dropped ends the stream
//! without it, and the writer discards what came. The writer's answer is
//! awaited from the beginning, so that its refusal is known at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::ipc::writer::IpcWriteOptions;
use arrow_flight::{FlightData, FlightDescriptor, SchemaAsIpc};
use bytes::Bytes;
use prost::Message;
use proto::dial::Connection;
use proto::metrics::{self, Flow};
use proto::v1::{EndOfStream, ErrorCode};
use proto::{Fault, Tls, Token, limits};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Request;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;

use crate::error::SourceError;
use crate::ipc::{BatchMessage, Outgoing, PutCodec};

/// Flight's call, as its protobuf names it.
const DO_PUT: &str = "/arrow.flight.protocol.FlightService/DoPut";
/// Batches between reading and the network.
const OUTBOX_MESSAGES: usize = 2;
/// Idle connections kept for one writer.
const MAX_IDLE: usize = 64;

/// Where a writer is, and what it demands. Not printed: it holds a secret.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct WriterAddress {
    /// As [`proto::address`] has it.
    pub address: String,
    /// Empty: none.
    pub token: String,
}

/// Idle connections to writers. Each chunk has one to itself: HTTP/2 would put
/// all chunks of a shared one through one task.
#[derive(Clone)]
pub struct Writers {
    idle: Arc<Mutex<HashMap<WriterAddress, Vec<Connection>>>>,
    tls: Tls,
}

/// A connection to a writer, kept for the next chunk once its DoPut has ended
/// well.
pub struct Writer {
    connection: Connection,
    address: WriterAddress,
    home: Writers,
}

impl Writers {
    /// Dials with what the process shows and trusts.
    pub fn new(tls: Tls) -> Self {
        Writers { idle: Arc::default(), tls }
    }

    /// An idle connection, or a new one.
    pub async fn take(&self, address: &WriterAddress) -> Result<Writer, SourceError> {
        let idle = self.locked().get_mut(address).and_then(Vec::pop);
        let connection = match idle {
            Some(connection) => connection,
            None => {
                let token = Token::new(&address.token).map_err(SourceError::Writer)?;
                proto::dial::dial(&address.address, "writer-svc", token.as_ref(), &self.tls)
                    .await
                    .map_err(|fault| SourceError::Writer(fault.at_writer(&address.address)))?
            }
        };
        Ok(Writer { connection, address: address.clone(), home: self.clone() })
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<WriterAddress, Vec<Connection>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Writer {
    fn keep(self) {
        let mut writers = self.home.locked();
        let idle = writers.entry(self.address.clone()).or_default();
        if idle.len() < MAX_IDLE {
            idle.push(self.connection.clone());
        }
    }
}

/// A DoPut that has begun: what goes in, and what comes out.
pub struct Upload<F> {
    /// Takes the batches.
    pub outbox: Outbox,
    /// Must be polled for anything to be sent; the PutResult's app_metadata.
    pub staged: F,
}

/// Why a message could not be sent.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The upload has ended; its outcome says why.
    #[error("the upload has ended")]
    WriterGone,
    /// The message would be larger than the writer accepts.
    #[error("a message of {bytes} bytes, {limit} allowed")]
    TooLarge {
        /// Bytes of the encoded batch.
        bytes: usize,
        /// What both services allow.
        limit: usize,
    },
    /// Arrow could not encode the batch.
    #[error("{0}")]
    Encode(String),
}

impl SendError {
    /// What it means for a batch of `table`; `key`: of a row that travels alone.
    /// `None`: the upload's outcome says it.
    pub fn explain(self, table: &str, key: Option<String>) -> Option<SourceError> {
        match self {
            SendError::WriterGone => None,
            SendError::TooLarge { bytes, limit } => Some(SourceError::RowTooLarge {
                table: table.to_owned(),
                key: key.unwrap_or_else(|| "in a batch of several rows".to_owned()),
                bytes: bytes as u64,
                limit: limit as u64,
            }),
            SendError::Encode(what) => Some(SourceError::Internal(what)),
        }
    }
}

/// The sending end.
pub struct Outbox {
    messages: mpsc::Sender<Outgoing>,
    limit: usize,
    rows: u64,
    batches: u64,
    flow: Flow,
}

/// Begins a DoPut; `stage` is the writer's StageRequest. `flow` counts what is sent.
pub async fn start(
    writer: Writer,
    stage: Bytes,
    schema: SchemaRef,
    max_row_bytes: u64,
    flow: Flow,
) -> Result<Upload<impl Future<Output = Result<Bytes, Fault>>>, SourceError> {
    let limit = limits::data_message_bytes(max_row_bytes);
    let (messages, received) = mpsc::channel(OUTBOX_MESSAGES);
    let options = IpcWriteOptions::default();
    let mut first: FlightData = SchemaAsIpc::new(&schema, &options).into();
    first.flight_descriptor = Some(FlightDescriptor::new_cmd(stage));
    messages
        .send(Outgoing::Other(first))
        .await
        .map_err(|_| SourceError::Internal("the upload ended before it began".to_owned()))?;
    let outbox = Outbox { messages, limit, rows: 0, batches: 0, flow };
    let address = writer.address.address.clone();
    let staged = async move {
        put(writer, received, limit).await.map_err(|fault| match fault.code {
            // Who is to blame is to be told: others may be there.
            ErrorCode::Unavailable => {
                fault.context(format_args!("the writer at {address}")).at_writer(&address)
            }
            _ => fault,
        })
    };
    Ok(Upload { outbox, staged })
}

async fn put(
    writer: Writer,
    messages: mpsc::Receiver<Outgoing>,
    limit: usize,
) -> Result<Bytes, Fault> {
    let mut client = Grpc::new(writer.connection.clone())
        .max_encoding_message_size(limit)
        .max_decoding_message_size(limits::CONTROL_MESSAGE_BYTES);
    client.ready().await.map_err(|error| {
        Fault::new(ErrorCode::Unavailable, format!("the writer is not there any more: {error}"))
    })?;
    let messages = Request::new(ReceiverStream::new(messages));
    let path = PathAndQuery::from_static(DO_PUT);
    let mut answers = client.streaming(messages, path, PutCodec).await?.into_inner();
    let mut staged = None;
    while let Some(answer) = answers.message().await? {
        staged = Some(answer.app_metadata);
    }
    writer.keep();
    staged.ok_or_else(|| {
        let what = "the writer ended the stream without saying what it staged";
        Fault::new(ErrorCode::IncompleteStream, what)
    })
}

impl Outbox {
    /// Encodes and sends a batch; waits while two messages are unsent.
    pub async fn send(&mut self, batch: &RecordBatch) -> Result<(), SendError> {
        let message = BatchMessage::new(batch)
            .map_err(|what| SendError::Encode(format!("encoding a batch for Flight: {what}")))?;
        let bytes = message.encoded_len();
        if bytes >= self.limit {
            return Err(SendError::TooLarge { bytes, limit: self.limit });
        }
        let message = Outgoing::Batch(message, metrics::queued());
        self.messages.send(message).await.map_err(|_| SendError::WriterGone)?;
        self.flow.add(batch.num_rows() as u64, bytes as u64);
        self.rows += batch.num_rows() as u64;
        self.batches += 1;
        Ok(())
    }

    /// Says that this was all. Only after the COPY has ended completely.
    pub async fn end(self) -> Result<(), SendError> {
        let end = EndOfStream { rows: self.rows, batches: self.batches, complete: true };
        let last = FlightData { app_metadata: end.encode_to_vec().into(), ..Default::default() };
        self.messages.send(Outgoing::Other(last)).await.map_err(|_| SendError::WriterGone)
    }
}
