//! The source-svc binary: flags, then [`source_svc::run`].

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

// Keeps freed pages: the kernel's clearing of fresh ones was an eighth of the
// service's time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Reads PostgreSQL and streams Arrow record batches to a writer-svc.
#[derive(Parser)]
#[command(name = "source-svc", version)]
struct Args {
    #[command(flatten)]
    service: proto::process::ServiceArgs,

    /// Seconds that a load, and with it its snapshot, outlives its last caller.
    #[arg(long, env = "TIDEWATER_GRACE", default_value_t = 60)]
    grace: u64,

    /// Bytes that one row may have at most, whatever a request asks for.
    #[arg(long, env = "TIDEWATER_MAX_ROW_BYTES", default_value_t = proto::limits::MAX_ROW_BYTES)]
    max_row_bytes: u64,

    /// Bytes at which a record batch closes.
    #[arg(long, env = "TIDEWATER_BATCH_BYTES", default_value_t = 2 << 20)]
    batch_bytes: usize,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        eprintln!("source-svc: a TLS provider is installed already");
        return ExitCode::FAILURE;
    }
    let options = source_svc::Options {
        grace: Duration::from_secs(args.grace),
        limits: source_svc::service::Limits {
            max_row_bytes: args.max_row_bytes,
            batch_bytes: args.batch_bytes,
        },
    };
    proto::process::service_main("source-svc", args.service, |listener, token, tls, shutdown| {
        source_svc::run(options, listener, token, tls, shutdown)
    })
}
