//! The `driver-postgres` command line: logging, signals, the command, the exit
//! code.

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use orchestrator::cli::{self, Cli};
use orchestrator::output;
use proto::metrics;
use proto::telemetry::{Logs, Telemetry};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long leftover tasks may take to end after the command.
const LEFTOVER_GRACE: std::time::Duration = std::time::Duration::from_secs(1);

/// Warnings only: the progress display owns the terminal.
const LOGS: Logs = Logs { filter: "warn", time: false };

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
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::human(format_args!("error: starting: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let shutdown = CancellationToken::new();
    let outcome = runtime.block_on(async {
        let flags = cli.command.flags();
        let telemetry = Telemetry::start("orchestrator", &flags.telemetry, LOGS).await?;
        if let Some(address) = telemetry.metrics_address() {
            output::human(format_args!("metrics are at http://{address}/metrics"));
        }
        if let Err(error) = watch_signals(shutdown.clone()) {
            tracing::warn!("signals will end the process at once: {error}");
        }
        let outcome = cli::run(cli, shutdown).await;
        if let Err(fault) = &outcome {
            metrics::failed(fault.code);
        }
        telemetry.stop().await;
        outcome
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
