//! The calls: Writer's seven, and Flight's DoPut. Every one that touches files
//! does so off the async threads.

use std::sync::Arc;

use arrow_flight::flight_service_server::FlightService;
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo,
    HandshakeRequest, HandshakeResponse, PollInfo, PutResult, SchemaResult, Ticket,
};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use prost::Message;
use proto::metrics;
use proto::v1::writer_server::Writer;
use proto::v1::{
    CertifyRequest, CertifyResponse, CommitRequest, CommitResponse, CommitTogetherRequest,
    CommitTogetherResponse, CompleteRequest, CompleteResponse, DropRequest, DropResponse,
    PrepareRequest, PrepareResponse, Table, WriterCheckRequest, WriterCheckResponse,
};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};
use tracing::Span;

use crate::Options;
use crate::certificate::certify;
use crate::error::WriterError;
use crate::naming;
use crate::receive::receive;
use crate::target::{self, Committed, Target};

/// Serves both protocols; clones share their limits.
#[derive(Clone, Debug)]
pub struct WriterService {
    options: Arc<Options>,
    streams: Arc<Semaphore>,
    threads: TaskTracker,
}

impl WriterService {
    /// Nothing is read or written before the first call.
    pub fn new(options: Options) -> Self {
        let streams = Arc::new(Semaphore::new(options.max_streams.into()));
        WriterService { options: Arc::new(options), streams, threads: TaskTracker::new() }
    }

    /// The threads of all calls, which may outlive the calls.
    pub fn threads(&self) -> TaskTracker {
        self.threads.clone()
    }

    /// Runs file work on a thread of its own.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, WriterError> + Send + 'static,
    ) -> Result<T, Status> {
        let span = Span::current();
        match self.threads.spawn_blocking(move || span.in_scope(work)).await {
            Ok(outcome) => outcome.map_err(Status::from),
            Err(error) => Err(WriterError::Internal(format!("a defect: {error}")).into()),
        }
    }
}

/// Refuses now what the first batch would be refused for.
fn check_table(target: &dyn Target, table: &Table, columns: &[String]) -> Result<(), WriterError> {
    let names: Vec<_> = columns.iter().map(String::as_str).collect();
    if table.normalization {
        naming::destination_columns(&table.stream, names.iter().copied())?;
    }
    target.check_partitioning(&names)
}

fn answer(stream: &str, committed: Committed) -> CommitResponse {
    let Committed { record, already, location } = committed;
    tracing::info!(
        stream,
        table = location,
        commit = record.commit_id,
        rows = record.rows,
        files = record.files,
        bytes = record.bytes,
        already,
        "committed"
    );
    CommitResponse { record: Some(record), already_committed: already, location }
}

#[tonic::async_trait]
impl Writer for WriterService {
    async fn check(
        &self,
        request: Request<WriterCheckRequest>,
    ) -> Result<Response<WriterCheckResponse>, Status> {
        let request = request.into_inner();
        let options = Arc::clone(&self.options);
        self.blocking(move || target::check(request.destination.as_ref(), &options)).await?;
        Ok(Response::new(WriterCheckResponse {}))
    }

    async fn prepare(
        &self,
        request: Request<PrepareRequest>,
    ) -> Result<Response<PrepareResponse>, Status> {
        let request = request.into_inner();
        let options = Arc::clone(&self.options);
        let response = self.blocking(move || {
            let target =
                target::of(request.destination.as_ref(), request.table.as_ref(), &options)?;
            if let Some(table) = &request.table {
                check_table(target.as_ref(), table, &request.columns)?;
            }
            let last_commit = target.prepare(&request)?;
            Ok(PrepareResponse { last_commit, location: target.location()? })
        });
        Ok(Response::new(response.await?))
    }

    async fn complete(
        &self,
        request: Request<CompleteRequest>,
    ) -> Result<Response<CompleteResponse>, Status> {
        let request = request.into_inner();
        let options = Arc::clone(&self.options);
        let response = self.blocking(move || {
            let stage = request.stage.as_ref();
            let destination = stage.and_then(|stage| stage.destination.as_ref());
            let table = stage.and_then(|stage| stage.table.as_ref());
            target::of(destination, table, &options)?.complete(&request, &options)
        });
        Ok(Response::new(response.await?))
    }

