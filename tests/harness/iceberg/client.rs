//! PyIceberg as a client of one catalog (`readers/iceberg.py`).
//!
//! Python with all it imports takes longer to start than to answer. So a process
//! that has answered waits for the next request, of whatever client; those that
//! wait end with us.

use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, MutexGuard};

use anyhow::{Context, Result, anyhow, bail};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::warehouse::CATALOG_NAME;
use crate::parts;

/// PyIceberg's properties of a catalog, and a way to use it.
#[derive(Clone, Debug)]
pub struct Client {
    properties: Value,
}

impl Client {
    /// A client with these properties.
    pub fn new(properties: Value) -> Client {
        Client { properties }
    }

    /// The same, but what lies at the address `from` is reached at `to`.
    pub fn redirected(&self, from: &str, to: &str) -> Client {
        Client { properties: redirected(&self.properties, from, to) }
    }

    /// Runs a command of `iceberg.py`; the catalog is added to the request.
    pub fn call(&self, command: &str, mut request: Value) -> Result<String> {
        request["command"] = command.into();
        request["name"] = CATALOG_NAME.into();
        request["catalog"] = self.properties.clone();
        let waiting = idle().pop();
        let mut python = waiting.map_or_else(Python::start, Ok)?;
        let answer = python.ask(&request).with_context(|| format!("{command}: Python ended"))?;
        // One that ended in the middle of an answer is not used again.
        idle().push(python);
        answer.map_err(|reason| anyhow!("{command}: {}", reason.trim_end()))
    }

    /// As [`Client::call`], of a command that answers with JSON.
    pub fn ask<T: DeserializeOwned>(&self, command: &str, request: Value) -> Result<T> {
        let text = self.call(command, request)?;
        serde_json::from_str(&text).with_context(|| format!("{command} answered {text:?}"))
    }
}

/// The JSON with another address in its texts.
pub fn redirected(value: &Value, from: &str, to: &str) -> Value {
    match value {
        Value::String(text) => Value::String(text.replace(from, to)),
        Value::Array(items) => items.iter().map(|item| redirected(item, from, to)).collect(),
        Value::Object(members) => {
            members.iter().map(|(key, item)| (key.clone(), redirected(item, from, to))).collect()
        }
        other => other.clone(),
    }
}

/// The command, to which nothing that lies about on this machine says where to go.
pub(super) fn without_aws(mut command: Command) -> Command {
    let ambient = std::env::vars_os().map(|(name, _)| name);
    for name in ambient.filter(|name| name.to_string_lossy().starts_with("AWS_")) {
        command.env_remove(name);
    }
    command
}

/// A process that answers requests.
#[derive(Debug)]
struct Python {
    child: Child,
    requests: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

/// Those that wait for a request.
fn idle() -> MutexGuard<'static, Vec<Python>> {
    static IDLE: Mutex<Vec<Python>> = Mutex::new(Vec::new());
    // Taking and putting back cannot leave the list half done.
    IDLE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Python {
    fn start() -> Result<Python> {
        let mut command = without_aws(Command::new(parts::iceberg_python()?));
        command.args(["-B", "-W", "ignore"]).arg(parts::package().join("readers/iceberg.py"));
        command.env("AWS_EC2_METADATA_DISABLED", "true").env("TZ", "UTC");
        // Its Hive client's Thrift.
        command.env("PYTHONPATH", parts::jvm()?.join("python"));
        // ClickHouse opens files below the working directory only.
        command.current_dir("/").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("starting Python")?;
        let requests = child.stdin.take().context("Python without stdin")?;
        let answers = child.stdout.take().context("Python without stdout")?;
        Ok(Python { child, requests, answers: BufReader::new(answers).lines() })
    }

    /// The lines of the answer, or why there is none; an error when the process
    /// has ended.
    fn ask(&mut self, request: &Value) -> Result<Result<String, String>> {
        // It reads all of a request before it answers.
        writeln!(self.requests, "{request}")?;
        let mut text = String::new();
        loop {
            let Some(line) = self.answers.next() else {
                bail!("{}; what it said is above", self.child.wait()?);
            };
            let line = line?;
            if line == "end" {
                return Ok(Ok(text));
            }
            if let Some(reason) = line.strip_prefix("failed ") {
                return Ok(Err(serde_json::from_str(reason)?));
            }
            text.push_str(&line);
            text.push('\n');
        }
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
