//! Servers that end with us, however we end.
//!
//! A server runs under a small shell that holds the read end of a pipe of ours:
//! when we are done, panic or are killed, the pipe closes, the shell stops the
//! server and removes its directory.

use std::ffi::OsStr;
use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

use crate::account::Account;

/// Waits for a line, or the pipe's end, on stdin; then stops the server with
/// the signal and, if it is a throwaway one, removes its directory.
const SHELL: &str = r#"
trap '' INT TERM HUP
signal=$1; remove=$2; shift 2
"$@" </dev/null &
server=$!
read -r _
kill -s "$signal" "$server" 2>/dev/null
wait "$server"
[ -z "$remove" ] || rm -rf "$remove"
"#;

/// How a server ends.
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    /// The signal that stops it: "INT", "QUIT", "TERM".
    pub signal: &'a str,
    /// A directory to remove then.
    pub remove: Option<&'a Path>,
}

/// A server under its shell. Stops when dropped, and has stopped then.
#[derive(Debug)]
pub struct Supervised {
    shell: Child,
}

impl Supervised {
    /// Starts `server` (program, arguments, environment) under the account;
    /// all that it says goes to `log`.
    pub fn start(account: &Account, server: &Command, log: File, end: End) -> Result<Self> {
        let mut command = account.command("/bin/sh");
        command.args(["-c", SHELL, "supervisor", end.signal]);
        command.arg(end.remove.map_or(OsStr::new(""), Path::as_os_str));
        command.arg(server.get_program()).args(server.get_args());
        command.envs(server.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.current_dir("/").stdin(Stdio::piped());
        command.stdout(log.try_clone()?).stderr(log);
        let shell = command.spawn().with_context(|| format!("starting {server:?}"))?;
        Ok(Supervised { shell })
    }

    /// The shell's process id; the server is its child.
    pub fn pid(&self) -> u32 {
        self.shell.id()
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        // Closes the pipe; the shell does the rest.
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}
