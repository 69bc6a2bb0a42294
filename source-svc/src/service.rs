//! The gRPC service: requests in, the other modules' work, faults out.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::Stream;
use proto::v1;
use proto::v1::source_server::Source;
use proto::{Fault, Tls};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Request, Response, Status};
use tracing::Instrument;

use crate::config::Config;
use crate::error::SourceError;
use crate::load::{Caller, ChunkJob, Load, Loads};
use crate::replicate::confirm::Confirmations;
use crate::send::{WriterAddress, Writers};
use crate::{capture, check, discover, replicate};

/// Progress messages that wait for the caller.
const PROGRESS_MESSAGES: usize = 4;

/// What the service is started with.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// No request may ask for rows above this.
    pub max_row_bytes: u64,
    /// Batches close at so many bytes.
    pub batch_bytes: usize,
}

/// Answers `tidewater.v1.Source`.
pub struct SourceService {
    /// The open loads.
    pub loads: Arc<Loads>,
    /// What has been confirmed of the slots that are being read.
    pub confirmations: Arc<Confirmations>,
    /// The operator's bounds.
    pub limits: Limits,
    /// What the service shows to writers, and whom it trusts.
    pub tls: Tls,
    /// The service is stopping.
    pub shutdown: CancellationToken,
}

/// Answers of ReadChunk or Replicate; dropping them stops the work.
pub struct Events<T> {
    events: mpsc::Receiver<Result<T, Status>>,
    _task: AbortOnDropHandle<()>,
}

impl<T> Stream for Events<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.events.poll_recv(cx)
    }
}

fn status(error: SourceError) -> Status {
    Fault::from(error).into()
}

fn config(wire: Option<v1::SourceConfig>) -> Result<Config, Status> {
    let absent = || SourceError::Config(vec!["config: missing".to_owned()]);
    wire.ok_or_else(absent).and_then(Config::try_from).map_err(status)
}

#[tonic::async_trait]
impl Source for SourceService {
    type ReadChunkStream = Events<v1::ReadChunkResponse>;
    type ReplicateStream = Events<v1::ReplicateResponse>;

    async fn check(
        &self,
        request: Request<v1::SourceCheckRequest>,
    ) -> Result<Response<v1::SourceCheckResponse>, Status> {
        let mut request = request.into_inner();
        let config = config(request.config.take())?;
        check::check(&config, &request).await.map(Response::new).map_err(status)
    }

    async fn discover(
        &self,
        request: Request<v1::DiscoverRequest>,
    ) -> Result<Response<v1::DiscoverResponse>, Status> {
        let request = request.into_inner();
        let config = config(request.config)?;
        let found = discover::discover(&config, request.max_threads).await;
        found.map(Response::new).map_err(status)
    }

    async fn open_load(
        &self,
        request: Request<v1::OpenLoadRequest>,
    ) -> Result<Response<v1::OpenLoadResponse>, Status> {
        let mut request = request.into_inner();
        let config = config(request.config.take())?;
        let writers = Writers::new(self.tls.clone());
        let opened = self.loads.open(config, &request, self.limits.max_row_bytes, writers).await;
        opened.map(Response::new).map_err(status)
    }

    async fn read_chunk(
        &self,
        request: Request<v1::ReadChunkRequest>,
    ) -> Result<Response<Self::ReadChunkStream>, Status> {
        let request = request.into_inner();
        let load = self.loads.get(&request.load_id).map_err(status)?;
        load.chunk(&request.namespace, &request.name, request.chunk_id).map_err(status)?;
        let caller = Caller::new(&load);
        let (progress, events) = mpsc::channel(PROGRESS_MESSAGES);
        let batch_bytes = self.limits.batch_bytes;
        let stream = format!("{}.{}", request.namespace, request.name);
        let span =
            tracing::info_span!("read", stream, chunk = request.chunk_id, load = request.load_id);
        let task = async move {
            let read = read_chunk(&caller, request, batch_bytes, &progress);
            let last = tokio::select! {
                read = read => read,
                gone = caller.ended() => Err(gone),
            };
            // Fails only if the caller has gone.
            let _ = progress.send(last.map_err(status)).await;
        };
        let task = tokio::spawn(task.instrument(span));
        Ok(Response::new(Events { events, _task: AbortOnDropHandle::new(task) }))
    }

    async fn close_load(
        &self,
        request: Request<v1::CloseLoadRequest>,
    ) -> Result<Response<v1::CloseLoadResponse>, Status> {
        self.loads.close(&request.into_inner().load_id);
        Ok(Response::new(v1::CloseLoadResponse {}))
    }

    async fn open_capture(
        &self,
        request: Request<v1::OpenCaptureRequest>,
    ) -> Result<Response<v1::OpenCaptureResponse>, Status> {
        let mut request = request.into_inner();
        let config = config(request.config.take())?;
        capture::open(&config, &request).await.map(Response::new).map_err(status)
    }

    async fn replicate(
        &self,
        request: Request<v1::ReplicateRequest>,
    ) -> Result<Response<Self::ReplicateStream>, Status> {
        let mut request = request.into_inner();
        let config = config(request.config.take())?;
        let (sender, events) = mpsc::channel(PROGRESS_MESSAGES);
        let (limits, confirmations) = (self.limits, self.confirmations.clone());
        let writers = Writers::new(self.tls.clone());
        let shutdown = self.shutdown.clone();
        let span = tracing::info_span!("replicate", slot = request.slot, to = request.to);
        let task = async move {
            let work =
                replicate::replicate(&config, request, limits, writers, &confirmations, &sender);
            let ended = tokio::select! {
                ended = work => ended,
                () = shutdown.cancelled() => Err(SourceError::Stopping),
            };
            if let Err(error) = ended {
                // Fails only if the caller has gone.
                let _ = sender.send(Err(status(error))).await;
            }
        };
        let task = tokio::spawn(task.instrument(span));
        Ok(Response::new(Events { events, _task: AbortOnDropHandle::new(task) }))
    }

    async fn confirm(
        &self,
        request: Request<v1::ConfirmRequest>,
    ) -> Result<Response<v1::ConfirmResponse>, Status> {
        let mut request = request.into_inner();
        let config = config(request.config.take())?;
        let confirmed = self.confirmations.confirm(&config, &request).await;
        confirmed.map(Response::new).map_err(status)
    }
}

async fn read_chunk(
    load: &Load,
    request: v1::ReadChunkRequest,
    batch_bytes: usize,
    progress: &mpsc::Sender<Result<v1::ReadChunkResponse, Status>>,
) -> Result<v1::ReadChunkResponse, SourceError> {
    let (table, chunk) = load.chunk(&request.namespace, &request.name, request.chunk_id)?;
    let writer = WriterAddress { address: request.writer_address, token: request.writer_token };
    let job = ChunkJob { load, table, chunk, batch_bytes };
    job.run(&writer, request.stage, progress).await
}
