//! One service process of ours: started, watched, stopped.
//!
//! It ends with us however we end: its stdin is a pipe that only we hold
//! (`--stop-with-stdin`), and dropping the handle kills it. It has a process
//! group of its own, so that an interrupt at the terminal reaches us only and
//! its calls are ended in order.

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use proto::secure::TlsArgs;
use proto::v1::ErrorCode;
use proto::{Fault, Token, limits};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Time to load the binary and to listen, on a busy machine too.
const START: Duration = Duration::from_secs(20);
/// Time to end after SIGTERM: its own grace for calls in flight, and a bit.
const STOP: Duration = limits::DRAIN_GRACE.saturating_add(Duration::from_secs(2));
/// Time for the last words of a process that ended.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// Bytes of stderr that are kept, the latest ones.
const KEPT: usize = 16 << 10;
/// Lines of them that an error shows.
const SHOWN: usize = 50;

/// A running service process.
pub struct Child {
    name: &'static str,
    pid: u32,
    address: String,
    /// Closing it asks the service to stop.
    stdin: Option<ChildStdin>,
    exit: watch::Receiver<Option<ExitStatus>>,
    words: Words,
    stop: CancellationToken,
    watcher: JoinHandle<()>,
}

/// What it said on stderr, and whether it has ended saying it.
#[derive(Clone, Default)]
struct Words {
    latest: Arc<Mutex<Vec<u8>>>,
    ended: CancellationToken,
}

/// The one line that a service prints to stdout.
#[derive(Deserialize)]
struct Listening {
    listening: String,
}

impl Child {
    /// Starts the binary `name` that lies beside this one and waits until it
    /// listens.
    pub async fn start(
        name: &'static str,
        listen: &str,
        token: &Token,
        tls: &TlsArgs,
    ) -> Result<Self, Fault> {
        let binary = binary(name)?;
        // The user who asks for logs sees them as they come.
        let logs = std::env::var_os("TIDEWATER_LOG").is_some_and(|filter| !filter.is_empty());
        let mut command = Command::new(&binary);
        for (name, file) in [
            ("TIDEWATER_TLS_CERT", &tls.tls_cert),
            ("TIDEWATER_TLS_KEY", &tls.tls_key),
            ("TIDEWATER_TLS_CA", &tls.tls_ca),
        ] {
            match file {
                Some(file) => command.env(name, file),
                None => command.env_remove(name),
            };
        }
        match tls.peer_timeout {
            Some(seconds) => command.env("TIDEWATER_PEER_TIMEOUT", seconds.to_string()),
            None => command.env_remove("TIDEWATER_PEER_TIMEOUT"),
        };
        if !logs {
            // As what it said last is read.
            command.env("TIDEWATER_LOG_FORMAT", "json");
        }
        let mut process = command
            .args(["--listen", listen, "--stop-with-stdin"])
            .env("TIDEWATER_TOKEN", token.reveal())
            // A child lives for one run: giving memory back to the system
            // between two batches only costs clearing it again.
            .env("MIMALLOC_PURGE_DELAY", "-1")
            .env("TIDEWATER_PLAINTEXT", tls.plaintext.to_string())
            .env_remove("TIDEWATER_TOKEN_FILE")
            .env_remove("TIDEWATER_ENCRYPTION_KEY")
            // One address cannot be everybody's, and each has a name of its own.
            .env_remove("TIDEWATER_METRICS")
            .env_remove("OTEL_SERVICE_NAME")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(if logs { Stdio::inherit() } else { Stdio::piped() })
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| failed(format!("starting {}: {e}", binary.display())))?;
        let words = Words::default();
        match process.stderr.take() {
            Some(stderr) => drop(tokio::spawn(words.clone().collect(stderr))),
            None => words.ended.cancel(),
        }
        let stdout = process.stdout.take();
        let stdin = process.stdin.take();
        let pid = process.id().unwrap_or_default();
        let stop = CancellationToken::new();
        let (told, exit) = watch::channel(None);
        let watcher = tokio::spawn(watch_over(process, told, stop.clone()));
        let address = String::new();
        let mut child = Child { name, pid, address, stdin, exit, words, stop, watcher };
        child.address = child.listening(stdout).await?;
        Ok(child)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// "host:port" or "unix-abstract:name".
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Pending until the process ends by itself; says how.
    pub async fn died(&self) -> Fault {
        let mut exit = self.exit.clone();
        let status = exit.wait_for(Option::is_some).await.ok().and_then(|status| *status);
        let how = match status {
            Some(status) => ending(status),
            None => "ended".to_owned(),
        };
        let words = self.words.last().await;
        let fault = Fault::new(ErrorCode::Unavailable, format!("{} {how}{words}", self.name));
        // It does not come back within this run.
        Fault { transient: false, ..fault }.remedy("run the same command again")
    }

