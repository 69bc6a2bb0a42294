//! Where a service listens: at a TCP address, or under a name that only
//! processes of the same machine reach.
//!
//! A local name is an abstract Unix socket (`unix-abstract:` as gRPC's naming
//! has it): it needs no directory, leaves nothing behind after `kill -9`, and
//! costs less CPU time than loopback TCP. Like a loopback port it is open to
//! every user of the machine: the token decides.

use std::io;

use tokio::net::{TcpListener, UnixListener};

/// What a local name begins with.
pub const LOCAL: &str = "unix-abstract:";

/// A free address that only this machine reaches, the cheapest kind there is.
pub const ANY: &str = if cfg!(target_os = "linux") { LOCAL } else { "127.0.0.1:0" };

/// A socket that a service accepts connections from.
#[derive(Debug)]
pub enum Listener {
    /// At a TCP address.
    Tcp(TcpListener),
    /// Under a local name, which is kept beside it.
    Local(UnixListener, String),
}

impl Listener {
    /// `address`: "host:port", port 0 for a free one; or "unix-abstract:name",
    /// without the name for a free one.
    pub async fn bind(address: &str) -> io::Result<Self> {
        let Some(name) = address.strip_prefix(LOCAL) else {
            return Ok(Listener::Tcp(TcpListener::bind(address).await?));
        };
        let name = match name {
            "" => format!("tidewater-{:032x}", rand::random::<u128>()),
            _ => name.to_owned(),
        };
        Ok(Listener::Local(UnixListener::bind(socket(&name))?, name))
    }

    /// As [`crate::dial::dial`] takes it.
    pub fn address(&self) -> io::Result<String> {
        match self {
            Listener::Tcp(listener) => Ok(listener.local_addr()?.to_string()),
            Listener::Local(_, name) => Ok(format!("{LOCAL}{name}")),
        }
    }

    /// Whether only this machine reaches it.
    pub fn is_local(&self) -> io::Result<bool> {
        match self {
            Listener::Tcp(listener) => Ok(listener.local_addr()?.ip().is_loopback()),
            Listener::Local(..) => Ok(true),
        }
    }
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Listener::Tcp(listener)
    }
}

/// The path that stands for an abstract name.
pub(crate) fn socket(name: &str) -> String {
    format!("\0{name}")
}
