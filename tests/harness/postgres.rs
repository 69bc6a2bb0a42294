//! A throwaway PostgreSQL server, its databases and `psql`.
//!
//! The server listens on 127.0.0.1 (password, SCRAM) and on a Unix socket in
//! its own directory (trusted; what `psql` here uses). However we end, it ends
//! too, and its directory goes ([`crate::supervised`]).
//!
//! Most tests share one server ([`Server::shared`]) and have a database each
//! ([`Database::new`]).

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::account::Account;
use crate::certificates::Certificates;
use crate::sshd;
use crate::supervised::{Plan, Supervised, free_ports};

pub use crate::builds::Build;

/// The superuser of every server here.
pub const USER: &str = "postgres";
/// Its password: everything that careless quoting breaks.
pub const PASSWORD: &str = r#"pa'ss w"or\d%40@:/"#;

const START_LIMIT: Duration = Duration::from_secs(60);

/// How a server differs from the usual one.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Settings beyond the usual (`wal_level=logical`, `fsync=off`, …), which
    /// they override.
    pub settings: Vec<(String, String)>,
    /// Offer TLS with a certificate made for `localhost`, 127.0.0.1 and
    /// [`sshd::INSIDE`].
    pub tls: bool,
    /// Lines of pg_hba.conf that go before the usual ones.
    pub hba: Vec<String>,
    /// Keep the cluster in this directory (created when absent) instead of a
    /// throwaway one; it is stopped cleanly and left in place.
    pub keep_in: Option<PathBuf>,
}

impl Options {
    /// Adds a setting.
    pub fn set(mut self, name: &str, value: impl ToString) -> Self {
        self.settings.push((name.to_owned(), value.to_string()));
        self
    }
}

/// A running server. Stops when dropped.
#[derive(Debug)]
pub struct Server {
    build: Build,
    port: u16,
    directory: PathBuf,
    certificates: Option<Certificates>,
    // Before the directory, which goes after the server.
    _running: Supervised,
    _throwaway: Option<TempDir>,
}

impl Server {
    /// Starts the newest build found.
    pub fn start(options: &Options) -> Result<Server> {
        Server::start_build(&Build::newest()?, options)
    }

    /// Starts `build`.
    pub fn start_build(build: &Build, options: &Options) -> Result<Server> {
        // Another process may take the free port before the server does.
        for _ in 0..2 {
            match Server::try_start(build, options) {
                Err(error) if format!("{error:#}").contains("in use") => {}
                outcome => return outcome,
            }
        }
        Server::try_start(build, options)
    }

    fn try_start(build: &Build, options: &Options) -> Result<Server> {
        let account = Account::find()?;
        let (directory, throwaway) = match &options.keep_in {
            Some(kept) => {
                std::fs::create_dir_all(kept)?;
                (kept.canonicalize()?, None)
            }
            None => {
                let dir = TempDir::with_prefix("tidewater-pg-")?;
                (dir.path().to_owned(), Some(dir))
            }
        };
        account.own(&directory)?;
        let data = directory.join("data");
        if !data.join("PG_VERSION").exists() {
            initdb(build, &account, &directory)?;
        }
        let certificates = match options.tls {
            true => Some(server_certificates(&account, &directory)?),
            false => None,
        };
        std::fs::write(data.join("pg_hba.conf"), hba(options))?;
        let [port] = free_ports()?;
        write_settings(&directory, port, options)?;
        let running = supervise(build, &account, &directory, throwaway.is_some())?;
        let mut server = Server {
            build: build.clone(),
            port,
            directory,
            certificates,
            _running: running,
            _throwaway: throwaway,
        };
        server.wait_until_ready()?;
        Ok(server)
    }

    /// The server that tests share: the newest build, TLS offered. Lives as
    /// long as anybody holds it.
    pub fn shared() -> Result<Arc<Server>> {
        Server::shared_build(&Build::newest()?)
    }

    /// As [`Server::shared`], of a given build.
    pub fn shared_build(build: &Build) -> Result<Arc<Server>> {
        Server::shared_as(build, false)
    }

    /// One more that tests share: whoever creates a slot waits for every
    /// transaction on the server that has written, so nobody here keeps one
    /// open.
    pub fn shared_logical(build: &Build) -> Result<Arc<Server>> {
        Server::shared_as(build, true)
    }

