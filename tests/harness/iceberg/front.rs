//! A front before SeaweedFS's REST catalog (`front.py`): tokens that end, keys
//! that are lent for a while, warehouses by name, TLS.

use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::seaweed::{self, Seaweed};
use crate::parts;
use crate::run::poll;
use crate::supervised::{Plan, Supervised, free_ports, http};

/// A running front.
#[derive(Debug)]
pub struct Front {
    address: String,
    _running: Supervised,
    _directory: TempDir,
    _behind: Arc<Seaweed>,
}

/// What a front has done so far.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Told {
    /// Tokens issued.
    pub tokens: u32,
    /// Requests without a token that is good.
    pub refused: u32,
    /// Keys lent.
    pub loans: u32,
    /// Requests answered by 503.
    pub broken: u32,
}

impl Front {
    /// Starts one with the settings that `front.py` names, beside those that say
    /// what is behind it.
    pub fn start(behind: &Arc<Seaweed>, mut settings: Value) -> Result<Front> {
        settings["upstream"] = behind.rest().into();
        settings["store"] = behind.s3().into();
        settings["warehouse"] = format!("s3://{}", seaweed::TABLE_BUCKET).into();
        let directory = TempDir::with_prefix("tidewater-front-")?;
        let [port] = free_ports()?;
        let log = directory.path().join("log");
        let mut server = Command::new(parts::iceberg_python()?);
        server.args(["-B", "-u"]).arg(parts::package().join("harness/iceberg/front.py"));
        server.arg(port.to_string()).arg(settings.to_string());
        let running = Supervised::start(Plan {
            shell: Command::new("/bin/sh"),
            server,
            signal: "KILL",
            leaves: vec![directory.path().to_owned()],
            log: &log,
        })?;
        let address = format!("127.0.0.1:{port}");
        if let Err(error) = poll("the front listens", || Ok(TcpStream::connect(&address).is_ok())) {
            return Err(error.context(std::fs::read_to_string(&log).unwrap_or_default()));
        }
        let behind = Arc::clone(behind);
        Ok(Front { address, _running: running, _directory: directory, _behind: behind })
    }

    /// "127.0.0.1:port".
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Changes settings.
    pub fn set(&self, settings: Value) -> Result<()> {
        let answer = http(&self.address, "POST /-/set", &settings.to_string())?;
        anyhow::ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        Ok(())
    }

    /// What it has done so far.
    pub fn told(&self) -> Result<Told> {
        let answer = http(&self.address, "GET /-/told", "")?;
        let (_, body) = answer.split_once("\r\n\r\n").context("an answer")?;
        Ok(serde_json::from_str(body)?)
    }

    /// The keys of the store behind it, to be lent.
    pub fn keys() -> Value {
        json!([seaweed::KEY, seaweed::SECRET])
    }
}
