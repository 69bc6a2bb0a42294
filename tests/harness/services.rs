//! `source-svc` and `writer-svc` on their own, as a deployment runs them.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, bail};

use crate::run::{Project, program, signal};

/// The bearer token of every service here.
pub const TOKEN: &str = "token-of-the-end-to-end-tests";

/// A running service. Killed when dropped; ends with us when we are killed.
#[derive(Debug)]
pub struct Service {
    program: &'static str,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    address: String,
    metrics: Option<String>,
    child: Child,
    log: Arc<Mutex<String>>,
}

impl Service {
    /// Starts `source-svc` with further arguments.
    pub fn source(arguments: &[&str]) -> Result<Service> {
        Service::start("source-svc", arguments, &[])
    }

    /// Starts `writer-svc` with further arguments.
    pub fn writer(arguments: &[&str]) -> Result<Service> {
        Service::start("writer-svc", arguments, &[])
    }

    /// The same at an address of the caller's choice.
    pub fn writer_at(listen: &str, arguments: &[&str]) -> Result<Service> {
        Service::start_at("writer-svc", listen, arguments, &[])
    }

    /// The same with variables in its environment.
    pub fn writer_with(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Service> {
        Service::start("writer-svc", arguments, environment)
    }

    /// Starts `program` with further arguments and variables.
    pub fn start(
        program: &'static str,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Result<Service> {
        Service::start_at(program, "127.0.0.1:0", arguments, environment)
    }

    fn start_at(
        program: &'static str,
        listen: &str,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Result<Service> {
        let owned = |text: &str| text.to_owned();
        let environment: Vec<_> =
            environment.iter().map(|(name, value)| (owned(name), owned(value))).collect();
        let arguments: Vec<String> = arguments.iter().map(|text| owned(text)).collect();
        let log = Arc::new(Mutex::new(String::new()));
        let (child, said) = launch(program, &arguments, &environment, listen, &log)?;
        let Said { listening: address, metrics } = said;
        Ok(Service { program, arguments, environment, address, metrics, child, log })
    }

    /// "127.0.0.1:port" of its figures, if `--metrics` is among its arguments.
    pub fn metrics(&self) -> Result<&str> {
        self.metrics.as_deref().context("it was not asked to serve figures")
    }

    /// "127.0.0.1:port"; the same after a restart.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        self.log.lock().map(|log| log.clone()).unwrap_or_default()
    }

    /// The most memory it has had resident, in bytes.
    pub fn peak_memory(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")).context("VmHWM")?;
        Ok(kilobytes.trim().parse::<u64>()? * 1024)
    }

    /// Kills it as `kill -9` does and waits for its end.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks it to end, as an operator does, and returns how it ended.
    pub fn terminate(&mut self) -> Result<std::process::ExitStatus> {
        signal(self.pid(), "TERM")?;
        Ok(self.child.wait()?)
    }

    /// Starts it again on the same address after its end.
    pub fn restart(&mut self) -> Result<()> {
        let (program, arguments) = (self.program, &self.arguments);
        let (child, said) =
            launch(program, arguments, &self.environment, &self.address, &self.log)?;
        self.child = child;
        self.address = said.listening;
        self.metrics = said.metrics;
        Ok(())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The first line of a service.
#[derive(serde::Deserialize)]
struct Said {
    listening: String,
    metrics: Option<String>,
}

/// Starts the program and reads its addresses from its first line.
fn launch(
    name: &str,
    arguments: &[String],
    environment: &[(String, String)],
    listen: &str,
    log: &Arc<Mutex<String>>,
) -> Result<(Child, Said)> {
    let mut command = Command::new(program(name)?);
    // Our end of its stdin closes with us, however we end.
    command.args(["--listen", listen, "--stop-with-stdin"]).args(arguments);
    command.env("TIDEWATER_TOKEN", TOKEN);
    command.env("TIDEWATER_LOG", "info,source_svc=debug,writer_svc=debug,h2=warn,hyper=warn,tonic::transport::server::io_stream=debug");
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("starting {name}"))?;
    let reader = child.stderr.take().map(|stderr| {
        let log = log.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if let Ok(mut log) = log.lock() {
                    log.push_str(&line);
                    log.push('\n');
                }
            }
        })
    });
    let mut first = String::new();
    BufReader::new(child.stdout.take().context("a piped stdout")?).read_line(&mut first)?;
    match serde_json::from_str(&first) {
        Ok(said) => Ok((child, said)),
        Err(_) => {
            let _ = child.kill();
            let _ = child.wait();
            if let Some(reader) = reader {
                let _ = reader.join();
            }
            let log = log.lock().map(|log| log.clone()).unwrap_or_default();
            bail!("{name} did not say where it listens: {first:?}\n{log}")
        }
    }
}

/// The arguments of a sync through these services.
pub fn sync_through(source: Option<&Service>, writers: &[&Service]) -> Vec<String> {
    let mut arguments: Vec<String> = Project::SYNC.map(str::to_owned).into();
    for (flag, service) in source
        .map(|source| ("--source", source))
        .into_iter()
        .chain(writers.iter().map(|&writer| ("--writer", writer)))
    {
        arguments.extend([flag.to_owned(), service.address().to_owned()]);
    }
    arguments.extend(["--token".to_owned(), TOKEN.to_owned()]);
    arguments
}
