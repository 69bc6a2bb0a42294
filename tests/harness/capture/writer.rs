//! A writer that keeps the batches it gets, in memory: what a source sends,
//! to the bit.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, ensure};
use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use arrow_flight::flight_service_server::{FlightService, FlightServiceServer};
use arrow_flight::utils::flight_data_to_arrow_batch;
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo,
    HandshakeRequest, HandshakeResponse, PollInfo, PutResult, SchemaResult, Ticket,
};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use prost::Message;
use proto::listen::Listener;
use proto::v1::{EndOfStream, StageRequest, StagedChunk};
use proto::{Tls, Token};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::services::TOKEN;

/// What one DoPut brought.
#[derive(Clone, Debug)]
pub struct Staged {
    /// As in its StageRequest.
    pub load_id: String,
    /// `schema.table` at the source.
    pub stream: String,
    /// The schema of its first message.
    pub schema: SchemaRef,
    /// In the order they came.
    pub batches: Vec<RecordBatch>,
}

/// Everything that was staged, by the manifest it was staged under.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    staged: Arc<Mutex<HashMap<String, Staged>>>,
    /// DoPuts under way, and the most there have been at once.
    open: Arc<Mutex<(usize, usize)>>,
}

impl Kept {
    /// What a StagedChunk stands for.
    pub fn of(&self, staged: &[u8]) -> Result<Staged> {
        let chunk = StagedChunk::decode(staged)?;
        let kept = self.locked();
        kept.get(&chunk.manifest).cloned().with_context(|| format!("{chunk:?} was not staged"))
    }

    /// The most DoPuts that there were at once.
    pub fn most_open(&self) -> usize {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).1
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<String, Staged>> {
        self.staged.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One DoPut under way.
struct Open(Kept);

impl Open {
    fn new(kept: &Kept) -> Self {
        let mut open = kept.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.0 += 1;
        open.1 = open.1.max(open.0);
        Open(kept.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner).0 -= 1;
    }
}

/// Serves it until `shutdown`; its address.
pub async fn serve(kept: Kept, shutdown: CancellationToken) -> Result<String> {
    let listener = Listener::bind("127.0.0.1:0").await?;
    let address = listener.address()?;
    let token = Token::new(TOKEN)?;
    let service = FlightServiceServer::new(kept).max_decoding_message_size(1 << 30);
    tokio::spawn(async move {
        let served = proto::serve::serve(
            "writer-svc",
            listener,
            token,
            Tls::default(),
            shutdown,
            |routes| {
                routes.add_service(service);
            },
        );
        served.await
    });
    Ok(format!("http://{address}"))
}

async fn keep(kept: Kept, mut messages: Streaming<FlightData>) -> Result<StagedChunk> {
    let _open = Open::new(&kept);
    let first = messages.message().await?.context("a first message")?;
    let request = first.flight_descriptor.as_ref().context("a descriptor")?.cmd.clone();
    let request = StageRequest::decode(request)?;
    let schema: SchemaRef = Arc::new(Schema::try_from(&first)?);
    let mut batches = Vec::new();
    let mut end = None;
    while let Some(message) = messages.message().await? {
        ensure!(end.is_none(), "a message after the last one");
        if message.data_header.is_empty() {
            end = Some(EndOfStream::decode(message.app_metadata)?);
        } else {
            batches.push(flight_data_to_arrow_batch(&message, schema.clone(), &HashMap::new())?);
        }
    }
    let end = end.context("a stream without its end")?;
    let rows = batches.iter().map(|batch| batch.num_rows() as u64).sum();
    let counted = EndOfStream { rows, batches: batches.len() as u64, complete: true };
    ensure!(end == counted, "{end:?} is not {counted:?}");
    let staged = Staged {
        load_id: request.load_id.clone(),
        stream: request.table.unwrap_or_default().stream,
        schema,
        batches,
    };
    let mut all = kept.locked();
    let manifest = format!("{}", all.len());
    all.insert(manifest.clone(), staged);
    Ok(StagedChunk { load_id: request.load_id, manifest, rows, ..Default::default() })
}

type Answer<T> = Result<Response<T>, Status>;
type Answers<T> = BoxStream<'static, Result<T, Status>>;

fn only_do_put<T>() -> Answer<T> {
    Err(Status::unimplemented("only DoPut"))
}

#[tonic::async_trait]
impl FlightService for Kept {
    type HandshakeStream = Answers<HandshakeResponse>;
    type ListFlightsStream = Answers<FlightInfo>;
    type DoGetStream = Answers<FlightData>;
    type DoPutStream = Answers<PutResult>;
    type DoExchangeStream = Answers<FlightData>;
    type DoActionStream = Answers<arrow_flight::Result>;
    type ListActionsStream = Answers<ActionType>;

    async fn do_put(&self, request: Request<Streaming<FlightData>>) -> Answer<Self::DoPutStream> {
        let staged = keep(self.clone(), request.into_inner()).await;
        let staged = staged.map_err(|error| Status::internal(format!("{error:#}")))?;
        let result = PutResult { app_metadata: staged.encode_to_vec().into() };
        Ok(Response::new(stream::iter([Ok(result)]).boxed()))
    }

    async fn handshake(
        &self,
        _: Request<Streaming<HandshakeRequest>>,
    ) -> Answer<Self::HandshakeStream> {
        only_do_put()
    }

    async fn list_flights(&self, _: Request<Criteria>) -> Answer<Self::ListFlightsStream> {
        only_do_put()
    }

    async fn get_flight_info(&self, _: Request<FlightDescriptor>) -> Answer<FlightInfo> {
        only_do_put()
    }

    async fn poll_flight_info(&self, _: Request<FlightDescriptor>) -> Answer<PollInfo> {
        only_do_put()
    }

    async fn get_schema(&self, _: Request<FlightDescriptor>) -> Answer<SchemaResult> {
        only_do_put()
    }

    async fn do_get(&self, _: Request<Ticket>) -> Answer<Self::DoGetStream> {
        only_do_put()
    }

    async fn do_exchange(
        &self,
        _: Request<Streaming<FlightData>>,
    ) -> Answer<Self::DoExchangeStream> {
        only_do_put()
    }

    async fn do_action(&self, _: Request<Action>) -> Answer<Self::DoActionStream> {
        only_do_put()
    }

    async fn list_actions(&self, _: Request<Empty>) -> Answer<Self::ListActionsStream> {
        only_do_put()
    }
}
