//! A streaming standby of a server, to be read from and to be promoted.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::account::Account;
use crate::postgres::{Options, Server, USER};
use crate::run::poll;

/// A running standby. Ends when dropped.
#[derive(Debug)]
pub struct Standby {
    /// As a server.
    pub server: Arc<Server>,
    primary: Arc<Server>,
    // After the server, which lies there.
    _directory: TempDir,
}

impl Standby {
    /// Copies the primary and follows it.
    pub fn of(primary: &Arc<Server>) -> Result<Standby> {
        let directory = TempDir::with_prefix("tidewater-standby-")?;
        let account = Account::find()?;
        account.own(directory.path())?;
        copy(primary, &account, directory.path())?;
        let upstream =
            format!("host={} port={} user={USER}", primary.directory().display(), primary.port());
        let mut options = Options::default()
            .set("primary_conninfo", upstream)
            .set("hot_standby_feedback", "on")
            .set("synchronous_commit", "on");
        options.keep_in = Some(directory.path().to_owned());
        let server = Arc::new(Server::start_build(primary.build(), &options)?);
        Ok(Standby { server, primary: Arc::clone(primary), _directory: directory })
    }

    /// Waits until it has everything that the primary has committed.
    pub fn has_everything(&self) -> Result<()> {
        let end = self.primary.psql("postgres", "SELECT pg_current_wal_flush_lsn()")?;
        let query = format!("SELECT pg_last_wal_replay_lsn() >= '{end}'");
        poll("the standby has replayed everything", || {
            Ok(self.server.psql("postgres", &query)? == "t")
        })
    }

    /// Makes a primary of it.
    pub fn promote(&self) -> Result<()> {
        let promoted = self.server.psql("postgres", "SELECT pg_promote()")?;
        ensure!(promoted == "t", "pg_promote() said {promoted}");
        Ok(())
    }
}

fn copy(primary: &Server, account: &Account, directory: &Path) -> Result<()> {
    let build = primary.build();
    let mut command = account.command(build.program("pg_basebackup"));
    command.arg("-D").arg(directory.join("data")).args(["-R", "-X", "stream", "-c", "fast"]);
    command.args(["--no-sync", "-U", USER, "-h"]).arg(primary.directory());
    command.arg("-p").arg(primary.port().to_string()).current_dir(directory);
    if let Some(lib) = &build.lib {
        command.env("LD_LIBRARY_PATH", lib);
    }
    let output = command.output().context("starting pg_basebackup")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
