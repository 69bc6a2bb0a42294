//! The wire, and only the wire: what all three processes need to speak to
//! each other and to be a service.
//!
//! - [`v1`]: messages and clients, generated from `tidewater/v1/*.proto`
//! - [`lsn`]: a WAL position
//! - [`columns`]: metadata of a DoPut's schema that tell columns apart
//! - [`error`]: a fault, and the one table of error code ↔ gRPC status
//! - [`limits`]: sizes and times that both ends of a connection must share
//! - [`token`]: bearer tokens, their proof and their check
//! - [`secure`]: TLS between the services
//! - [`identity`]: who a service is, before a secret is sent to it
//! - [`calls`]: how many of one peer, and what has become of each
//! - [`listen`]: where a service listens
//! - [`serve`]: run gRPC services on a listener until shutdown
//! - [`address`]: where a service is, as users write it
//! - [`dial`]: connect to a service and make sure it is the right one
//! - [`tls`]: TLS to a PostgreSQL server, for the services that connect to one
//! - [`probe`]: ask a service for its health
//! - [`telemetry`]: logs, and figures and traces where they are asked for;
//!   [`metrics`]: the figures
//! - [`process`]: a service's command line, signals and exit

pub mod address;
pub mod calls;
pub mod columns;
pub mod dial;
pub mod error;
pub mod identity;
pub mod limits;
pub mod listen;
pub mod lsn;
pub mod metrics;
pub mod probe;
pub mod process;
mod redact;
pub mod secure;
pub mod serve;
pub mod telemetry;
pub mod tls;
pub mod token;

/// Generated from `tidewater/v1/*.proto`, where every field is documented.
#[allow(missing_docs, clippy::all)]
pub mod v1 {
    tonic::include_proto!("tidewater.v1");

    /// The protos' descriptors, for gRPC reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
}

pub use error::Fault;
pub use secure::Tls;
pub use token::Token;

/// The version that services prove and clients compare, e.g. "0.1.0".
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