    fn shared_as(build: &Build, logical: bool) -> Result<Arc<Server>> {
        type Shared = HashMap<(u32, bool), Weak<Server>>;
        static SHARED: Mutex<Option<Shared>> = Mutex::new(None);
        // A test that panicked while starting a server leaves the map usable.
        let mut shared = SHARED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let shared = shared.get_or_insert_default();
        let key = (build.major, logical);
        if let Some(server) = shared.get(&key).and_then(Weak::upgrade) {
            return Ok(server);
        }
        let options = Options { tls: true, ..Options::default() };
        let server = Arc::new(Server::start_build(build, &options)?);
        shared.insert(key, Arc::downgrade(&server));
        Ok(server)
    }

    /// The build it runs.
    pub fn build(&self) -> &Build {
        &self.build
    }

    /// Where it listens on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where its cluster, log and socket lie.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Its certificates, if it offers TLS.
    pub fn certificates(&self) -> Option<&Certificates> {
        self.certificates.as_ref()
    }

    /// The postmaster's process id.
    pub fn pid(&self) -> Result<u32> {
        let path = self.directory.join("data/postmaster.pid");
        let text = std::fs::read_to_string(&path)?;
        text.lines().next().and_then(|line| line.parse().ok()).context("reading postmaster.pid")
    }

    /// The server's log so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    /// A `psql` of this build, connected to `database` as the superuser over
    /// the Unix socket; unaligned, no headers, stops at the first error.
    pub fn psql_command(&self, database: &str) -> Command {
        let mut command = self.build.command("psql");
        command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", USER, "-d", database]);
        command.arg("-h").arg(&self.directory).arg("-p").arg(self.port.to_string());
        command.env("PGCLIENTENCODING", "UTF8").env_remove("PGOPTIONS");
        command
    }

    /// Runs SQL (any number of statements) and returns what `psql` printed,
    /// without the last newline.
    pub fn psql(&self, database: &str, sql: &str) -> Result<String> {
        let mut text = self.psql_raw(database, sql)?;
        if text.ends_with('\n') {
            text.pop();
        }
        Ok(text)
    }

    /// As [`Server::psql`], with every newline kept.
    pub fn psql_raw(&self, database: &str, sql: &str) -> Result<String> {
        feed(self.psql_command(database), sql)
    }

    /// Waits until a connection works, or the server has died.
    fn wait_until_ready(&mut self) -> Result<()> {
        let started = Instant::now();
        loop {
            match self.psql("postgres", "SELECT 1") {
                Ok(_) => return Ok(()),
                Err(error) => {
                    let log = self.log();
                    if log.contains("database system is shut down")
                        || log.contains("FATAL:  could not")
                    {
                        bail!("PostgreSQL {} did not start: {log}", self.build.version);
                    }
                    if started.elapsed() > START_LIMIT {
                        return Err(error.context(format!("PostgreSQL did not get ready: {log}")));
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
        }
    }
}

/// A database of its own on a server; dropped with its server.
#[derive(Clone, Debug)]
pub struct Database {
    /// The server it lies on.
    pub server: Arc<Server>,
    /// Its name, unique on the server.
    pub name: String,
}

impl Database {
    /// Creates one on the shared server. `label` shows up in its name.
    pub fn new(label: &str) -> Result<Database> {
        Database::on(&Server::shared()?, label)
    }

    /// Creates one on `server`.
    pub fn on(server: &Arc<Server>, label: &str) -> Result<Database> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{label}_{}", COUNT.fetch_add(1, Ordering::Relaxed));
        server.psql("postgres", &format!("CREATE DATABASE \"{name}\" TEMPLATE template0"))?;
        Ok(Database { server: server.clone(), name })
    }

    /// As [`Server::psql`].
    pub fn psql(&self, sql: &str) -> Result<String> {
        self.server.psql(&self.name, sql)
    }

    /// Runs a file of SQL.
    pub fn psql_file(&self, path: &Path) -> Result<()> {
        let sql = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        self.psql(&sql).with_context(|| path.display().to_string())?;
        Ok(())
    }

    /// Starts SQL in the background; dropping the answer ends it, on the
    /// server too.
    pub fn psql_background(&self, sql: &str) -> Result<Background> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let application = format!("background {}", COUNT.fetch_add(1, Ordering::Relaxed));
        let mut command = self.server.psql_command(&self.name);
        command.env("PGAPPNAME", &application);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn()?;
        let mut stdin = child.stdin.take().context("psql without stdin")?;
        stdin.write_all(sql.as_bytes())?;
        Ok(Background { child, database: self.clone(), application })
    }
}

/// A `psql` at work.
#[derive(Debug)]
pub struct Background {
    child: Child,
    database: Database,
    application: String,
}

impl Background {
    /// Whether it is still at work.
    pub fn running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // The server would not notice a lost client before it writes to it.
        let _ = self.database.psql(&format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '{}'",
            self.application
        ));
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs `psql` with `sql` on its stdin.
fn feed(mut command: Command, sql: &str) -> Result<String> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("starting psql")?;
    let mut stdin = child.stdin.take().context("psql without stdin")?;
    let sql = sql.to_owned();
    // Fed from a thread: psql may answer before it has read everything.
    let feeder = std::thread::spawn(move || stdin.write_all(sql.as_bytes()));
    let output = child.wait_with_output()?;
    // A failed write means that psql ended early, which its status says.
    let _ = feeder.join();
    if !output.status.success() {
        bail!("psql: {}", String::from_utf8_lossy(&output.stderr).trim_end());
    }
    String::from_utf8(output.stdout).context("psql printed no UTF-8")
}

