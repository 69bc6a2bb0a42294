//! A sync that goes on.

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::follow::{Followed, slot};
use crate::postgres::Background;
use crate::run::{Outcome, Project, Running, poll};

impl Followed {
    /// Starts a sync that goes on and looks every second.
    pub fn go_on(&self) -> Result<Running> {
        self.go_on_through(&Project::SYNC, 1)
    }

    /// One with these arguments that looks after so many seconds.
    pub fn go_on_through<S: AsRef<str>>(&self, arguments: &[S], seconds: u64) -> Result<Running> {
        self.project.edit("source.json", |source| {
            source["update_method"]["commit_interval"] = seconds.into();
        })?;
        let arguments: Vec<_> =
            arguments.iter().map(AsRef::as_ref).chain(["--continuous"]).collect();
        self.project.start(&arguments)
    }

    /// The same, of one whose loads wait for long.
    pub fn go_on_patiently(&self) -> Result<Running> {
        self.project.edit("source.json", |source| source["lock_timeout_ms"] = 300_000.into())?;
        self.go_on()
    }

    /// Loads by hand-off wait until the answer is dropped, as their snapshots do for
    /// every transaction that writes.
    pub fn hold_loads(&self) -> Result<Background> {
        let database = self.project.database();
        let holder = database.psql_background(
            "BEGIN; SELECT pg_current_xact_id(); SELECT pg_sleep(600) /* holds loads */",
        )?;
        let holds = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                     AND query LIKE '%holds loads%' AND backend_xid IS NOT NULL";
        poll("a transaction is open", || Ok(self.psql(holds)? == "1"))?;
        Ok(holder)
    }

    /// Whether a load has begun, and is not over.
    pub fn is_loading(&self) -> Result<bool> {
        let loads = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                     AND application_name LIKE 'tidewater load%'";
        Ok(self.psql(loads)? != "0")
    }

    /// Waits until everything is loaded and what is committed now was acknowledged.
    ///
    /// Twice: that a table was rewritten is seen after the last changes are
    /// acknowledged, and it is loaded anew before any others are.
    pub fn caught_up(&self, going: &mut Running) -> Result<()> {
        self.acknowledged(going)?;
        self.psql("SELECT pg_logical_emit_message(true, 'test', 'another look')")?;
        self.acknowledged(going)
    }

    fn acknowledged(&self, going: &mut Running) -> Result<()> {
        let end = self.psql("SELECT pg_current_wal_flush_lsn()")?;
        let caught_up = poll("the slot has moved there", || {
            ensure!(!going.ended()?, "the sync has ended");
            Ok(self.is_confirmed(&end)? && self.are_followed()?)
        });
        caught_up.or_else(|error| Err(error.context(going.stop()?)))
    }

    /// Whether the state says that every selected stream is followed: a new slot is
    /// further than what has to be loaded still.
    fn are_followed(&self) -> Result<bool> {
        let catalog = self.project.read("streams.json")?;
        let schemas = catalog["selected_streams"].as_object();
        let of_schema = |streams: &Value| streams.as_array().map_or(0, Vec::len);
        let selected: usize = schemas.map_or(0, |all| all.values().map(of_schema).sum());
        let state = self.project.read("state.json").unwrap_or_default();
        Ok(state["global"]["streams"].as_array().is_some_and(|all| all.len() == selected))
    }

    /// Whether the slot has moved there.
    pub fn is_confirmed(&self, lsn: &str) -> Result<bool> {
        let answer = self.psql(&format!(
            "SELECT confirmed_flush_lsn >= '{lsn}' FROM pg_replication_slots
             WHERE slot_name = '{}'",
            slot(&self.project)
        ))?;
        Ok(answer == "t")
    }
}

/// Ends a sync that goes on by SIGTERM, in order.
pub fn end(going: Running) -> Result<Outcome> {
    going.signal("TERM")?;
    going.wait()?.succeeded()
}
