//! The `orchestrator` program with its three config files in a directory of
//! its own.
//!
//! ```text
//! let project = Project::new(&database)?;      // source.json, destination.json
//! project.discover()?;                         // streams.json
//! project.select(&["public.a"], json!({}))?;     // these streams, with settings
//! project.sync()?;                             // fails the test unless it succeeds
//! project.start(&["sync", …])?.kill()?;        // or by hand
//! ```

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::postgres::{Database, PASSWORD, USER};
use crate::truth::destination_name;

/// No command of a test may take longer.
const LIMIT: Duration = Duration::from_secs(180);

/// No wait for something to happen may take longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Path of one of our programs: in `TIDEWATER_BIN_DIR`, else beside this
/// executable or one directory up (cargo puts tests into `deps`).
pub fn program(name: &str) -> Result<PathBuf> {
    let mut places = Vec::new();
    if let Some(dir) = std::env::var_os("TIDEWATER_BIN_DIR") {
        places.push(PathBuf::from(dir));
    } else {
        let here = std::env::current_exe().context("asking for our own path")?;
        places.extend(here.ancestors().skip(1).take(2).map(Path::to_owned));
    }
    match places.iter().map(|dir| dir.join(name)).find(|path| path.exists()) {
        Some(path) => Ok(path),
        None => bail!(
            "the program {name} is not built (looked in {places:?}); build it with: cargo build --release"
        ),
    }
}

/// A user's directory: config files, state, and the destination.
#[derive(Debug)]
pub struct Project {
    directory: TempDir,
    database: Database,
}

impl Project {
    /// Writes `source.json` (password, no TLS) and `destination.json`
    /// (Parquet into `output/`) for `database`.
    pub fn new(database: &Database) -> Result<Project> {
        let directory = TempDir::with_prefix("tidewater-run-")?;
        let project = Project { directory, database: database.clone() };
        project.write(
            "source.json",
            &json!({
                "host": "127.0.0.1",
                "port": database.server.port(),
                "database": database.name,
                "username": USER,
                "password": PASSWORD,
                "ssl": {"mode": "disable"},
                "max_threads": 3,
                "default_mode": "full_refresh",
            }),
        )?;
        project.write(
            "destination.json",
            &json!({"type": "PARQUET", "writer": {"local_path": project.output(), "normalization": true}}),
        )?;
        Ok(project)
    }

    /// Where everything lies.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The database it reads.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// The destination's `local_path`.
    pub fn output(&self) -> PathBuf {
        self.path().join("output")
    }

    /// The directory of a stream's table, as the default names have it.
    pub fn table(&self, namespace: &str, name: &str) -> PathBuf {
        let database = format!("postgres_{}_{namespace}", self.database.name);
        self.output().join(destination_name(&database)).join(destination_name(name))
    }

    /// Reads a JSON file of the directory.
    pub fn read(&self, file: &str) -> Result<Value> {
        let path = self.path().join(file);
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        serde_json::from_str(&text).with_context(|| path.display().to_string())
    }

    /// Writes one.
    pub fn write(&self, file: &str, value: &Value) -> Result<()> {
        let path = self.path().join(file);
        std::fs::write(&path, serde_json::to_string_pretty(value)?)
            .with_context(|| path.display().to_string())
    }

    /// Changes one.
    pub fn edit(&self, file: &str, change: impl FnOnce(&mut Value)) -> Result<()> {
        let mut value = self.read(file)?;
        change(&mut value);
        self.write(file, &value)
    }

    /// Selects exactly these streams ("schema.name"; a name may hold dots) in
    /// `streams.json`, each with the settings `with`.
    pub fn select(&self, streams: &[&str], with: Value) -> Result<()> {
        let mut catalog = self.read("streams.json")?;
        let mut selected = serde_json::Map::new();
        for stream in streams {
            let (namespace, name) = stream.split_once('.').context("a stream is schema.name")?;
            let known = stream_of(&catalog, namespace, name).is_some();
            if !known {
                bail!("discover did not list {stream}; it listed {:?}", stream_ids(&catalog));
            }
            let mut entry = json!({"stream_name": name, "partition_regex": ""});
            merge(&mut entry, &with);
            let list = selected.entry(namespace).or_insert_with(|| json!([]));
            list.as_array_mut().context("a list")?.push(entry);
        }
        catalog["selected_streams"] = Value::Object(selected);
        self.write("streams.json", &catalog)
    }

