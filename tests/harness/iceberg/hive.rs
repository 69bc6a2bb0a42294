//! A Hive metastore (`Metastore.java`).

use std::net::TcpStream;
use std::process::Command;
use std::sync::{Arc, Mutex, Weak};

use anyhow::Result;
use tempfile::TempDir;

use super::seaweed::{self, Seaweed};
use crate::parts;
use crate::run::poll;
use crate::supervised::{Plan, Supervised, free_ports};

/// Seconds until a lock without a heartbeat is void; five minutes unless it is set.
pub const LOCK_SECONDS: u32 = 6;

/// What Hive's reflection looks into, closed since Java 17.
const OPENED: [&str; 4] = ["java.lang", "java.net", "java.nio", "java.util"];

/// A running metastore.
#[derive(Debug)]
pub struct Hive {
    address: String,
    _running: Supervised,
    _directory: TempDir,
    _store: Arc<Seaweed>,
}

impl Hive {
    /// The one that tests share. Lives as long as anybody holds it.
    pub fn shared() -> Result<Arc<Hive>> {
        static SHARED: Mutex<Weak<Hive>> = Mutex::new(Weak::new());
        // A test that panicked while starting a server leaves none behind.
        let mut shared = SHARED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(hive) = shared.upgrade() {
            return Ok(hive);
        }
        let hive = Arc::new(Hive::start()?);
        *shared = Arc::downgrade(&hive);
        Ok(hive)
    }

    /// Starts one, which knows the S3 store that tests share.
    pub fn start() -> Result<Hive> {
        let store = Seaweed::shared()?;
        let directory = TempDir::with_prefix("tidewater-hive-")?;
        let [port] = free_ports()?;
        let (log, path) = (directory.path().join("log"), directory.path().display());
        let mut server = Command::new("java");
        server.args(["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]);
        server.arg(format!("-Djava.io.tmpdir={path}"));
        server.arg(format!("-Dderby.stream.error.file={path}/derby.log"));
        server.args(OPENED.map(|package| format!("--add-opens=java.base/{package}=ALL-UNNAMED")));
        server.arg("-cp").arg(parts::jvm()?.join("hive/*"));
        server.arg(parts::package().join("harness/iceberg/Metastore.java"));
        server.args([path.to_string(), port.to_string(), LOCK_SECONDS.to_string()]);
        server.args([
            "fs.s3.impl=org.apache.hadoop.fs.s3a.S3AFileSystem".to_owned(),
            "fs.s3a.connection.ssl.enabled=false".to_owned(),
            "fs.s3a.path.style.access=true".to_owned(),
            format!("fs.s3a.endpoint=http://{}", store.s3()),
            format!("fs.s3a.access.key={}", seaweed::KEY),
            format!("fs.s3a.secret.key={}", seaweed::SECRET),
        ]);
        let running = Supervised::start(Plan {
            shell: Command::new("/bin/sh"),
            server,
            signal: "KILL",
            leaves: vec![directory.path().to_owned()],
            log: &log,
        })?;
        let address = format!("127.0.0.1:{port}");
        if let Err(error) = poll("Hive listens", || Ok(TcpStream::connect(&address).is_ok())) {
            return Err(error.context(std::fs::read_to_string(&log).unwrap_or_default()));
        }
        Ok(Hive { address, _running: running, _directory: directory, _store: store })
    }

    /// "127.0.0.1:port".
    pub fn address(&self) -> &str {
        &self.address
    }
}
