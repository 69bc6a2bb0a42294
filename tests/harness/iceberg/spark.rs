//! Spark, which takes seconds to start: one for all tests of a process
//! (`readers/spark.py`).

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::client::without_aws;
use crate::parts;
use crate::run::poll;
use crate::supervised::{Plan, Supervised};

/// A running Spark.
#[derive(Debug)]
pub struct Spark {
    socket: PathBuf,
    _running: Supervised,
}

impl Spark {
    /// The one that tests share. Ends with the process.
    pub fn shared() -> Result<Arc<Spark>> {
        static SHARED: Mutex<Option<Arc<Spark>>> = Mutex::new(None);
        // A test that panicked while starting it leaves none behind.
        let mut shared = SHARED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(spark) = &*shared {
            return Ok(Arc::clone(spark));
        }
        let spark = Arc::new(Spark::start()?);
        *shared = Some(Arc::clone(&spark));
        Ok(spark)
    }

    /// Starts one.
    pub fn start() -> Result<Spark> {
        // Removed by the supervisor, since what is shared is never dropped.
        let directory = TempDir::with_prefix("tidewater-spark-")?.keep();
        let (log, jvm) = (directory.join("log"), parts::jvm()?);
        let mut server = Command::new(parts::iceberg_python()?);
        server.args(["-B", "-W", "ignore"]).arg(parts::package().join("readers/spark.py"));
        server.arg(&directory).env("TZ", "UTC").env("AWS_EC2_METADATA_DISABLED", "true");
        server.env("PYTHONPATH", jvm.join("python")).env("SPARK_HOME", jvm.join("spark"));
        // It listens at this address only.
        server.env("SPARK_LOCAL_IP", "127.0.0.1");
        let running = Supervised::start(Plan {
            shell: without_aws(Command::new("/bin/sh")),
            server,
            signal: "TERM",
            leaves: vec![directory.clone()],
            log: &log,
        })?;
        let spark = Spark { socket: directory.join("socket"), _running: running };
        if let Err(error) = poll("Spark is ready", || Ok(spark.socket.exists())) {
            return Err(error.context(std::fs::read_to_string(&log).unwrap_or_default()));
        }
        Ok(spark)
    }

    /// Runs statements of SQL in which `catalog` is a catalog of Iceberg's with
    /// these settings.
    pub fn run(&self, catalog: &str, settings: &Value, statements: &[String]) -> Result<()> {
        let mut stream = UnixStream::connect(&self.socket).context("connecting to Spark")?;
        let request = json!({"catalog": catalog, "settings": settings, "statements": statements});
        writeln!(stream, "{request}")?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer)?;
        let answer: Value = serde_json::from_str(&answer).context("Spark's answer")?;
        match answer["failed"].as_str() {
            Some(why) => bail!("Spark: {}", why.trim_end()),
            None => Ok(()),
        }
    }

    /// Where it answers.
    pub fn socket(&self) -> &Path {
        &self.socket
    }
}
