//! Export by OTLP, as OpenTelemetry's standard variables say. It is gRPC only:
//! the services bring that along, and every collector takes it.

use opentelemetry_otlp::{ExporterBuildError, MetricExporter, SpanExporter, WithTonicConfig};
use tonic::transport::{Certificate, ClientTlsConfig};

use crate::error::Fault;
use crate::v1::ErrorCode;

const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const PROTOCOL: &str = "OTEL_EXPORTER_OTLP_PROTOCOL";
const CERTIFICATE: &str = "OTEL_EXPORTER_OTLP_CERTIFICATE";

/// Where to.
pub(super) struct Otlp {
    endpoint: String,
}

/// The value of a variable that is set to something.
pub(super) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// If there is an endpoint, and OTEL_SDK_DISABLED is not true.
pub(super) fn wanted() -> Option<Otlp> {
    let disabled = variable("OTEL_SDK_DISABLED").is_some_and(|is| is.eq_ignore_ascii_case("true"));
    let endpoint = variable(ENDPOINT).filter(|_| !disabled)?;
    Some(Otlp { endpoint })
}

impl Otlp {
    /// Of spans and of figures. Nothing is connected yet.
    pub(super) fn exporters(&self, service: &str) -> Result<(SpanExporter, MetricExporter), Fault> {
        if let Some(protocol) = variable(PROTOCOL).filter(|protocol| protocol != "grpc") {
            let message = format!("{PROTOCOL} is {protocol:?}; {service} exports by gRPC only");
            return Err(Fault::new(ErrorCode::InvalidConfig, message).remedy(format!(
                "set {PROTOCOL}=grpc and {ENDPOINT} to the collector's port for it, usually 4317"
            )));
        }
        let tls = self.endpoint.starts_with("https://").then(trusted).transpose()?;
        let wrong = |error: ExporterBuildError| {
            let message = format!("export to {ENDPOINT}={:?}: {error}", self.endpoint);
            Fault::new(ErrorCode::InvalidConfig, message).remedy("correct or unset the variable")
        };
        let (mut spans, mut figures) =
            (SpanExporter::builder().with_tonic(), MetricExporter::builder().with_tonic());
        if let Some(tls) = tls {
            spans = spans.with_tls_config(tls.clone());
            figures = figures.with_tls_config(tls);
        }
        Ok((spans.build().map_err(wrong)?, figures.build().map_err(wrong)?))
    }
}

/// The authorities in the file that the variable names, else this machine's.
fn trusted() -> Result<ClientTlsConfig, Fault> {
    let Some(file) = variable(CERTIFICATE) else {
        let found = rustls_native_certs::load_native_certs().certs;
        let pem = found.iter().map(|der| Certificate::from_pem(pem(der)));
        return Ok(ClientTlsConfig::new().ca_certificates(pem));
    };
    let read = std::fs::read(&file).map_err(|error| {
        let message = format!("reading {file} of {CERTIFICATE}: {error}");
        Fault::new(ErrorCode::InvalidConfig, message).remedy("correct or unset the variable")
    })?;
    Ok(ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read)))
}

fn pem(der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
}