    /// What `streams.json` says of one stream.
    pub fn stream(&self, namespace: &str, name: &str) -> Result<Value> {
        let catalog = self.read("streams.json")?;
        let found = stream_of(&catalog, namespace, name).cloned();
        found.with_context(|| format!("{namespace}.{name} is not in {:?}", stream_ids(&catalog)))
    }

    /// "schema.name" of every stream in `streams.json`, in its order.
    pub fn streams(&self) -> Result<Vec<String>> {
        Ok(stream_ids(&self.read("streams.json")?))
    }

    /// Runs `discover`, which must succeed, and returns its standard output.
    pub fn discover(&self) -> Result<String> {
        Ok(self.run(&["discover", "--config", "source.json"])?.succeeded()?.stdout)
    }

    /// The arguments of a sync of everything in this directory.
    pub const SYNC: [&str; 7] = [
        "sync",
        "--config",
        "source.json",
        "--catalog",
        "streams.json",
        "--destination",
        "destination.json",
    ];

    /// The arguments of a removal of all that [`Project::SYNC`] makes.
    pub const CLEAR: [&str; 7] = {
        let mut arguments = Self::SYNC;
        arguments[0] = "clear-destination";
        arguments
    };

    /// Runs `sync`, which must succeed.
    pub fn sync(&self) -> Result<Outcome> {
        self.run(&Self::SYNC)?.succeeded()
    }

    /// Runs a command in this directory until it ends.
    pub fn run<S: AsRef<std::ffi::OsStr>>(&self, arguments: &[S]) -> Result<Outcome> {
        self.start(arguments)?.wait()
    }

    /// Starts a command in this directory.
    pub fn start<S: AsRef<std::ffi::OsStr>>(&self, arguments: &[S]) -> Result<Running> {
        self.start_with(arguments, &[])
    }

    /// The same with variables in its environment.
    pub fn start_with<S: AsRef<std::ffi::OsStr>>(
        &self,
        arguments: &[S],
        environment: &[(&str, &str)],
    ) -> Result<Running> {
        let mut command = self.command(arguments)?;
        command.envs(environment.iter().copied());
        Running::spawn(command)
    }

    /// A command in this directory, not started.
    pub fn command<S: AsRef<std::ffi::OsStr>>(&self, arguments: &[S]) -> Result<Command> {
        let mut command = Command::new(program("orchestrator")?);
        command.args(arguments).current_dir(self.path()).env_remove("TIDEWATER_TOKEN");
        Ok(command)
    }
}

fn merge(into: &mut Value, from: &Value) {
    if let (Some(into), Some(from)) = (into.as_object_mut(), from.as_object()) {
        for (key, value) in from {
            into.insert(key.clone(), value.clone());
        }
    }
}

fn stream_of<'a>(catalog: &'a Value, namespace: &str, name: &str) -> Option<&'a Value> {
    let streams = catalog["streams"].as_array()?;
    streams
        .iter()
        .map(|entry| &entry["stream"])
        .find(|stream| stream["namespace"] == namespace && stream["name"] == name)
}

fn stream_ids(catalog: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    catalog["streams"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|entry| &entry["stream"])
        .map(|stream| format!("{}.{}", text(&stream["namespace"]), text(&stream["name"])))
        .collect()
}

/// A command that has ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// How it ended.
    pub status: ExitStatus,
    /// Machine output.
    pub stdout: String,
    /// Everything for people.
    pub stderr: String,
    /// From start to end.
    pub took: Duration,
}

