//! A service's command line, signals and exit, once for all.

use std::future::Future;
use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use tokio_util::sync::CancellationToken;

use crate::limits;
use crate::listen::Listener;
use crate::probe::probe;
use crate::secure::{Tls, TlsArgs};
use crate::telemetry::{Logs, Telemetry, TelemetryArgs};
use crate::token::{self, Token};

/// Flags that every service has.
#[derive(clap::Args, Debug)]
pub struct ServiceArgs {
    /// Address to listen on; port 0 takes a free one. On Linux also
    /// unix-abstract:name, for this machine only; without the name, a free one.
    /// The address taken is printed to stdout as {"listening":"host:port"}, with
    /// that of --metrics beside it as "metrics".
    #[arg(long, env = "TIDEWATER_LISTEN", default_value = "127.0.0.1:0")]
    pub listen: String,

    /// Bearer token that every call must carry. Required off loopback.
    #[arg(long, env = "TIDEWATER_TOKEN", default_value = "", hide_env_values = true)]
    pub token: String,

    /// File that holds the token, instead of --token.
    #[arg(long, env = "TIDEWATER_TOKEN_FILE")]
    pub token_file: Option<std::path::PathBuf>,

    #[command(flatten)]
    pub tls: TlsArgs,

    /// Calls that one peer, an address, may have in flight over all its connections;
    /// one more is refused.
    #[arg(long, env = "TIDEWATER_MAX_PEER_STREAMS", default_value_t = limits::STREAMS_PER_PEER,
          value_parser = clap::value_parser!(u16).range(1..), value_name = "N")]
    pub max_peer_streams: u16,
    #[command(flatten)]
    pub telemetry: TelemetryArgs,

    /// Ask the service that listens at --listen for its health instead of being
    /// one: exit status 0 when it serves.
    #[arg(long)]
    pub probe: bool,

    /// Stop when stdin ends: a parent that is killed takes the service along.
    #[arg(long)]
    pub stop_with_stdin: bool,
}

/// Refused handshakes are told where tonic tells them.
const LOGS: Logs = Logs {
    filter: "info,h2=warn,hyper=warn,opentelemetry=warn,opentelemetry_sdk=warn,tonic=warn,\
             tonic::transport::server::io_stream=debug",
    time: true,
};

/// Cancelled by SIGINT, SIGTERM, and, if asked for, the end of stdin.
pub fn shutdown_signal(stop_with_stdin: bool) -> std::io::Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let shutdown = CancellationToken::new();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let token = shutdown.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        token.cancel();
    });
    if stop_with_stdin {
        let token = shutdown.clone();
        // A thread of its own: a blocking read would hold up the runtime's end.
        std::thread::spawn(move || {
            let mut sink = std::io::sink();
            let _ = std::io::copy(&mut std::io::stdin().lock(), &mut sink);
            token.cancel();
            // The parent is gone: nobody waits for a drain that hangs.
            std::thread::sleep(limits::DRAIN_GRACE);
            std::process::exit(1);
        });
    }
    Ok(shutdown)
}

/// A service's `main`: logging, listener, token, signals, then `run`.
pub fn service_main<F>(
    service: &'static str,
    args: ServiceArgs,
    run: impl FnOnce(Listener, Option<Token>, Tls, CancellationToken) -> F,
) -> ExitCode
where
    F: Future<Output = anyhow::Result<()>>,
{
    let served = (|| -> anyhow::Result<bool> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        if args.probe {
            let tls = args.tls.read()?;
            runtime.block_on(probe(service, &args.listen, &tls))?;
            return Ok(true);
        }
        let served = runtime.block_on(async {
            let telemetry = Telemetry::start(service, &args.telemetry, LOGS).await?;
            let outcome = listen(service, args, &telemetry, run).await;
            if let Err(error) = &outcome {
                tracing::error!(service, "{error:#}");
            }
            telemetry.stop().await;
            anyhow::Ok(outcome.is_ok())
        })?;
        runtime.shutdown_timeout(limits::DRAIN_GRACE);
        Ok(served)
    })();
    match served {
        Ok(true) => ExitCode::SUCCESS,
        // The log says why.
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{service}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Takes the address, says so, and runs until a signal.
async fn listen<F>(
    service: &'static str,
    args: ServiceArgs,
    telemetry: &Telemetry,
    run: impl FnOnce(Listener, Option<Token>, Tls, CancellationToken) -> F,
) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>>,
{
    let token = token::given(&args.token, args.token_file.as_deref())?;
    let tls = args.tls.read()?.with_streams_per_peer(args.max_peer_streams);
    let shutdown = shutdown_signal(args.stop_with_stdin)?;
    let listener = Listener::bind(&args.listen)
        .await
        .with_context(|| format!("listening on {}", args.listen))?;
    let address = listener.address()?;
    let metrics = telemetry.metrics_address();
    let metrics = metrics.map(|at| format!(",\"metrics\":\"{at}\"")).unwrap_or_default();
    let mut stdout = std::io::stdout().lock();
    // A closed stdout only means that nobody asked.
    let _ = writeln!(stdout, "{{\"listening\":\"{address}\"{metrics}}}");
    let _ = stdout.flush();
    drop(stdout);
    tracing::info!(service, %address, version = crate::VERSION, "listening");
    run(listener, token, tls, shutdown).await
}
