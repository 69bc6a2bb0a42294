//! The trace that a call belongs to, over the wire: `traceparent` and
//! `tracestate` in a call's metadata, as W3C's Trace Context has them.

use opentelemetry::global;
use opentelemetry::propagation::{Extractor, Injector};
use tonic::codegen::http::{HeaderMap, Request};
use tonic::metadata::{Ascii, MetadataKey, MetadataMap};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// What calls to everybody (health, reflection, identity) begin with.
const OF_NO_TRACE: [&str; 2] = ["/grpc.", "/tidewater.v1.Identity/"];

/// Adds the current span to the call that is being made.
pub fn inject(metadata: &mut MetadataMap) {
    let context = Span::current().context();
    global::get_text_map_propagator(|propagator| {
        propagator.inject_context(&context, &mut Outgoing(metadata));
    });
}

/// The span of a call that has arrived, below the caller's.
pub fn span(request: &Request<()>) -> Span {
    let method = request.uri().path();
    if OF_NO_TRACE.iter().any(|prefix| method.starts_with(prefix)) {
        return Span::none();
    }
    let method = method.trim_start_matches('/');
    let span = tracing::info_span!(
        "call",
        otel.name = method,
        otel.kind = "server",
        rpc.system = "grpc",
        method
    );
    let parent = global::get_text_map_propagator(|propagator| {
        propagator.extract(&Incoming(request.headers()))
    });
    // Fails where nothing is traced.
    let _ = span.set_parent(parent);
    span
}

struct Outgoing<'a>(&'a mut MetadataMap);

impl Injector for Outgoing<'_> {
    fn set(&mut self, key: &str, value: String) {
        if let (Ok(key), Ok(value)) =
            (MetadataKey::<Ascii>::from_bytes(key.as_bytes()), value.parse())
        {
            self.0.insert(key, value);
        }
    }
}

struct Incoming<'a>(&'a HeaderMap);

impl Extractor for Incoming<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(|key| key.as_str()).collect()
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{TraceContextExt, TracerProvider};
    use opentelemetry_sdk::propagation::TraceContextPropagator;
    use opentelemetry_sdk::trace::SdkTracerProvider;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[test]
    fn a_call_is_below_the_span_that_made_it() {
        global::set_text_map_propagator(TraceContextPropagator::new());
        let provider = SdkTracerProvider::builder().build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("t"));
        let _on = tracing::subscriber::set_default(tracing_subscriber::registry().with(layer));
        let caller = tracing::info_span!("caller");
        let mut metadata = MetadataMap::new();
        caller.in_scope(|| inject(&mut metadata));
        let mut request = Request::new(());
        *request.uri_mut() = "/tidewater.v1.Writer/Commit".parse().unwrap();
        *request.headers_mut() = metadata.into_headers();
        let trace = |span: &Span| span.context().span().span_context().trace_id();
        assert_eq!(trace(&span(&request)), trace(&caller));
        *request.uri_mut() = "/grpc.health.v1.Health/Check".parse().unwrap();
        assert!(span(&request).is_disabled());
    }
}
