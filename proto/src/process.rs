//! A service's command line, logging, signals and exit, once for all.

use std::future::Future;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use anyhow::Context;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::limits;
use crate::listen::Listener;
use crate::probe::probe;
use crate::secure::{Tls, TlsArgs};
use crate::token::{self, Token};

/// Flags that every service has.
#[derive(clap::Args, Debug)]
pub struct ServiceArgs {
    /// Address to listen on; port 0 takes a free one. On Linux also
    /// unix-abstract:name, for this machine only; without the name, a free one.
    /// The address taken is printed to stdout as {"listening":"host:port"}.
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

    /// Ask the service that listens at --listen for its health instead of being
    /// one: exit status 0 when it serves.
    #[arg(long)]
    pub probe: bool,

    /// Stop when stdin ends: a parent that is killed takes the service along.
    #[arg(long)]
    pub stop_with_stdin: bool,
}

/// Refused handshakes are told where tonic tells them.
const DEFAULT_FILTER: &str =
    "info,h2=warn,hyper=warn,tonic=warn,tonic::transport::server::io_stream=debug";

/// Logs to stderr, human on a terminal and JSON otherwise, filtered by
/// `TIDEWATER_LOG` (default `info`).
pub fn init_logging() {
    let asked = std::env::var("TIDEWATER_LOG").ok().filter(|filter| !filter.is_empty());
    let filter = asked
        .and_then(|filter| EnvFilter::try_new(filter).ok())
        .unwrap_or_else(|| EnvFilter::new(DEFAULT_FILTER));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        builder.with_target(false).init();
    } else {
        builder.json().flatten_event(true).init();
    }
}

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
    init_logging();
    let outcome = (|| -> anyhow::Result<()> {
        let token = token::given(&args.token, args.token_file.as_deref())?;
        let tls = args.tls.read()?.with_streams_per_peer(args.max_peer_streams);
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        if args.probe {
            return Ok(runtime.block_on(probe(service, &args.listen, &tls))?);
        }
        runtime.block_on(async {
            let shutdown = shutdown_signal(args.stop_with_stdin)?;
            let listener = Listener::bind(&args.listen)
                .await
                .with_context(|| format!("listening on {}", args.listen))?;
            let address = listener.address()?;
            let mut stdout = std::io::stdout().lock();
            // A closed stdout only means that nobody asked.
            let _ = writeln!(stdout, "{{\"listening\":\"{address}\"}}");
            let _ = stdout.flush();
            drop(stdout);
            tracing::info!(service, %address, version = crate::VERSION, "listening");
            run(listener, token, tls, shutdown).await
        })?;
        runtime.shutdown_timeout(limits::DRAIN_GRACE);
        Ok(())
    })();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(service, "{error:#}");
            ExitCode::FAILURE
        }
    }
}
