//! A collector of OpenTelemetry: takes what is exported by OTLP and keeps it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, bail};
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::resource::v1::Resource;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

/// A span, with what tests ask of it.
#[derive(Clone, Debug)]
pub struct Span {
    /// "writer-svc".
    pub service: String,
    pub name: String,
    pub trace: Vec<u8>,
    pub id: Vec<u8>,
    /// Empty: the trace begins with it.
    pub parent: Vec<u8>,
    pub attributes: BTreeMap<String, String>,
}

#[derive(Debug, Default)]
struct Kept {
    spans: Vec<Span>,
    /// Service and name.
    figures: BTreeSet<(String, String)>,
    /// Everything, for who looks for what must not be there.
    text: String,
}

/// A running collector; ends when dropped.
#[derive(Debug)]
pub struct Collector {
    address: String,
    kept: Arc<Mutex<Kept>>,
    _runtime: Runtime,
}

#[derive(Clone)]
struct Keeper(Arc<Mutex<Kept>>);

impl Collector {
    /// Starts one on a free port.
    pub fn start() -> Result<Collector> {
        let runtime = Runtime::new()?;
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let address = format!("http://{}", listener.local_addr()?);
        let kept = Arc::<Mutex<Kept>>::default();
        let keeper = Keeper(kept.clone());
        runtime.spawn(async move {
            Server::builder()
                .add_service(TraceServiceServer::new(keeper.clone()))
                .add_service(MetricsServiceServer::new(keeper))
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
        });
        Ok(Collector { address, kept, _runtime: runtime })
    }

    /// For the environment of those that export to it.
    pub fn environment(&self) -> [(&str, &str); 3] {
        [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &self.address),
            ("OTEL_METRIC_EXPORT_INTERVAL", "200"),
            ("OTEL_BSP_SCHEDULE_DELAY", "200"),
        ]
    }

    /// Every span so far.
    pub fn spans(&self) -> Vec<Span> {
        self.locked(|kept| kept.spans.clone())
    }

    /// Names of the figures that `service` has exported so far, as OpenTelemetry
    /// has them.
    pub fn figures(&self, service: &str) -> BTreeSet<String> {
        self.locked(|kept| {
            let of = kept.figures.iter().filter(|(of, _)| of == service);
            of.map(|(_, name)| name.clone()).collect()
        })
    }

    /// Everything that came, in words.
    pub fn text(&self) -> String {
        self.locked(|kept| kept.text.clone())
    }

    fn locked<T>(&self, look: impl FnOnce(&Kept) -> T) -> T {
        look(&self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The spans above `span`, nearest first; each must be there.
pub fn ancestors<'s>(spans: &'s [Span], span: &Span) -> Result<Vec<&'s Span>> {
    let (mut above, mut at) = (Vec::new(), span.clone());
    while !at.parent.is_empty() {
        let Some(parent) = spans.iter().find(|s| s.id == at.parent && s.trace == at.trace) else {
            bail!("the parent of {at:?} is not there");
        };
        above.push(parent);
        at = parent.clone();
    }
    Ok(above)
}

fn text(value: Option<&Value>) -> String {
    match value {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    }
}

fn map(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let value = |pair: &KeyValue| text(pair.value.as_ref().and_then(|any| any.value.as_ref()));
    attributes.iter().map(|pair| (pair.key.clone(), value(pair))).collect()
}

fn service(resource: Option<&Resource>) -> String {
    let attributes = resource.map(|resource| map(&resource.attributes)).unwrap_or_default();
    attributes.get("service.name").cloned().unwrap_or_default()
}

#[tonic::async_trait]
impl TraceService for Keeper {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let request = request.into_inner();
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.text.push_str(&format!("{request:?}\n"));
        for of_resource in request.resource_spans {
            let service = service(of_resource.resource.as_ref());
            for span in of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                kept.spans.push(Span {
                    service: service.clone(),
                    name: span.name,
                    trace: span.trace_id,
                    id: span.span_id,
                    parent: span.parent_span_id,
                    attributes: map(&span.attributes),
                });
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Keeper {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        let request = request.into_inner();
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.text.push_str(&format!("{request:?}\n"));
        for of_resource in request.resource_metrics {
            let service = service(of_resource.resource.as_ref());
            for figure in of_resource.scope_metrics.into_iter().flat_map(|scope| scope.metrics) {
                kept.figures.insert((service.clone(), figure.name));
            }
        }
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}
