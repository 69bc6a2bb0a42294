//! Every call that a service takes: of one peer no more at once than are allowed, and
//! for each that is refused or fails one line in the log.
//!
//! A peer is an address, whatever its connections; all of this machine's that come
//! over a local socket are one.

use std::collections::HashMap;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use http_body::{Frame, SizeHint};
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Bytes, Service, http};
use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo};
use tonic::{Code, Status};
use tower_layer::Layer;

use crate::error::Fault;
use crate::v1::ErrorCode;

/// Puts [`Calls`] around a service.
#[derive(Clone)]
pub struct Watched(Arc<Peers>);

/// A service whose calls are counted and whose failures are told.
#[derive(Clone)]
pub struct Calls<S> {
    service: S,
    peers: Arc<Peers>,
}

/// The calls in flight.
struct Peers {
    limit: usize,
    running: Mutex<HashMap<Option<IpAddr>, usize>>,
}

/// One call; ends when dropped.
struct Call {
    path: String,
    peer: Option<IpAddr>,
    peers: Arc<Peers>,
    told: bool,
}

impl Watched {
    /// Allows every peer `limit` calls at once.
    pub fn new(limit: usize) -> Self {
        Watched(Arc::new(Peers { limit, running: Mutex::default() }))
    }
}

impl<S> Layer<S> for Watched {
    type Service = Calls<S>;

    fn layer(&self, service: S) -> Calls<S> {
        Calls { service, peers: self.0.clone() }
    }
}

impl Peers {
    fn running(&self) -> std::sync::MutexGuard<'_, HashMap<Option<IpAddr>, usize>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None`: the call is one too many.
    fn begin(self: &Arc<Self>, peer: Option<IpAddr>, path: &str) -> Option<Call> {
        let mut running = self.running();
        let count = running.entry(peer).or_default();
        if *count >= self.limit {
            return None;
        }
        *count += 1;
        Some(Call { path: path.to_owned(), peer, peers: self.clone(), told: false })
    }

    fn end(&self, peer: Option<IpAddr>) {
        let mut running = self.running();
        if let Some(count) = running.get_mut(&peer) {
            *count -= 1;
            if *count == 0 {
                running.remove(&peer);
            }
        }
    }
}

impl Call {
    /// Says how it has ended, unless that was well.
    fn ended(&mut self, status: &Status) {
        if status.code() == Code::Ok || std::mem::replace(&mut self.told, true) {
            return;
        }
        let (call, code, said) = (&self.path, status.code(), status.message());
        let peer = self.peer.map_or_else(|| "local".to_owned(), |peer| peer.to_string());
        match code {
            // The next attempt may succeed, or the caller has gone.
            Code::Unavailable | Code::Aborted | Code::Cancelled => {
                tracing::info!(peer, call, ?code, "a call failed: {said}");
            }
            _ => tracing::warn!(peer, call, ?code, "a call was refused or failed: {said}"),
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.peers.end(self.peer);
    }
}

fn too_many(limit: usize) -> Status {
    let message = format!("{limit} calls of this address are in flight already");
    Fault::new(ErrorCode::Unavailable, message)
        .remedy("lower max_threads, or start the service with a higher --max-peer-streams")
        .into()
}

impl<S> Service<http::Request<Body>> for Calls<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
    S::Error: 'static,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let extensions = request.extensions();
        let tcp = extensions
            .get::<TcpConnectInfo>()
            .or_else(|| Some(extensions.get::<TlsConnectInfo<TcpConnectInfo>>()?.get_ref()));
        let peer = tcp.and_then(TcpConnectInfo::remote_addr).map(|address| address.ip());
        let path = request.uri().path();
        let Some(mut call) = self.peers.begin(peer, path) else {
            let status = too_many(self.peers.limit);
            tracing::warn!(?peer, call = path, "{}", status.message());
            return Box::pin(async move { Ok(status.into_http()) });
        };
        let answer = self.service.call(request);
        Box::pin(async move {
            let (head, body) = answer.await?.into_parts();
            if let Some(status) = Status::from_header_map(&head.headers) {
                call.ended(&status);
            }
            Ok(http::Response::from_parts(head, Body::new(Answers { body, call })))
        })
    }
}

/// A call's answers, to their end.
struct Answers {
    body: Body,
    call: Call,
}

impl http_body::Body for Answers {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(status) = frame.trailers_ref().and_then(Status::from_header_map) {
                    self.call.ended(&status);
                }
            }
            Some(Err(status)) => {
                let status = status.clone();
                self.call.ended(&status);
            }
            None => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_has_no_more_calls_than_allowed_and_others_have_theirs() {
        let Watched(peers) = Watched::new(2);
        let (here, there) = (None, Some(IpAddr::from([192, 0, 2, 1])));
        let first = peers.begin(here, "/x").unwrap();
        let _second = peers.begin(here, "/x").unwrap();
        assert!(peers.begin(here, "/x").is_none());
        let other = peers.begin(there, "/x").unwrap();
        drop(first);
        let _third = peers.begin(here, "/x").unwrap();
        assert!(peers.begin(here, "/x").is_none());
        drop(other);
        assert_eq!(peers.running().len(), 1, "nothing is kept of those that have none");
    }
}
