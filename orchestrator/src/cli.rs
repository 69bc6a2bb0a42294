//! Commands and flags, in every spelling that users of the driver know.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use proto::secure::TlsArgs;
use proto::telemetry::TelemetryArgs;
use proto::v1::ErrorCode;
use proto::{Fault, Token, token};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info_span};

use crate::{check, clear, discover, spec, status, sync};

/// Replicates PostgreSQL tables into Parquet files.
#[derive(Parser)]
#[command(name = "driver-postgres", version, about, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Every command takes every flag; what it has no use for it ignores.
#[derive(Subcommand)]
pub enum Command {
    /// Print the JSON schema of source.json, or of destination.json with --destination-type.
    Spec(Flags),
    /// Test the source (--config) or the destination (--destination) for real.
    Check(Flags),
    /// List the tables and write streams.json beside --config.
    Discover(Flags),
    /// Replicate the selected streams.
    Sync(Flags),
    /// Say what the selected streams have, how far behind they are, and what is wrong.
    Status(Flags),
    /// Remove the selected streams' tables and their state.
    ClearDestination(Flags),
}

/// The flags, shared by all commands. Holds secrets, hence no `Debug`.
#[derive(Args, Clone, Default)]
pub struct Flags {
    /// source.json.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// streams.json.
    #[arg(long, visible_alias = "streams", value_name = "FILE")]
    pub catalog: Option<PathBuf>,

    /// destination.json.
    #[arg(long, value_name = "FILE")]
    pub destination: Option<PathBuf>,

    /// For spec: parquet or iceberg.
    #[arg(long, value_name = "TYPE")]
    pub destination_type: Option<String>,

    /// state.json; without it, the one beside --config.
    #[arg(long, value_name = "FILE")]
    pub state: Option<PathBuf>,

    /// Accepted for compatibility: batches are bounded by reader_batch_size and in bytes.
    #[arg(long, value_name = "ROWS")]
    pub destination_buffer_size: Option<u64>,

    /// Connections that discover looks with at once.
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub max_discover_threads: u32,

    /// Write nothing beside --config: no streams.json, state.json or stats.json.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false,
          default_missing_value = "true", value_name = "BOOL")]
    pub no_save: bool,

    /// For sync: go on following changes until SIGINT or SIGTERM.
    #[arg(long)]
    pub continuous: bool,

    /// Stop cleanly after this many seconds; below 1: never.
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    pub timeout: Option<i64>,

    /// For discover: write destination_database as <PREFIX>_<database>_<schema>.
    #[arg(long, value_name = "PREFIX")]
    pub destination_database_prefix: Option<String>,

    /// For discover: compare --streams with this file into difference_streams.json.
    #[arg(long, value_name = "FILE")]
    pub difference: Option<PathBuf>,

    /// The config files are encrypted with this key (AES-256-GCM).
    #[arg(long, value_name = "KEY", env = "TIDEWATER_ENCRYPTION_KEY", hide_env_values = true)]
    pub encryption_key: Option<String>,

    /// Use the source-svc that runs at this address instead of starting one.
    #[arg(long, value_name = "HOST:PORT", env = "TIDEWATER_SOURCE")]
    pub source: Option<String>,

    /// Use the writer-svc that runs at this address; may be given several times.
    /// dns://name:port stands for every address that the name has.
    #[arg(long, value_name = "HOST:PORT", env = "TIDEWATER_WRITER", value_delimiter = ',')]
    pub writer: Vec<String>,

    /// Bearer token of the services that run already.
    #[arg(long, env = "TIDEWATER_TOKEN", default_value = "", hide_env_values = true)]
    pub token: String,

    /// File that holds the token, instead of --token.
    #[arg(long, value_name = "FILE", env = "TIDEWATER_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,

    #[command(flatten)]
    pub tls: TlsArgs,

    #[command(flatten)]
    pub telemetry: TelemetryArgs,

    /// Plain lines instead of progress bars.
    #[arg(long)]
    pub no_progress: bool,
}

impl Command {
    /// The flags it was given.
    pub fn flags(&self) -> &Flags {
        match self {
            Command::Spec(flags)
            | Command::Check(flags)
            | Command::Discover(flags)
            | Command::Sync(flags)
            | Command::Status(flags)
            | Command::ClearDestination(flags) => flags,
        }
    }
}

impl Flags {
    /// `--config`, or what to do about its absence.
    pub fn require_config(&self) -> Result<&Path, Fault> {
        require(&self.config, "--config", "source.json")
    }

    /// `--catalog`, or what to do about its absence.
    pub fn require_catalog(&self) -> Result<&Path, Fault> {
        require(&self.catalog, "--catalog", "streams.json")
    }

