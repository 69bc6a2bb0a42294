//! source-svc: reads PostgreSQL, knows nothing of destinations, keeps nothing.
//!
//! The way of a record, in the modules' order:
//!
//! - [`service`]: the gRPC calls
//! - [`config`], [`params`]: how to reach a server, validated
//! - [`connect`], [`dial`], [`tls`], [`ssh`], [`known_hosts`]: a session on it
//! - [`tap`]: COPY's data, led around the session's client; [`startup`]: a walsender's packet
//! - [`check`], [`discover`]: what the role may read there
//! - [`types`], [`relation`], [`sql`]: what a relation is, and what its columns become;
//!   [`identity`]: which ones they are, whatever their names
//! - [`load`]: one snapshot of many relations, in chunks, each read by one COPY
//! - [`capture`]: publications, slot and tables of change capture
//! - [`replicate`]: the log, in windows, each table's changes to its writer
//! - [`decode`]: COPY's binary form → Arrow columns; a log's text → that form
//! - [`batch`]: columns → record batches
//! - [`ipc`]: record batches → Flight messages of Arrow IPC
//! - [`send`]: messages → Flight DoPut
//! - [`error`]: what can go wrong, and how it leaves the service

pub mod service;

pub mod config;
pub mod params;

pub mod connect;
pub mod dial;
pub mod known_hosts;
pub mod ssh;
pub mod startup;
pub mod tap;
pub mod tls;

pub mod check;
pub mod discover;

pub mod identity;
pub mod relation;
pub mod sql;
pub mod types;

pub mod load;

pub mod capture;
pub mod replicate;

pub mod decode;

pub mod batch;

pub mod ipc;
pub mod send;

pub mod error;

use std::sync::Arc;
use std::time::Duration;

use proto::listen::Listener;
use proto::token::RequireToken;
use proto::v1::source_server::SourceServer;
use proto::{Tls, Token};
use tokio_util::sync::CancellationToken;
use tonic::service::interceptor::InterceptedService;

/// What the service is started with.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How long a load outlives its last caller.
    pub grace: Duration,
    /// The operator's bounds.
    pub limits: service::Limits,
}

/// How long the end of the sessions may hold up the end of the service.
const SESSIONS_END: Duration = Duration::from_secs(2);

/// Serves on `listener` until `shutdown`, which ends every load.
pub async fn run(
    options: Options,
    listener: impl Into<Listener>,
    token: Option<Token>,
    tls: Tls,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let loads = Arc::new(load::Loads::new(options.grace, shutdown.clone()));
    let service = service::SourceService {
        loads: loads.clone(),
        confirmations: Arc::default(),
        limits: options.limits,
        tls: tls.clone(),
        shutdown: shutdown.clone(),
    };
    let server = SourceServer::new(service)
        .max_decoding_message_size(proto::limits::CONTROL_MESSAGE_BYTES)
        .max_encoding_message_size(proto::limits::CONTROL_MESSAGE_BYTES);
    let guarded = InterceptedService::new(server, RequireToken(token.clone()));
    // The sweep ends by the shutdown that ends the serving.
    let stop = shutdown.clone().drop_guard();
    let sweep = tokio::spawn(async move { loads.sweep().await });
    let served = proto::serve::serve("source-svc", listener, token, tls, shutdown, |routes| {
        routes.add_service(guarded);
    })
    .await;
    drop(stop);
    sweep.await?;
    connect::all_ended(SESSIONS_END).await;
    served
}
