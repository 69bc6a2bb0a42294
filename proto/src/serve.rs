//! Run gRPC services on a listener until shutdown, then drain.

use std::pin::Pin;

use anyhow::Context;
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::service::RoutesBuilder;
use tonic::transport::Server;

use crate::calls::Watched;
use crate::identity::Identified;
use crate::limits;
use crate::listen::Listener;
use crate::secure::Tls;
use crate::telemetry::context;
use crate::token::Token;
use crate::v1::identity_server::IdentityServer;

/// Serves what `add` puts into the routes, with health, reflection and
/// identity beside it, until `shutdown`; then calls in flight have
/// [`limits::DRAIN_GRACE`] to end.
pub async fn serve(
    service: &'static str,
    listener: impl Into<Listener>,
    token: Option<Token>,
    tls: Tls,
    shutdown: CancellationToken,
    add: impl FnOnce(&mut RoutesBuilder),
) -> anyhow::Result<()> {
    let listener = listener.into();
    let address = listener.address()?;
    anyhow::ensure!(
        token.is_some() || listener.is_local()?,
        "{service} would listen on {address}, off loopback, without a token: \
         give --token or TIDEWATER_TOKEN, or listen on 127.0.0.1"
    );
    let secured = tls.server();
    anyhow::ensure!(
        secured.is_some() || listener.is_local()? || tls.allows_plaintext(),
        "{service} would listen on {address}, off loopback, without TLS: give --tls-cert and \
         --tls-key (and --tls-ca to demand certificates of clients), or --plaintext if the \
         network is trusted, or listen on 127.0.0.1"
    );
    let (health_reporter, health) = tonic_health::server::health_reporter();
    health_reporter.set_service_status("", tonic_health::ServingStatus::Serving).await;
    health_reporter.set_service_status(service, tonic_health::ServingStatus::Serving).await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(crate::v1::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;

    let mut routes = RoutesBuilder::default();
    routes.add_service(health);
    routes.add_service(reflection);
    routes.add_service(IdentityServer::new(Identified { service, token }));
    add(&mut routes);

    let stop = shutdown.clone();
    let drained = async move { stop.cancelled().await };
    let mut server = Server::builder();
    if let Some(tls) = secured.filter(|_| matches!(listener, Listener::Tcp(_))) {
        server = server.tls_config(tls).with_context(|| {
            format!("{service}: --tls-cert, --tls-key or --tls-ca cannot be used")
        })?;
    }
    let (interval, timeout) = tls.keepalive();
    let server = server
        .layer(Watched::new(tls.streams_per_peer()))
        .trace_fn(context::span)
        .max_concurrent_streams(limits::STREAMS_PER_CONNECTION)
        .initial_stream_window_size(limits::STREAM_WINDOW)
        .initial_connection_window_size(limits::CONNECTION_WINDOW)
        .max_frame_size(limits::MAX_FRAME)
        .http2_keepalive_interval(Some(interval))
        .http2_keepalive_timeout(Some(timeout))
        .tcp_nodelay(true)
        .add_routes(routes.routes());
    let server: Pin<Box<dyn Future<Output = _> + Send>> = match listener {
        Listener::Tcp(listener) => {
            let incoming = TcpListenerStream::new(listener);
            Box::pin(server.serve_with_incoming_shutdown(incoming, drained))
        }
        Listener::Local(listener, _) => {
            let incoming = UnixListenerStream::new(listener);
            Box::pin(server.serve_with_incoming_shutdown(incoming, drained))
        }
    };
    let overdue = async {
        shutdown.cancelled().await;
        health_reporter.set_service_status("", tonic_health::ServingStatus::NotServing).await;
        tokio::time::sleep(limits::DRAIN_GRACE).await;
    };
    tokio::select! {
        served = server => served.with_context(|| format!("serving {service} on {address}"))?,
        () = overdue => tracing::warn!("calls were still running at the end of the grace time"),
    }
    Ok(())
}
