//! One sync through the three services, from the command's start to its exit.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::postgres::{PASSWORD, Server, USER};

use crate::processes::{self, Measured};

/// The destination, and the file that says how far it has come.
const LAKE: &str = "lake";
const STATE: &str = "state.json";

/// Config files, ready for any number of runs.
pub struct Sync {
    directory: TempDir,
}

/// What is written.
#[derive(Clone, Copy)]
pub enum Format {
    /// Plain files.
    Parquet,
    /// A table of a local warehouse, with a catalog in SQLite.
    Iceberg,
}

/// What the last run left.
pub struct Output {
    pub files: u64,
    pub bytes: u64,
}

impl Sync {
    /// Writes the config files and runs discover once. `settings`: what
    /// source.json has beyond the connection.
    pub fn prepare(
        server: &Server,
        database: &str,
        settings: Value,
        format: Format,
    ) -> Result<Sync> {
        let parent = tests::parts::root().join("bench");
        std::fs::create_dir_all(&parent)?;
        let directory = tempfile::Builder::new().prefix("sync-").tempdir_in(parent)?;
        let sync = Sync { directory };
        let mut source = json!({
            "host": "127.0.0.1",
            "port": server.port(),
            "database": database,
            "username": USER,
            "password": PASSWORD,
            "ssl": {"mode": "disable"},
        });
        for (key, value) in settings.as_object().into_iter().flatten() {
            source[key] = value.clone();
        }
        let destination = match format {
            Format::Parquet => json!({
                "type": "PARQUET",
                "writer": {"local_path": sync.lake(), "normalization": true},
            }),
            Format::Iceberg => json!({
                "type": "ICEBERG",
                "writer": {
                    "catalog_type": "jdbc",
                    "jdbc_url": format!("jdbc:sqlite:{}/catalog.db", sync.lake().display()),
                    "iceberg_s3_path": format!("file://{}/warehouse", sync.lake().display()),
                    "normalization": true,
                },
            }),
        };
        std::fs::write(sync.path("source.json"), source.to_string())?;
        std::fs::write(sync.path("destination.json"), destination.to_string())?;
        let output = sync.command("discover").output().context("starting discover")?;
        ensure!(
            output.status.success(),
            "discover failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(sync)
    }

    /// A first sync: no state, nothing at the destination.
    pub fn run_first(&self) -> Result<Measured> {
        self.run_first_with(&[])
    }

    /// The same with further arguments.
    pub fn run_first_with(&self, arguments: &[&str]) -> Result<Measured> {
        self.clear()?;
        self.run_with(arguments)
    }

    /// Another destination.json from here on.
    pub fn write_to(&self, destination: &Value) -> Result<()> {
        Ok(std::fs::write(self.path("destination.json"), destination.to_string())?)
    }

    /// One more sync, of what is there.
    pub fn run(&self) -> Result<Measured> {
        self.run_with(&[])
    }

    fn run_with(&self, arguments: &[&str]) -> Result<Measured> {
        let log = self.path("sync.log");
        let mut command = self.command("sync");
        command.arg("--catalog").arg(self.path("streams.json"));
        command.arg("--destination").arg(self.path("destination.json")).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(std::fs::File::create(&log)?);
        let (status, measured) = processes::measure(&mut command)?;
        ensure!(status.success(), "{status}: {}", std::fs::read_to_string(&log)?);
        Ok(measured)
    }

    /// Keeps the destination and the state as they are now.
    pub fn keep(&self) -> Result<()> {
        std::fs::create_dir(self.path("kept"))?;
        for name in [LAKE, STATE] {
            copy(&self.path(name), &self.path("kept").join(name))?;
        }
        Ok(())
    }

    /// Brings back what was kept.
    pub fn restore(&self) -> Result<()> {
        self.clear()?;
        for name in [LAKE, STATE] {
            copy(&self.path("kept").join(name), &self.path(name))?;
        }
        Ok(())
    }

    fn clear(&self) -> Result<()> {
        [LAKE, STATE].iter().try_for_each(|name| remove(&self.path(name)))
    }

    /// The Parquet files of the last run.
    pub fn output(&self) -> Result<Output> {
        let mut output = Output { files: 0, bytes: 0 };
        count(&self.lake(), &mut output)?;
        Ok(output)
    }

    /// The rows that DuckDB finds in them, which a first sync leaves no others beside.
    pub fn rows_read_back(&self) -> Result<u64> {
        let code = "import duckdb, sys; \
                    print(duckdb.sql(f\"SELECT count(*) FROM '{sys.argv[1]}/**/*.parquet'\").fetchall()[0][0])";
        let output =
            Command::new(tests::parts::python()?).args(["-c", code]).arg(self.lake()).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        text.trim().parse().with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(orchestrator());
        command.arg(name).arg("--config").arg(self.path("source.json"));
        command
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Where the destination lies.
    pub fn lake(&self) -> PathBuf {
        self.path(LAKE)
    }
}

/// Beside this program, unless `TIDEWATER_BIN_DIR` says otherwise.
fn orchestrator() -> PathBuf {
    let directory = std::env::var_os("TIDEWATER_BIN_DIR").map(PathBuf::from).or_else(|| {
        std::env::current_exe().ok().and_then(|path| path.parent().map(Path::to_owned))
    });
    directory.unwrap_or_default().join("orchestrator")
}

fn remove(path: &Path) -> Result<()> {
    let removed = match path.is_dir() {
        true => std::fs::remove_dir_all(path),
        false => std::fs::remove_file(path),
    };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let status = Command::new("cp").arg("-a").args([from, to]).status().context("starting cp")?;
    ensure!(status.success(), "copying {} to {}: {status}", from.display(), to.display());
    Ok(())
}

fn count(directory: &Path, output: &mut Output) -> Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            count(&path, output)?;
        } else if path.extension().is_some_and(|extension| extension == "parquet") {
            output.files += 1;
            output.bytes += path.metadata()?.len();
        }
    }
    Ok(())
}