    async fn commit(
        &self,
        request: Request<CommitRequest>,
    ) -> Result<Response<CommitResponse>, Status> {
        let request = request.into_inner();
        let options = Arc::clone(&self.options);
        let stream = request.table.as_ref().map(|table| table.stream.clone()).unwrap_or_default();
        let span = tracing::info_span!(
            "commit",
            stream,
            load = request.load_id,
            position = request.position,
            rows = tracing::field::Empty
        );
        let commit = metrics::made().begin(&stream);
        let response = self.blocking(move || {
            let _in = span.enter();
            let target =
                target::of(request.destination.as_ref(), request.table.as_ref(), &options)?;
            let committed = target.commit(&request)?;
            span.record("rows", committed.record.rows);
            commit.made(&committed.record, committed.already);
            Ok(answer(&stream, committed))
        });
        Ok(Response::new(response.await?))
    }

    async fn commit_together(
        &self,
        request: Request<CommitTogetherRequest>,
    ) -> Result<Response<CommitTogetherResponse>, Status> {
        let commits = request.into_inner().commits;
        let options = Arc::clone(&self.options);
        let stream = |commit: &CommitRequest| {
            commit.table.as_ref().map(|table| table.stream.clone()).unwrap_or_default()
        };
        let streams: Vec<_> = commits.iter().map(stream).collect();
        let position = commits.first().map(|commit| commit.position.clone()).unwrap_or_default();
        let span = tracing::info_span!("commit_together", tables = streams.len(), position);
        let timed: Vec<_> = streams.iter().map(|stream| metrics::made().begin(stream)).collect();
        let response = self.blocking(move || {
            let _in = span.enter();
            let Some(made) = target::commit_together(commits, &options)? else {
                timed.into_iter().for_each(metrics::Commit::left);
                return Ok(CommitTogetherResponse::default());
            };
            let mut answers = Vec::with_capacity(made.len());
            for ((committed, stream), timed) in made.into_iter().zip(&streams).zip(timed) {
                timed.made(&committed.record, committed.already);
                answers.push(answer(stream, committed));
            }
            Ok(CommitTogetherResponse { commits: answers })
        });
        Ok(Response::new(response.await?))
    }

    async fn drop(&self, request: Request<DropRequest>) -> Result<Response<DropResponse>, Status> {
        let request = request.into_inner();
        let options = Arc::clone(&self.options);
        let existed = self.blocking(move || {
            target::of(request.destination.as_ref(), request.table.as_ref(), &options)?.drop_table()
        });
        Ok(Response::new(DropResponse { existed: existed.await? }))
    }

    async fn certify(
        &self,
        request: Request<CertifyRequest>,
    ) -> Result<Response<CertifyResponse>, Status> {
        let request = request.into_inner();
        let options = Arc::clone(&self.options);
        let kept = self.blocking(move || {
            let (log, certificate) = (request.log, request.certificate);
            certify(request.destination.as_ref(), &log, certificate.as_deref(), &options)
        });
        Ok(Response::new(CertifyResponse { certificate: kept.await? }))
    }
}

type Answer<T> = Result<Response<T>, Status>;
type Answers<T> = BoxStream<'static, Result<T, Status>>;

fn only_do_put<T>() -> Answer<T> {
    Err(Status::unimplemented(
        "of Arrow Flight this service has DoPut; everything else is in tidewater.v1.Writer",
    ))
}

#[tonic::async_trait]
impl FlightService for WriterService {
    type HandshakeStream = Answers<HandshakeResponse>;
    type ListFlightsStream = Answers<FlightInfo>;
    type DoGetStream = Answers<FlightData>;
    type DoPutStream = Answers<PutResult>;
    type DoExchangeStream = Answers<FlightData>;
    type DoActionStream = Answers<arrow_flight::Result>;
    type ListActionsStream = Answers<ActionType>;

    /// Answers when the chunk is staged, or as soon as it cannot be.
    async fn do_put(&self, request: Request<Streaming<FlightData>>) -> Answer<Self::DoPutStream> {
        // Not waited for: the data of a stream that waits fills the windows of
        // those that it waits for.
        let permit = Arc::clone(&self.streams).try_acquire_owned();
        let limit = usize::from(self.options.max_streams);
        let _permit = permit.map_err(|_| WriterError::Busy { limit })?;
        let staged =
            receive(request.into_inner(), Arc::clone(&self.options), &self.threads).await?;
        tracing::debug!(
            load = staged.load_id,
            chunk = staged.chunk_id,
            manifest = staged.manifest,
            rows = staged.rows,
            files = staged.files,
            bytes = staged.bytes,
            "staged"
        );
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
