//! Servers that end with us, however we end.
//!
//! A server runs under a small shell that holds the read end of a pipe of ours.
//! When we drop it, panic or are killed, the pipe closes; the shell stops the
//! server and removes what it leaves.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

/// Arguments: the signal, the paths to remove, `--`, the server's command.
const SHELL: &str = r#"
trap '' INT TERM HUP
signal=$1; shift
leaves=
while [ "$1" != -- ]; do leaves="$leaves$1
"; shift; done
shift
"$@" </dev/null &
server=$!
read -r _
kill -s "$signal" "$server" 2>/dev/null
wait "$server"
printf %s "$leaves" | while IFS= read -r path; do rm -rf "$path"; done
"#;

/// A running server. Stops when dropped.
#[derive(Debug)]
pub struct Supervised {
    shell: Child,
}

/// How a server is run and ended.
#[derive(Debug)]
pub struct Plan<'a> {
    /// `/bin/sh` under the account that the server is to have.
    pub shell: Command,
    /// The server with its arguments and what it adds to the environment.
    pub server: Command,
    /// What ends it: "INT", "QUIT", "KILL".
    pub signal: &'a str,
    /// What is removed after its end.
    pub leaves: Vec<PathBuf>,
    /// Where its output goes.
    pub log: &'a Path,
}

impl Supervised {
    /// Starts the server; it may not be ready yet.
    pub fn start(plan: Plan<'_>) -> Result<Supervised> {
        let Plan { mut shell, server, signal, leaves, log } = plan;
        let log = std::fs::File::create(log)?;
        shell.args(["-c", SHELL, "supervisor", signal]).args(leaves).arg("--");
        shell.arg(server.get_program()).args(server.get_args());
        shell.envs(server.get_envs().filter_map(|(name, value)| Some((name, value?))));
        shell.current_dir("/").stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log);
        let shell = shell
            .spawn()
            .with_context(|| format!("starting {}", server.get_program().to_string_lossy()))?;
        Ok(Supervised { shell })
    }
}

impl Supervised {
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

/// Free ports of 127.0.0.1, all different. Another process may still take one
/// before the server does.
pub fn free_ports<const N: usize>() -> Result<[u16; N]> {
    let mut ports = [0; N];
    let mut held = Vec::with_capacity(N);
    for port in &mut ports {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        *port = listener.local_addr()?.port();
        held.push(listener);
    }
    Ok(ports)
}

/// The whole answer to one HTTP request ("GET /x"; a body is a form), or why
/// there is none.
pub fn http(address: &str, request: &str, body: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(
        stream,
        "{request} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\
         Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// The text as a URL or a form has it.
pub fn percent_encoded(text: &str) -> String {
    let encoded = |byte: u8| match byte {
        byte if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(encoded).collect()
}
