//! SeaweedFS: an S3 store and an Iceberg REST catalog in one process.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, Weak};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::certificates::Certificates;
use crate::parts;
use crate::run::poll;
use crate::supervised::{Plan, Supervised, free_ports, http, percent_encoded};

/// The access key, and the OAuth2 client id.
pub const KEY: &str = "tidewater";
/// The secret of both: what careless quoting breaks.
pub const SECRET: &str = "se/cr+et==of&tests";
/// An ordinary bucket.
pub const BUCKET: &str = "lake";
/// The REST catalog's bucket, which takes nothing but Iceberg's own files.
pub const TABLE_BUCKET: &str = "warehouse";

/// A running SeaweedFS.
#[derive(Debug)]
pub struct Seaweed {
    s3: String,
    rest: String,
    _running: Supervised,
    _directory: TempDir,
}

/// What listens, each at two ports: its own and one for gRPC.
const PARTS: [&str; 5] = ["master", "volume", "filer", "s3", "admin"];

/// In its log when one of its ports is.
const PORT_TAKEN: &str = "address already in use";

impl Seaweed {
    /// The one that tests share. Lives as long as anybody holds it.
    pub fn shared() -> Result<Arc<Seaweed>> {
        static SHARED: Mutex<Weak<Seaweed>> = Mutex::new(Weak::new());
        // A test that panicked while starting a server leaves none behind.
        let mut shared = SHARED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(seaweed) = shared.upgrade() {
            return Ok(seaweed);
        }
        let seaweed = Arc::new(Seaweed::start()?);
        *shared = Arc::downgrade(&seaweed);
        Ok(seaweed)
    }

    /// Starts one with an empty [`BUCKET`] and an empty [`TABLE_BUCKET`].
    pub fn start() -> Result<Seaweed> {
        Seaweed::start_with(&[])
    }

    /// Starts one whose S3 store speaks TLS only.
    pub fn start_with_tls(certificates: &Certificates) -> Result<Seaweed> {
        Seaweed::start_with(&[
            format!("-s3.cert.file={}", certificates.server.display()),
            format!("-s3.key.file={}", certificates.server_key.display()),
        ])
    }

    fn start_with(more: &[String]) -> Result<Seaweed> {
        // Another process may take a free port before the server does.
        for _ in 0..2 {
            match Seaweed::try_start(more) {
                Err(error) if format!("{error:#}").contains(PORT_TAKEN) => {}
                outcome => return outcome,
            }
        }
        Seaweed::try_start(more)
    }

    fn try_start(more: &[String]) -> Result<Seaweed> {
        let directory = TempDir::with_prefix("tidewater-weed-")?;
        let [rest, ports @ ..] = free_ports::<11>()?;
        let log = directory.path().join("log");
        let mut leaves = vec![directory.path().to_owned()];
        let mut server = Command::new(parts::weed()?);
        server.arg("mini").args(settings(directory.path(), rest)).args(more);
        for (part, ports) in PARTS.iter().zip(ports.chunks_exact(2)) {
            let [own, grpc] = [ports[0], ports[1]];
            server.arg(format!("-{part}.port={own}")).arg(format!("-{part}.port.grpc={grpc}"));
            // Sockets of its own, beside those of TCP.
            leaves.push(PathBuf::from(format!("/tmp/seaweedfs-{part}-{own}.sock")));
            leaves.push(PathBuf::from(format!("/tmp/seaweedfs-{part}-grpc-{grpc}.sock")));
        }
        let mut shell = Command::new("/bin/sh");
        shell.env("AWS_ACCESS_KEY_ID", KEY).env("AWS_SECRET_ACCESS_KEY", SECRET);
        let running = Supervised::start(Plan { shell, server, signal: "KILL", leaves, log: &log })?;
        let s3 = PARTS.iter().position(|part| *part == "s3").context("a part s3")?;
        let seaweed = Seaweed {
            s3: format!("127.0.0.1:{}", ports[2 * s3]),
            rest: format!("127.0.0.1:{rest}"),
            _running: running,
            _directory: directory,
        };
        if let Err(error) = poll("SeaweedFS is ready", || seaweed.ready(&log)) {
            return Err(error.context(std::fs::read_to_string(&log).unwrap_or_default()));
        }
        Ok(seaweed)
    }

    /// Everything runs, the buckets are there, and the catalog knows the secret.
    fn ready(&self, log: &Path) -> Result<bool> {
        let form = format!(
            "grant_type=client_credentials&client_id={KEY}&client_secret={}",
            percent_encoded(SECRET)
        );
        let said = std::fs::read_to_string(log).unwrap_or_default();
        ensure!(!said.contains(PORT_TAKEN), "{PORT_TAKEN}");
        Ok(said.contains("Press Ctrl+C")
            && http(&self.rest, "POST /v1/oauth/tokens", &form)
                .is_ok_and(|answer| answer.contains("access_token")))
    }

    /// The S3 store's "127.0.0.1:port".
    pub fn s3(&self) -> &str {
        &self.s3
    }

    /// The REST catalog's "127.0.0.1:port".
    pub fn rest(&self) -> &str {
        &self.rest
    }
}

fn settings(directory: &Path, rest: u16) -> [String; 12] {
    [
        format!("-dir={}", directory.display()),
        format!("-bucket={BUCKET}"),
        format!("-tableBucket={TABLE_BUCKET}"),
        format!("-s3.port.iceberg={rest}"),
        "-ip=127.0.0.1".to_owned(),
        "-ip.bind=127.0.0.1".to_owned(),
        // A bucket that is missing is missing.
        "-s3.autoCreateBucket=false".to_owned(),
        "-s3.port.lance=0".to_owned(),
        "-webdav=false".to_owned(),
        "-admin.ui=false".to_owned(),
        "-master.telemetry=false".to_owned(),
        // The free disk is shared with everybody: small volumes, made when needed.
        "-master.volumeSizeLimitMB=64".to_owned(),
    ]
}
