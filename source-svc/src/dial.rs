//! A byte stream to the server: TCP, a Unix socket, or an SSH tunnel.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, BufReader, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::config::Config;
use crate::error::SourceError;
use crate::params::Keepalive;
use crate::ssh;

/// Bytes taken from the socket at once: tokio-postgres by itself asks for 8 KiB
/// at a time, which made the system calls of a COPY cost as much as its decoding.
const READ_BYTES: usize = 128 << 10;

/// A byte stream to the server; TLS may run inside it.
pub enum Stream {
    Tcp(BufReader<TcpStream>),
    Unix(BufReader<UnixStream>),
    Tunnel(Box<ssh::Tunnel>),
}

/// Whether the host is the directory of a Unix socket, where TLS means nothing.
pub fn is_socket(config: &Config) -> bool {
    config.ssh.is_none() && config.host.starts_with('/')
}

/// A stream to the server, through the tunnel if there is one.
pub async fn dial(config: &Config) -> Result<Stream, SourceError> {
    if is_socket(config) {
        let path = format!("{}/.s.PGSQL.{}", config.host, config.port);
        let socket = UnixStream::connect(&path).await;
        let socket = socket.map(|s| Stream::Unix(BufReader::with_capacity(READ_BYTES, s)));
        return socket.map_err(|error| unreachable_server(config, error.to_string()));
    }
    let Some(tunnel) = &config.ssh else {
        let tcp = tcp(&config.host, config.port, config).await;
        let tcp = tcp.map(|s| Stream::Tcp(BufReader::with_capacity(READ_BYTES, s)));
        return tcp.map_err(|error| unreachable_server(config, error.to_string()));
    };
    let tcp = tcp(&tunnel.host, tunnel.port, config).await.map_err(|error| SourceError::Ssh {
        target: format!("{}:{}", tunnel.host, tunnel.port),
        what: format!("cannot be reached: {error}"),
        remedy: "check host and port in ssh_config".to_owned(),
        transient: true,
        login: false,
    })?;
    let tunnel = ssh::open(tunnel, tcp, &config.host, config.port).await?;
    Ok(Stream::Tunnel(Box::new(tunnel)))
}

/// Connects to the first address of the host that answers, giving each its
/// share of the time.
async fn tcp(host: &str, port: u16, config: &Config) -> io::Result<TcpStream> {
    // An IPv6 address may come in brackets.
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let addresses: Vec<_> = tokio::net::lookup_host((host, port)).await?.collect();
    let share = config.connect_timeout / u32::try_from(addresses.len().max(1)).unwrap_or(1);
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for address in addresses {
        match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(tcp)) => {
                tcp.set_nodelay(true)?;
                set_keepalive(&tcp, &config.params.keepalive)?;
                return Ok(tcp);
            }
            Ok(Err(error)) => last = io::Error::new(error.kind(), format!("{error} ({address})")),
            Err(_) => {
                last = io::Error::new(io::ErrorKind::TimedOut, format!("no answer from {address}"));
            }
        }
    }
    Err(last)
}

fn set_keepalive(tcp: &TcpStream, keepalive: &Keepalive) -> io::Result<()> {
    let socket = SockRef::from(tcp);
    if keepalive.on {
        let probes = TcpKeepalive::new()
            .with_time(keepalive.idle)
            .with_interval(keepalive.interval)
            .with_retries(keepalive.count);
        socket.set_tcp_keepalive(&probes)?;
    }
    #[cfg(target_os = "linux")]
    if keepalive.user_timeout.is_some() {
        socket.set_tcp_user_timeout(keepalive.user_timeout)?;
    }
    Ok(())
}

/// The server did not answer; it may, later.
pub fn unreachable_server(config: &Config, what: String) -> SourceError {
    SourceError::Connect {
        target: config.target(),
        what,
        remedy: "check `host` and `port`, that the server runs and listens there, and that no \
                 firewall is in between"
            .to_owned(),
        transient: true,
    }
}

/// Neither the server nor what leads to it said anything in time.
pub fn no_answer(config: &Config, waited: Duration) -> SourceError {
    let Some(tunnel) = &config.ssh else {
        return unreachable_server(config, format!("no answer within {waited:.0?}"));
    };
    SourceError::Connect {
        target: config.target(),
        what: format!(
            "no answer within {waited:.0?} through the SSH server at {}:{}",
            tunnel.host, tunnel.port
        ),
        remedy: "check host and port in ssh_config and that an SSH server answers there; then \
                 `host` and `port` as seen from it"
            .to_owned(),
        transient: true,
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Tunnel(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, data),
            Stream::Unix(stream) => Pin::new(stream).poll_write(cx, data),
            Stream::Tunnel(stream) => Pin::new(stream).poll_write(cx, data),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Stream::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tunnel(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tunnel(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
