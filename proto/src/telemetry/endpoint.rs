//! `GET /metrics`, for Prometheus. Whoever reaches the address may read:
//! figures have names of streams and slots in them, and no secrets.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::{Encoder, Registry, TextEncoder};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::task::AbortOnDropHandle;

use crate::error::Fault;
use crate::v1::ErrorCode;

/// Connections at once; one more waits.
const CONNECTIONS: usize = 16;
/// How long a connection may say nothing.
const SILENCE: Duration = Duration::from_secs(60);

/// Serves until it is dropped.
pub(super) struct Endpoint {
    pub(super) address: SocketAddr,
    _serving: AbortOnDropHandle<()>,
}

impl Endpoint {
    pub(super) async fn serve(address: &str, registry: Registry) -> Result<Self, Fault> {
        let failed = |error: std::io::Error| {
            let message = format!("serving metrics on {address}: {error}");
            Fault::new(ErrorCode::InvalidConfig, message)
                .remedy("give --metrics an address of this machine and a free port")
        };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let serving = AbortOnDropHandle::new(tokio::spawn(accept(listener, registry)));
        tracing::info!(%address, "serving metrics");
        Ok(Endpoint { address, _serving: serving })
    }
}

async fn accept(listener: TcpListener, registry: Registry) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, say: others may be given back.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let registry = registry.clone();
        tokio::spawn(async move {
            converse(stream, registry).await;
            drop(permit);
        });
    }
}

async fn converse(stream: TcpStream, registry: Registry) {
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = answer(&request, &registry);
        async move { Ok::<_, Infallible>(answer) }
    });
    let mut connection = hyper::server::conn::http1::Builder::new();
    connection.timer(TokioTimer::new()).header_read_timeout(SILENCE);
    // Who breaks a connection off asks again.
    let _ = connection.serve_connection(TokioIo::new(stream), service).await;
}

fn answer(request: &Request<Incoming>, registry: &Registry) -> Response<String> {
    let refused = |status, text: &str| {
        let mut response = Response::new(text.to_owned());
        *response.status_mut() = status;
        response
    };
    if request.uri().path() != "/metrics" {
        return refused(StatusCode::NOT_FOUND, "figures are at /metrics\n");
    }
    if request.method() != Method::GET {
        return refused(StatusCode::METHOD_NOT_ALLOWED, "GET /metrics\n");
    }
    let encoder = TextEncoder::new();
    let mut text = Vec::new();
    if let Err(error) = encoder.encode(&registry.gather(), &mut text) {
        return refused(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n"));
    }
    let mut response = Response::new(String::from_utf8_lossy(&text).into_owned());
    if let Ok(kind) = encoder.format_type().parse() {
        response.headers_mut().insert(CONTENT_TYPE, kind);
    }
    response
}
