//! Scripts in Python that answer requests: a line of JSON each, answered with
//! lines and then `end`, or with `failed` and the reason as a JSON string.
//!
//! Python with all it imports takes longer to start than to answer. So a process
//! that has answered waits for the next request, whoever asks; those that wait
//! end with us.

use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, MutexGuard};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;

/// One script, and its processes that wait for a request.
#[derive(Debug)]
pub(crate) struct Script {
    start: fn() -> Result<Command>,
    idle: Mutex<Vec<Process>>,
}

impl Script {
    /// The script that this command starts.
    pub(crate) const fn new(start: fn() -> Result<Command>) -> Script {
        Script { start, idle: Mutex::new(Vec::new()) }
    }

    /// The lines of the answer.
    pub(crate) fn ask(&self, request: &Value) -> Result<String> {
        let waiting = self.idle().pop();
        let mut process = waiting.map_or_else(|| Process::start((self.start)()?), Ok)?;
        let answer = process.ask(request).context("Python ended")?;
        // One that ended in the middle of an answer is not used again.
        self.idle().push(process);
        answer.map_err(|reason| anyhow!("{}", reason.trim_end()))
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Process>> {
        // Taking and putting back cannot leave the list half done.
        self.idle.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[derive(Debug)]
struct Process {
    child: Child,
    requests: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Process {
    fn start(mut command: Command) -> Result<Process> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("starting Python")?;
        let requests = child.stdin.take().context("Python without stdin")?;
        let answers = child.stdout.take().context("Python without stdout")?;
        Ok(Process { child, requests, answers: BufReader::new(answers).lines() })
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

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
