//! The writer-svc program: flags, then [`writer_svc::run`].

use std::process::ExitCode;

use clap::Parser;

// Keeps the pages it frees: clearing fresh ones is a large part of encoding.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Writes tables: receives record batches by Arrow Flight, stages them as
/// Parquet files, and commits them.
#[derive(Debug, Parser)]
#[command(name = "writer-svc", version)]
struct Args {
    #[command(flatten)]
    service: proto::process::ServiceArgs,
    #[command(flatten)]
    options: writer_svc::Options,
}

fn main() -> ExitCode {
    let Args { service, options } = Args::parse();
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        eprintln!("writer-svc: a TLS provider is installed already");
        return ExitCode::FAILURE;
    }
    proto::process::service_main("writer-svc", service, |listener, token, tls, shutdown| {
        writer_svc::run(options, listener, token, tls, shutdown)
    })
}