    /// Asks it to end, waits for its calls in flight, then insists.
    pub async fn stop(mut self) {
        drop(self.stdin.take());
        self.stop.cancel();
        // The watcher bounds the wait; its panic would be the process's end too.
        let _ = (&mut self.watcher).await;
    }

    /// Reads where it listens.
    async fn listening(&self, stdout: Option<ChildStdout>) -> Result<String, Fault> {
        let stdout = stdout.ok_or_else(|| failed(format!("{} has no stdout", self.name)))?;
        let mut line = String::new();
        let mut stdout = BufReader::new(stdout);
        let read = async { (&mut stdout).take(4096).read_line(&mut line).await };
        match tokio::time::timeout(START, read).await {
            Err(_) => {
                let seconds = START.as_secs();
                return Err(failed(format!("{} did not listen within {seconds}s", self.name)));
            }
            Ok(Ok(0) | Err(_)) => return Err(self.died_at_start().await),
            Ok(Ok(_)) => {}
        }
        let Ok(Listening { listening }) = serde_json::from_str(&line) else {
            let message = format!("{} said {line:?} instead of where it listens", self.name);
            return Err(failed(message));
        };
        // A full pipe would stop it should it ever print more.
        tokio::spawn(async move { tokio::io::copy(&mut stdout, &mut tokio::io::sink()).await });
        Ok(listening)
    }

    async fn died_at_start(&self) -> Fault {
        match tokio::time::timeout(STOP, self.died()).await {
            Ok(fault) => fault
                .context("at its start")
                .remedy("see its words above; run the services of one build together"),
            Err(_) => failed(format!("{} closed its stdout at its start", self.name)),
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // The watcher owns the process, which is killed when dropped.
        self.watcher.abort();
    }
}

/// Reports the end of the process, or brings it about.
async fn watch_over(
    mut process: tokio::process::Child,
    told: watch::Sender<Option<ExitStatus>>,
    stop: CancellationToken,
) {
    tokio::select! {
        status = process.wait() => {
            told.send_replace(status.ok());
            return;
        }
        () = stop.cancelled() => {}
    }
    // An id is only there while the process has not been waited for.
    let pid = process.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // It may have ended just now.
        let _ = kill_process(pid, Signal::TERM);
    }
    if tokio::time::timeout(STOP, process.wait()).await.is_err() {
        tracing::warn!("a service did not end within {}s: killing it", STOP.as_secs());
        // The only failure is that it has ended.
        let _ = process.kill().await;
    }
}

impl Words {
    /// Keeps the latest of what comes.
    async fn collect(self, mut stderr: ChildStderr) {
        let mut chunk = [0; 4096];
        while let Ok(read @ 1..) = stderr.read(&mut chunk).await {
            let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
            latest.extend_from_slice(&chunk[..read]);
            let excess = latest.len().saturating_sub(KEPT);
            latest.drain(..excess);
        }
        self.ended.cancel();
    }