fn initdb(build: &Build, account: &Account, directory: &Path) -> Result<()> {
    let password = directory.join("password");
    std::fs::write(&password, PASSWORD)?;
    account.own(&password)?;
    let mut command = account.command(build.program("initdb"));
    command.arg("-D").arg(directory.join("data")).arg("--pwfile").arg(&password);
    command.args(["-U", USER, "--encoding=UTF8", "--locale=C", "--no-sync"]);
    command.args(["--auth-local=trust", "--auth-host=scram-sha-256"]);
    command.current_dir(directory);
    if let Some(lib) = &build.lib {
        command.env("LD_LIBRARY_PATH", lib);
    }
    let output = command.output().context("starting initdb")?;
    std::fs::remove_file(&password)?;
    if !output.status.success() {
        bail!("initdb failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

fn server_certificates(account: &Account, directory: &Path) -> Result<Certificates> {
    let dir = directory.join("tls");
    std::fs::create_dir_all(&dir)?;
    let inside = format!("DNS:{}", sshd::INSIDE);
    let made = Certificates::make(&dir, &["DNS:localhost", "IP:127.0.0.1", &inside], USER)?;
    account.own(&dir)?;
    // The server refuses a key that others may read.
    account.own(&made.server_key)?;
    Ok(made)
}

fn hba(options: &Options) -> String {
    let mut lines = options.hba.clone();
    lines.push("local all all trust".to_owned());
    lines.push("local replication all trust".to_owned());
    lines.push("host all all 127.0.0.1/32 scram-sha-256".to_owned());
    lines.push("host replication all 127.0.0.1/32 scram-sha-256".to_owned());
    lines.push(String::new());
    lines.join("\n")
}

fn write_settings(directory: &Path, port: u16, options: &Options) -> Result<()> {
    let mut settings: Vec<(String, String)> = [
        ("listen_addresses", "127.0.0.1".to_owned()),
        ("port", port.to_string()),
        ("unix_socket_directories", directory.display().to_string()),
        ("wal_level", "logical".to_owned()),
        ("max_wal_senders", "50".to_owned()),
        ("max_replication_slots", "100".to_owned()),
        ("max_connections", "200".to_owned()),
        ("fsync", "off".to_owned()),
        ("synchronous_commit", "off".to_owned()),
        ("full_page_writes", "off".to_owned()),
        ("max_wal_size", "4GB".to_owned()),
        ("log_line_prefix", "%m [%p] %u@%d ".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    if options.tls {
        let tls = directory.join("tls");
        settings.push(("ssl".to_owned(), "on".to_owned()));
        for (name, file) in [
            ("ssl_ca_file", "ca.crt"),
            ("ssl_cert_file", "server.crt"),
            ("ssl_key_file", "server.key"),
        ] {
            settings.push((name.to_owned(), tls.join(file).display().to_string()));
        }
    }
    settings.extend(options.settings.iter().cloned());
    // The last one of a name wins.
    let text: String = settings
        .iter()
        .map(|(name, value)| format!("{name} = '{}'\n", value.replace('\'', "''")))
        .collect();
    std::fs::write(directory.join("data/postgresql.auto.conf"), text)?;
    Ok(())
}

fn supervise(
    build: &Build,
    account: &Account,
    directory: &Path,
    throwaway: bool,
) -> Result<Supervised> {
    let mut shell = account.command("/bin/sh");
    if let Some(lib) = &build.lib {
        shell.env("LD_LIBRARY_PATH", lib);
    }
    let mut server = Command::new(build.program("postgres"));
    server.arg("-D").arg(directory.join("data"));
    Supervised::start(Plan {
        shell,
        server,
        signal: if throwaway { "QUIT" } else { "INT" },
        leaves: throwaway.then(|| directory.to_owned()).into_iter().collect(),
        log: &directory.join("log"),
    })
}
