//! A throwaway SSH server, for tunnels.
//!
//! It listens on 127.0.0.1 and runs under the account of the other servers,
//! which could log in nobody but itself. libnss_wrapper gives it accounts and
//! host names of its own: there is the user [`USER`] with [`PASSWORD`], and the
//! name [`INSIDE`], which only it resolves. What is read from that host came
//! through the tunnel.

use std::io::Read;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::account::Account;
use crate::parts;
use crate::run::{children, poll, signal};
use crate::supervised::{Plan, Supervised, free_ports};

/// Who may log in.
pub const USER: &str = "tunnel";
/// By this password.
pub const PASSWORD: &str = r#"tun'nel "pass\word"#;
/// 127.0.0.1 by the name that only the SSH server knows.
pub const INSIDE: &str = "database.internal";

/// A running server. Stops when dropped.
#[derive(Debug)]
pub struct Sshd {
    port: u16,
    process: Supervised,
    // Last: the directory goes after the process.
    directory: TempDir,
}

impl Sshd {
    /// Starts it, with lines of sshd_config that go before the usual ones.
    pub fn start(settings: &[&str]) -> Result<Sshd> {
        // Another process may take the free port before the server does.
        for _ in 0..2 {
            match Sshd::try_start(settings) {
                Err(error) if format!("{error:#}").contains("in use") => {}
                outcome => return outcome,
            }
        }
        Sshd::try_start(settings)
    }

    fn try_start(settings: &[&str]) -> Result<Sshd> {
        let (account, part, [port]) = (Account::find()?, Part::find()?, free_ports()?);
        let directory = TempDir::with_prefix("tidewater-ssh-")?;
        let dir = directory.path();
        account.own(dir)?;
        make_key(&dir.join("host"), "ed25519", "")?;
        account.own(&dir.join("host"))?;
        std::fs::write(dir.join("authorized_keys"), "")?;
        write_names(dir, &account)?;
        std::fs::write(dir.join("config"), config(dir, port, settings))?;
        let process = Supervised::start(Plan {
            shell: account.command("/bin/sh"),
            server: part.command(dir),
            signal: "TERM",
            leaves: vec![dir.to_owned()],
            log: &dir.join("log"),
        })?;
        let server = Sshd { port, process, directory };
        poll("the SSH server answers", || {
            let log = server.log();
            if log.contains("Cannot bind any address") || log.contains("fatal:") {
                bail!("the SSH server did not start: {log}");
            }
            Ok(answers(port))
        })?;
        Ok(server)
    }

    /// Where it listens on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `ssh_config` without a way to log in.
    pub fn config(&self) -> Result<Value> {
        Ok(json!({
            "host": "127.0.0.1",
            "port": self.port,
            "username": USER,
            "known_hosts": self.known_hosts()?,
        }))
    }

    /// Its line of known_hosts.
    pub fn known_hosts(&self) -> Result<String> {
        let public = std::fs::read_to_string(self.directory.path().join("host.pub"))?;
        Ok(format!("[127.0.0.1]:{} {public}", self.port))
    }

    /// A new key pair ("ed25519", "rsa") that may log in; where its private
    /// part lies, encrypted unless the passphrase is empty.
    pub fn key(&self, kind: &str, passphrase: &str) -> Result<PathBuf> {
        let (dir, name) = (self.directory.path(), format!("{kind}-{}", passphrase.len()));
        let key = dir.join(&name);
        make_key(&key, kind, passphrase)?;
        let authorized = dir.join("authorized_keys");
        let mut lines = std::fs::read_to_string(&authorized)?;
        lines.push_str(&std::fs::read_to_string(dir.join(format!("{name}.pub")))?);
        std::fs::write(authorized, lines)?;
        Ok(key)
    }

    /// The server's log so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// Sends a signal to it and to all its sessions: "KILL", "STOP".
    pub fn signal(&self, name: &str) -> Result<()> {
        signal_all(children(self.process.pid())?, name)
    }

    /// Ends all its sessions; it goes on itself.
    pub fn cut_sessions(&self) -> Result<()> {
        for (server, _) in children(self.process.pid())? {
            signal_all(children(server)?, "KILL")?;
        }
        Ok(())
    }
}