    /// `--destination`, or what to do about its absence.
    pub fn require_destination(&self) -> Result<&Path, Fault> {
        require(&self.destination, "--destination", "destination.json")
    }

    /// `--encryption-key`, when it is not empty.
    pub fn key(&self) -> Option<&str> {
        self.encryption_key.as_deref().filter(|key| !key.is_empty())
    }

    /// The path of `file` in the directory of `--config`.
    pub fn beside_config(&self, file: &str) -> Result<PathBuf, Fault> {
        Ok(self.require_config()?.with_file_name(file))
    }

    /// `--state`, else `state.json` beside `--config`.
    pub fn state_path(&self) -> Result<PathBuf, Fault> {
        match &self.state {
            Some(path) => Ok(path.clone()),
            None => self.beside_config("state.json"),
        }
    }

    /// `--token`, or what `--token-file` holds.
    pub fn token(&self) -> Result<Option<Token>, Fault> {
        token::given(&self.token, self.token_file.as_deref())
    }

    /// `--timeout`, when it limits anything.
    pub fn time_limit(&self) -> Option<Duration> {
        let seconds = u64::try_from(self.timeout?).ok()?;
        (seconds > 0).then(|| Duration::from_secs(seconds))
    }
}

fn require<'a>(path: &'a Option<PathBuf>, flag: &str, file: &str) -> Result<&'a Path, Fault> {
    path.as_deref().ok_or_else(|| {
        Fault::new(ErrorCode::InvalidConfig, format!("{flag} is missing"))
            .remedy(format!("add {flag} <path of {file}>"))
    })
}

/// Runs the command until it is done or `shutdown` is cancelled; `--timeout`
/// cancels it too.
pub async fn run(cli: Cli, shutdown: CancellationToken) -> Result<(), Fault> {
    let limit = cli.command.flags().time_limit();
    let expire = async {
        if let Some(limit) = limit {
            tokio::time::sleep(limit).await;
            tracing::warn!("the --timeout of {}s is over: stopping", limit.as_secs());
            shutdown.cancel();
        }
        std::future::pending::<Infallible>().await
    };
    tokio::select! {
        done = dispatch(&cli.command, shutdown.clone()) => done,
        never = expire => match never {},
    }
}

async fn dispatch(command: &Command, shutdown: CancellationToken) -> Result<(), Fault> {
    match command {
        Command::Spec(flags) => spec::run(flags),
        Command::Check(flags) => check::run(flags, shutdown).instrument(info_span!("check")).await,
        Command::Discover(flags) => {
            discover::run(flags, shutdown).instrument(info_span!("discover")).await
        }
        Command::Sync(flags) => sync::run(flags, shutdown).await,
        Command::Status(flags) => {
            status::run(flags, shutdown).instrument(info_span!("status")).await
        }
        Command::ClearDestination(flags) => {
            clear::run(flags, shutdown).instrument(info_span!("clear-destination")).await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &str) -> Command {
        let args = std::iter::once("driver-postgres").chain(args.split_whitespace());
        Cli::try_parse_from(args).map(|cli| cli.command).unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn every_command_takes_every_flag_in_both_spellings() {
        for command in ["spec", "check", "discover", "sync", "status", "clear-destination"] {
            let flags = parse(&format!(
                "{command} --config s.json --streams a.json --destination d.json \
                 --destination-type parquet --state st.json --destination-buffer-size 10 \
                 --max-discover-threads 3 --no-save --timeout -1 --difference b.json \
                 --destination-database-prefix p --encryption-key k --source h:1 \
                 --writer h:2 --writer h:3 --token t --no-progress --continuous"
            ))
            .flags()
            .clone();
            assert_eq!(flags.catalog.as_deref(), Some(Path::new("a.json")));
            assert_eq!(flags.writer, ["h:2", "h:3"]);
            assert!(flags.no_save && flags.no_progress && flags.continuous);
            assert!(flags.time_limit().is_none());
        }
        assert!(parse("sync --catalog=c.json --no-save=true").flags().no_save);
        assert!(!parse("sync --no-save=false").flags().no_save);
        let limit = parse("sync --timeout 9").flags().time_limit();
        assert_eq!(limit, Some(Duration::from_secs(9)));
    }

    #[test]
    fn state_lies_beside_the_config_unless_it_is_named() {
        let flags = parse("sync --config dir/source.json").flags().clone();
        assert_eq!(flags.state_path().unwrap(), Path::new("dir/state.json"));
        let flags = parse("sync --config dir/source.json --state x.json").flags().clone();
        assert_eq!(flags.state_path().unwrap(), Path::new("x.json"));
        let missing = Flags::default().require_config().unwrap_err().to_string();
        assert!(missing.contains("--config is missing"), "{missing}");
    }
}
