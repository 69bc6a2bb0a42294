//! A `writer-svc` driven by its own protocol: gRPC and Flight's DoPut, as any
//! other program may, without a source.

use anyhow::{Context, Result, anyhow};
use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::utils::batches_to_flight_data;
use arrow_flight::{FlightData, FlightDescriptor};
use prost::Message;
use proto::dial::Connection;
use proto::v1::writer_client::WriterClient;
use proto::v1::{
    CommitRequest, CommitResponse, EndOfStream, PrepareRequest, PrepareResponse, StageRequest,
    StagedChunk,
};
use proto::{Fault, Tls, Token};
use tokio::runtime::Runtime;
use tokio_stream::StreamExt;
use tokio_util::task::AbortOnDropHandle;
use tonic::Code;

use crate::services::{Service, TOKEN};

/// A connection to a writer.
pub struct Writer {
    runtime: Runtime,
    connection: Connection,
}

impl Writer {
    /// Connects as services do.
    pub fn connect(service: &Service) -> Result<Writer> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let token = Token::new(TOKEN).map_err(|fault| anyhow!("{fault}"))?;
        let tls = Tls::default();
        let dialed = proto::dial::dial(service.address(), "writer-svc", token.as_ref(), &tls);
        let connection = runtime.block_on(dialed).map_err(|fault| anyhow!("{fault}"))?;
        Ok(Writer { runtime, connection })
    }

    /// What a table holds.
    pub fn prepare(&self, request: PrepareRequest) -> Result<PrepareResponse, Fault> {
        let mut client = WriterClient::new(self.connection.clone());
        Ok(self.runtime.block_on(client.prepare(request))?.into_inner())
    }

    /// Commits what is staged.
    pub fn commit(&self, request: CommitRequest) -> Result<CommitResponse, Fault> {
        let mut client = WriterClient::new(self.connection.clone());
        Ok(self.runtime.block_on(client.commit(request))?.into_inner())
    }

    /// Begins a chunk without rows that does not end before the handle is dropped. It
    /// goes on while other calls are made.
    pub fn begin(&self, request: &StageRequest, schema: &Schema) -> Result<AbortOnDropHandle<()>> {
        let mut messages = batches_to_flight_data(schema, Vec::new())?;
        messages[0].flight_descriptor = Some(FlightDescriptor::new_cmd(request.encode_to_vec()));
        let mut client = FlightServiceClient::new(self.connection.clone());
        let call = async move {
            loop {
                let messages = tokio_stream::iter(messages.clone());
                let ended = client.do_put(messages.chain(tokio_stream::pending())).await;
                // Another call was in flight just then.
                let again = ended.is_err_and(|status| status.code() == Code::Unavailable);
                if !again {
                    return;
                }
            }
        };
        Ok(AbortOnDropHandle::new(self.runtime.spawn(call)))
    }

    /// Stages a batch as one chunk.
    pub fn stage(&self, request: &StageRequest, batch: &RecordBatch) -> Result<StagedChunk> {
        let schema = batch.schema();
        let mut messages = batches_to_flight_data(&schema, vec![batch.clone()])?;
        messages[0].flight_descriptor = Some(FlightDescriptor::new_cmd(request.encode_to_vec()));
        let end = EndOfStream { rows: batch.num_rows() as u64, batches: 1, complete: true };
        let app_metadata = end.encode_to_vec().into();
        messages.push(FlightData { app_metadata, ..Default::default() });
        let mut client = FlightServiceClient::new(self.connection.clone());
        let put = async {
            let mut answers = client.do_put(tokio_stream::iter(messages)).await?.into_inner();
            answers.message().await
        };
        let staged = self.runtime.block_on(put).map_err(|e| anyhow!("{}", Fault::from(e)))?;
        let staged = staged.context("the writer staged nothing")?;
        Ok(StagedChunk::decode(staged.app_metadata)?)
    }
}
