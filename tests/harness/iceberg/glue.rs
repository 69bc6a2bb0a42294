//! moto's Glue catalog (`glue.py`).

use std::process::Command;
use std::sync::{Arc, Mutex, Weak};

use anyhow::Result;
use serde_json::json;
use tempfile::TempDir;

use super::seaweed;
use crate::parts;
use crate::run::poll;
use crate::supervised::{Plan, Supervised, free_ports, http};

/// Its key, beside the S3 store's.
pub const KEY: &str = "glue-key";
/// And the secret of that.
pub const SECRET: &str = "glue/secret+of=tests";
/// One with the same secret that may look and not write.
pub const READER: &str = "glue-reader";

/// A running Glue.
#[derive(Debug)]
pub struct Glue {
    address: String,
    _running: Supervised,
    _directory: TempDir,
}

impl Glue {
    /// The one that tests share. Lives as long as anybody holds it.
    pub fn shared() -> Result<Arc<Glue>> {
        static SHARED: Mutex<Weak<Glue>> = Mutex::new(Weak::new());
        // A test that panicked while starting a server leaves none behind.
        let mut shared = SHARED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(glue) = shared.upgrade() {
            return Ok(glue);
        }
        let glue = Arc::new(Glue::start()?);
        *shared = Arc::downgrade(&glue);
        Ok(glue)
    }

    /// Starts one.
    pub fn start() -> Result<Glue> {
        let directory = TempDir::with_prefix("tidewater-glue-")?;
        let [port] = free_ports()?;
        let log = directory.path().join("log");
        let mut server = Command::new(parts::iceberg_python()?);
        server.args(["-B", "-u"]).arg(parts::package().join("harness/iceberg/glue.py"));
        let accounts = json!({
            KEY: {"secret": SECRET, "writes": true},
            READER: {"secret": SECRET, "writes": false},
            seaweed::KEY: {"secret": seaweed::SECRET, "writes": true},
        });
        server.arg(port.to_string()).arg(accounts.to_string());
        let running = Supervised::start(Plan {
            shell: Command::new("/bin/sh"),
            server,
            signal: "KILL",
            leaves: vec![directory.path().to_owned()],
            log: &log,
        })?;
        let address = format!("127.0.0.1:{port}");
        let ready = || {
            let answer = http(&address, "GET /moto-api/data.json", "");
            Ok(answer.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200")))
        };
        if let Err(error) = poll("Glue answers", ready) {
            return Err(error.context(std::fs::read_to_string(&log).unwrap_or_default()));
        }
        Ok(Glue { address, _running: running, _directory: directory })
    }

    /// "127.0.0.1:port".
    pub fn address(&self) -> &str {
        &self.address
    }
}