impl Outcome {
    /// Fails the test, with all output, unless the command succeeded.
    pub fn succeeded(self) -> Result<Outcome> {
        if !self.status.success() {
            bail!("the command failed ({}):\n{}{}", self.status, self.stdout, self.stderr);
        }
        Ok(self)
    }

    /// Fails the test unless the command failed with exit code 1; returns what
    /// it told the user.
    pub fn failed(self) -> Result<String> {
        if self.status.code() != Some(1) {
            bail!("expected exit code 1, got {}:\n{}{}", self.status, self.stdout, self.stderr);
        }
        Ok(self.stderr)
    }
}

/// A command that runs; killed when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdout: Option<JoinHandle<String>>,
    stderr: Option<JoinHandle<String>>,
    started: Instant,
}

impl Running {
    /// Starts it with its output collected.
    pub fn spawn(mut command: Command) -> Result<Running> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("starting {command:?}"))?;
        let stdout = child.stdout.take().map(collect);
        let stderr = child.stderr.take().map(collect);
        Ok(Running { child, stdout, stderr, started: Instant::now() })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal: "INT", "TERM", "KILL", "STOP".
    pub fn signal(&self, name: &str) -> Result<()> {
        signal(self.pid(), name)
    }

    /// Whether it has ended.
    pub fn ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Ends it and returns all it said.
    pub fn stop(&mut self) -> Result<String> {
        let _ = self.child.kill();
        let status = self.child.wait()?;
        let (stdout, stderr) = (gathered(&mut self.stdout), gathered(&mut self.stderr));
        Ok(format!("{status}\n{stdout}{stderr}"))
    }

    /// Kills it as `kill -9` does and waits for its end.
    pub fn kill(mut self) -> Result<Outcome> {
        self.child.kill()?;
        self.wait()
    }

    /// Waits for its end.
    pub fn wait(mut self) -> Result<Outcome> {
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if self.started.elapsed() > LIMIT {
                self.child.kill()?;
                let (stdout, stderr) = (gathered(&mut self.stdout), gathered(&mut self.stderr));
                bail!("the command did not end within {LIMIT:?}:\n{stdout}{stderr}");
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let took = self.started.elapsed();
        let (stdout, stderr) = (gathered(&mut self.stdout), gathered(&mut self.stderr));
        Ok(Outcome { status, stdout, stderr, took })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until something holds; `what` says what it is.
pub fn poll(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let started = Instant::now();
    while !holds().with_context(|| format!("waiting until {what}"))? {
        if started.elapsed() > PATIENCE {
            bail!("waited {PATIENCE:?} in vain until {what}");
        }
        std::thread::sleep(Duration::from_millis(3));
    }
    Ok(())
}

/// Sends a signal to one process.
pub fn signal(pid: u32, name: &str) -> Result<()> {
    use rustix::process::{Pid, Signal, kill_process};
    let signal = match name {
        "INT" => Signal::INT,
        "TERM" => Signal::TERM,
        "KILL" => Signal::KILL,
        "STOP" => Signal::STOP,
        "CONT" => Signal::CONT,
        other => bail!("an unknown signal {other}"),
    };
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("a process id")?;
    Ok(kill_process(pid, signal)?)
}

/// Processes that `parent` has started and that live, with their names.
pub fn children(parent: u32) -> Result<Vec<(u32, String)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // "1234 (source-svc) S 1200 …"; gone by now: no child.
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let (Some(open), Some(close)) = (stat.find('('), stat.rfind(')')) else { continue };
        let mut rest = stat[close + 1..].split_whitespace();
        let (state, its_parent) = (rest.next(), rest.next());
        if its_parent == Some(parent.to_string().as_str()) && state != Some("Z") {
            found.push((pid, stat[open + 1..close].to_owned()));
        }
    }
    Ok(found)
}

fn collect(mut from: impl Read + Send + 'static) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read before an error still helps.
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn gathered(thread: &mut Option<JoinHandle<String>>) -> String {
    thread.take().and_then(|thread| thread.join().ok()).unwrap_or_default()
}
