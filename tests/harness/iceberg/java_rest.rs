//! A REST catalog of Iceberg's own (`RestCatalog.java`): Java's handlers over a
//! JDBC catalog in PostgreSQL.

use std::net::TcpStream;
use std::process::Command;
use std::sync::{Arc, Mutex, Weak};

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::pair::Store;
use super::seaweed::{self, Seaweed};
use crate::parts;
use crate::postgres::{Database, PASSWORD, USER};
use crate::run::poll;
use crate::supervised::{Plan, Supervised, free_ports, http};

/// A running REST catalog. Tables for which no place is named lie in one warehouse.
#[derive(Debug)]
pub struct JavaRest {
    address: String,
    _running: Supervised,
    _directory: TempDir,
    _database: Database,
    _store: Option<Arc<Seaweed>>,
}

impl JavaRest {
    /// The one that tests share for a store. Lives as long as anybody holds it.
    pub fn shared(store: Store) -> Result<Arc<JavaRest>> {
        static LOCAL: Mutex<Weak<JavaRest>> = Mutex::new(Weak::new());
        static S3: Mutex<Weak<JavaRest>> = Mutex::new(Weak::new());
        let shared = match store {
            Store::Local => &LOCAL,
            Store::S3 => &S3,
        };
        // A test that panicked while starting a server leaves none behind.
        let mut shared = shared.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(rest) = shared.upgrade() {
            return Ok(rest);
        }
        let rest = Arc::new(JavaRest::start(store)?);
        *shared = Arc::downgrade(&rest);
        Ok(rest)
    }

    /// Starts one.
    pub fn start(store: Store) -> Result<JavaRest> {
        let directory = TempDir::with_prefix("tidewater-rest-")?;
        let database = Database::new("rest")?;
        let [port] = free_ports()?;
        let (log, jvm) = (directory.path().join("log"), parts::jvm()?);
        let store = match store {
            Store::Local => None,
            Store::S3 => Some(Seaweed::shared()?),
        };
        let name = directory.path().file_name().unwrap_or_default().to_string_lossy();
        let warehouse = match &store {
            None => format!("file://{}/files", directory.path().display()),
            Some(_) => format!("s3://{}/{name}", seaweed::BUCKET),
        };
        let address = format!("127.0.0.1:{}/{}", database.server.port(), database.name);
        let mut settings = vec![
            "catalog-impl=org.apache.iceberg.jdbc.JdbcCatalog".to_owned(),
            format!("uri=jdbc:postgresql://{address}"),
            format!("jdbc.user={USER}"),
            format!("jdbc.password={PASSWORD}"),
            "jdbc.schema-version=V1".to_owned(),
            format!("warehouse={warehouse}"),
        ];
        settings.extend(store.iter().flat_map(|store| {
            [
                "io-impl=org.apache.iceberg.aws.s3.S3FileIO".to_owned(),
                "s3.path-style-access=true".to_owned(),
                "client.region=us-east-1".to_owned(),
                format!("s3.endpoint=http://{}", store.s3()),
                format!("s3.access-key-id={}", seaweed::KEY),
                format!("s3.secret-access-key={}", seaweed::SECRET),
            ]
        }));
        let mut server = Command::new("java");
        server.args(["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]);
        server.arg(format!("-Djava.io.tmpdir={}", directory.path().display()));
        server.env("AWS_EC2_METADATA_DISABLED", "true");
        // Spark's jars have Hadoop, Hive's AWS's SDK; what both have is Spark's.
        let places = ["iceberg/*", "jdbc/*", "spark/jars/*", "hive/*"];
        let classes = places.map(|place| jvm.join(place).display().to_string()).join(":");
        server.args(["-cp", &classes]);
        server.arg(parts::package().join("harness/iceberg/RestCatalog.java"));
        server.args([port.to_string(), "rest".to_owned()]).args(settings);
        let running = Supervised::start(Plan {
            shell: Command::new("/bin/sh"),
            server,
            signal: "KILL",
            leaves: vec![directory.path().to_owned()],
            log: &log,
        })?;
        let address = format!("127.0.0.1:{port}");
        if let Err(error) = poll("the catalog listens", || Ok(TcpStream::connect(&address).is_ok()))
        {
            return Err(error.context(std::fs::read_to_string(&log).unwrap_or_default()));
        }
        Ok(JavaRest {
            address,
            _running: running,
            _directory: directory,
            _database: database,
            _store: store,
        })
    }

    /// Of how many tables each commit so far was, of those in this namespace.
    pub fn commits(&self, namespace: &str) -> Result<Vec<u32>> {
        let answer = http(&self.address, &format!("GET /-/told/{namespace}"), "")?;
        let (_, body) = answer.split_once("\r\n\r\n").context("an answer")?;
        Ok(serde_json::from_str(body)?)
    }

    /// "127.0.0.1:port".
    pub fn address(&self) -> &str {
        &self.address
    }
}
