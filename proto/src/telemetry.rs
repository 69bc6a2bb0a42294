//! What a process says of itself while it runs: logs, figures and traces.
//!
//! ```text
//! event ──────► stderr, with the fields of the spans it is in
//! span  ──────► OTLP                    (OTEL_EXPORTER_OTLP_ENDPOINT)
//! instrument ─┬► OTLP                   (the same)
//!             └► http://…/metrics       (--metrics)
//! ```
//!
//! [`crate::metrics`] has the instruments. Without those settings, instruments
//! and spans cost a look at a flag.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::time::Duration;

use opentelemetry::{KeyValue, global};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry};

use crate::error::Fault;
use crate::metrics;
use crate::v1::ErrorCode;

pub mod context;
mod endpoint;
mod otlp;

use endpoint::Endpoint;

/// How long what is not exported yet may take at the end.
const FLUSH: Duration = Duration::from_secs(3);
/// Whose spans are traced.
const OURS: [&str; 4] = ["orchestrator", "source_svc", "writer_svc", "proto"];

/// The flags of every process.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct TelemetryArgs {
    /// Serve figures for Prometheus at http://ADDRESS/metrics; port 0 takes a free one.
    #[arg(long, env = "TIDEWATER_METRICS", value_name = "HOST:PORT")]
    pub metrics: Option<String>,

    /// How logs are written to stderr.
    #[arg(long, env = "TIDEWATER_LOG_FORMAT", value_enum, default_value_t, value_name = "FORMAT")]
    pub log_format: LogFormat,
}

/// How logs are written.
#[derive(clap::ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people on a terminal, else as JSON.
    #[default]
    Auto,
    /// For people.
    Text,
    /// An object for each line.
    Json,
}

/// What a process logs unless it is told otherwise.
#[derive(Clone, Copy, Debug)]
pub struct Logs {
    /// Directives where `TIDEWATER_LOG` is not set or cannot be read.
    pub filter: &'static str,
    /// For people, lines begin with the time.
    pub time: bool,
}

/// What is exported; to be stopped before the process ends.
pub struct Telemetry {
    meters: Option<SdkMeterProvider>,
    tracers: Option<SdkTracerProvider>,
    endpoint: Option<Endpoint>,
}

impl Telemetry {
    /// Begins to log, and to export what the flags and the environment ask for.
    /// Within a Tokio runtime; once in a process.
    pub async fn start(
        service: &'static str,
        args: &TelemetryArgs,
        logs: Logs,
    ) -> Result<Self, Fault> {
        let otlp = otlp::wanted();
        let resource = resource(service);
        let exported = otlp.as_ref().map(|otlp| otlp.exporters(service)).transpose();
        let (spans, figures) = match exported {
            Ok(exporters) => exporters.unzip(),
            Err(fault) => {
                start_logs(args.log_format, logs, None);
                return Err(fault);
            }
        };
        let tracers = spans.map(|exporter| {
            let builder = SdkTracerProvider::builder().with_resource(resource.clone());
            builder.with_batch_exporter(exporter).build()
        });
        global::set_text_map_propagator(TraceContextPropagator::new());
        start_logs(args.log_format, logs, tracers.as_ref());

        let address = args.metrics.as_deref().filter(|address| !address.is_empty());
        let registry = prometheus::Registry::new();
        let mut meters = SdkMeterProvider::builder().with_resource(resource);
        if address.is_some() {
            let exporter = opentelemetry_prometheus::exporter()
                .with_registry(registry.clone())
                .scope_info_enabled(false)
                .build()
                .map_err(|error| Fault::new(ErrorCode::Internal, error.to_string()))?;
            meters = meters.with_reader(exporter);
        }
        let is_measured = address.is_some() || figures.is_some();
        if let Some(exporter) = figures {
            meters = meters.with_periodic_exporter(exporter);
        }
        let meters = is_measured.then(|| meters.build());
        if let Some(meters) = &meters {
            global::set_meter_provider(meters.clone());
            metrics::observe_process();
        }
        let endpoint = match address {
            Some(address) => Some(Endpoint::serve(address, registry).await?),
            None => None,
        };
        Ok(Telemetry { meters, tracers, endpoint })
    }

    /// Where figures are served.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.endpoint.as_ref().map(|endpoint| endpoint.address)
    }

    /// Exports what is left, for a few seconds at most.
    pub async fn stop(self) {
        let Telemetry { meters, tracers, endpoint } = self;
        // It blocks, on what the runtime sends.
        let flushed = tokio::task::spawn_blocking(move || {
            let traced = tracers.map_or(Ok(()), |tracers| tracers.shutdown_with_timeout(FLUSH));
            let measured = meters.map_or(Ok(()), |meters| meters.shutdown_with_timeout(FLUSH));
            traced.and(measured)
        });
        match tokio::time::timeout(FLUSH, flushed).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => tracing::warn!("the last figures and spans are lost: {error}"),
            _ => tracing::warn!("the last figures and spans are lost: they took too long"),
        }
        drop(endpoint);
    }
}

/// Whose figures and spans they are. OTEL_SERVICE_NAME and
/// OTEL_RESOURCE_ATTRIBUTES say more, or otherwise.
fn resource(service: &'static str) -> Resource {
    let instance = format!("{:016x}", rand::random::<u64>());
    let builder = Resource::builder().with_attributes([
        KeyValue::new("service.version", crate::VERSION),
        KeyValue::new("service.instance.id", instance),
    ]);
    match otlp::variable("OTEL_SERVICE_NAME") {
        Some(_) => builder.build(),
        None => builder.with_service_name(service).build(),
    }
}

fn start_logs(format: LogFormat, logs: Logs, tracers: Option<&SdkTracerProvider>) {
    let asked = otlp::variable("TIDEWATER_LOG");
    let filter = asked
        .and_then(|filter| EnvFilter::try_new(filter).ok())
        .unwrap_or_else(|| EnvFilter::new(logs.filter));
    let json = match format {
        LogFormat::Auto => !std::io::stderr().is_terminal(),
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let layer = tracing_subscriber::fmt::layer::<Registry>()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let layer = match (json, logs.time) {
        (true, _) => layer.json().flatten_event(true).with_filter(filter).boxed(),
        (false, true) => layer.with_target(false).with_filter(filter).boxed(),
        (false, false) => layer.with_target(false).without_time().with_filter(filter).boxed(),
    };
    let traces = tracers.map(|tracers| {
        use opentelemetry::trace::TracerProvider;
        tracing_opentelemetry::layer()
            .with_tracer(tracers.tracer("tidewater"))
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_filter(Targets::new().with_targets(OURS.map(|ours| (ours, LevelFilter::INFO))))
    });
    tracing_subscriber::registry().with(layer).with(traces).init();
}