/// Signals processes and all that they started.
fn signal_all(mut open: Vec<(u32, String)>, name: &str) -> Result<()> {
    while let Some((pid, _)) = open.pop() {
        open.extend(children(pid)?);
        // Gone by now: nothing to signal.
        let _ = signal(pid, name);
    }
    Ok(())
}

impl Drop for Sshd {
    fn drop(&mut self) {
        // Sessions would outlive the server that accepted them.
        let _ = self.signal("KILL");
    }
}

/// The programs, as `tests/parts/openssh.sh` unpacked them.
struct Part {
    sshd: PathBuf,
    libraries: PathBuf,
}

impl Part {
    fn find() -> Result<Part> {
        let root = parts::root().join("openssh");
        let libraries = std::fs::read_dir(root.join("usr/lib")).into_iter().flatten().flatten();
        let mut libraries = libraries.map(|entry| entry.path());
        let libraries = libraries.find(|dir| dir.join("libnss_wrapper.so").exists());
        let sshd = root.join("usr/sbin/sshd");
        match libraries {
            Some(libraries) if sshd.exists() => Ok(Part { sshd, libraries }),
            _ => bail!(
                "no SSH server (openssh-server, libnss-wrapper) in {}; unpack one with: ./build.sh test",
                root.display()
            ),
        }
    }

    fn command(&self, dir: &Path) -> Command {
        let mut command = Command::new(&self.sshd);
        command.args(["-D", "-e", "-f"]).arg(dir.join("config"));
        command.env("LD_LIBRARY_PATH", &self.libraries).env("LD_PRELOAD", "libnss_wrapper.so");
        for names in ["passwd", "group", "shadow", "hosts"] {
            command.env(format!("NSS_WRAPPER_{}", names.to_uppercase()), dir.join(names));
        }
        command
    }
}

fn config(dir: &Path, port: u16, settings: &[&str]) -> String {
    let dir = dir.display();
    let mut lines = settings.join("\n");
    lines.push_str(&format!(
        "\nListenAddress 127.0.0.1:{port}\nHostKey {dir}/host\n\
         AuthorizedKeysFile {dir}/authorized_keys\nPidFile none\nStrictModes no\nUsePAM no\n\
         LogLevel VERBOSE\n"
    ));
    lines
}

/// The accounts and hosts that the server knows.
fn write_names(dir: &Path, account: &Account) -> Result<()> {
    let (uid, gid) = account.ids();
    let hash = openssl_passwd(PASSWORD)?;
    for (file, line) in [
        ("passwd", format!("{USER}:x:{uid}:{gid}::/nonexistent:/bin/sh\n")),
        ("group", format!("{USER}:x:{gid}:\n")),
        ("shadow", format!("{USER}:{hash}:19000:0:99999:7:::\n")),
        ("hosts", format!("127.0.0.1 {INSIDE}\n")),
    ] {
        std::fs::write(dir.join(file), line)?;
    }
    Ok(())
}

fn openssl_passwd(password: &str) -> Result<String> {
    let mut command = Command::new("openssl");
    command.args(["passwd", "-6", password]);
    let output = command.output().context("running openssl (is it installed?)")?;
    if !output.status.success() {
        bail!("openssl passwd failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?.trim_end().to_owned())
}

fn make_key(at: &Path, kind: &str, passphrase: &str) -> Result<()> {
    let mut command = Command::new(parts::root().join("openssh/usr/bin/ssh-keygen"));
    command.args(["-q", "-t", kind, "-N", passphrase, "-C", "", "-f"]).arg(at);
    let output = command.output().context("running ssh-keygen")?;
    if !output.status.success() {
        bail!("ssh-keygen failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

/// Whether something that calls itself SSH listens there.
fn answers(port: u16) -> bool {
    let greets = || -> std::io::Result<bool> {
        let mut socket = TcpStream::connect(("127.0.0.1", port))?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut start = [0; 4];
        socket.read_exact(&mut start)?;
        Ok(&start == b"SSH-")
    };
    greets().unwrap_or(false)
}