    /// The last lines, each on a line of its own below what precedes them.
    async fn last(&self) -> String {
        // Whoever inherited its stderr may hold it open: do not insist.
        let _ = tokio::time::timeout(LAST_WORDS, self.ended.cancelled()).await;
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let text = String::from_utf8_lossy(&latest);
        let lines: Vec<String> = text.lines().filter_map(readable).collect();
        let from = lines.len().saturating_sub(SHOWN);
        lines[from..].iter().map(|line| format!("\n  | {line}")).collect()
    }
}

/// A line of a service's log as a person reads it: what went wrong, or what is
/// no log line (a panic).
fn readable(line: &str) -> Option<String> {
    if line.trim().is_empty() {
        return None;
    }
    let Ok(Value::Object(event)) = serde_json::from_str(line) else {
        // Half a line is left where the oldest bytes were dropped.
        return (!line.ends_with('}')).then(|| line.to_owned());
    };
    let level = event.get("level").and_then(Value::as_str).unwrap_or_default();
    let message = event.get("message").and_then(Value::as_str).unwrap_or_default();
    matches!(level, "WARN" | "ERROR").then(|| format!("{level} {message}"))
}

fn ending(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(9), _) => "was killed by signal 9 (by a person, or for want of memory)".to_owned(),
        (Some(signal), _) => format!("was killed by signal {signal}"),
        (None, Some(code)) => format!("ended with exit code {code}"),
        (None, None) => "ended".to_owned(),
    }
}

fn failed(message: String) -> Fault {
    Fault::new(ErrorCode::Unavailable, message)
}

/// The service's binary, which is installed beside this one.
fn binary(name: &str) -> Result<PathBuf, Fault> {
    let own = std::env::current_exe()
        .map_err(|e| failed(format!("finding this program's own path: {e}")))?;
    let path = own.with_file_name(name);
    if path.is_file() {
        return Ok(path);
    }
    let message = format!("the {name} binary is not at {}", path.display());
    Err(Fault::new(ErrorCode::NotFound, message).remedy(format!(
        "build the whole workspace, or name a running service with --{}",
        name.trim_end_matches("-svc")
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_matters_of_a_log_is_shown() {
        let line = r#"{"timestamp":"t","level":"ERROR","message":"no space left"}"#;
        assert_eq!(readable(line).as_deref(), Some("ERROR no space left"));
        assert_eq!(readable(r#"{"level":"INFO","message":"listening"}"#), None);
        assert_eq!(readable(r#"age":"cut off"}"#), None);
        assert_eq!(readable("thread 'main' panicked").as_deref(), Some("thread 'main' panicked"));
    }

    #[test]
    fn an_end_by_signal_is_named() {
        assert!(ending(ExitStatus::from_raw(9)).contains("killed by signal 9"));
        assert_eq!(ending(ExitStatus::from_raw(15)), "was killed by signal 15");
        assert_eq!(ending(ExitStatus::from_raw(1 << 8)), "ended with exit code 1");
    }

    #[test]
    fn a_missing_binary_is_named_with_the_way_out() {
        let fault = binary("source-svc-that-is-absent").unwrap_err();
        assert!(fault.message.contains("is not at"), "{fault}");
    }

    #[tokio::test]
    async fn what_a_process_said_last_is_kept() {
        let mut process = Command::new("sh")
            .args(["-c", "echo boom >&2; exit 3"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let words = Words::default();
        tokio::spawn(words.clone().collect(process.stderr.take().unwrap()));
        let (told, exit) = watch::channel(None);
        let stop = CancellationToken::new();
        let watcher = tokio::spawn(watch_over(process, told, stop.clone()));
        let child = Child {
            name: "writer-svc",
            pid: 0,
            address: String::new(),
            stdin: None,
            exit,
            words,
            stop,
            watcher,
        };
        let fault = child.died().await;
        assert_eq!(fault.message, "writer-svc ended with exit code 3\n  | boom");
        assert!(!fault.transient);
        child.stop().await;
    }
}
