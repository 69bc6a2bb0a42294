//! The `driver-postgres` command line: logging, signals, the command, the exit
//! code.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use orchestrator::cli::{self, Cli};
use orchestrator::output;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long leftover tasks may take to end after the command.
const LEFTOVER_GRACE: std::time::Duration = std::time::Duration::from_secs(1);

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // clap prints help and version to stdout, mistakes to stderr.
            let _ = error.print();
            let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            return if asked { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        }
    };
    init_logging();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::human(format_args!("error: starting: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let shutdown = CancellationToken::new();
    let outcome = runtime.block_on(async {
        if let Err(error) = watch_signals(shutdown.clone()) {
            tracing::warn!("signals will end the process at once: {error}");
        }
        cli::run(cli, shutdown).await
    });
    runtime.shutdown_timeout(LEFTOVER_GRACE);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            output::human(format_args!("error: {fault}"));
            ExitCode::FAILURE
        }
    }
}

/// Warnings only, unless `TIDEWATER_LOG` says otherwise: the progress display
/// owns the terminal.
fn init_logging() {
    let filter =
        EnvFilter::try_from_env("TIDEWATER_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        builder.with_target(false).without_time().init();
    } else {
        builder.json().flatten_event(true).init();
    }
}

/// The first SIGINT or SIGTERM stops cleanly, the second at once; the children
/// see their stdin end then, and stop too.
fn watch_signals(shutdown: CancellationToken) -> std::io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::spawn(async move {
        for stopping in [true, false] {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if stopping {
                output::human("stopping; interrupt once more to stop at once");
                shutdown.cancel();
            }
        }
        std::process::exit(130);
    });
    Ok(())
}
